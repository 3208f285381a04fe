"""Packages that come with an extra, imported where they are needed."""

from __future__ import annotations

import importlib
from typing import Any

from fastreg.utils.files import InputError


def need(package: str, extra: str, what: str) -> Any:
    """The module `package`; InputError that names `extra` where it is not installed.

    Args:
        package: As it is imported, "PIL.Image".
        extra: Of fastreg, "io".
        what: What cannot be done without it, for the message: "image x.nrrd".
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        name = {"PIL": "Pillow"}.get(package.split(".")[0], package.split(".")[0])
        raise InputError(f"{what}: needs {name}: pip install 'fastreg[{extra}]'") from error
