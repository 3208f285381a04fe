"""docs/examples run as they are, in seconds, and say what they should."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastreg.io.images import load_image
from fastreg.io.warps import load_warp

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def run(script, *words):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / script), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=200,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture
def images(blobs):
    """A folder with the images of a cohort, without their label maps."""
    folder = blobs(3)
    for labels in folder.glob("*_labels.nii.gz"):
        labels.unlink()
    return folder


@pytest.mark.slow
def test_warp():
    said = run("01_warp.py")
    assert "voxel 10 reads between 11 and 12: True" in said
    found = re.search(r"found: (\S+) (\S+) (\S+) voxels", said)
    assert np.allclose([float(value) for value in found.groups()], [0, 0, 1.5], atol=0.02)


@pytest.mark.slow
def test_register(images, tmp_path):
    out = tmp_path / "out"
    said = run("02_register.py", images / "s0_image.nii.gz", images / "s1_image.nii.gz", out)
    assert "folds: 0 of 13440 voxels" in said
    fixed, moving, moved = (load_image(path).data for path in (*sorted(images.iterdir())[:2], out / "moved.nii.gz"))
    assert np.abs(moved - fixed).mean() < 0.5 * np.abs(moving - fixed).mean()
    assert load_warp(out / "warp.nii.gz").fixed_shape == fixed.shape


@pytest.mark.slow
def test_train(images, tmp_path):
    said = run("03_train.py", images, tmp_path / "run", 2)
    assert "s1_image.nii.gz to s0_image.nii.gz" in said
    assert load_image(tmp_path / "run" / "moved.nii.gz").shape == (24, 20, 28)


@pytest.mark.slow
def test_template(images, tmp_path):
    said = run("04_template.py", images, tmp_path / "template.nii.gz")
    assert said.count("mm from the mean shape") == 2 and "3 subjects" in said
    assert 0 <= load_image(tmp_path / "template.nii.gz").data.min() < 0.1


@pytest.mark.slow
def test_your_own_loop():
    losses = [float(word) for word in re.findall(r"loss (\S+),", run("05_your_own_loop.py"))]
    assert losses[-1] < losses[0] - 0.2


def test_each_is_tested_and_short():
    scripts = sorted(EXAMPLES.glob("*.py"))
    tested = Path(__file__).read_text()
    for script in scripts:
        assert f'run("{script.name}"' in tested
        assert len(script.read_text().splitlines()) <= 30
    assert [script.name for script in scripts] == re.findall(
        r'"docs/examples/(.*\.py)"', (EXAMPLES / "index.md").read_text()
    )
