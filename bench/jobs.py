"""Whole jobs: a training step and an inference of vm1, vm2 and vxm, with fastreg's ops and with VoxelMorph's.

The network is the same object's twin, with the same weights; only warp, LNCC and smoothness differ. What the ops take
of it is the difference to the network alone. How long training waits for data comes from a short `fastreg train`.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fastreg
from bench.cases import Case, images, smooth
from bench.clock import Stopwatch, Thunk, summary, take_turns
from bench.implementations import Absent, ours_here, said
from bench.peers.packages import module
from bench.schema import Job

NETWORKS = ("vm1", "vm2", "vxm")
SIZE = (96, 96, 96)
WINDOW = 9
ALONE = "network alone"
VOXELMORPH = "VoxelMorph's ops"

Ops = tuple[Callable[..., Tensor], Callable[..., Tensor], Callable[..., Tensor]]
"""Warp, LNCC (higher is better) and smoothness."""


def our_ops() -> Ops:
    """fastreg's."""
    return fastreg.warp, lambda a, b: fastreg.lncc(a, b, window=WINDOW), fastreg.smoothness


def voxelmorph_ops() -> Ops:
    """VoxelMorph's and neurite's modules; raises Absent."""
    modules = module("neurite.nn.modules")
    ncc = modules.NCC(window_size=WINDOW)
    warp = module("voxelmorph.nn.modules").SpatialTransformer()
    return warp, lambda a, b: ncc(a, b).sum(), modules.SpatialGradient("l2")


def step(net: Any, ops: Ops | None, moving: Tensor, fixed: Tensor, fused: bool | None = None) -> Thunk:
    """Forward, loss, backward and Adam; without ops the loss is the field's mean square."""
    optimiser = torch.optim.Adam(net.parameters(), 1e-4, fused=fused)

    def run() -> None:
        flow = net.field(moving, fixed)
        if ops is None:
            loss = flow.square().mean()
        else:
            warp, lncc, smoothness = ops
            loss = smoothness(flow) - lncc(warp(moving, flow), fixed)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return run


def inference(net: Any, ops: Ops | None, moving: Tensor, fixed: Tensor) -> Thunk:
    """The field and the moved image; without ops the field alone."""

    def run() -> Any:
        with torch.no_grad():
            flow = net.field(moving, fixed)
            return flow if ops is None else ops[0](moving, flow)

    return run


def run(
    seconds: float,
    size: tuple[int, ...] = SIZE,
    networks: tuple[str, ...] = NETWORKS,
    device: str = "cpu",
    on_progress: Callable[[str], None] = lambda line: None,
) -> Iterator[Job]:
    """The rows of all networks, within about `seconds`."""
    works = {"training step": step, "inference": inference}
    for name in networks:
        for work, make in works.items():
            on_progress(f"job: {work} of {name}")
            yield from measure(name, work, make, size, device, seconds / (len(networks) * len(works)))
    on_progress("job: waiting for data")
    yield loading(size, device)


def measure(
    name: str, work: str, make: Callable[..., Thunk], size: tuple[int, ...], device: str, seconds: float
) -> list[Job]:
    """One network's work by ours, by VoxelMorph's and by the network alone, in turns."""
    fixed, moving = (x.to(device) for x in images(Case("job", "warp", (), size)))
    thunks: dict[str, Thunk] = {}
    absent: dict[str, str] = {}
    ours = f"fastreg's ops, {ours_here(fixed)}"
    for who, ops in ((ours, our_ops), (VOXELMORPH, voxelmorph_ops), (ALONE, lambda: None)):
        torch.manual_seed(0)
        net = fastreg.RegistrationNet(name).to(device)
        torch.nn.init.normal_(net.flow.weight, std=1e-2)  # displacements as of a trained network, not the identity
        try:
            thunks[who] = make(net, ops(), moving, fixed)
        except Absent as reason:
            absent[who] = str(reason)
    times, failed = take_turns(thunks, seconds, Stopwatch(device), least=3)
    absent |= {who: said(error) for who, error in failed.items()}
    about: dict[str, Any] = {"op": work, "work": f"{name}, {work}", "network": name, "size": list(fixed.shape)}
    about |= {"dtype": "float32", "device": device, "threads": torch.get_num_threads()}
    rows = [Job(backend=who, absent=why, **about) for who, why in absent.items()]
    alone = summary(times[ALONE])["median"] if ALONE in times else None
    for who, runs in times.items():
        figures = summary(runs)
        share = None if who == ALONE or alone is None else max(0.0, 1 - alone / figures["median"])
        rows.append(Job(backend=who, images_per_second=1000 / figures["median"], share=share, **about, **figures))
    return rows


def loading(size: tuple[int, ...], device: str, steps: int = 6) -> Job:
    """The part of `fastreg train` (vm1) that waits for data: images on disk, its own loader and cache."""
    from fastreg.io.images import save_image
    from fastreg.training.config import TrainConfig
    from fastreg.training.trainer import fit

    with tempfile.TemporaryDirectory(prefix="fastreg_bench_") as folder:
        for k in range(4):
            image = 0.5 + smooth(size, 1, 0.2, seed=k)[0, 0].numpy()
            save_image(Path(folder) / f"s{k}.nii.gz", image.astype(np.float32), np.eye(4))
        run = Path(folder) / "run"
        options: dict[str, Any] = {"images": folder, "output": run, "model": "vm1", "steps": steps, "device": device}
        fit(TrainConfig.of(**options, threads=torch.get_num_threads(), save_every=0, val_every=0))
        rows = list(csv.DictReader((run / "metrics.csv").open()))
    # The first step decodes the images and fills the cache, once in a training.
    first, last = rows[0], rows[-1]
    seconds, waited = (float(last[name]) - float(first[name]) for name in ("seconds", "data_seconds"))
    each = [1000 * (float(b["seconds"]) - float(a["seconds"])) for a, b in pairwise(rows)]
    return Job(
        op="loading",
        work="vm1, waiting for data",
        network="vm1",
        size=[1, 1, *size],
        dtype="float32",
        backend="fastreg train",
        device=device,
        threads=torch.get_num_threads(),
        share=max(0.0, waited / seconds),
        images_per_second=(len(rows) - 1) / seconds,
        **summary(each),
    )
