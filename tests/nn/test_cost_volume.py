import itertools

import numpy as np
import pytest
import torch

from fastreg.nn.cost_volume import Matching, costs


@pytest.mark.slow
@pytest.mark.parametrize("ndim", [2, 3])
def test_costs_are_those_of_every_displacement(ndim):
    shape = (5, 6, 4)[:ndim]
    moving, fixed = torch.rand(2, 2, 3, *shape, dtype=torch.float64)
    found = costs(moving, fixed, 2)
    assert found.shape == (2, 5**ndim, *shape)
    for k, d in enumerate(itertools.product(range(-2, 3), repeat=ndim)):
        for place in np.ndindex(*shape):
            there = tuple(min(max(p + o, 0), n - 1) for p, o, n in zip(place, d, shape, strict=True))
            expected = (fixed[(slice(None), slice(None), *place)] - moving[(slice(None), slice(None), *there)]) ** 2
            torch.testing.assert_close(found[(slice(None), k, *place)], expected.mean(1))


@pytest.mark.parametrize("shape", [(20, 24), (16, 20, 18)], ids=str)
def test_the_true_displacement_costs_least(shape):
    """A shift by 2 voxels of the image is one voxel of the half grid, in another contrast too."""
    rng = torch.Generator().manual_seed(0)
    fixed = torch.rand(1, 1, *shape, generator=rng)
    moving = 1 - torch.roll(fixed, [2] * len(shape), list(range(2, 2 + len(shape))))
    net = Matching(1, len(shape), 2, 8)
    seen = []
    net.squeeze.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    out = net(moving, fixed)
    assert out.shape == (1, 8, *[length // 2 for length in shape])
    best = seen[0][0, : 5 ** len(shape)].argmin(0)
    inner = best[(slice(2, -2),) * len(shape)]
    right = sum(3 * 5**k for k in range(len(shape)))  # +1 along every axis
    assert (inner == right).float().mean() > 0.95
