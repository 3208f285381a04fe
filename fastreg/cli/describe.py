"""`fastreg describe`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter


@Parameter(name="*")
@dataclass
class Describe:
    """Write the description of a command for programs that build pipelines and windows of it.

    Example: `fastreg describe register -o fastreg_register.json`

    boutiques: a Boutiques descriptor, which niwrap, CBRAIN and others run. slicer: the XML of a command-line module of
    3D Slicer. Both are made from the command's own options.
    """

    command: Literal["register", "warp", "compose", "invert", "evaluate", "template"]
    """Which one."""
    output: Annotated[Path | None, Parameter(alias="-o")] = field(default=None, kw_only=True)
    """Write it here; it is printed if not given."""
    format: Literal["boutiques", "slicer"] = field(default="boutiques", kw_only=True)
    """Of the description."""
    overwrite: bool = field(default=False, kw_only=True)
    """Replace the output if it exists."""

    def run(self) -> None:
        """Makes the description."""
        from fastreg.utils.files import atomic, check_free

        text = boutiques(self.command) if self.format == "boutiques" else slicer(self.command)
        if self.output is None:
            print(text)
            return
        with atomic(check_free(self.output, self.overwrite)) as partial:
            partial.write_text(text + "\n", encoding="utf-8")


def boutiques(command: str) -> str:
    """A Boutiques descriptor, schema 0.5, as JSON."""
    import json

    from fastreg._version import __version__
    from fastreg.cli._describe import options_of, summary_of

    options = [option for option in options_of(command) if option.kind != "Flag" or not option.default]
    inputs = []
    for option in options:
        entry: dict[str, Any] = {
            "id": option.name, "name": option.flag, "description": option.help, "value-key": f"[{option.name.upper()}]",
            "type": "String" if option.written else option.kind, "optional": not option.required,
            "command-line-flag": option.flag,
        }  # fmt: skip
        if option.kind == "Integer":
            entry |= {"type": "Number", "integer": True}
        if option.many:
            entry |= {"list": True, "list-separator": f" {option.flag} "}
        if option.choices:
            entry["value-choices"] = list(option.choices)
        inputs.append(entry)
    outputs = [
        {"id": f"{o.name}_file", "name": o.flag, "path-template": f"[{o.name.upper()}]", "optional": True}
        for o in options
        if o.written
    ]
    keys = " ".join(entry["value-key"] for entry in inputs)
    found = {
        "name": f"fastreg {command}", "description": summary_of(command), "tool-version": __version__,
        "schema-version": "0.5", "command-line": f"fastreg {command} {keys}", "inputs": inputs,
    }  # fmt: skip
    if outputs:
        found["output-files"] = outputs
    return json.dumps(found, indent=2)


def slicer(command: str) -> str:
    """The XML of a command-line module of 3D Slicer."""
    from xml.etree import ElementTree

    from fastreg._version import __version__
    from fastreg.cli._describe import options_of, summary_of

    root = ElementTree.Element("executable")
    for name, text in (
        ("category", "Registration"),
        ("title", f"fastreg {command}"),
        ("description", summary_of(command)),
        ("version", __version__),
    ):
        ElementTree.SubElement(root, name).text = text
    groups = {}
    for title, advanced in (("Files", "false"), ("Options", "true")):
        groups[title] = ElementTree.SubElement(root, "parameters", advanced=advanced)
        ElementTree.SubElement(groups[title], "label").text = title
        ElementTree.SubElement(groups[title], "description").text = title
    for option in options_of(command):
        if option.kind == "Flag" and option.default:
            continue
        tag = "string-enumeration" if option.choices else _TAGS[option.kind]
        made = ElementTree.SubElement(groups["Files" if option.kind == "File" else "Options"], tag)
        if option.many:
            made.set("multiple", "true")
        lines = {"name": option.name, "longflag": option.flag, "label": option.name.replace("_", " ").capitalize()}
        lines["description"] = option.help
        if option.kind == "File":
            lines["channel"] = "output" if option.written else "input"
        elif option.default not in (None, ""):
            lines["default"] = str(option.default).lower() if option.kind == "Flag" else str(option.default)
        for key, text in lines.items():
            ElementTree.SubElement(made, key).text = text
        for choice in option.choices:
            ElementTree.SubElement(made, "element").text = choice
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode")


_TAGS = {"File": "file", "String": "string", "Number": "double", "Integer": "integer", "Flag": "boolean"}
