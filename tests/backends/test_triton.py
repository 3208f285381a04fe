"""The Triton backend. Its kernels run in processes of their own: whether triton interprets is decided at its import."""

import importlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from fastreg import backends
from fastreg.backends import triton
from fastreg.backends.lncc_form import lncc_form

needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
CASES = Path(__file__).parents[1] / "helpers" / "triton_cases.py"


def run_cases(interpret: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(CASES)]
    environment = os.environ | {"TRITON_INTERPRET": interpret}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
@needs_triton
def test_cases_in_the_interpreter():
    run_cases("1")


@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible")
def test_cases_on_a_gpu():
    run_cases("0")


@needs_triton
@pytest.mark.skipif(triton.INTERPRETED, reason="TRITON_INTERPRET=1 takes the CPU")
def test_refuses_the_cpu():
    assert triton.why_unavailable(torch.zeros(1)) == "it runs on a GPU, and a tensor is on cpu"
    if not torch.cuda.is_available():
        assert triton.why_unavailable() == "no GPU is visible"


def test_refuses_without_triton(monkeypatch):
    monkeypatch.setattr(triton, "_INSTALLED", False)
    assert triton.why_unavailable() == "triton is not installed"


def on(device):
    """What a backend asks of a tensor, on a device that this machine need not have."""
    return SimpleNamespace(device=torch.device(device), dtype=torch.float32, is_cuda=device.startswith("cuda"))


@pytest.mark.parametrize(
    ("device", "hip", "maker", "words"),
    [("cuda:0", None, "nvidia", "NVIDIA"), ("cuda:1", "6.4", "amd", "AMD"), ("xpu:0", None, "intel", "Intel")],
)
def test_takes_every_maker(device, hip, maker, words, monkeypatch):
    """NVIDIA's, AMD's and Intel's, if Triton compiles for it; the CUDA kernels are for NVIDIA's alone."""
    module = getattr(torch, device.split(":")[0])
    for name, value in (("_INSTALLED", True), ("INTERPRETED", False), ("_COMPILERS", frozenset([maker]))):
        monkeypatch.setattr(triton, name, value)
    monkeypatch.setattr(backends, "_AUTOMATIC", list(backends.BACKENDS))
    monkeypatch.setattr(torch.version, "hip", hip)
    assert triton.why_unavailable(on(device)) == "no GPU is visible" and triton.why_unavailable() == "no GPU is visible"
    monkeypatch.setattr(module, "is_available", lambda: True)
    monkeypatch.setattr(torch.xpu, "get_device_capability", lambda: {"has_fp64": True})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index=None: (9, 0))
    assert triton.why_unavailable(on(device)) is None and triton.why_unavailable() is None
    assert "cpu" in triton.why_unavailable(on(device), on("cpu"))
    if maker != "nvidia":
        assert backends.choose(None, on(device)) == "triton"
    monkeypatch.setattr(triton, "_COMPILERS", frozenset(["other"]))
    assert triton.why_unavailable(on(device)) == f"this triton does not compile for {words}'s GPUs"
    if maker == "intel":
        monkeypatch.setattr(triton, "_COMPILERS", frozenset([maker]))
        monkeypatch.setattr(torch.xpu, "get_device_capability", lambda: {"has_fp64": False})
        assert triton.why_unavailable(on(device)) == "this GPU has no float64, in which sums are kept"
        assert backends.choose(None, on(device)) == "reference"


WARP = {"NDIM": 3, "MODE": "linear", "PADDING": "zeros", "CHANNELS_LAST": False, "PLACES": "", "SHARED": False}
TO_BOTH = {"NEED_VOL": True, "NEED_FLOW": True}
LNCC = {
    "NDIM": 3,
    "WINDOW": 9,
    "WINDOWS": (9, 9, 9),
    "COUNT": False,
    "AXIS": 1,
    "FIRST": False,
    "NEED_A": True,
    "NEED_B": True,
}
LNCC |= {"MASKED": False}
CORRELATED = LNCC | {"WEIGHTED": True, "NEED_MAP": True, "NEED_GRAD": True}
MIND = {"PAIRS": (0, 1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 6), "COUNT": 6}
SCORES = {"NDIM": 3, "RADIUS": 1, "SSD": False, "BORDER": False, "MEAN": False, "SLOPES": False}
SLOPES = {"NDIM": 3, "RADIUS": 1, "SSD": False, "BORDER": False, "TO_B": False}
KERNELS = [
    ("warp_kernels", "warp_forward_kernel", WARP),
    ("warp_kernels", "warp_forward_kernel", WARP | {"MODE": "nearest", "PADDING": "reflection", "CHANNELS_LAST": True}),
    ("warp_kernels", "warp_backward_kernel", WARP | TO_BOTH | {"NEED_VOL": False, "FIXED": False}),
    ("warp_kernels", "warp_backward_kernel", WARP | TO_BOTH | {"FIXED": False}),
    ("warp_kernels", "warp_backward_kernel", WARP | TO_BOTH | {"FIXED": True, "PADDING": "border"}),
    ("warp_kernels", "warp_forward_kernel", WARP | {"PLACES": "edges", "PADDING": "symmetric", "CHANNELS_LAST": True}),
    ("warp_kernels", "warp_backward_kernel", WARP | TO_BOTH | {"FIXED": False, "PLACES": "corners", "PADDING": "itk"}),
    ("lncc_forward_kernels", "lncc_forward_merge_kernel", LNCC),
    ("lncc_forward_kernels", "lncc_forward_merge_kernel", LNCC | {"COUNT": True, "FIRST": True, "AXIS": 0}),
    (
        "lncc_forward_kernels",
        "lncc_forward_correlate_kernel",
        CORRELATED | {"FORM": lncc_form("fastreg", [9] * 3, 1e-5)},
    ),
    ("lncc_forward_kernels", "lncc_forward_merge_kernel", LNCC | {"MASKED": True, "FIRST": True, "AXIS": 0}),
    ("lncc_forward_kernels", "lncc_forward_correlate_kernel", CORRELATED | {"FORM": lncc_form("ants", [9] * 3, 1e-5)}),
    (
        "lncc_forward_kernels",
        "lncc_forward_correlate_kernel",
        CORRELATED | {"FORM": lncc_form("fastreg", [9] * 3, 1e-5), "MASKED": True},
    ),
    ("lncc_backward_kernels", "lncc_backward_spread_kernel", LNCC),
    ("lncc_backward_kernels", "lncc_backward_gradient_kernel", LNCC | {"AXIS": 0}),
    ("integrate_kernels", "integrate_forward_square_kernel", {"NDIM": 3, "PADDING": "zeros"}),
    ("integrate_kernels", "integrate_backward_square_kernel", {"NDIM": 3, "PADDING": "zeros"}),
    ("smoothness_kernels", "smoothness_kernel", {"NDIM": 3, "NEED_GRAD": True}),
    ("penalty_kernels", "penalty_divergence_kernel", {"NDIM": 3, "KNOWN": True}),
    ("penalty_kernels", "penalty_gradient_kernel", {"NDIM": 3, "SMOOTHNESS": True, "VOLUME": True, "NEED_GRAD": True}),
    ("adam_kernels", "adam_update_kernel", {}),
    ("adam_kernels", "adam_filter_kernel", {"AXIS": 0, "PASSES": 4, "ADD": True}),
    ("mind_kernels", "mind_forward_mean_kernel", MIND),
    ("mind_kernels", "mind_forward_kernel", MIND | {"PLANES": 3}),
    ("mind_kernels", "mind_backward_slopes_kernel", MIND | {"PLANES": 3}),
    ("mind_kernels", "mind_backward_weights_kernel", {"PLANES": 3}),
    ("mind_kernels", "mind_backward_kernel", MIND | {"PLANES": 3}),
    ("correlate_kernels", "correlate_forward_kernel", SCORES),
    ("correlate_kernels", "correlate_forward_kernel", SCORES | {"SSD": True, "BORDER": True, "MEAN": True}),
    ("correlate_kernels", "correlate_forward_kernel", SCORES | {"SLOPES": True}),
    ("correlate_kernels", "correlate_backward_kernel", SLOPES),
    ("correlate_kernels", "correlate_backward_kernel", SLOPES | {"TO_B": True}),
    ("correlate_kernels", "correlate_backward_kernel", SLOPES | {"TO_B": True, "SSD": True, "BORDER": True}),
    ("determinant_kernels", "determinant_kernel", {"NDIM": 3, "LEAST": False}),
    ("determinant_kernels", "determinant_kernel", {"NDIM": 3, "LEAST": True}),
]


def compiled_for(target, module, name, options):
    """What Triton compiles a kernel to for (maker, architecture, lanes), without such a GPU."""
    import triton as compiler
    import triton.language as tl
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(importlib.import_module(f"fastreg.kernels.{module}"), name)
    options = options | {"WORK": tl.float32, "WIDE": False}
    options |= {"BLOCK_Y": 4, "BLOCK_X": 32}
    counted = options.get("FIXED", False)
    integers = {"channels", "weight_channels", "D", "H", "W", "GD", "GH", "GW", "voxels", "points", "magnitude"}
    integers |= {"planes", "first_plane", "from_plane", "to_plane", "wanted", "slab", "volume", "total", "first_image"}
    constants_of_dtype = {"tiny": "fp32"}
    wide = constants_of_dtype | {
        "partial": "*fp64",
        "unit": "*fp64",
        "weights": "*fp64",
        "rates": "*fp64",
        "grad_vol": "*i64" if counted else "*fp32",
        **({"slope": "*fp64"} if module == "correlate_kernels" else {}),
    }
    signature, constants = {}, {}
    for position, argument in enumerate(kernel.arg_names):
        if argument in options:
            signature[argument], constants[(position,)] = "constexpr", options[argument]
        else:
            signature[argument] = "i32" if argument in integers else wide.get(argument, "*fp32")
    return compiler.compile(
        ASTSource(kernel, signature, constants),
        target=GPUTarget(*target),
        options={"num_warps": 4, "enable_fp_fusion": True},
    ).asm


@needs_triton
@pytest.mark.skipif(triton.INTERPRETED, reason="TRITON_INTERPRET=1 compiles nothing")
@pytest.mark.parametrize(("module", "name", "options"), KERNELS)
def test_compiles_for_hopper_without_spills(module, name, options, tmp_path):
    import triton as compiler

    tools = Path(compiler.__file__).parent / "backends" / "nvidia" / "bin"
    if not (tools / "ptxas").exists() or not (tools / "cuobjdump").exists():
        pytest.skip("triton has no ptxas or cuobjdump here")
    binary = tmp_path / "kernel.cubin"
    binary.write_bytes(compiled_for(("cuda", 90, 32), module, name, options)["cubin"])
    usage = subprocess.run([tools / "cuobjdump", "-res-usage", binary], capture_output=True, text=True).stdout
    (registers, stack) = re.search(r"REG:(\d+) STACK:(\d+)", usage).groups()
    print(f"{module}.{name}: {registers} registers, {stack} bytes of stack")
    assert int(stack) == 0 and int(registers) <= 128


@pytest.mark.slow
@needs_triton
@pytest.mark.skipif(triton.INTERPRETED, reason="TRITON_INTERPRET=1 compiles nothing")
@pytest.mark.parametrize("target", [("hip", "gfx942", 64), ("hip", "gfx1100", 32)], ids=["MI300", "RX7900"])
@pytest.mark.parametrize(("module", "name", "options"), KERNELS)
def test_compiles_for_amd_without_spills(target, module, name, options):
    """64 and 32 lanes a wavefront."""
    if not (Path(importlib.import_module("triton").__file__).parent / "backends" / "amd").exists():
        pytest.skip("this triton has no compiler for AMD's GPUs")
    assembly = compiled_for(target, module, name, options)["amdgcn"]
    (spilled,) = re.findall(r"\.vgpr_spill_count:\s*(\d+)", assembly)
    (scratch,) = re.findall(r"\.private_segment_fixed_size:\s*(\d+)", assembly)
    assert (spilled, scratch) == ("0", "0")
