import itertools

import numpy as np
import pytest
import torch

from fastreg.nn.descriptors import descriptors


@pytest.mark.parametrize("shape", [(9, 7), (6, 8, 5), (1, 6, 5)], ids=str)
def test_descriptors_are_the_formula_voxel_by_voxel(shape):
    image = torch.rand(2, 1, *shape, dtype=torch.float64)
    found = descriptors(image)
    ndim = len(shape)
    assert found.shape == (2, 2 * ndim, *shape)
    for b in range(2):
        square = np.zeros((2 * ndim, *shape))
        values = image[b, 0].numpy()
        for place in np.ndindex(*shape):
            for k in range(2 * ndim):
                other = list(place)
                other[k // 2] += 1 if k % 2 == 0 else -1
                if 0 <= other[k // 2] < shape[k // 2]:
                    square[(k, *place)] = (values[place] - values[tuple(other)]) ** 2
        distance = np.zeros_like(square)
        for place in np.ndindex(*shape):
            window = [
                tuple(np.clip(p + o, 0, n - 1) for p, o, n in zip(place, offset, shape, strict=True))
                for offset in itertools.product((-1, 0, 1), repeat=ndim)
            ]
            distance[(slice(None), *place)] = np.mean([square[(slice(None), *q)] for q in window], axis=0)
        mean = distance.mean(0)
        expected = np.exp(-distance / np.maximum(mean, 1e-3 * mean.mean()))
        np.testing.assert_allclose(found[b].numpy(), expected, rtol=1e-10)


def test_descriptors_do_not_care_for_contrast():
    image = torch.rand(1, 1, 12, 14, 10, dtype=torch.float64)
    torch.testing.assert_close(descriptors(image), descriptors(1000 - 7 * image))
    assert torch.equal(
        descriptors(torch.full((1, 1, 4, 4, 4), 3.0)), torch.ones(1, 6, 4, 4, 4)
    )  # and where all is flat
