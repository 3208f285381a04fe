"""Local correlations that no published definition names: every option of the form, 3-D."""

from fastreg.backends.lncc_form import lncc_form

BOXES = {
    "num_eps": lncc_form("fastreg", (3, 3, 3), 1e-5, num_eps=0.1),
    "not squared": lncc_form("fastreg", (3, 3, 3), 1e-5, squared=False),
    "not squared, both eps": lncc_form("fireants", (3, 3, 3), 1e-3, num_eps=0.2, squared=False),
    "not squared, crossed": lncc_form("voxelmorph-tf", (3, 3, 3), 1e-3, squared=False),
    "an axis each": lncc_form("monai", (3, 5, 1), 1e-5),
    "an axis each, counted": lncc_form("ants", (1, 3, 5), 1e-5),
    "an axis each, not squared": lncc_form("fireants", (5, 1, 7), 1e-5, squared=False),
}
WEIGHTED = {
    "triangular": lncc_form("monai", (5, 5, 7), 1e-5, kernel="triangular"),
    "gaussian": lncc_form("ffdp", (3, 5, 5), 1e-5, kernel="gaussian"),
    "icon": lncc_form("icon", (5, 5, 5), 1e-5, squared=False, kernel="gaussian", sigma=(1, 1, 2)),
}
"""The reference backend alone has these."""
FAMILY = BOXES | WEIGHTED
