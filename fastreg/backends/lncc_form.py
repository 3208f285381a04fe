"""The one form that covers every published local correlation, and the names of its cases."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class LnccForm:
    """The one form that covers every published local correlation (docs/math.md).

    With window sums S, n voxels a window, c = S_ab - S_a S_b / n and v_a = S_aa - S_a^2 / n:
    ``cc = (c^2 + num_eps) / (a b + den_eps)`` where a, b are the floored variances.
    """

    window: int
    floor: str = "none"
    """Variances: "none" as they are, "max" max(v, floor_eps), "add" max(v, 0) + floor_eps."""
    floor_eps: float = 0.0
    den_eps: float = 0.0
    num_eps: float = 0.0
    cross_floor: bool = False
    """c <- max(c, floor_eps), as VoxelMorph's TensorFlow code has it."""
    mean: bool = False
    """c, v_a and v_b are divided by n."""
    count: bool = False
    """n counts the voxels of the window inside the image; otherwise n = window^ndim and the outside reads zero."""
    flat_eps: float = -1.0
    """Where |v_a v_b| <= flat_eps the value is `flat`; negative: no such rule."""
    flat: float = 0.0
    clamp: bool = False
    """cc <- min(cc, 1)."""


def lncc_form(definition: str, window: int, eps: float, ndim: int) -> LnccForm:
    """The form behind a name in `LNCC_DEFINITIONS`."""
    n = float(window**ndim)
    forms = {
        "fastreg": LnccForm(window, floor="max", floor_eps=eps, clamp=True),
        "voxelmorph": LnccForm(window, den_eps=eps),
        "voxelmorph-tf": LnccForm(window, floor="max", floor_eps=eps, cross_floor=True),
        "monai": LnccForm(window, floor="max", floor_eps=eps),
        "fused-lncc": LnccForm(window, floor="add", floor_eps=eps, clamp=True),
        "ffdp": LnccForm(window, floor="max", floor_eps=eps * n, den_eps=eps * n, num_eps=eps * n, clamp=True),
        "fireants": LnccForm(window, floor="max", floor_eps=eps, den_eps=eps, num_eps=eps, mean=True, clamp=True),
        "ants": LnccForm(window, count=True, flat_eps=2.22e-16, flat=1.0),
    }
    return forms[definition]


LNCC_DEFINITIONS = ("fastreg", "voxelmorph", "voxelmorph-tf", "monai", "fused-lncc", "ffdp", "fireants", "ants")
