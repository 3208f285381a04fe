"""What lies under a mask does not matter: in no stage, for no metric, in neither image."""

import numpy as np
import pytest
from helpers.textured import head
from scipy import ndimage

import fastreg
from fastreg.data.intensity import normalised
from fastreg.geometry.image import Image
from fastreg.geometry.masks import inside

SHAPE = (36, 40, 32)


def textured(seed):
    return 1000 * head(SHAPE, seed, radius=0.9)


@pytest.fixture(scope="module")
def pair():
    fixed = textured(0)
    return fixed, ndimage.shift(fixed, (1.5, -1, 1), order=1)


def spoiled(image, mask, kind):
    """Anything under the mask: a lesion ten times as bright, an offset, a piece of something else."""
    hidden = {"lesion": 1e4, "black": -500.0, "other": textured(9)}[kind]
    return np.where(mask > 0, image, hidden).astype(np.float32)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["fixed", "moving", "both"])
@pytest.mark.parametrize("metric", ["lncc", "mse", "mi"])
def test_what_lies_under_a_mask_does_not_matter(pair, metric, which):
    masks = {}
    for name, corner in (("fixed", (10, 12, 8)), ("moving", (12, 20, 10))):
        mask = np.ones(SHAPE, np.uint8)
        mask[tuple(slice(c, c + 9) for c in corner)] = 0
        if which in (name, "both"):
            masks[name] = mask
    given = {f"{name}_mask": Image(mask, np.eye(4)) for name, mask in masks.items()} | {"metric": metric}
    flows = []
    for kind in (None, "lesion", "black", "other"):
        images = [
            spoiled(image, masks[name], kind) if kind and name in masks else image
            for image, name in zip(pair, ("fixed", "moving"), strict=True)
        ]
        result = fastreg.register(*images, **given)
        assert result.suspect is None
        flows.append(result.flow)
    for other in flows[1:]:
        apart = (other - flows[0]).norm(dim=1)
        assert apart.max() < 0.02


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["lncc", "mse", "mi"])
def test_the_deformation_around_a_mask_is_the_true_one(pair, metric):
    fixed, moving = pair
    mask = np.ones(SHAPE, np.uint8)
    mask[10:20, 12:22, 8:18] = 0
    lesion = fixed.copy()
    lesion[12:18, 14:20, 10:16] = 2000
    flow = fastreg.register(lesion, moving, fixed_mask=Image(mask, np.eye(4)), metric=metric).flow[0]
    off = np.linalg.norm(np.moveaxis(flow.numpy(), 0, -1) - [1.5, -1, 1], axis=-1)
    distance = ndimage.distance_transform_edt(mask)
    ring = (distance >= 1) & (distance <= 4) & ndimage.binary_erosion(fixed > 0, iterations=3)
    assert ring.sum() > 1000 and np.percentile(off[ring], 95) < (1.0 if metric == "mi" else 0.5)


def test_a_coarser_mask_counts_where_half_of_it_does():
    mask = np.zeros((4, 5, 6), np.uint8)
    mask[1:3, 1:3, 1:3] = 1
    coarse = Image(mask, np.diag([2.0, 2, 2, 1]))
    fine = inside(coarse, (8, 10, 12), np.eye(4) + np.diag([0, 0, 0, 0]))
    assert fine.dtype == bool and fine[2:5, 2:5, 2:5].all() and not fine[:1].any() and not fine[6:].any()


def test_ranges_leave_out_what_does_not_count():
    data = np.linspace(0, 1, 1000, dtype=np.float32).reshape(10, 10, 10)
    bright = data.copy()
    bright[0] = 1e6
    where = np.ones(data.shape, bool)
    where[0] = False
    scaled = normalised(bright, "percentile", where)
    np.testing.assert_allclose(scaled[1:], normalised(data[1:], "percentile"), atol=1e-6)
    assert (scaled[0] == 1).all()
    np.testing.assert_array_equal(normalised(data, "percentile", ~where & False), normalised(data, "percentile"))
