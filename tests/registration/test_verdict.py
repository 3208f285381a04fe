"""Images onto themselves and their rescans stay; what is no better than its start says so."""

import json

import numpy as np
import pytest
import torch
from helpers import textured
from helpers.command import run
from scipy import ndimage

import fastreg
from fastreg.geometry.image import Image
from fastreg.io.images import save_image
from fastreg.registration.verdict import judge


def head(shape=(40, 44, 36), seed=0):
    return textured.head(shape, seed)


@pytest.mark.parametrize("metric", ["lncc", "mse", "mi"])
@pytest.mark.parametrize("options", [{}, {"affine": False}, {"transform": "rigid"}, {"transform": "affine"}], ids=str)
def test_an_image_onto_itself_is_the_identity(metric, options):
    image = head()
    found = fastreg.register(image, image, metric=metric, **options)
    length = found.flow.norm(dim=1)
    assert length.median() < 0.02 and length.max() < 0.1
    assert found.suspect is None


@pytest.mark.parametrize("metric", ["lncc", "mse", "mi"])
def test_a_rescan_without_background_noise_is_the_identity(metric):
    rng = np.random.default_rng(1)
    texture = ndimage.gaussian_filter(rng.standard_normal((40, 44, 36)), 2)
    texture = (texture / texture.std()).astype(np.float32)
    fixed, moving = (texture + 0.02 * rng.standard_normal(texture.shape).astype(np.float32) for _ in range(2))
    length = fastreg.register(fixed, moving, metric=metric).flow.norm(dim=1)
    assert length.median() < 0.02 and length.max() < 0.1


def test_a_result_that_is_worse_than_its_start_says_so():
    image = Image(head(), np.eye(4))
    start = fastreg.register(image.data, image.data, transform="translation").affine
    warp = fastreg.register(image.data, image.data, affine=False, refine=0).warp
    good = judge(image, image, warp, start, "lncc", (None, None))
    assert good.suspect is None and good.before == good.after == pytest.approx(1.0) and good.overlap == 1.0
    away = type(warp)(warp.flow + np.array([5, 0, 0], np.float32), warp.fixed_affine, warp.moving_affine)
    for metric, measure in (("lncc", "mutual information"), ("mi", "local correlation")):
        bad = judge(image, image, away, start, metric, (None, None))
        assert bad.after < 0.6 * bad.before
        assert bad.suspect.startswith(f"no better than its start by {measure}: ")
    gone = type(warp)(warp.flow + 100, warp.fixed_affine, warp.moving_affine)
    assert judge(image, image, gone, start, "lncc", (None, None)).suspect.startswith("only 0 % of the fixed image")


@pytest.mark.slow
def test_another_contrast_is_told():
    """Local correlation takes any contrast and may be misled by it; the metrics that auto chooses from are not."""
    fixed = head()
    moving = np.roll(np.where(fixed > 0, 1.3 - fixed, 0).astype(np.float32), 2, 0)
    for metric in ("lncc", "mse"):
        told = fastreg.register(fixed, moving, transform="rigid", metric=metric).suspect
        assert told.startswith("the contrasts seem to differ") and told.endswith("try the metric auto")
    for metric in ("auto", "mi"):
        found = fastreg.register(fixed, moving, transform="rigid", metric=metric)
        assert found.suspect is None
        assert (found.flow - torch.tensor([2.0, 0, 0]).view(3, 1, 1, 1)).norm(dim=1).max() < 0.5
    bent = np.roll(fixed, 2, 0) ** 1.5 * 40
    assert fastreg.register(fixed, bent, transform="rigid", metric="lncc").suspect is None


def test_masked_voxels_do_not_judge():
    rng = np.random.default_rng(2)
    fixed, moving, mask = head(), head(), np.ones((40, 44, 36), np.uint8)
    moving[:20] = rng.random((20, 44, 36))
    mask[:20] = 0
    images = [Image(data, np.eye(4)) for data in (fixed, moving, mask)]
    result = fastreg.register(fixed, fixed, affine=False, refine=0)
    for masks in ((images[2], None), (None, images[2]), (images[2], images[2])):
        found = judge(images[0], images[1], result.warp, result.affine, "lncc", masks)
        assert found.after == pytest.approx(1.0)
    assert judge(images[0], images[1], result.warp, result.affine, "lncc", (None, None)).after < 0.9


@pytest.mark.slow
def test_the_verdict_is_told(tmp_path, capsys):
    """In one line, in --json and in the table of --pairs."""
    image, other = head(seed=0), np.roll(head(seed=0), 3, 0)
    save_image(tmp_path / "f.nii.gz", image, np.eye(4))
    save_image(tmp_path / "m.nii.gz", other, np.eye(4))
    files = ["-f", tmp_path / "f.nii.gz", "-m", tmp_path / "m.nii.gz"]
    told = json.loads(run(capsys, "register", *files, "-o", tmp_path / "o.nii.gz", "--json"))
    assert told["suspect"] is None and told["measure_after"] > told["measure_before"]
    (tmp_path / "pairs.csv").write_text("moving,fixed\nm.nii.gz,f.nii.gz\n")
    run(capsys, "register", "--pairs", tmp_path / "pairs.csv", "-o", tmp_path / "out", "--transform", "rigid")
    header, row = (tmp_path / "out" / "results.csv").read_text().splitlines()
    assert "suspect" in header.split(",") and row.split(",")[header.split(",").index("suspect")] == ""
