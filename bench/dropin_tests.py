"""Other libraries' own tests, with fastreg in place of their ops; their files are given, none is kept here.

python -m bench dropin-tests monai MONAI/tests/networks/blocks/warp MONAI/tests/losses/image_dissimilarity
python -m bench dropin-tests voxelmorph voxelmorph/tests neurite/tests/test_losses.py
python -m bench dropin-tests fireants FireANTs/tests/test_cc_kernel_size_list.py
"""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import Any

_VXM = "fastreg.compat.voxelmorph"
_FUNCTIONS = ("spatial_transform", "integrate_vec", "integrate_disp", "compose")
SWAPS: dict[str, tuple[tuple[str, str, tuple[str, ...]], ...]] = {
    "monai": (
        ("monai.networks.blocks.warp", "fastreg.compat.monai", ("Warp", "DVF2DDF")),
        (
            "monai.losses.image_dissimilarity",
            "fastreg.compat.monai",
            ("LocalNormalizedCrossCorrelationLoss", "GlobalMutualInformationLoss"),
        ),
    ),
    "voxelmorph": (
        ("voxelmorph", _VXM, _FUNCTIONS),
        ("voxelmorph.functional", f"{_VXM}.functional", _FUNCTIONS),
        ("voxelmorph.nn.functional", f"{_VXM}.nn.functional", (*_FUNCTIONS, "ncc", "spatial_gradient")),
        (
            "voxelmorph.nn.modules",
            f"{_VXM}.nn.modules",
            ("SpatialTransformer", "IntegrateVelocityField", "ResizeDisplacementField"),
        ),
        ("neurite.nn.functional", f"{_VXM}.nn.functional", ("ncc", "spatial_gradient")),
        ("neurite.nn.modules", f"{_VXM}.nn.modules", ("NCC", "SpatialGradient")),
    ),
    "fireants": (("fireants.losses.cc", "fastreg.compat.fireants", ("LocalNormalizedCrossCorrelationLoss",)),),
}
"""Library -> its modules, fastreg's, and the names that change hands."""


def swap(library: str) -> None:
    """Puts fastreg's names into the library's modules; what fastreg leaves to it stays the library's own."""
    originals: dict[tuple[str, str], Any] = {}
    for theirs, ours, names in SWAPS[library]:
        module, source = importlib.import_module(theirs), importlib.import_module(ours)
        for name in names:
            originals[theirs, name] = getattr(module, name, None)
            setattr(module, name, getattr(source, name))

    def own(module: str, name: str, *rest: Any) -> Any:
        kept = originals.get((module, name))
        return kept if kept is not None else getattr(importlib.import_module(module), name)

    for source in [sys.modules[ours] for _, ours, _ in SWAPS[library]]:
        if hasattr(source, "theirs"):
            vars(source)["theirs"] = own
    if library == "voxelmorph":  # its tests watch whether the modules call the functions
        importlib.import_module(f"{_VXM}.nn.modules").functional = sys.modules["voxelmorph.nn.functional"]  # type: ignore[attr-defined]


def main(words: list[str]) -> int:
    """pytest's exit code."""
    import pytest

    parser = argparse.ArgumentParser(prog="python -m bench dropin-tests", description=__doc__.split("\n")[0])
    parser.add_argument("library", choices=sorted(SWAPS))
    parser.add_argument("tests", nargs="+", help="their files and folders, as pytest takes them")
    parser.add_argument("--own", action="store_true", help="without fastreg, to compare")
    options = parser.parse_args(words)
    if not options.own:
        swap(options.library)
    quiet = ("-q", "--disable-warnings", "-p", "no:cacheprovider", "--import-mode=importlib", "--tb=line")
    return int(pytest.main([*quiet, *options.tests]))
