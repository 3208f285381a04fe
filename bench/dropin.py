"""What changes when a script imports fastreg in place of another library: the table of docs/dropin.md.

python -m bench dropin                    # 96x96x96, forward and backward
python -m bench dropin --size 160 192 224 --seconds 60

Both take turns in one run: ratios of medians. A library that is not installed leaves its figures out.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.clock import take_turns
from bench.implementations import Absent
from bench.peers.packages import module


@dataclass(frozen=True)
class Row:
    """One name that a script imports."""

    theirs: str
    """Module of the library."""
    ours: str
    """Module that stands in its place."""
    name: str
    call: str
    """What the script does with it, in the words of `inputs`: the same before and after."""

    def function(self, where: str) -> Callable[..., Tensor]:
        """The call, with the name from one of the two modules; Absent if it is not there."""
        names = {self.name: getattr(module(where), self.name)}
        maker, _, arguments = self.call.rpartition("(")
        made = eval(maker, names)  # the layer is made once, as a script makes it
        return lambda values: eval(f"made({arguments}", {"made": made, **values})


_VXM, _MONAI, _FIRE = "fastreg.compat.voxelmorph.nn.modules", "fastreg.compat.monai", "fastreg.compat.fireants"
_LNCC, _MI = "LocalNormalizedCrossCorrelationLoss", "GlobalMutualInformationLoss"

ROWS = (
    Row("monai.networks.blocks", _MONAI, "Warp", "Warp()(moving, flow)"),
    Row("monai.networks.blocks", _MONAI, "DVF2DDF", "DVF2DDF()(flow)"),
    Row("monai.losses", _MONAI, _LNCC, f"{_LNCC}(kernel_size=9)(moving, fixed)"),
    Row("monai.losses", _MONAI, _LNCC, f"{_LNCC}(kernel_size=9, kernel_type='triangular')(moving, fixed)"),
    Row("monai.losses", _MONAI, _MI, f"{_MI}()(moving, fixed)"),
    Row("monai.losses", _MONAI, _MI, f"{_MI}('b-spline', 32)(moving, fixed)"),
    Row("voxelmorph.nn.modules", _VXM, "SpatialTransformer", "SpatialTransformer()(moving, flow)"),
    Row("voxelmorph.nn.modules", _VXM, "IntegrateVelocityField", "IntegrateVelocityField(steps=7)(flow)"),
    Row("neurite.nn.modules", _VXM, "NCC", "NCC()(moving, fixed)"),
    Row("neurite.nn.modules", _VXM, "SpatialGradient", "SpatialGradient()(flow)"),
    Row("fireants.losses.cc", _FIRE, _LNCC, f"{_LNCC}(kernel_size=7)(moving, fixed)"),
    Row("fireants.losses.mi", _FIRE, _MI, f"{_MI}('b-spline')(moving, fixed)"),
    Row("torch.nn.functional", "fastreg", "grid_sample", "grid_sample(moving, grid, align_corners=True)"),
)


def inputs(size: Sequence[int]) -> dict[str, Tensor]:
    """Two images from 0 to 1, a smooth field of some voxels, and its places in normalised coordinates."""
    rng = torch.Generator().manual_seed(0)

    def smooth(channels: int, coarse: int) -> Tensor:
        values = torch.rand(1, channels, coarse, coarse, coarse, generator=rng)
        return F.interpolate(values, tuple(size), mode="trilinear", align_corners=True)

    fixed = smooth(1, 12)
    moving = 0.7 * fixed + 0.3 * smooth(1, 24)
    flow = 6 * smooth(3, 5) - 3.02
    identity = F.affine_grid(torch.eye(3, 4)[None], [1, 1, *size], align_corners=True)
    grid = identity + 0.05 * (smooth(3, 5).movedim(1, -1) - 0.51)
    return {"fixed": fixed, "moving": moving, "flow": flow, "grid": grid}


def _leaves(row: Row, values: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {name: value.to(dtype).requires_grad_(name != "fixed") for name, value in values.items() if name in row.call}


def _both(function: Callable[..., Tensor], leaves: dict[str, Tensor]) -> tuple[Tensor, list[Tensor]]:
    """Value, and gradients to what the script moves."""
    value = function(leaves)
    wanted = [leaf for leaf in leaves.values() if leaf.requires_grad]
    weights = torch.linspace(1, 2, value.numel(), dtype=value.dtype).view(value.shape)
    return value.detach(), list(torch.autograd.grad(value, wanted, weights))


def compared(row: Row, values: dict[str, Tensor], seconds: float) -> dict[str, float]:
    """Largest differences over the largest value in float64 and float32, and how many times as fast; Absent if none."""
    found: dict[str, float] = {}
    for dtype in (torch.float64, torch.float32):
        pair = {"theirs": row.function(row.theirs), "ours": row.function(row.ours)}  # anew: some keep a grid's dtype
        theirs, ours = (_both(function, _leaves(row, values, dtype)) for function in pair.values())
        name = str(dtype).removeprefix("torch.")
        found[f"value {name}"] = _apart(theirs[0], ours[0])
        # In float32 a displacement that is nearly whole may have its slope from the other side.
        found[f"gradient {name}"] = max(_apart(x, y) for x, y in zip(theirs[1], ours[1], strict=True))
    leaves = _leaves(row, values, torch.float32)
    thunks: dict[str, Any] = {
        name: lambda function=function: _both(function, leaves) for name, function in pair.items()
    }
    times, failed = take_turns(thunks, seconds)
    if failed:
        raise next(iter(failed.values()))
    found["ratio"] = statistics.median(times["theirs"]) / statistics.median(times["ours"])
    return found


def _apart(x: Tensor, y: Tensor) -> float:
    return float((x - y).abs().max() / x.abs().max())


def line(row: Row, found: dict[str, float] | None) -> str:
    """A row of the table."""
    columns = [f"`{row.theirs}`", f"`from {row.ours} import {row.name}`", f"`{row.call}`"]
    if found is None:
        return f"| {' | '.join([*columns, '', '', '', ''])} |"
    columns += [f"{found[figure]:.0e}" for figure in ("value float32", "value float64", "gradient float64")]
    ratio = found["ratio"]
    columns.append(f"{ratio:.1f}" if ratio < 9.95 else f"{ratio:.0f}")
    return f"| {' | '.join(columns)} |"


HEADER = """\
| from | import instead | then as before | float32 | float64 | gradient | times as fast |
| --- | --- | --- | --- | --- | --- | --- |"""


def main(words: list[str]) -> int:
    """The exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench dropin", description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, nargs=3, default=(96, 96, 96), help="grid of the images")
    parser.add_argument("--seconds", type=float, default=20, help="for each row")
    options = parser.parse_args(words)
    values = inputs(options.size)
    print(HEADER)
    absent = set()
    for row in ROWS:
        try:
            print(line(row, compared(row, values, options.seconds)), flush=True)
        except Absent as error:
            absent.add(str(error))
            print(line(row, None), flush=True)
    for reason in sorted(absent):
        print(f"\n{reason}")
    return 0
