"""A head that is a formula, so that a series of it in motion is exact: nothing was interpolated to make it."""

import nibabel
import numpy as np

from fastreg.geometry.image import affine_field
from fastreg.geometry.rigid import rigid_matrix, rigid_parameters, turn

AFFINE = np.eye(4)
AFFINE[:3, :3] = turn(0, 0.15) @ turn(2, -0.1) @ np.diag([-6.0, 6.0, 7.0])
AFFINE[:3, 3] = -AFFINE[:3, :3] @ [13.5, 13.5, 8.0] + [3.0, -8.0, 12.0]
SHAPE = (28, 28, 17)
_RNG = np.random.default_rng(0)
_CENTRES, _SIZES, _HEIGHTS = _RNG.uniform(-45, 45, (40, 3)), _RNG.uniform(9, 16, 40), _RNG.uniform(-0.4, 0.5, 40)


def head(places):
    """[...] intensities at places [..., 3], RAS mm: an ellipsoid with a soft border, and blobs inside."""
    local = places - [3.0, -8.0, 12.0]
    border = 1 / (1 + np.exp((np.linalg.norm(local / [62, 72, 52], axis=-1) - 1) * 14))
    blobs = sum(
        height * np.exp(-((local - centre) ** 2).sum(-1) / (2 * size**2))
        for centre, size, height in zip(_CENTRES, _SIZES, _HEIGHTS, strict=True)
    )
    return 1000 * border * (1 + blobs)


def path_of(count, seed=0, mm=1.5, degrees=1.5):
    """[T, 4, 4], reference RAS mm -> volume RAS mm: a drift, and a jerk in the middle."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, count)[:, None]
    sizes = np.array([mm] * 3 + [np.radians(degrees)] * 3)
    parameters = sizes * np.sin(np.pi * (t * rng.uniform(0.5, 2, 6) + rng.uniform(0, 2, 6)))
    parameters[count // 2] += sizes * rng.uniform(-1, 1, 6)
    return np.array([rigid_matrix(row, np.array([3.0, -8.0, 12.0])) for row in parameters])


def series_of(motions, *, affine=AFFINE, shape=SHAPE, noise=0.006, seed=0, step=2.0):
    """A nibabel image of four axes: the head in motion, with noise and a slow drift of its intensity."""
    rng = np.random.default_rng(seed)
    places = affine_field(affine[:3], shape)
    volumes = []
    for k, matrix in enumerate(motions):
        back = np.linalg.inv(matrix)
        volume = head(places @ back[:3, :3].T + back[:3, 3]) * (1 + 0.02 * np.sin(k))
        volumes.append(np.maximum(volume + rng.normal(0, 1000 * noise, shape), 0))
    image = nibabel.Nifti1Image(np.stack(volumes, -1).astype(np.float32), affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header["pixdim"][4] = step
    return image


def errors(found, motions, reference, centre):
    """[T] mm and [T] degrees: how far `found` [T, 4, 4] is from the truth at `centre`."""
    true = motions @ np.linalg.inv(reference)
    apart = rigid_parameters(np.linalg.inv(true) @ found, centre)
    return np.linalg.norm(apart[:, :3], axis=1), np.degrees(np.linalg.norm(apart[:, 3:], axis=1))
