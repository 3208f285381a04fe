"""Every line of docs/dropin.md runs, and gives what its definition gives; the libraries are not needed for that."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from helpers.definitions import by_gaussians, by_splines, information, moments, sampled

from bench import dropin

PAGE = (Path(__file__).parents[2] / "docs" / "dropin.md").read_text()


def rows(heading):
    """The cells of the table under a heading, code without its quotes."""
    section = PAGE.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    table = [line for line in section.splitlines() if line.startswith("|")][2:]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table]


MEASURED, LINES = rows("One import"), rows("One line")


@pytest.fixture
def values():
    return {name: value.double() for name, value in dropin.inputs((8, 9, 10)).items()}


def squared(pair, weights, num_eps=0.0, floor=0.0, den_eps=0.0):
    cross, va, vb = moments(*pair, weights.double())
    if floor:
        va, vb = va.clamp_min(floor), vb.clamp_min(floor)
    return ((cross**2 + num_eps) / (va * vb + den_eps)).clamp(max=1).mean()


def parzen(pair, kind, bins):
    if kind == "gaussian":
        centres = torch.linspace(0, 1, bins).double()
        return information(*(by_gaussians(x.flatten(1), centres, 0.5 / (bins - 1)) for x in pair), 1e-7, 1e-7, 1e-7)
    orders = (3, 0) if kind == "b-spline" else (3, 3)
    return information(
        *(by_splines(x.flatten(1), bins, k) for x, k in zip(pair, orders, strict=True)), 1e-7, 1e-7, 1e-7
    )


def integrated(flow, steps=7):
    flow = flow / 2**steps
    for _ in range(steps):
        flow = flow + sampled(flow, flow, "bilinear", "zeros")
    return flow


def definition(theirs, call, v):
    """What the library computes, written anew."""
    moving, fixed, flow = v["moving"], v["fixed"], v["flow"]
    pair, nine = (moving, fixed), torch.ones(9)
    triangle = torch.tensor([1, 2, 3, 4, 5, 4, 3, 2, 1]) / 25
    name = call.partition("(")[0]
    if name in ("Warp", "SpatialTransformer"):
        return sampled(moving, flow, "bilinear", "border" if name == "Warp" else "zeros")
    if name in ("DVF2DDF", "IntegrateVelocityField"):
        return integrated(flow)
    if name == "NCC":
        return squared(pair, nine, den_eps=1e-5)[None, None]
    if name == "SpatialGradient":
        return sum(flow.diff(dim=axis).square().mean() for axis in (2, 3, 4)) / 3
    if name == "grid_sample":
        return F.grid_sample(moving, v["grid"], align_corners=True)
    if "Mutual" in name:
        bins = {"monai.losses": 23 if "spline" not in call else 32}.get(theirs, 32)
        kind = "gaussian" if "spline" not in call else "b-spline" if theirs == "monai.losses" else "cubic"
        return -parzen(pair, kind, bins).mean()
    if theirs == "monai.losses":
        return -squared(pair, triangle if "triangular" in call else nine, floor=1e-5)
    seven = torch.ones(7) / 7
    return -squared(pair, seven, num_eps=1e-5, floor=1e-5, den_eps=1e-5)


def test_the_page_has_the_rows_of_the_benchmark():
    rows = [[row.theirs, f"from {row.ours} import {row.name}", row.call] for row in dropin.ROWS]
    assert [row[:3] for row in MEASURED] == rows
    assert all(re.fullmatch(r"\d+(\.\d)?", row[-1]) for row in MEASURED)


@pytest.mark.parametrize(("theirs", "line", "call"), [row[:3] for row in MEASURED], ids=lambda x: x[:60])
def test_an_import_and_the_call(values, theirs, line, call):
    names = dict(values)
    exec(line, names)
    torch.testing.assert_close(eval(call, names), definition(theirs, call, values), rtol=1e-9, atol=1e-10)


def test_what_the_benchmark_prints():
    row = dropin.Row("fastreg", "torch.nn.functional", "grid_sample", "grid_sample(moving, grid, align_corners=True)")
    found = dropin.compared(row, dropin.inputs((8, 8, 8)), 0.05)
    assert found["value float64"] < 1e-14 and found["gradient float64"] < 1e-13 and found["value float32"] < 1e-5
    text = dropin.line(row, {**found, "ratio": 3.14159})
    assert text.startswith("| `fastreg` | `from torch.nn.functional import grid_sample` |") and text.endswith("| 3.1 |")
    assert dropin.line(row, None).count("|") == text.count("|")


def test_absent_libraries_leave_gaps(monkeypatch, capsys):
    row = dropin.Row("no_such_library.layers", "fastreg", "warp", "warp(moving, flow)")
    monkeypatch.setattr(dropin, "ROWS", (row,))
    assert dropin.main(["--size", "4", "4", "4"]) == 0
    assert "no_such_library is not installed" in capsys.readouterr().out


def stand_in(theirs, v):
    """Of projects that are no packages: their names, by the definition."""
    image, flow = v["moving"], v["flow"]
    last = torch.tensor(image.shape[2:]).double() - 1
    column = last.view(1, 3, 1, 1, 1)
    identity = torch.stack(torch.meshgrid(*[torch.arange(n + 1).double() for n in last], indexing="ij"))[None]
    unit = F.affine_grid(torch.eye(3, 4).double()[None], image.shape, align_corners=True)
    return {
        "TransMorph: SpatialTransformer": lambda: sampled(image, flow, "bilinear", "zeros"),
        "TransMorph: VecInt": lambda: integrated(flow),
        "TransMorph: NCC_vxm": lambda: -squared((image, v["fixed"]), torch.ones(9), den_eps=1e-5),
        "TransMorph: Grad3d": lambda: sum(flow.diff(dim=k).square().mean() for k in (2, 3, 4)) / 3,
        "VoxelMorph 2019: SpatialTransformer": lambda: sampled(image, flow, "bilinear", "zeros"),
        "VoxelMorph 2019: NCC": lambda: -squared((image, v["fixed"]), torch.ones(9), den_eps=1e-5),
        "SYMNet, LapIRN: SpatialTransform": lambda: sampled(image, flow, "bilinear", "zeros"),
        "LapIRN: SpatialTransform_unit": lambda: F.grid_sample(
            image, unit + v["unit_flow"], padding_mode="border", align_corners=True
        ),
        "LapIRN, SYMNet: NCC": lambda: -squared((image, v["fixed"]), torch.ones(9), den_eps=1e-5),
        "VFA: grid_sampler": lambda: sampled(image, v["places"] - identity, "bilinear", "border"),
        "ICON: compute_warped_image_multiNC": lambda: sampled(
            image, v["phi"] * column - identity, "bilinear", "border"
        ),
    }[theirs]()


@pytest.mark.parametrize(("theirs", "line"), [row[:2] for row in LINES], ids=lambda x: x[:40])
def test_a_line(values, theirs, line):
    last = torch.tensor(values["moving"].shape[2:]).double() - 1
    identity = torch.stack(torch.meshgrid(*[torch.arange(n + 1).double() for n in last], indexing="ij"))[None]
    places = identity + values["flow"]
    names = {
        **values,
        "flow_last": values["flow"].flip(1).movedim(1, -1),
        "unit_flow": 0.1 * values["flow"].movedim(1, -1),
        "unit": F.affine_grid(torch.eye(3, 4).double()[None], values["moving"].shape, align_corners=True),
        "places": places,
        "identity": identity,
        "phi": places / last.view(1, 3, 1, 1, 1),
        "last": last.view(1, 3, 1, 1, 1),
    }
    *imports, expression = line.split("; ")
    exec("\n".join(imports), names)
    expected = stand_in(theirs, names)
    torch.testing.assert_close(eval(expression, names), expected, rtol=1e-9, atol=1e-10)
