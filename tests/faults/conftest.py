import os

import numpy as np
import pytest
from helpers.forked import Command, Ended

from fastreg.io.images import save_image


@pytest.fixture
def start(tmp_path):
    """`start("register", ...)`: the command, under way in tmp_path, with the options of `Command`."""
    return lambda *words, **options: Command(words, tmp_path, **options)


@pytest.fixture
def fastreg(start):
    """The command and its end; never with a traceback."""

    def run(*words, limit=None) -> Ended:
        ended = start(*words, limit=limit).end()
        assert "Traceback" not in ended.err, ended.err
        return ended

    return run


@pytest.fixture
def scans(tmp_path):
    """Four images of a blob in noise, 16 voxels wide, with label maps, and a list of three pairs."""
    folder = tmp_path / "scans"
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(16)] * 3, indexing="ij"), -1)
    for k in range(4):
        distance = np.linalg.norm(grid - 7.5 - rng.uniform(-1, 1, 3), axis=-1)
        image = 100 * np.exp(-((distance / 4) ** 2)) + rng.normal(0, 1, distance.shape)
        save_image(folder / f"s{k}_t1.nii.gz", image.astype(np.float32), np.eye(4))
        save_image(folder / f"s{k}_seg.nii.gz", (distance < 4).astype(np.uint8), np.eye(4))
    lines = ["name,moving,fixed", *(f"p{k},s{k}_t1.nii.gz,s0_t1.nii.gz" for k in (1, 2, 3))]
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def training(scans):
    """Words of a short training; validation at its last step, which no --val-every meets, and in between."""
    words = ["train", "--images", f"{scans}/*_t1.nii.gz", "--labels", f"{scans}/*_seg.nii.gz", "--val", "s3"]
    return [*words, "--model", "vm1", "--width", "0.25", "--loss", "mse", "--workers", "0", "--device", "cpu"]


@pytest.fixture
def unprivileged():
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
