"""Where things are computed."""

from __future__ import annotations

import torch

from fastreg.utils.files import InputError

CPU_HAS_BFLOAT16 = bool(torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())  # type: ignore[no-untyped-call]
"""Without it (AVX2 alone) torch convolves bfloat16 in plain loops, many times slower than float32."""


def gpu() -> str | None:
    """The type of the GPUs that PyTorch sees: "cuda" (NVIDIA's, or AMD's), "xpu" (Intel's), or None."""
    return "cuda" if torch.cuda.is_available() else "xpu" if torch.xpu.is_available() else None


def pick_device(name: str | torch.device | None) -> torch.device:
    """The device of this name, "cpu", "cuda", "cuda:1", "xpu" ...; None: a GPU if there is one.

    Raises:
        InputError: there is no such device.
    """
    try:
        device = torch.device(name or gpu() or "cpu")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device {name!r}: {str(error).splitlines()[0]}") from error
    return device


def computes_bfloat16(device: torch.device) -> bool:
    """Whether bfloat16 is a way to be faster on this device."""
    return device.type != "cpu" or CPU_HAS_BFLOAT16
