"""fastreg: fast, exact registration of medical images.

``moved = fastreg.warp(vol, flow)`` and ``fastreg.lncc(a, b)`` are drop-in PyTorch ops; `fastreg --help` is the
command line. The public names are those of `__init__.pyi`, and are loaded on first use, so that the command line
answers before torch is there.
"""

from __future__ import annotations

import ast
import importlib
from pathlib import Path
from typing import Any


def _homes() -> dict[str, str]:
    """Public name -> the module that has it, as the stub beside this file says; type checkers read the same file."""
    tree = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    imports = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: node.module for node in imports if node.module for alias in node.names}


_HOMES = _homes()
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fastreg' has no attribute {name!r}")
    home = importlib.import_module(_HOMES[name])
    value = vars(home)[name] if name in vars(home) else importlib.import_module(f"{_HOMES[name]}.{name}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
