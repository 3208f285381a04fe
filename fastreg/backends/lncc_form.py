"""The published definitions of the local correlation, as cases of one form."""

from __future__ import annotations

from fastreg.types import LnccForm


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
