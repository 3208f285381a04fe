"""Packages of others: they may be absent, and print when they are imported."""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from typing import Any

import torch

from bench.implementations import Absent, Function, said


def module(name: str) -> Any:
    """An import without what it prints; Absent if it is not there."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        raise Absent(f"{name.split('.')[0]} is not installed ({error})") from error


def compiled(function: Function) -> Function:
    """torch.compile of it, for the shapes of its first call."""
    try:
        torch._dynamo.reset()
        return torch.compile(function, fullgraph=True, dynamic=False)
    except Exception as error:  # no compiler, or a Python that torch cannot compile for
        raise Absent(f"torch.compile: {said(error)}") from error
