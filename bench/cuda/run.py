"""The ops and a training step on this GPU, beside their bytes and their peers. Called by bench/gpu.sh.

    python bench/gpu.py --output DIR [--seconds 240] [--quick]

Writes DIR/results.json, DIR/results.md and plots. Times are medians with p20 and p80 over repeated runs, by CUDA
events, the L2 cache flushed in between. The floor of an op is the time in which a copy measured in this run moves the
bytes that the op cannot avoid. Peers that cannot be imported are named as absent.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import fastreg
from fastreg import backends

Thunk = Callable[[], Any]

SIZES = {
    "160x192x224": (1, 1, 160, 192, 224),
    "(2,16,128^3)": (2, 16, 128, 128, 128),
    "256^3": (1, 1, 256, 256, 256),
    "512^3": (1, 1, 512, 512, 512),
}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class Result:
    """One measurement. Milliseconds; bytes; None where there is no such figure."""

    op: str
    size: str
    dtype: str
    who: str
    median: float | None = None
    p20: float | None = None
    p80: float | None = None
    floor: float | None = None
    fraction_of_floor: float | None = None
    """floor / median: 1 is as fast as a copy of the same bytes."""
    peak_bytes: int | None = None
    """Most memory above the inputs."""
    kept_bytes: int | None = None
    """What the forward leaves for the backward, above its result."""
    failed: str | None = None


@dataclass
class Case:
    """An op on tensors of one size, and everybody who can do it."""

    op: str
    size: str
    dtype: str
    bytes: int | None
    people: dict[str, Callable[[], Thunk]]
    kept: dict[str, Thunk] | None = None
    """Forwards whose memory for the backward is of interest."""


class Clock:
    """Times thunks until its seconds are used up."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds
        self.flush = torch.empty(192 << 20, dtype=torch.uint8, device="cuda")

    def over(self) -> bool:
        """Whether there is no time for another measurement."""
        return time.monotonic() > self.end

    def measure(self, thunk: Thunk, most: int = 40, seconds: float = 0.8) -> list[float]:
        """Milliseconds of repeated runs, sorted."""
        for _ in range(3):
            thunk()
        torch.cuda.synchronize()
        times: list[float] = []
        began = time.monotonic()
        while len(times) < 5 or (len(times) < most and time.monotonic() - began < seconds):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            self.flush.zero_()
            start.record()
            thunk()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end))
        return sorted(times)


def copy_rate(clock: Clock) -> float:
    """Bytes a millisecond, read and written, of a copy of 1 GiB."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    times = clock.measure(lambda: target.copy_(source))
    return 2 * source.numel() / times[len(times) // 2]


# ---------------------------------------------------------------- peers, called as their users call them


def identity_grid(size: tuple[int, ...]) -> Tensor:
    """[1, 3, D, H, W], voxels."""
    return torch.stack(torch.meshgrid(*[torch.arange(n, device="cuda").float() for n in size], indexing="ij"))[None]


def voxelmorph_warp(vol: Tensor, flow: Tensor, grid: Tensor) -> Tensor:
    """VoxelMorph's SpatialTransformer, by its formula."""
    place = grid + flow
    place = torch.stack([2 * (place[:, k] / (n - 1) - 0.5) for k, n in enumerate(vol.shape[2:])], -1)
    return F.grid_sample(vol, place[..., [2, 1, 0]].to(vol.dtype), align_corners=True, mode="bilinear")


def voxelmorph_ncc(a: Tensor, b: Tensor, window: int) -> Tensor:
    """VoxelMorph's NCC, by its formula: five dense convolutions."""
    ones, pad = torch.ones(1, 1, window, window, window, device=a.device, dtype=a.dtype), window // 2

    def total(x: Tensor) -> Tensor:
        return F.conv3d(x, ones, padding=pad)

    a, b = a.flatten(0, 1)[:, None], b.flatten(0, 1)[:, None]
    n = window**3
    sum_a, sum_b = total(a), total(b)
    cross = total(a * b) - sum_a * sum_b / n
    return (cross**2 / ((total(a * a) - sum_a**2 / n) * (total(b * b) - sum_b**2 / n) + 1e-5)).mean()


def voxelmorph_penalty(flow: Tensor) -> Tensor:
    """VoxelMorph's Grad('l2')."""
    return sum((flow.diff(dim=axis) ** 2).mean() for axis in (2, 3, 4)) / 3  # type: ignore[return-value]


def monai_lncc(window: int) -> Callable[[Tensor, Tensor], Tensor]:
    """MONAI's LocalNormalizedCrossCorrelationLoss."""
    from monai.losses import LocalNormalizedCrossCorrelationLoss

    return LocalNormalizedCrossCorrelationLoss(kernel_size=window)


def fused_lncc(window: int) -> Callable[[Tensor, Tensor], Tensor]:
    """The fused-lncc package, built from its source package; its gradient goes to its first argument."""
    import fused_lncc as package

    return partial(package.fused_lncc_loss, kernel_size=window)


def fireants_lncc(window: int) -> Callable[[Tensor, Tensor], Tensor]:
    """FireANTs' torch LNCC."""
    from fireants.losses.cc import LocalNormalizedCrossCorrelationLoss

    return LocalNormalizedCrossCorrelationLoss(kernel_size=window)


# ---------------------------------------------------------------- cases


def ours() -> list[str]:
    """The GPU backends that run here."""
    return [name for name, why in backends.status().items() if why is None and name in ("cuda", "triton")]


def forward(function: Callable[..., Tensor], *inputs: Tensor) -> Thunk:
    """The op alone."""

    def run() -> Any:
        with torch.no_grad():
            return function(*inputs)

    return run


def backward(function: Callable[..., Tensor], inputs: list[Tensor], wanted: list[int]) -> Thunk:
    """The backward alone, of a forward done once."""
    leaves = [x.detach().requires_grad_(k in wanted) for k, x in enumerate(inputs)]
    out = function(*leaves)
    grad = torch.ones_like(out)
    return lambda: torch.autograd.grad(out, [leaves[k] for k in wanted], grad, retain_graph=True)


def held(function: Callable[..., Tensor], inputs: list[Tensor], wanted: list[int]) -> Thunk:
    """The forward with all that it keeps."""
    return lambda: function(*[x.detach().requires_grad_(k in wanted) for k, x in enumerate(inputs)])


def both(function: Callable[..., Tensor], inputs: list[Tensor], wanted: list[int]) -> Thunk:
    """Forward and backward."""

    def run() -> Any:
        leaves = [x.detach().requires_grad_(k in wanted) for k, x in enumerate(inputs)]
        out = function(*leaves)
        return torch.autograd.grad(out, [leaves[k] for k in wanted], torch.ones_like(out))

    return run


def deterministic(thunk: Thunk) -> Thunk:
    """The same under torch.use_deterministic_algorithms."""

    def run() -> Any:
        torch.use_deterministic_algorithms(True)
        try:
            return thunk()
        finally:
            torch.use_deterministic_algorithms(False)

    return run


def warp_cases(size: str, dtype: str) -> Iterator[Case]:
    """The forward; the backward to the field, and to both, as it comes and deterministic."""
    shape = SIZES[size]
    vol = torch.rand(shape, device="cuda").to(DTYPES[dtype])
    flow = F.interpolate(4 * torch.randn(shape[0], 3, 8, 8, 8, device="cuda"), shape[2:], mode="trilinear")
    image, field = vol.numel() * vol.element_size(), flow.numel() * 4
    functions: dict[str, Callable[..., Tensor]] = {name: partial(fastreg.warp, backend=name) for name in ours()}
    grid = identity_grid(shape[2:])
    functions["VoxelMorph (its formula)"] = partial(voxelmorph_warp, grid=grid)
    inputs = [vol, flow]
    yield Case(
        "warp forward", size, dtype, 2 * image + field, {n: partial(forward, f, *inputs) for n, f in functions.items()}
    )
    to_flow = {n: partial(backward, f, inputs, [1]) for n, f in functions.items()}
    yield Case("warp backward to flow", size, dtype, 2 * image + 2 * field, to_flow)
    to_both = {n: partial(backward, f, inputs, [0, 1]) for n, f in functions.items()}
    # The volume's gradient is cleared, then read and written by the additions, in float32.
    scatter = 3 * 4 * vol.numel()
    yield Case("warp backward to both", size, dtype, 2 * image + 2 * field + scatter, to_both)
    fixed = {n: (lambda f=functions[n]: deterministic(backward(f, inputs, [0, 1]))) for n in ours()}
    yield Case("warp backward to both, deterministic", size, dtype, 2 * image + 2 * field + 2 * scatter, fixed)


def lncc_cases(size: str, dtype: str) -> Iterator[Case]:
    """Windows 5, 7 and 9: the loss; with the gradient to one image; to both."""
    shape = SIZES[size]
    a = torch.rand(shape, device="cuda").to(DTYPES[dtype])
    b = ((a + torch.rand(shape, device="cuda")) / 2).to(DTYPES[dtype])
    image = a.numel() * a.element_size()
    for window in (9, 7, 5):
        functions: dict[str, Callable[..., Tensor]] = {
            name: partial(fastreg.lncc, window=window, backend=name) for name in ours()
        }
        peers = {"MONAI": monai_lncc, "fused-lncc": fused_lncc, "FireANTs": fireants_lncc}
        functions["VoxelMorph (its formula)"] = partial(voxelmorph_ncc, window=window)

        def called(make: Callable[[int], Callable[..., Tensor]], window: int = window) -> Callable[..., Tensor]:
            made: list[Callable[..., Tensor]] = []

            def call(x: Tensor, y: Tensor) -> Tensor:
                if not made:
                    made.append(make(window))
                return made[0](x, y)

            return call

        functions |= {name: called(make) for name, make in peers.items()}
        people = {n: partial(forward, f, a, b) for n, f in functions.items()}
        yield Case(f"lncc {window} forward", size, dtype, 2 * image, people)
        people = {n: partial(both, f, [a, b], [0]) for n, f in functions.items()}
        kept = {n: held(functions[n], [a, b], [0]) for n in people}
        yield Case(f"lncc {window} forward + backward to one", size, dtype, 3 * image, people, kept)
        people = {n: partial(both, f, [a, b], [0, 1]) for n, f in functions.items() if n != "fused-lncc"}
        kept = {n: held(functions[n], [a, b], [0, 1]) for n in people}
        yield Case(f"lncc {window} forward + backward to both", size, dtype, 4 * image, people, kept)


def field_cases(size: str) -> Iterator[Case]:
    """Seven squarings of a velocity at half resolution, and back; the diffusion penalty."""
    shape = SIZES[size]
    half = tuple(n // 2 for n in shape[2:])
    velocity = F.interpolate(torch.randn(shape[0], 3, 8, 8, 8, device="cuda"), half, mode="trilinear")
    grid = identity_grid(half)

    def voxelmorph(v: Tensor) -> Tensor:
        v = v / 2**7
        for _ in range(7):
            v = v + voxelmorph_warp(v, v, grid)
        return v

    functions: dict[str, Callable[..., Tensor]] = {name: partial(fastreg.integrate, backend=name) for name in ours()}
    functions["VoxelMorph (its formula)"] = voxelmorph
    moved = 7 * 3 * velocity.numel() * 4
    people = {n: partial(forward, f, velocity) for n, f in functions.items()}
    yield Case("integrate 7 forward, half size", size, "fp32", moved, people)
    people = {n: partial(both, f, [velocity], [0]) for n, f in functions.items()}
    yield Case("integrate 7 forward + backward, half size", size, "fp32", None, people)
    flow = torch.randn(shape[0], 3, *shape[2:], device="cuda")
    penalties: dict[str, Callable[..., Tensor]] = {name: partial(fastreg.smoothness, backend=name) for name in ours()}
    penalties["VoxelMorph (its formula)"] = voxelmorph_penalty
    people = {n: partial(both, f, [flow], [0]) for n, f in penalties.items()}
    yield Case("smoothness forward + backward", size, "fp32", 2 * flow.numel() * 4, people)


def network_cases() -> Iterator[Case]:
    """A training step and an inference of vm2 at 160x192x224."""
    shape = SIZES["160x192x224"]
    moving, fixed = torch.rand(shape, device="cuda"), torch.rand(shape, device="cuda")
    grid = identity_grid(shape[2:])

    def network(amp: bool, compiled: bool) -> Any:
        net = fastreg.RegistrationNet("vm2", amp=amp, channels_last=amp).cuda()
        if compiled:
            net.unet = torch.compile(net.unet)
        return net

    def step(amp: bool, compiled: bool, voxelmorph: bool) -> Thunk:
        net = network(amp, compiled)
        optimiser = torch.optim.Adam(net.parameters(), 1e-4, fused=True)

        def run() -> None:
            flow = net.field(moving, fixed)
            if voxelmorph:
                loss = -voxelmorph_ncc(voxelmorph_warp(moving, flow, grid), fixed, 9) + voxelmorph_penalty(flow)
            else:
                loss = -fastreg.lncc(fastreg.warp(moving, flow), fixed, window=9) + fastreg.smoothness(flow)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

        return run

    def inference(amp: bool, compiled: bool, voxelmorph: bool) -> Thunk:
        net = network(amp, compiled)

        def run() -> Any:
            with torch.no_grad():
                flow = net.field(moving, fixed)
                return voxelmorph_warp(moving, flow, grid) if voxelmorph else fastreg.warp(moving, flow)

        return run

    for op, make in (("vm2 training step", step), ("vm2 inference", inference)):
        for dtype, amp in (("fp32", False), ("bf16", True)):
            people = {
                "fastreg": partial(make, amp, False, False),
                "fastreg, compiled": partial(make, amp, True, False),
                "VoxelMorph's ops (their formulas)": partial(make, amp, False, True),
            }
            yield Case(op, "160x192x224", dtype, None, people)


def cases(quick: bool) -> Iterator[Case]:
    """In order of importance: the last are left out when the time is up."""
    for size, dtypes in (("160x192x224", ("fp32", "bf16")), ("(2,16,128^3)", ("fp32", "bf16"))):
        for dtype in dtypes:
            yield from warp_cases(size, dtype)
            yield from lncc_cases(size, dtype)
        yield from field_cases(size)
        if size == "160x192x224":
            yield from network_cases()
        if quick:
            return
    for size in ("256^3", "512^3"):
        for dtype in ("fp32", "bf16"):
            yield from warp_cases(size, dtype)
            yield from lncc_cases(size, dtype)
        yield from field_cases(size)


def kept_bytes(thunk: Thunk) -> int:
    """Memory that lives as long as the result of a forward, above the result."""
    before = torch.cuda.memory_allocated()
    out = thunk()
    torch.cuda.synchronize()
    return torch.cuda.memory_allocated() - before - out.numel() * out.element_size()


def run_case(case: Case, clock: Clock, rate: float) -> Iterator[Result]:
    """Everybody's figures; a failure is a result too."""
    for who, make in case.people.items():
        result = Result(case.op, case.size, case.dtype, who)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        try:
            thunk = make()
            thunk()
            torch.cuda.synchronize()
            result.peak_bytes = torch.cuda.max_memory_allocated() - before
            if case.kept is not None:
                result.kept_bytes = kept_bytes(case.kept[who])
            times = clock.measure(thunk)
        except Exception as error:  # a peer that is absent, out of memory or refuses this window
            result.failed = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
            yield result
            continue
        result.p20, result.median, result.p80 = (times[int(q * (len(times) - 1))] for q in (0.2, 0.5, 0.8))
        if case.bytes is not None:
            result.floor = case.bytes / rate
            result.fraction_of_floor = result.floor / result.median
        yield result


def machine() -> dict[str, Any]:
    """What the figures belong to."""

    def said(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True)
        return done.stdout.strip() if done.returncode == 0 else ""

    root = Path(__file__).parents[1]
    return {
        "device": torch.cuda.get_device_name(),
        "capability": ".".join(map(str, torch.cuda.get_device_capability())),
        "driver": said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "fastreg": fastreg.__version__,
        "commit": said("git", "-C", str(root), "rev-parse", "HEAD"),
        "backends": backends.status(),
    }


def markdown(facts: dict[str, Any], results: list[Result]) -> str:
    """All figures as one table."""
    lines = [f"{key}: {value}  " for key, value in facts.items()]
    lines += [
        "",
        "| op | size | dtype | who | median, ms | p20 | p80 | floor, ms | floor / median | peak, MB | kept, MB |",
    ]
    lines += ["| --- " * 11 + "|"]
    for r in results:
        figures = [r.median, r.p20, r.p80, r.floor, r.fraction_of_floor]
        shown = ["" if x is None else f"{x:.3f}" for x in figures]
        if r.failed is not None:
            shown[0] = r.failed.replace("|", "/")
        shown += ["" if x is None else f"{x / 1e6:.0f}" for x in (r.peak_bytes, r.kept_bytes)]
        lines.append("| " + " | ".join([r.op, r.size, r.dtype, r.who, *shown]) + " |")
    return "\n".join(lines) + "\n"


def plots(folder: Path, results: list[Result]) -> None:
    """One picture a size: times of everybody, floors as lines."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    for number, size in enumerate(SIZES):
        mine = [r for r in results if r.size == size and r.dtype == "fp32" and r.median is not None]
        if not mine:
            continue
        ops = list(dict.fromkeys(r.op for r in mine))
        people = list(dict.fromkeys(r.who for r in mine))
        figure, axes = plt.subplots(figsize=(10, 0.5 * len(ops) + 2))
        for k, who in enumerate(people):
            rows = [(ops.index(r.op), r) for r in mine if r.who == who]
            height = 0.8 / len(people)
            axes.barh([place + k * height for place, _ in rows], [r.median or 0 for _, r in rows], height, label=who)
        for place, op in enumerate(ops):
            floor = next((r.floor for r in mine if r.op == op and r.floor), None)
            if floor:
                axes.plot([floor, floor], [place - 0.1, place + 0.8], "k:")
        axes.set_yticks([place + 0.4 for place in range(len(ops))], ops)
        axes.invert_yaxis()
        axes.set_xscale("log")
        axes.set_xlabel(f"ms, {size}, fp32; dotted: a copy of the same bytes")
        axes.legend()
        figure.tight_layout()
        figure.savefig(folder / f"size_{number}.png", dpi=120)
        plt.close(figure)


def main() -> None:
    """Measures, and writes what there is after every case: an interrupted run keeps its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--quick", action="store_true", help="the first size alone")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    clock = Clock(options.seconds)
    facts = machine()
    rate = copy_rate(clock)
    facts["copy, GB/s"] = round(rate / 1e6, 1)
    results: list[Result] = []
    left_out = []
    for case in cases(options.quick):
        if clock.over():
            left_out.append(f"{case.op}, {case.size}, {case.dtype}")
            continue
        results += run_case(case, clock, rate)
        facts["left out for want of time"] = left_out
        stored = {"machine": facts, "results": [asdict(result) for result in results]}
        (options.output / "results.json").write_text(json.dumps(stored, indent=1))
        (options.output / "results.md").write_text(markdown(facts, results))
    facts["left out for want of time"] = left_out
    stored = {"machine": facts, "results": [asdict(result) for result in results]}
    (options.output / "results.json").write_text(json.dumps(stored, indent=1))
    (options.output / "results.md").write_text(markdown(facts, results))
    plots(options.output, results)
    print(markdown(facts, results))


if __name__ == "__main__":
    main()
