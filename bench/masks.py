"""What a mask costs: the LNCC with and without one, in one run.

python -m bench masks                     # 160x192x224, windows 7 and 9
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

import fastreg
from bench.cases import Case, images
from bench.clock import take_turns


def masks(size: tuple[int, ...]) -> dict[str, Tensor]:
    """Name -> [1, 1, D, H, W], 0 and 1: a lesion left out, a head alone, and a tenth of the voxels left out."""
    z, y, x = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in size], indexing="ij")
    lesion = torch.ones(size)
    lesion[tuple(slice(int(0.37 * n), int(0.55 * n)) for n in size)] = 0
    scattered = torch.rand(size, generator=torch.Generator().manual_seed(3)) > 0.1
    kinds = {"all but a lesion": lesion, "a head": z * z + y * y + x * x < 0.7, "nine voxels of ten": scattered}
    return {name: mask.float()[None, None] for name, mask in kinds.items()}


def measured(size: tuple[int, ...], window: int, wanted: tuple[int, ...], seconds: float) -> dict[str, float]:
    """Name of a mask -> milliseconds with it over milliseconds without; and "none": milliseconds without."""
    pair = images(Case("masks", "lncc", wanted, size))

    def thunk(mask: Tensor | None) -> None:
        leaves = [image.requires_grad_(k in wanted) for k, image in enumerate(x.detach() for x in pair)]
        value = fastreg.lncc(*leaves, window=window, mask=mask)
        if wanted:
            torch.autograd.grad(value, [leaves[k] for k in wanted])

    kinds: dict[str, Tensor | None] = {"none": None, **masks(size)}
    times, failed = take_turns({name: partial(thunk, mask) for name, mask in kinds.items()}, seconds)
    if failed:
        raise next(iter(failed.values()))
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    return {name: value if name == "none" else value / medians["none"] for name, value in medians.items()}


def main(words: Sequence[str]) -> int:
    """Prints a table."""
    parser = argparse.ArgumentParser(prog="python -m bench masks", description=__doc__)
    parser.add_argument("--size", type=int, nargs=3, default=(160, 192, 224))
    parser.add_argument("--windows", type=int, nargs="+", default=(7, 9))
    parser.add_argument("--seconds", type=float, default=6.0, help="for each line")
    options = parser.parse_args(words)
    print("| window | work | without | " + " | ".join(masks((4, 4, 4))) + " |\n| --- | --- | --- | --- | --- | --- |")
    for window in options.windows:
        for wanted, work in (((), "value"), ((0,), "value and gradient to one image")):
            row = measured(tuple(options.size), window, wanted, options.seconds)
            figures = " | ".join(f"{ratio:.2f}" for name, ratio in row.items() if name != "none")
            print(f"| {window} | {work} | {row['none']:.1f} ms | {figures} |", flush=True)
    return 0
