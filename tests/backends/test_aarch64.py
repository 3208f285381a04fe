"""The CPU kernels on AArch64: cross-compiled, run by qemu, against the float64 reference."""

import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

from fastreg.backends import reference, reference_correlate, reference_mind
from fastreg.backends.lncc_form import lncc_form
from fastreg.ops.mind import KINDS
from fastreg.types import MEASURES, MODES, PADDINGS

ROOT = Path(__file__).parents[2]
COMPILER, EMULATOR = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-Wall", "-Wextra", "-fopenmp")
# GCC 12 takes the undefined operands inside its own intrinsics for variables of ours (its bug 105593).
FLAGS = (*FLAGS, "-Wno-maybe-uninitialized", "-Werror")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not COMPILER or not EMULATOR, reason="needs aarch64-linux-gnu-g++ and qemu-aarch64"),
]


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    """The kernels and tests/aarch64/driver.cpp as a static program, and the folder of its objects."""
    folder = tmp_path_factory.mktemp("aarch64")
    sources = [*sorted((ROOT / "csrc" / "cpu").glob("*.cpp")), ROOT / "tests" / "aarch64" / "driver.cpp"]

    def compile(source):
        words = [COMPILER, *FLAGS, "-I", ROOT / "csrc", "-c", source, "-o", folder / f"{source.stem}.o"]
        subprocess.run(words, check=True)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(compile, sources))
    objects = [folder / f"{source.stem}.o" for source in sources]
    subprocess.run([COMPILER, "-static", "-fopenmp", *objects, "-o", folder / "driver"], check=True)
    return folder


@pytest.fixture
def run(driver, tmp_path):
    """Runs an op of the driver; tensors go in and out as files. Returns them by name, and what it printed."""

    def call(op, isa, **arguments):
        words, arrays = [], {}
        for name, value in arguments.items():
            if isinstance(value, torch.Tensor):
                arrays[name] = value
                value.numpy().tofile(tmp_path / name)
                value = tmp_path / name
            words.append(f"{name}={value}")
        done = subprocess.run(
            [EMULATOR, driver / "driver", op, isa, *words], check=True, capture_output=True, text=True
        )
        found = {
            name: torch.from_numpy(np.fromfile(tmp_path / name, value.numpy().dtype)).reshape(value.shape)
            for name, value in arrays.items()
        }
        return found, done.stdout

    return call


def triple(shape):
    return "x".join(map(str, (1, *shape) if len(shape) == 2 else shape))


def close(found, truth, tolerance):
    assert torch.equal(found.isnan(), truth.isnan())
    scale = truth[truth.isfinite()].abs().max()
    assert (found.double() - truth)[truth.isfinite()].abs().max() <= tolerance * scale


def test_neon_is_what_it_takes(driver):
    done = subprocess.run([EMULATOR, driver / "driver"], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "neon"


@pytest.mark.parametrize("isa", ["neon", "baseline"])
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("size", [(7, 9, 23), (12, 37)])
@pytest.mark.parametrize("smooth", [True, False])
def test_warp(run, isa, padding, size, smooth):
    """Fields whose neighbours read one run of voxels and others, rims, NaN; grids unlike the volume's, both layouts."""
    ndim = len(size)
    grid = (size[0] + 2, *size[1:-1], size[-1] + 6)
    vol = torch.rand(2, 3, *size)
    vol[0, 1].view(-1)[5] = float("nan")
    noise = torch.randn(2, ndim, *grid)
    flow = noise.cumsum(-1).mul(0.1) if smooth else 3 * noise
    flow[1, 0].view(-1)[3:5] = torch.tensor([float("nan"), float("inf")])
    grad = torch.randn(2, 3, *grid)
    for channels_last in (False, True):
        given = flow.movedim(1, -1).contiguous() if channels_last else flow
        found, _ = run(
            *("warp", isa),
            **{"ndim": ndim, "batch": 2, "channels": 3, "size": triple(size), "grid": triple(grid), "dtype": 0},
            **{"mode": MODES.index("linear"), "padding": PADDINGS.index(padding), "channels_last": int(channels_last)},
            **{"vol": vol, "flow": given, "out": torch.empty_like(grad), "grad_out": grad},
            **{"grad_vol": torch.empty_like(vol), "grad_flow": torch.empty_like(given)},
        )
        exact = vol.double(), given.double(), "linear", padding, channels_last
        close(found["out"], reference.warp(*exact), 1e-6)
        grad_vol, grad_flow = reference.warp_backward(grad.double(), *exact, True, True)
        close(found["grad_vol"], grad_vol, 1e-6)
        close(found["grad_flow"], grad_flow, 1e-6)


@pytest.mark.parametrize("isa", ["neon", "baseline"])
@pytest.mark.parametrize("padding", ["zeros", "border", "symmetric"])
@pytest.mark.parametrize("size", [(7, 9, 23), (12, 37)])
def test_nearest(run, isa, padding, size):
    """Places an eighth of a voxel apart, ties among them."""
    ndim = len(size)
    vol, flow = torch.rand(1, 2, *size), (24 * torch.randn(1, ndim, *size)).round() / 8
    flow[0, 0].view(-1)[3:5] = torch.tensor([float("nan"), float("inf")])
    found, _ = run(
        *("warp", isa),
        **{"ndim": ndim, "batch": 1, "channels": 2, "size": triple(size), "grid": triple(size), "dtype": 0},
        **{"mode": MODES.index("nearest"), "padding": PADDINGS.index(padding), "channels_last": 0},
        **{"vol": vol, "flow": flow, "out": torch.empty_like(vol), "grad_out": vol},
        **{"grad_vol": torch.empty_like(vol), "grad_flow": torch.empty_like(flow)},
    )
    expected = reference.warp(vol, flow, "nearest", padding, False)
    assert torch.equal(found["out"].nan_to_num(7.0), expected.nan_to_num(7.0))


@pytest.mark.parametrize("isa", ["neon", "baseline"])
@pytest.mark.parametrize(("size", "padding"), [((9, 10, 21), "zeros"), ((14, 33), "border")])
def test_integrate(run, isa, size, padding):
    ndim, steps = len(size), 4
    velocity, grad = 4 * torch.randn(2, 1, ndim, *size)
    found, _ = run(
        *("integrate", isa),
        **{"ndim": ndim, "batch": 1, "size": triple(size), "dtype": 0, "steps": steps},
        **{"padding": PADDINGS.index(padding), "velocity": velocity, "flow": torch.empty_like(velocity)},
        **{"saved": torch.empty(steps, *velocity.shape), "grad_flow": grad, "grad_velocity": torch.empty_like(grad)},
    )
    flow, saved = reference.integrate_forward(velocity.double(), steps, padding, True)
    close(found["flow"], flow, 1e-5)
    exact = reference.integrate_backward(grad.double(), velocity.double(), saved, steps, padding)
    close(found["grad_velocity"], exact, 2e-4)


@pytest.mark.parametrize("isa", ["neon", "baseline"])
@pytest.mark.parametrize(("size", "padding"), [((6, 7, 21), "zeros"), ((12, 37), "border")])
@pytest.mark.parametrize(("measure", "sharpness"), [("dot", None), ("ssd", None), ("ssd", 1.5)])
def test_correlate(run, isa, size, padding, measure, sharpness):
    """Scores of all displacements, and the displacement that they make expected."""
    ndim, radius = len(size), 2
    a, b = torch.randn(2, 2, 5, *size)
    grad = torch.randn(2, (2 * radius + 1) ** ndim if sharpness is None else ndim, *size)
    form = radius, measure, padding, sharpness
    found, _ = run(
        *("correlate", isa),
        **{"ndim": ndim, "batch": 2, "channels": 5, "size": triple(size), "dtype": 0, "radius": radius},
        **{"measure": MEASURES.index(measure), "padding": PADDINGS.index(padding), "sharpness": sharpness or 0.0},
        **{"a": a, "b": b, "out": torch.empty_like(grad), "grad": grad},
        **{"grad_a": torch.empty_like(a), "grad_b": torch.empty_like(b)},
    )
    close(found["out"], reference_correlate.correlate(a.double(), b.double(), *form), 1e-5)
    truths = reference_correlate.correlate_backward(grad.double(), a.double(), b.double(), *form, True, True)
    for name, truth in zip(("grad_a", "grad_b"), truths, strict=True):
        close(found[name], truth, 1e-5)


@pytest.mark.parametrize("isa", ["neon", "baseline"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(6, 7, 21), (12, 37)])
def test_mind(run, isa, kind, size):
    ndim = len(size)
    pairs = len(reference_mind.mind_pairs(kind, ndim))
    image, grad = torch.rand(2, 2, *size), torch.randn(2, 2 * pairs, *size)
    found, _ = run(
        *("mind", isa),
        **{"ndim": ndim, "batch": 2, "channels": 2, "size": triple(size), "dtype": 0, "kind": KINDS.index(kind)},
        **{"image": image, "floor": torch.empty(2, 2), "out": torch.empty_like(grad), "grad_out": grad},
        **{"grad_image": torch.empty_like(image)},
    )
    described, floor = reference_mind.mind(image.double(), kind)
    close(found["out"], described, 1e-5)
    close(found["grad_image"], reference_mind.mind_backward(grad.double(), image.double(), floor, kind), 1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("size", "window"), [((11, 9, 21), 5), ((17, 40), 9)])
@pytest.mark.parametrize("masked", [False, True])
def test_lncc(run, dtype, size, window, masked):
    """Both gradients and the map, of CT numbers."""
    a, b = (1000 + 100 * torch.rand(2, 1, 1, *size)).to(dtype)
    mask = (torch.rand(1, 1, *size) > 0.2).to(dtype) if masked else None
    form = lncc_form("fastreg", [window] * len(size), 1e-5)
    found, printed = run(
        *("lncc", "neon"),
        **{"ndim": len(size), "batch": 1, "channels": 1, "size": triple(size), "dtype": int(dtype == torch.float64)},
        **{
            "window": triple([window] * len(size)),
            "floor": 1,
            "floor_eps": form.floor_eps,
            "den_eps": 0.0,
            "flat_eps": -1.0,
            "count": 0,
        },
        **{"a": a, "b": b, "grad_a": torch.empty_like(a), "grad_b": torch.empty_like(b), "map": torch.empty_like(a)},
        **({"mask": mask} if masked else {}),
    )
    weight = None if mask is None else mask.double()
    value, *truths = reference.lncc(a.double(), b.double(), weight, form, 1.0, True, True, True, weight)
    assert abs(float(printed) / float(value) - 1) < 1e-6
    tolerance = 1e-5 if dtype == torch.float32 else 1e-10
    for name, truth in zip(("grad_a", "grad_b", "map"), truths, strict=True):
        inside = torch.ones_like(truth, dtype=torch.bool) if mask is None else mask > 0
        close(found[name][inside], truth[inside], tolerance)


def test_hot_loops_are_vectors(driver):
    """Multiplications and additions of four floats in the warp, of two doubles in the local correlation."""
    objdump = shutil.which("aarch64-linux-gnu-objdump")
    if objdump is None:
        pytest.skip("needs aarch64-linux-gnu-objdump")
    for name, arrangement, least in (("warp_neon", "4s", 500), ("lncc_baseline", "2d", 500)):
        listing = subprocess.run([objdump, "-d", driver / f"{name}.o"], check=True, capture_output=True, text=True)
        found = re.findall(rf"\sf(?:mul|mla|mls|add|sub)\s+v\d+\.{arrangement},", listing.stdout)
        assert len(found) > least, (name, len(found))
