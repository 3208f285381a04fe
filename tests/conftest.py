import os
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.native_isa import AVAILABLE

from fastreg import _C
from fastreg.io.images import save_image


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
    torch.set_num_threads(2)


@pytest.fixture(params=AVAILABLE)
def isa(request):
    before = _C.cpu.isa()
    _C.cpu.set_isa(request.param)
    yield request.param
    _C.cpu.set_isa(before)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Real brains and CT, where this machine has them; never part of the project."""
    folder = Path(os.environ.get("FASTREG_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("no folder of real images (FASTREG_DATA)")
    return folder


@pytest.fixture
def blobs(tmp_path):
    """A cohort of small 3-D images of three blobs at seeded places, with labels: <folder>/<id>_image.nii.gz."""

    def make(count: int = 4, shape: tuple[int, ...] = (24, 20, 28), folder: Path = tmp_path / "cohort") -> Path:
        rng = np.random.default_rng(0)
        affine = np.diag([-2.0, 2.0, 2.0, 1.0])
        grid = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), -1)
        for k in range(count):
            image, labels = np.zeros(shape, np.float32), np.zeros(shape, np.uint8)
            for label, centre in enumerate(([7, 7, 8], [16, 12, 14], [9, 12, 21]), 1):
                centre = np.array(centre[: len(shape)]) + rng.uniform(-1.5, 1.5, len(shape))
                distance = np.linalg.norm(grid - centre, axis=-1)
                image += 100 * label * np.exp(-((distance / 3.5) ** 2))
                labels[distance < 3.5] = label
            image += rng.normal(0, 1, shape)
            save_image(folder / f"s{k}_image.nii.gz", image.astype(np.float32), affine)
            save_image(folder / f"s{k}_labels.nii.gz", labels, affine)
        return folder

    return make
