"""Commands as nodes of pipelines: interfaces of nipype, made of the commands' own options.

    from fastreg.cli.nodes import nipype_interface
    node = pe.Node(nipype_interface("register")(preset="fast"), name="register")

nipype is no dependency: it is imported when it is asked for.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from fastreg.cli._describe import Option, options_of, summary_of
from fastreg.utils.files import InputError


def _taken(command: str) -> list[Option]:
    """The options that a node can set; what is on without a word cannot be turned off by one."""
    return [option for option in options_of(command) if option.kind != "Flag" or not option.default]


def nipype_interface(command: str) -> type[Any]:
    """A nipype `CommandLine` class of a command: its inputs are the options, its outputs the files that it writes.

    Args:
        command: "register", "warp", ...

    Raises:
        InputError: nipype is not installed.
    """
    try:
        base = importlib.import_module("nipype.interfaces.base")
        traits = importlib.import_module("traits.api")
    except ImportError as error:
        raise InputError("interfaces of nipype need it: pip install nipype") from error
    inputs: dict[str, Any] = {"__module__": __name__}
    outputs: dict[str, Any] = {"__module__": __name__}
    taken = _taken(command)
    for option in taken:
        given = {"desc": option.help, "mandatory": option.required}
        inputs[option.name] = _trait(option, base, traits, given)
        if option.written:
            outputs[option.name] = base.File(desc=option.help)
    input_spec = type("InputSpec", (base.CommandLineInputSpec,), inputs)
    output_spec = type("OutputSpec", (base.TraitedSpec,), outputs)

    def _list_outputs(self: Any) -> dict[str, str]:
        named = {option.name: getattr(self.inputs, option.name) for option in taken if option.written}
        return {name: str(Path(value).absolute()) for name, value in named.items() if isinstance(value, str)}

    body = {
        "_cmd": f"fastreg {command}", "input_spec": input_spec, "output_spec": output_spec,
        "__doc__": summary_of(command), "_list_outputs": _list_outputs, "__module__": __name__,
    }  # fmt: skip
    return type(f"Fastreg{command.capitalize()}", (base.CommandLine,), body)


def _trait(option: Option, base: Any, traits: Any, given: dict[str, Any]) -> Any:
    """Files are words, not nipype's files: a folder with a DICOM series is one, too."""
    argstr = option.flag if option.kind == "Flag" else f"{option.flag} %s"
    if option.many:
        return base.InputMultiPath(traits.Str, argstr=f"{argstr}...", **given)
    if option.choices:
        return traits.Enum(*option.choices, argstr=argstr, **given)
    kinds = {"Flag": traits.Bool, "Number": traits.Float, "Integer": traits.Int}
    return kinds.get(option.kind, traits.Str)(argstr=argstr, **given)
