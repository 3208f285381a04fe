"""What is read of registrations that are done, by fastreg or another program, whole or broken."""

import contextlib
import json

import numpy as np
import pytest

from fastreg.data.pairs import PairFiles
from fastreg.geometry.image import Image
from fastreg.geometry.transforms import Warp
from fastreg.io.images import load_image, save_image
from fastreg.io.warps import save_warp
from fastreg.registration import batch
from fastreg.registration.reviews import load_result, result_of, review_of, reviews_of
from fastreg.utils.files import InputError

STATES = {"done", "suspect", "failed", "unfinished", "unreadable"}
TURN = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]])
OBLIQUE = np.block([[TURN * [1.9, 1.8, 2.2], np.array([[-20.0], [5], [9]])], [np.eye(4)[3:]]])


def waves(shape, shift=0.0):
    """A wave along every axis; `shift` voxels further along the first."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1) - shift * np.eye(len(shape))[0]
    return np.cos(2 * np.pi * index / (11 + np.arange(len(shape)))).sum(-1).astype(np.float32)


@pytest.fixture(params=[(16, 14, 12), (24, 20)], ids=["3-D", "2-D"])
def listed(request, tmp_path):
    """Two images of waves, two voxels apart, and the warp between them in a list."""
    shape = request.param
    affine = OBLIQUE if len(shape) == 3 else np.diag([2.0, 2.0, 1.0, 1.0])
    save_image(tmp_path / "fixed.nii.gz", waves(shape), affine)
    save_image(tmp_path / "moving.nii.gz", waves(shape, 2), affine)
    flow = np.broadcast_to(2 * np.eye(len(shape))[0], (*shape, len(shape))).astype(np.float32)
    save_warp(tmp_path / "warp.nii.gz", Warp(flow, affine, affine, shape))
    (tmp_path / "done.csv").write_text("name,fixed,moving,warp\na b,fixed.nii.gz,moving.nii.gz,warp.nii.gz\n")
    return tmp_path / "done.csv"


def test_registrations_of_others_are_judged(listed):
    (review,) = reviews_of(listed)
    assert (review.name, review.state, review.measure) == ("a b", "done", "mutual information")
    figures = review.figures
    assert figures["measure_after"] > 1.5 * figures["measure_before"]
    assert figures["corner_folds"] == figures["log_jacobian_max"] == 0
    assert figures["inverse_error_mm"] < 1e-3 and 0.8 < figures["overlap"] < 1
    found = load_result(review.files)
    inside = (slice(3, -3),) * found.fixed.ndim
    np.testing.assert_allclose(found.moved.data[inside], found.fixed.data[inside], atol=1e-3)
    assert np.allclose(found.before.data, load_image(review.files["moving"]).data, atol=1e-5)


def test_what_came_out_worse_is_suspect(listed):
    folder = listed.parent
    fixed = load_image(folder / "fixed.nii.gz")
    save_image(folder / "moving.nii.gz", fixed)  # the warp leads away
    (review,) = reviews_of(listed)
    assert review.state == "suspect" and "no better than its start by mutual information" in review.why


def test_a_list_with_holes_says_so_in_its_rows(listed):
    folder = listed.parent
    warp = (folder / "warp.nii.gz").read_bytes()
    (folder / "broken.nii.gz").write_bytes(warp[: len(warp) // 2])
    save_image(folder / "small.nii.gz", np.ones((5, 5, 5), np.float32), np.eye(4))
    rows = [
        ("whole", "fixed.nii.gz", "moving.nii.gz", "", "warp.nii.gz"),
        ("no fixed", "", "moving.nii.gz", "", "warp.nii.gz"),
        ("no result", "fixed.nii.gz", "moving.nii.gz", "", ""),
        ("gone", "fixed.nii.gz", "nothing.nii.gz", "", "warp.nii.gz"),
        ("broken", "fixed.nii.gz", "moving.nii.gz", "", "broken.nii.gz"),
        ("other grid", "fixed.nii.gz", "", "small.nii.gz", ""),
        ("moved alone", "fixed.nii.gz", "", "fixed.nii.gz", ""),
    ]
    listed.write_text("name,fixed,moving,moved,warp\n" + "".join(",".join(row) + "\n" for row in rows))
    found = {review.name: review for review in reviews_of(listed)}
    assert list(found) == [row[0] for row in rows]
    states = {name: review.state for name, review in found.items()}
    assert states == dict.fromkeys(found, "unreadable") | {"whole": "done", "moved alone": "done"}
    assert "nothing.nii.gz: no such file" in found["gone"].why and "broken.nii.gz" in found["broken"].why
    assert found["moved alone"].figures == {}


# ---------------------------------------------------------------- folders of fastreg register --pairs


@pytest.fixture
def folder(tmp_path):
    """One pair that was registered, and one that failed."""
    save_image(tmp_path / "f.nii.gz", waves((16, 14, 12)), OBLIQUE)
    save_image(tmp_path / "m.nii.gz", waves((16, 14, 12), 1), OBLIQUE)
    files = {"moving": tmp_path / "m.nii.gz", "fixed": tmp_path / "f.nii.gz"}
    pairs = [PairFiles("good", **files), PairFiles("bad", tmp_path / "none.nii.gz", tmp_path / "f.nii.gz")]
    options = {"transform": "translation", "affine": False}
    batch.run(pairs, batch.Batch(tmp_path / "out", options, {"metric": "auto", "channel": "None"}))
    return tmp_path / "out"


def test_a_folder_and_that_of_one_pair(folder):
    bad, good = reviews_of(folder)
    assert (bad.name, bad.state) == ("bad", "failed") and "none.nii.gz: no such file" in bad.why
    assert good.state == "done" and good.options == {"metric": "auto"}
    row = json.loads((folder / "good" / "pair.json").read_text())["row"]
    assert good.figures == {key: row[key] for key in good.figures}
    assert set(good.figures) >= {"measure_before", "measure_after", "overlap", "corner_folds", "log_jacobian_min"}
    header, *rows = (folder / "results.csv").read_text().splitlines()
    cells = dict(zip(header.split(","), rows[0].split(","), strict=True))
    assert float(cells["log_jacobian_max"]) == row["log_jacobian_max"] and cells["measure"] == "mutual information"
    found = load_result(good.files)
    np.testing.assert_array_equal(found.moved.data, load_image(folder / "good" / "moved.nii.gz").data)
    assert reviews_of(folder / "good") == [good]


def test_of_what_was_not_kept_the_rest_makes_it(folder):
    good = reviews_of(folder)[1]
    kept = load_result(good.files)
    made = load_result({role: path for role, path in good.files.items() if role != "moved"})
    np.testing.assert_allclose(made.moved.data, kept.moved.data, atol=1e-4)
    alone = load_result({**good.files, "moving": folder / "gone.nii.gz"})
    assert alone.before is None and alone.warp is not None
    with pytest.raises(InputError, match=r"fixed image .*gone.nii.gz: no such file"):
        load_result({**good.files, "fixed": folder / "gone.nii.gz"})
    with pytest.raises(InputError, match="expected it, or the moving image and its warp, got neither"):
        result_of(kept.fixed, Image(kept.moved.data, np.eye(4)), None)


@pytest.mark.parametrize(
    ("content", "state"),
    [
        ("", "unreadable"),
        ("[]", "unreadable"),
        ("{}", "unreadable"),
        ('{"row": null}', "unfinished"),
        ('{"row": {}, "asked": [], "log": 3}', "done"),
        (
            '{"row": {"error": ["x"], "overlap": "1", "folds": true, "dice": NaN, "seconds": 1' + 400 * "0" + "}}",
            "done",
        ),
        ('{"row": {"suspect": "odd"}, "asked": {"files": {"fixed": 3}, "options": {"channel": null}}}', "suspect"),
        ("[" * 100_000, "unreadable"),
    ],
)
def test_records_of_any_content(content, state, tmp_path):
    (tmp_path / "pair").mkdir()
    (tmp_path / "pair" / "pair.json").write_text(content)
    (review,) = reviews_of(tmp_path)
    assert review.state == state and review.figures == {} and review.files == {}


def test_records_with_damage(folder):
    record = folder / "good" / "pair.json"
    good, rng = record.read_bytes(), np.random.default_rng(0)
    for k in range(120):
        content = bytearray(good[: rng.integers(len(good))] if k % 2 else good)
        for place in rng.integers(0, max(len(content), 1), 3 if content else 0):
            content[place] = rng.integers(256)
        record.write_bytes(content)
        assert {review.state for review in reviews_of(folder)} <= STATES


def test_what_is_no_number_is_no_figure():
    row = {"dice": float("inf"), "overlap": 0.5, "folds": True, "hd95_mm": "3", "seconds": None, "sdlogj": -1.0}
    assert review_of("x", row).figures == {"overlap": 0.5, "sdlogj": -1.0}


def test_nothing_of_the_kind(tmp_path):
    with pytest.raises(InputError, match=r"expected a folder of fastreg register --pairs"):
        reviews_of(tmp_path)
    with pytest.raises(InputError, match="no such file"):
        reviews_of(tmp_path / "none")


def test_images_with_damage(folder):
    good, rng = reviews_of(folder)[1], np.random.default_rng(0)
    for role in ("moved", "warp", "fixed"):
        path = good.files[role]
        whole = path.read_bytes()
        for k in range(20):
            content = bytearray(whole[: rng.integers(len(whole))] if k % 2 else whole)
            for place in rng.integers(0, max(len(content), 1), 3 if content else 0):
                content[place] = rng.integers(256)
            path.write_bytes(content)
            with contextlib.suppress(InputError):
                load_result(good.files)
        path.write_bytes(whole)
    assert load_result(good.files).warp is not None
