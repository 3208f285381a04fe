"""Where things are computed."""

from __future__ import annotations

import torch

from fastreg.files import InputError


def pick_device(name: str | torch.device | None) -> torch.device:
    """The device of this name, "cpu", "cuda", "cuda:1" ...; None: a GPU if there is one.

    Raises:
        InputError: there is no such device.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(f"device {name!r}: {str(error).splitlines()[0]}") from error
    return device
