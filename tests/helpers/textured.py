"""Images with structure at several scales, as registrations need them."""

import numpy as np
from scipy import ndimage


def head(shape, seed=0, radius=0.6**0.5):
    """[*shape] float32: texture from 0.3 to 1 in a ball of this radius (1 reaches the border), 0 around it."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    texture = sum(ndimage.gaussian_filter(rng.standard_normal(shape), s) * s**1.5 for s in (1.5, 3, 6))
    texture = (texture - texture.min()) / np.ptp(texture)
    return np.where((grid**2).sum(0) < radius**2, 0.3 + 0.7 * texture, 0).astype(np.float32)
