"""Seconds that a network takes to register a pair, on the processor and, where there is one, on the GPU.

VoxelMorph CVPR 2018 and Shan et al. 2017 each have such a figure. The network and the warp of the moving image count;
reading, alignment and writing do not (`fastreg register` prints those). Weights do not change the time.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

import fastreg
from fastreg.cli.output import out, print_table
from fastreg.nn.cascade import cascade
from fastreg.nn.registration_net import NETWORKS
from fastreg.utils.files import InputError, atomic

COLUMNS = ("network", "size", "device", "threads", "seconds", "least", "most", "repeats")


def main() -> None:
    """Measures, prints the table and writes it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("-o", "--output", type=Path, default=Path("runtime.csv"), help="the table as CSV")
    options.add_argument("--networks", default="vm1,vm2,vxm,match", help="which; match is the general model's")
    options.add_argument("--size", type=int, nargs="+", default=[160, 192, 224], help="voxels; 2 numbers: 2-D networks")
    options.add_argument("--passes", type=int, nargs="+", default=[1], help="of every network, as in `fastreg train`")
    options.add_argument("--repeats", type=int, default=5, help="measurements, after one that does not count")
    options.add_argument("--threads", type=int, help="of the processor; one for each core if not given")
    given = options.parse_args()
    if len(given.size) not in (2, 3) or given.repeats < 1:
        raise InputError(f"size, repeats: expected 2 or 3 numbers and at least 1, got {given.size} and {given.repeats}")
    if given.threads:
        torch.set_num_threads(given.threads)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    rows = [measure(name, device, given) for device in devices for name in given.networks.split(",")]
    with atomic(given.output) as partial, partial.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    print_table(
        ["network", "device", "threads", "s a pair, median", "least to most"],
        [
            [
                r["network"],
                r["device"],
                str(r["threads"]),
                f"{r['seconds']:.4g}",
                f"{r['least']:.4g} to {r['most']:.4g}",
            ]
            for r in rows
        ],
        title=f"{' x '.join(map(str, given.size))} voxels, float32, passes {' '.join(map(str, given.passes))}",
    )
    out.print(f"table {given.output}", soft_wrap=True)


def measure(name: str, device: str, given: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    if name not in NETWORKS:
        raise InputError(f"networks: expected some of {', '.join(NETWORKS)}, got {name}")
    net = fastreg.RegistrationNet(name, len(given.size), diffeomorphic=name == "match").to(device).eval()
    for layer in net.pyramid.flow if name == "pyramid" else [net.flow]:
        torch.nn.init.normal_(layer.weight, std=1e-2)  # displacements as of a trained network, not the identity
    moving, fixed = torch.rand(2, 1, 1, *given.size, device=device)
    seconds = []
    for _ in range(given.repeats + 1):
        start = time.perf_counter()
        with torch.inference_mode():
            cascade(net, moving, fixed, given.passes)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    del seconds[0]
    where = torch.cuda.get_device_name() if device == "cuda" else "CPU"
    values = (
        name, "x".join(map(str, given.size)), where, torch.get_num_threads() if device == "cpu" else 1,
        statistics.median(seconds), min(seconds), max(seconds), given.repeats,
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


if __name__ == "__main__":
    try:
        main()
    except InputError as error:
        sys.exit(f"runtime: {error}")
