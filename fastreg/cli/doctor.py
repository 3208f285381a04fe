"""`fastreg doctor`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(kw_only=True)
class Doctor:
    """Check this machine: which backends run here, why the others cannot, and whether the kernels are exact.

    Example: `fastreg doctor`
    """

    json: bool = False
    """Print JSON instead of a table."""

    def run(self) -> None:
        """Prints the backends and their errors against the float64 reference; InputError if one is wrong."""
        import platform

        import torch

        from fastreg import backends
        from fastreg._version import __version__
        from fastreg.backends import cpu
        from fastreg.cli.output import out, print_json, print_table
        from fastreg.utils.devices import gpu
        from fastreg.utils.files import InputError

        rows: list[dict[str, Any]] = []
        for name, why in backends.status().items():
            worst = None if why is not None else _worst_error(name)
            rows.append({"backend": name, "refuses": why, "worst_error": worst})
        machine: dict[str, Any] = {
            "fastreg": __version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
            "instructions": cpu.isa() if cpu.why_unavailable() is None else None,
            "gpu": None if gpu() is None else getattr(torch, str(gpu())).get_device_name(),
        }
        if self.json:
            print_json({**machine, "backends": rows})
        else:
            out.print("  ".join(f"{key} {value}" for key, value in machine.items() if value is not None))
            print_table(
                ["backend", "runs here", "self-check, worst error against float64"],
                [
                    [r["backend"], "yes" if r["refuses"] is None else f"no: {r['refuses']}", _shown(r["worst_error"])]
                    for r in rows
                ],
            )
        wrong = [r["backend"] for r in rows if r["worst_error"] is not None and not r["worst_error"] < TOLERANCE]
        if wrong:
            raise InputError(f"self-check failed for backend {', '.join(wrong)}: its error exceeds {TOLERANCE:g}")


TOLERANCE = 1e-4


def _shown(error: float | None) -> str:
    return "" if error is None else f"{error:.1e}"


def _worst_error(backend: str) -> float:
    """Relative error of warp and lncc and their gradients, float32 against the float64 reference."""
    import torch

    import fastreg
    from fastreg.utils.devices import gpu

    device = gpu() or "cpu" if backend in ("cuda", "triton") else "cpu"
    generator = torch.Generator().manual_seed(0)

    def results(dtype: torch.dtype, name: str) -> list[torch.Tensor]:
        on = device if name == backend else "cpu"
        a, b, flow = (tensor.to(on, dtype).requires_grad_() for tensor in inputs)
        moved = fastreg.warp(a, flow, backend=name)
        value = fastreg.lncc(moved, b, backend=name)
        return [tensor.detach().double().cpu() for tensor in (moved, value, *torch.autograd.grad(value, (a, b, flow)))]

    inputs = [
        torch.rand(2, 1, 19, 21, 37, generator=generator),
        torch.rand(2, 1, 19, 21, 37, generator=generator) + 1000,
        3 * torch.randn(2, 3, 19, 21, 37, generator=generator),
    ]
    pairs = zip(results(torch.float32, backend), results(torch.float64, "reference"), strict=True)
    return max(float((x - y).abs().max() / y.abs().max()) for x, y in pairs)
