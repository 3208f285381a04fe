"""The border between Python and C++: structs by name, and a stub that says what is there."""

import ast
from pathlib import Path

import pytest
import torch

import fastreg
from fastreg import _C
from fastreg.backends import compiled
from fastreg.types import MODES, PADDINGS

STUB = {
    node.name: node
    for node in ast.parse(Path(fastreg.__file__).with_name("_C.pyi").read_text()).body
    if isinstance(node, ast.ClassDef)
}
STRUCTS = [name for name in STUB if name.endswith(("Args", "Form"))]
ENUMS = ["DType", "Mode", "Padding", "Floor", "Measure", "Scheme"]


def annotations(name):
    """Attribute and type of every annotated name of a class of the stub."""
    return {node.target.id: ast.unparse(node.annotation) for node in STUB[name].body if isinstance(node, ast.AnnAssign)}


def fields(struct):
    return [name for name, value in vars(struct).items() if isinstance(value, property)]


def made(name):
    """A struct of which every field that must be given is."""
    values = {
        "DType": _C.DType.f32,
        "Mode": _C.Mode.linear,
        "Padding": _C.Padding.zeros,
        "Floor": _C.Floor.max,
        "Measure": _C.Measure.ssd,
        "Scheme": _C.Scheme.least,
        "MindKind": _C.MindKind.ssc,
        "Sizes": (1, 2, 3),
        "bool": True,
        "float": 0.5,
    }
    types = annotations(name)
    given = {
        field: made("LnccForm") if types[field] == "LnccForm" else values.get(types[field], 7)
        for field in getattr(_C, name).needed
    }
    return getattr(_C, name)(**given)


@pytest.mark.parametrize("name", STRUCTS)
def test_the_stub_has_the_fields_of_the_module(name):
    struct = getattr(_C, name)
    types = annotations(name)
    assert types.pop("needed") == "ClassVar[tuple[str, ...]]"
    assert list(types) == fields(struct)
    (init,) = [node for node in STUB[name].body if isinstance(node, ast.FunctionDef)]
    options = {
        arg.arg: default is None for arg, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True)
    }
    assert {field for field, needed in options.items() if needed} == set(struct.needed)
    assert {arg.arg: ast.unparse(arg.annotation) for arg in init.args.kwonlyargs} == types
    value = made(name)
    seen = {"Address": "int", "Sizes": "tuple"}
    assert {field: type(getattr(value, field)).__name__ for field in types} == {
        field: seen.get(kind, kind) for field, kind in types.items()
    }


@pytest.mark.parametrize("name", ENUMS)
def test_the_stub_has_the_values_of_the_module(name):
    assert list(annotations(name))[1:] == list(getattr(_C, name).__members__)


@pytest.mark.parametrize("device", [name for name in ("cpu", "cuda") if hasattr(_C, name)])
def test_the_stub_has_the_functions_of_the_module(device):
    stub = {node.name for node in STUB[device].body if isinstance(node, ast.FunctionDef)}
    assert stub == {name for name in vars(getattr(_C, device)) if not name.startswith("_")}


def test_names_of_modes_and_paddings_are_those_of_the_ops():
    assert tuple(_C.Mode.__members__) == MODES
    assert tuple(_C.Padding.__members__) == PADDINGS


@pytest.mark.parametrize("name", STRUCTS)
def test_what_is_given_is_what_is_read(name):
    value = made(name)
    for field, kind in annotations(name).items():
        if kind == "int":
            setattr(value, field, 9)
            assert getattr(value, field) == 9
        if kind == "Address":
            setattr(value, field, 2**63 + 8)
            assert getattr(value, field) == 2**63 + 8


def test_wrong_names_and_values_are_named():
    good = {field: getattr(made("SmoothnessArgs"), field) for field in _C.SmoothnessArgs.needed}
    with pytest.raises(TypeError, match="SmoothnessArgs has no field flw"):
        _C.SmoothnessArgs(**good, flw=3)
    with pytest.raises(TypeError, match="SmoothnessArgs needs batch"):
        _C.SmoothnessArgs(**{key: value for key, value in good.items() if key != "batch"})
    with pytest.raises(TypeError, match=r"SmoothnessArgs.size cannot be \(1, 2\)"):
        _C.SmoothnessArgs(**{**good, "size": (1, 2)})
    with pytest.raises(TypeError, match=r"SmoothnessArgs.dtype cannot be 'f32'"):
        made("SmoothnessArgs").dtype = "f32"
    with pytest.raises(TypeError, match="incompatible function arguments"):
        _C.cpu.warp_forward(made("SmoothnessArgs"))


def test_structs_of_tensors():
    vol, flow = torch.zeros(2, 3, 4, 5), torch.zeros(2, 6, 7, 2)
    args = compiled.warp_args(vol, flow, "nearest", "border", True)
    assert (args.ndim, args.batch, args.channels, args.size, args.grid) == (2, 2, 3, (1, 4, 5), (1, 6, 7))
    assert (args.dtype, args.mode, args.padding) == (_C.DType.f32, _C.Mode.nearest, _C.Padding.border)
    assert (args.vol, args.flow, args.out, args.channels_last) == (vol.data_ptr(), flow.data_ptr(), 0, True)
