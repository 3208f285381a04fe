"""fastreg: fast, exact registration of medical images.

``moved = fastreg.warp(vol, flow)`` and ``fastreg.lncc(a, b)`` are drop-in PyTorch ops; `fastreg --help` is the
command line. Names are loaded on first use, so that the command line answers before torch is there.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastreg import backends, losses
    from fastreg.backends import use_backend
    from fastreg.evaluation import evaluate
    from fastreg.fields import compose, invert, jacobian_determinant, smoothness
    from fastreg.model import RegistrationNet
    from fastreg.ops.integrate import integrate
    from fastreg.ops.lncc import lncc
    from fastreg.ops.warp import warp
    from fastreg.registration import register

__version__ = "0.1.0"

_HOMES = {
    "RegistrationNet": "fastreg.model",
    "backends": "fastreg.backends",
    "compose": "fastreg.fields",
    "evaluate": "fastreg.evaluation",
    "integrate": "fastreg.ops.integrate",
    "invert": "fastreg.fields",
    "jacobian_determinant": "fastreg.fields",
    "lncc": "fastreg.ops.lncc",
    "losses": "fastreg.losses",
    "register": "fastreg.registration",
    "smoothness": "fastreg.fields",
    "use_backend": "fastreg.backends",
    "warp": "fastreg.ops.warp",
}

__all__ = [
    "RegistrationNet",
    "__version__",
    "backends",
    "compose",
    "evaluate",
    "integrate",
    "invert",
    "jacobian_determinant",
    "lncc",
    "losses",
    "register",
    "smoothness",
    "use_backend",
    "warp",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fastreg' has no attribute {name!r}")
    module = importlib.import_module(_HOMES[name])
    value = module if module.__name__ == f"fastreg.{name}" else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
