"""Modules of this package in processes of their own, which find what this process finds."""

from __future__ import annotations

import os
import sys


def command(module: str, *words: str) -> list[str]:
    """What starts a module in this interpreter."""
    return [sys.executable, "-m", module, *words]


def environment(**more: str) -> dict[str, str]:
    """This process' own, with its path: pytest, too, may have found the package where a new interpreter would not."""
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))} | more
