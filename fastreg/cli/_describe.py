"""The options of a command as data, for what builds interfaces: their types, help, choices and which are outputs."""

from __future__ import annotations

import ast
import importlib
import inspect
import textwrap
import types
import typing
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from fastreg.cli import COMMANDS
from fastreg.cli._paths import WRITTEN


@dataclass(frozen=True)
class Option:
    """One option of a command."""

    name: str
    """As Python has it: "mask_fixed"."""
    flag: str
    """"--mask-fixed", "--no-affine" never."""
    kind: str
    """"File", "String", "Number", "Integer" or "Flag"."""
    help: str
    many: bool
    choices: tuple[str, ...]
    required: bool
    default: Any
    written: bool
    """It names a file that the command writes."""


def options_of(command: str) -> list[Option]:
    """The options of a command, in the order of its help."""
    cls = getattr(importlib.import_module(f"fastreg.cli.{command}"), COMMANDS[command])
    return list(_options(cls, WRITTEN.get(command, ())))


def summary_of(command: str) -> str:
    """The first paragraph of a command's help."""
    cls = getattr(importlib.import_module(f"fastreg.cli.{command}"), COMMANDS[command])
    return " ".join((cls.__doc__ or "").split("\n\n")[0].split())


def _options(cls: Any, written: tuple[str, ...]) -> Any:
    hints, texts = typing.get_type_hints(cls), _texts(cls)
    for field in fields(cls):
        kind = hints[field.name]
        if is_dataclass(kind):
            yield from _options(kind, written)
            continue
        required = field.default is MISSING and field.default_factory is MISSING
        default = None if field.default is MISSING else field.default
        base, many = _base(kind)
        choices = tuple(map(str, typing.get_args(base))) if typing.get_origin(base) is typing.Literal else ()
        name = "File" if base is Path else "Flag" if base is bool else _NUMBERS.get(base, "String")
        flag = f"--{field.name.replace('_', '-')}"
        text = " ".join(texts.get(field.name, "").split())
        yield Option(field.name, flag, name, text, many, choices, required, default, field.name in written)


_NUMBERS = {int: "Integer", float: "Number"}


def _base(kind: Any) -> tuple[Any, bool]:
    """A type without its None and its list, and whether there was a list."""
    arguments = [a for a in typing.get_args(kind) if a is not type(None)]
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return _base(arguments[0])
    if typing.get_origin(kind) in (list, tuple):
        return _base(arguments[0])[0], True
    return kind, False


def _texts(cls: Any) -> dict[str, str]:
    """The strings behind the fields of a dataclass, which Python does not keep."""
    body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(text, ast.Expr):
            found[field.target.id] = str(ast.literal_eval(text.value))
    return found
