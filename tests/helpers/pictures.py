"""Small pictures with a known shape."""

import numpy as np


def disc(shape, centre, radius, edge=2.0):
    distance = np.hypot(*[g - c for g, c in zip(np.indices(shape), centre, strict=True)])
    return 1 / (1 + np.exp((distance - radius) / edge))
