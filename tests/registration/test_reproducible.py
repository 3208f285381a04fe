"""The same bits for every number of threads: linear and deformable, both directions, every metric, masks."""

import numpy as np
import pytest
import torch
from helpers.textured import head
from scipy import ndimage

import fastreg
from fastreg.geometry.image import Image

SHAPE = (44, 50, 46)  # above what torch gives to one thread


@pytest.fixture(scope="module")
def pair():
    fixed = head(SHAPE, radius=0.9)
    return fixed, ndimage.shift(ndimage.rotate(fixed, 4, reshape=False, order=1), (1.5, -2, 1), order=1)


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"transform": "affine"},
        {"transform": "affine", "metric": "mi"},
        {"transform": "rigid", "metric": "mse"},
        {"inverse": True},
        {"inverse": True, "metric": "mi"},
        {"bidir": True, "metric": "mse"},
        {"masks": True},
    ],
    ids=str,
)
def test_threads_change_no_bit(pair, threads, options):
    given = dict(options)
    if given.pop("masks", False):
        mask = np.ones(SHAPE, np.uint8)
        mask[12:20, 14:22, 10:20] = 0
        given |= {"fixed_mask": Image(mask, np.eye(4)), "moving_mask": Image(mask, np.eye(4))}
    results = []
    for count in (1, 2, 5):
        threads(count)
        found = fastreg.register(*pair, **given)
        fields = [found.warp.flow] + ([] if found.inverse_warp is None else [found.inverse_warp.flow])
        results.append([found.affine.matrix, *fields])
    assert np.abs(results[0][1]).max() > 0.5
    for other in results[1:]:
        assert len(other) == len(results[0]) == (3 if "inverse" in options or "bidir" in options else 2)
        assert all(np.array_equal(one, two) for one, two in zip(results[0], other, strict=True))
