"""Values and gradients of every backend of fastreg and of every peer against float64, on easy and on hard data.

A row is one op, option, dtype, backend and data set; its error is the largest absolute difference over the largest
absolute truth (truth.py). Rows of fastreg have a tolerance with its reason, and a row beyond it fails; peers' rows are
shown.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from bench import child, implementations
from bench.cases import DTYPES
from bench.data import DATA, SIZE, SMALL, Data, options_of
from bench.implementations import INPUTS, Implementation, Options, said
from bench.peers import PEERS
from bench.schema import Exactness
from bench.tolerances import REASONS, tolerance
from bench.truth import Truth, error, given, in_dtype, truth, upstream
from fastreg import backends

Rows = Iterator[Exactness]


def of_implementation(
    op: str,
    implementation: Implementation,
    name: str,
    data: Data,
    options: Options,
    dtype: str,
    ours: bool,
    size: tuple[int, ...],
    device: str,
) -> Rows:
    """The value and every gradient of one implementation on one data set."""
    exact = data.make(size)
    inputs = in_dtype(op, exact, dtype, device)
    if not all(_survives(x, y) for x, y in zip(exact, inputs, strict=True)):
        return  # the data do not exist in this dtype
    works = ["value", *(f"gradient to {one}" for one in INPUTS[op])]
    about: dict[str, Any] = {"op": op, "size": list(inputs[0].shape), "dtype": dtype, "backend": name}
    about |= {"option": options.named(op), "data": data.name, "device": device, "threads": torch.get_num_threads()}
    try:
        value, gradients = given(implementation, options, inputs)
    except Exception as problem:  # any: an implementation that refuses has a row that says so
        yield Exactness(work="value", absent=said(problem), tolerance=0.0 if ours else None, **about)
        return
    t = _truth(op, options, implementation.definition, data, dtype, size)
    for work, got, expected in zip(works, (value, *gradients), (t.value, *t.gradients), strict=False):
        wrong = error(_inside(got, t, implementation.interior), _inside(expected, t, implementation.interior))
        allowed, reason = (None, "")
        if ours:
            allowed, reason = tolerance(op, work, name, dtype, options, t, data.whole)
        yield Exactness(work=work, error=_digits(wrong), tolerance=_digits(allowed), reason=reason, **about)


def directional(op: str, implementation: Implementation, name: str, data: Data, options: Options, device: str) -> Rows:
    """A backend's gradient in float64 against differences of its own value, along a direction that goes to the right.

    Where coordinates are whole, `docs/math.md` takes the slope to the right of them.
    """
    inputs = in_dtype(op, data.make(SIZE), "float64", device)
    step = 2.0**-24
    generator = torch.Generator().manual_seed(5)
    ways = [torch.rand(x.shape, generator=generator, dtype=torch.float64).to(device) for x in inputs]
    function = implementation.make(options)
    value, gradients = given(implementation, options, inputs)
    weights = upstream(value)

    def moved(length: float) -> float:
        after = function(*(x + length * way for x, way in zip(inputs, ways, strict=True)))
        return ((after - value) * weights).sum().item() / length

    found = 2 * moved(step / 2) - moved(step)  # the part that grows with the step drops out
    terms = [g * way for g, way in zip(gradients, ways, strict=True)]
    expected = sum(term.sum().item() for term in terms)
    scale = sum(term.abs().sum().item() for term in terms) or 1.0
    rounding = torch.finfo(torch.float64).eps / step * (value.abs() * weights.abs()).sum().item() / scale
    yield Exactness(
        op=op,
        work="gradient along a direction",
        size=list(inputs[0].shape),
        dtype="float64",
        backend=name,
        option=options.named(op),
        data=data.name,
        device=device,
        threads=torch.get_num_threads(),
        error=_digits(abs(found - expected) / scale),
        tolerance=_digits(1e-6 + rounding),
        reason="step",
    )


def _inside(x: Tensor, t: Truth, interior: bool) -> Tensor:
    """Of an output, the points whose eight corners lie inside, for implementations that agree only there."""
    if not interior:
        return x
    flow = t.inputs[1]
    good = torch.ones(flow.shape[2:], dtype=torch.bool)
    for axis, n in enumerate(flow.shape[2:]):
        place = torch.arange(n).view([-1 if k == axis else 1 for k in range(3)]) + flow[0, axis]
        good &= (place >= 0) & (place <= n - 1)
    return x[0, 0][good]


def _survives(exact: Tensor, rounded: Tensor) -> bool:
    """Whether there is more in the data than their rounding to a dtype, and no overflow."""
    lost = (rounded.double().cpu() - exact).abs().max().item()
    return math.isfinite(lost) and (exact.std().item() == 0 or lost < exact.std().item())


def _digits(x: float | None) -> float | None:
    """Three of them: the record is read by people, too."""
    return None if x is None else float(f"{x:.3g}")


_truths: dict[tuple, Truth] = {}


def _truth(op: str, options: Options, definition: str, data: Data, dtype: str, size: tuple[int, ...]) -> Truth:
    key = (op, options, definition, data.name, dtype, size)
    if key not in _truths:
        if len(_truths) > 200:
            _truths.clear()
        rounded = in_dtype(op, data.make(size), dtype, "cpu")
        _truths[key] = truth(op, options, definition, rounded, data.whole)
    return _truths[key]


def contenders(device: str = "cpu") -> list[tuple[str, str, str | None]]:
    """(name in rows, backend, instruction set) of what fastreg has here."""
    found: list[tuple[str, str, str | None]] = [("reference", "reference", None)]
    if device == "cuda":
        return found + [(name, name, None) for name in implementations.gpu_backends()]
    return found + [(f"native {isa}", "native", isa) for isa in implementations.instruction_sets()]


def fastregs(op: str, device: str = "cpu", only: str | None = None) -> Rows:
    """All rows of fastreg's own at an op; `only` one of its backends."""
    best = implementations.instruction_sets()[-1]
    for name, backend, isa in contenders(device):
        if only is not None and only != name:
            continue
        implementation = implementations.ours(op, backend)
        with implementations.instructions(isa):
            for options in options_of(op):
                for data in DATA[op]:
                    for dtype in DTYPES if isa in (None, best) else ("float32",):
                        yield from of_implementation(op, implementation, name, data, options, dtype, True, SIZE, device)
                    if op != "lncc" and isa in (None, best) and _differentiable(op, data, options):
                        yield from directional(op, implementation, name, data, options, device)


def _differentiable(op: str, data: Data, options: Options) -> bool:
    """Whether every coordinate moves right along a direction to the right.

    An integration's later squarings move as the field of the earlier ones says, which beyond a border of zeros is left.
    """
    if op == "mind":  # where the floor of v holds, the gradient takes it for a constant
        return not data.hard
    return op != "integrate" or not data.whole or options.padding == "border"


def of_peers(op: str, device: str = "cpu") -> Rows:
    """The peers' rows, in float32."""
    for peer in PEERS[op]:
        for options in options_of(op):
            for data in DATA[op]:
                if not peer.compiles:  # the same operations as the peer without the compiler
                    yield from of_implementation(op, peer, peer.name, data, options, "float32", False, SIZE, device)


def interpreted(op: str) -> Rows:
    """The Triton kernels on small arrays; only where TRITON_INTERPRET=1."""
    for options in options_of(op, small=True):
        for data in DATA[op][:1] if op in ("mind", "correlate") else DATA[op]:  # 27 voxels for each: minutes else
            for dtype in ("float64", "float32") if data is DATA[op][0] else ("float32",):
                implementation = implementations.ours(op, "triton")
                yield from of_implementation(
                    op, implementation, "triton, interpreted", data, options, dtype, True, SMALL, "cpu"
                )


class Interpreter:
    """The rows of `interpreted`, from a process of its own: triton decides at its import whether it interprets.

    It begins at once and is waited for in `rows`: nothing is timed meanwhile.
    """

    def __init__(self, ops: Sequence[str] = tuple(DATA)) -> None:
        why = backends.status()["triton"]
        self.absent = why if why is not None and "installed" in why else None
        if self.absent is None:
            self.process = subprocess.Popen(
                child.command("bench.exactness", "--interpreted", *ops),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=child.environment(TRITON_INTERPRET="1"),
            )

    def rows(self) -> list[Exactness]:
        """All of them; or one that says that triton is not installed, or fails because the process did."""
        if self.absent is not None:
            return [_missing("triton", self.absent)]
        out, complaint = self.process.communicate()
        if self.process.returncode == 0:
            return [Exactness(**json.loads(line)) for line in out.splitlines()]
        last = (complaint.strip().splitlines() or ["it said nothing"])[-1]
        failed = _missing("triton, interpreted", f"exit status {self.process.returncode}: {last}"[:200])
        failed.tolerance = 0.0
        return [failed]


def _missing(backend: str, why: str) -> Exactness:
    return Exactness(op="all", work="value", size=[], dtype="float32", backend=backend, data="", absent=why)


def everything(
    device: str = "cpu",
    ops: Sequence[str] = tuple(DATA),
    with_peers: bool = True,
    triton: bool = True,
    on_progress: Callable[[str], None] = lambda line: None,
) -> list[Exactness]:
    """All rows of some ops, and one for each backend that cannot run here."""
    rows: list[Exactness] = []
    interpreter = Interpreter(ops) if triton and device == "cpu" else None
    for op in ops:
        on_progress(f"exactness of {op}: fastreg")
        rows += fastregs(op, device)
        if with_peers:
            on_progress(f"exactness of {op}: peers")
            rows += of_peers(op, device)
    if device == "cpu" and (why := backends.status()["cuda"]) is not None:
        rows.append(_missing("cuda", why))
    if interpreter is not None:
        on_progress("exactness: Triton's interpreter")
        rows += interpreter.rows()
    return rows


def failures(rows: list[Exactness]) -> list[Exactness]:
    """The rows that exceed their tolerance, or should have had figures."""
    return [row for row in rows if not row.ok]


def refused(rows: list[Exactness]) -> dict[tuple[str, str], str]:
    """(op, backend) -> its first failure: what speed.py does not measure."""
    found: dict[tuple[str, str], str] = {}
    for row in failures(rows):
        found.setdefault((row.op, row.backend), describe(row))
    return found


def describe(row: Exactness) -> str:
    """A row in one line."""
    what = ", ".join(part for part in (row.op, row.work, row.option, row.data, row.dtype) if part)
    if row.absent is not None:
        return f"{what}: {row.absent}"
    limit = "" if row.tolerance is None else f", allowed {row.tolerance:.1e} ({REASONS.get(row.reason, row.reason)})"
    return f"{what}: {row.error:.1e}{limit}"


if __name__ == "__main__":
    if sys.argv[1:2] != ["--interpreted"] or os.environ.get("TRITON_INTERPRET") != "1":
        raise SystemExit(
            "a part of `python -m bench exactness`: TRITON_INTERPRET=1 python -m bench.exactness --interpreted OP..."
        )
    torch.set_num_threads(1)
    for one in sys.argv[2:]:
        for found in interpreted(one):
            print(json.dumps(asdict(found)))
