"""What fastreg is measured against, called as its users call it. A peer that is not installed says so.

A `Rival` does one op: `make(options)` gives its function, `prepare` brings fastreg's inputs into the form that the
function takes (which its users have ready, so it is not timed), `definition` says which float64 truth it should give.
Inputs as in fastreg: vol [batch, channels, D, H, W], flow [batch, 3, D, H, W] in voxels.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import fastreg
from fastreg import _C
from fastreg.backends import cpu

Function = Callable[..., Any]
INPUTS = {"warp": ("vol", "flow"), "lncc": ("a", "b"), "integrate": ("velocity",), "smoothness": ("flow",)}
"""Op -> its inputs, in the order in which every rival takes them."""


class Absent(Exception):
    """The peer cannot run here, or not this; the message says why."""


@dataclass(frozen=True)
class Options:
    """What an op is asked for; each op looks at its own."""

    padding: str = "zeros"
    window: int = 9
    steps: int = 7

    def named(self, op: str) -> str:
        """In words, for a row."""
        return {
            "warp": self.padding,
            "lncc": f"window {self.window}",
            "integrate": f"{self.steps} steps, {self.padding}",
            "smoothness": "",
        }[op]


def _as_it_is(*inputs: Tensor) -> tuple[Any, ...]:
    return inputs


@dataclass(frozen=True)
class Rival:
    """Somebody who can do an op."""

    name: str
    make: Callable[[Options], Function]
    """Raises Absent."""
    prepare: Callable[..., tuple[Any, ...]] = _as_it_is
    read: Callable[[Any], Tensor] = lambda out: out
    """The result as fastreg would give it."""
    definition: str = "fastreg"
    gradients: bool = True
    interior: bool = False
    """It agrees only where all corners lie inside the image."""
    compiles: bool = False
    """Making it takes a compiler and many seconds."""


def module(name: str) -> Any:
    """An import without what it prints; Absent if it is not there."""
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        raise Absent(f"{name.split('.')[0]} is not installed ({error})") from error


def said(error: Exception) -> str:
    """One line of an error, for a row."""
    if isinstance(error, Absent):
        return str(error)
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {first}"[:160]


def compiled(function: Function) -> Function:
    """torch.compile of it, for the shapes of its first call."""
    try:
        torch._dynamo.reset()
        return torch.compile(function, fullgraph=True, dynamic=False)
    except Exception as error:  # no compiler, or a Python that torch cannot compile for
        raise Absent(f"torch.compile: {said(error)}") from error


# ---------------------------------------------------------------- fastreg


def ours(op: str, backend: str | None = None, isa: str | None = None) -> Rival:
    """fastreg; by default as a user calls it, or one backend, or one instruction set of the native one."""

    def make(options: Options) -> Function:
        function: Function = {
            "warp": lambda vol, flow: fastreg.warp(vol, flow, padding=options.padding, backend=backend),
            "lncc": lambda a, b: fastreg.lncc(a, b, window=options.window, backend=backend),
            "integrate": lambda v: fastreg.integrate(v, steps=options.steps, padding=options.padding, backend=backend),
            "smoothness": lambda flow: fastreg.smoothness(flow, backend=backend),
        }[op]
        return function

    return Rival("fastreg" if backend is None else backend if isa is None else f"{backend} {isa}", make)


@contextlib.contextmanager
def instructions(isa: str | None) -> Any:
    """The native backend with another instruction set; None leaves it."""
    before = cpu.isa()
    if isa is not None:
        _C.cpu.set_isa(isa)
    try:
        yield
    finally:
        _C.cpu.set_isa(before)


def instruction_sets() -> list[str]:
    """Those of this processor, from the oldest."""
    levels = ["baseline", "avx2", "avx512"]
    return levels[: levels.index(cpu.isa()) + 1]


# ---------------------------------------------------------------- warp


def normalised_grid(flow: Tensor) -> Tensor:
    """grid_sample's coordinates of p + flow(p): [batch, D, H, W, 3], in (x, y, z), from -1 to 1."""
    size = flow.shape[2:]
    axes = torch.meshgrid(*[torch.arange(n, dtype=flow.dtype, device=flow.device) for n in size], indexing="ij")
    place = [2 * (axes[k] + flow[:, k]) / max(n - 1, 1) - 1 for k, n in enumerate(size)]
    return torch.stack(place[::-1], -1)


def _sampled(vol: Tensor, grid: Tensor, padding: str) -> Tensor:
    return F.grid_sample(vol, grid.to(vol.dtype), mode="bilinear", padding_mode=padding, align_corners=True)


def _torch_warp(options: Options) -> Function:
    return lambda vol, grid: _sampled(vol, grid, options.padding)


def _compiled_warp(options: Options) -> Function:
    return compiled(lambda vol, flow: _sampled(vol, normalised_grid(flow), options.padding))


def _voxelmorph_warp(options: Options) -> Function:
    if options.padding != "zeros":
        raise Absent("SpatialTransformer pads with zeros")
    return module("voxelmorph.nn.modules").SpatialTransformer()


def _monai_warp(options: Options) -> Function:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return module("monai.networks.blocks").Warp("bilinear", options.padding)


def _fireants_warp(options: Options) -> Function:
    sample = module("fireants.interpolator").fireants_interpolator
    return lambda vol, u: sample(vol, grid=u, mode="bilinear", padding_mode=options.padding, is_displacement=True)


def _normalised_displacement(vol: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """FireANTs' form: [batch, D, H, W, 3], in (x, y, z), where 2 is the length of an axis."""
    scaled = [2 * flow[:, k] / max(n - 1, 1) for k, n in enumerate(flow.shape[2:])]
    return vol, torch.stack(scaled[::-1], -1).contiguous()


def _scipy_warp(options: Options) -> Function:
    ndimage = module("scipy.ndimage")
    mode = {"zeros": "grid-constant", "border": "nearest", "reflection": "mirror"}[options.padding]
    return lambda vol, place: ndimage.map_coordinates(vol, place, order=1, mode=mode, prefilter=False)


def _places(vol: Tensor, flow: Tensor) -> tuple[Any, Any]:
    """scipy's form: one image, and the coordinates [3, D, H, W]."""
    _one_image(vol)
    axes = torch.meshgrid(*[torch.arange(n, dtype=flow.dtype) for n in flow.shape[2:]], indexing="ij")
    return vol[0, 0].detach().numpy(), (torch.stack(axes) + flow[0]).detach().numpy()


def _itk_warp(options: Options) -> Function:
    if options.padding != "zeros":
        raise Absent("ITK has no such padding")
    sitk = module("SimpleITK")

    def run(image: Any, transform: Any) -> Any:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(torch.get_num_threads())
        return sitk.Resample(image, image, transform, sitk.sitkLinear, 0.0, image.GetPixelID())

    return run


def _itk_inputs(vol: Tensor, flow: Tensor) -> tuple[Any, Any]:
    """An image with spacing 1, and a displacement field transform, whose vectors are (x, y, z) in float64."""
    sitk = module("SimpleITK")
    _one_image(vol)
    vectors = flow[0].detach().double().flip(0).movedim(0, -1).contiguous().numpy()
    return sitk.GetImageFromArray(vol[0, 0].detach().numpy()), sitk.DisplacementFieldTransform(
        sitk.GetImageFromArray(vectors, isVector=True)
    )


def _one_image(vol: Tensor) -> None:
    if vol.shape[0] * vol.shape[1] != 1:
        raise Absent("one image with one channel at a time")
    if vol.dtype not in (torch.float32, torch.float64):
        raise Absent(f"no {str(vol.dtype).removeprefix('torch.')}")


def _from_array(out: Any) -> Tensor:
    return torch.from_numpy(out)[None, None]


def _from_itk(out: Any) -> Tensor:
    return _from_array(module("SimpleITK").GetArrayFromImage(out))


WARPS = (
    Rival("torch grid_sample, grid ready", _torch_warp, lambda vol, flow: (vol, normalised_grid(flow).contiguous())),
    Rival("torch.compile, grid_sample", _compiled_warp, compiles=True),
    Rival("VoxelMorph SpatialTransformer", _voxelmorph_warp),
    Rival("MONAI Warp", _monai_warp),
    Rival("FireANTs interpolator", _fireants_warp, _normalised_displacement),
    Rival("SimpleITK Resample", _itk_warp, _itk_inputs, _from_itk, gradients=False, interior=True),
    Rival("scipy map_coordinates", _scipy_warp, _places, _from_array, gradients=False),
)


# ---------------------------------------------------------------- local correlation


def box_sums(x: Tensor, window: int) -> Tensor:
    """Separable, by average pools that count the padding."""
    for axis in range(3):
        kernel, padding = [1, 1, 1], [0, 0, 0]
        kernel[axis], padding[axis] = window, window // 2
        if x.shape[2 + axis] < window:  # which avg_pool3d refuses
            margins = [0, 0] * 3
            margins[4 - 2 * axis : 6 - 2 * axis] = [window // 2] * 2
            x, padding[axis] = F.pad(x, margins), 0
        x = F.avg_pool3d(x, kernel, 1, padding, divisor_override=1)
    return x


def torch_lncc(a: Tensor, b: Tensor, window: int) -> Tensor:
    """VoxelMorph's formula as well as plain torch can: the five sums as channels of one separable average pool."""
    a, b = a.flatten(0, 1)[:, None], b.flatten(0, 1)[:, None]
    n = window**3
    sum_a, sum_b, aa, bb, ab = box_sums(torch.cat([a, b, a * a, b * b, a * b], 1), window).unbind(1)
    cross = ab - sum_a * sum_b / n
    return (cross**2 / ((aa - sum_a**2 / n) * (bb - sum_b**2 / n) + 1e-5)).mean()


def _compiled_lncc(options: Options) -> Function:
    return compiled(lambda a, b: torch_lncc(a, b, options.window))


def _neurite_ncc(options: Options) -> Function:
    return module("neurite.nn.modules").NCC(window_size=options.window)


def _monai_lncc(options: Options) -> Function:
    return module("monai.losses").LocalNormalizedCrossCorrelationLoss(kernel_size=options.window)


def _fireants_lncc(options: Options) -> Function:
    return module("fireants.losses.cc").LocalNormalizedCrossCorrelationLoss(kernel_size=options.window)


def _itk_lncc(options: Options) -> Function:
    sitk = module("SimpleITK")

    def run(fixed: Any, moving: Any) -> float:
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(torch.get_num_threads())
        metric = sitk.ImageRegistrationMethod()
        metric.SetNumberOfThreads(torch.get_num_threads())
        metric.SetMetricAsANTSNeighborhoodCorrelation(options.window // 2)
        metric.SetInterpolator(sitk.sitkLinear)
        metric.SetInitialTransform(sitk.TranslationTransform(3))
        return metric.MetricEvaluate(fixed, moving)

    return run


def _itk_images(a: Tensor, b: Tensor) -> tuple[Any, Any]:
    sitk = module("SimpleITK")
    _one_image(a)
    return sitk.GetImageFromArray(a[0, 0].detach().numpy()), sitk.GetImageFromArray(b[0, 0].detach().numpy())


def _from_metric(out: float) -> Tensor:
    return torch.tensor(-out, dtype=torch.float64)


LNCCS = (
    Rival("torch, average pools", lambda o: lambda a, b: torch_lncc(a, b, o.window), definition="voxelmorph"),
    Rival("torch.compile, average pools", _compiled_lncc, definition="voxelmorph", compiles=True),
    Rival("neurite NCC", _neurite_ncc, read=lambda out: out.sum(), definition="voxelmorph"),
    Rival("MONAI LNCC", _monai_lncc, read=torch.neg, definition="monai"),
    Rival("FireANTs LNCC", _fireants_lncc, read=torch.neg, definition="fireants"),
    Rival("SimpleITK ANTS correlation", _itk_lncc, _itk_images, _from_metric, definition="ants", gradients=False),
)


# ---------------------------------------------------------------- fields


def _torch_integrate(options: Options) -> Function:
    def run(velocity: Tensor) -> Tensor:
        v = velocity / 2**options.steps
        for _ in range(options.steps):
            v = v + _sampled(v, normalised_grid(v), options.padding)
        return v

    return run


def _voxelmorph_integrate(options: Options) -> Function:
    if options.padding != "zeros":
        raise Absent("IntegrateVelocityField pads with zeros")
    return module("voxelmorph.nn.modules").IntegrateVelocityField(steps=options.steps)


def _monai_integrate(options: Options) -> Function:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return module("monai.networks.blocks").DVF2DDF(options.steps, padding_mode=options.padding)


INTEGRATIONS = (
    Rival("torch, grid_sample", _torch_integrate),
    Rival("VoxelMorph IntegrateVelocityField", _voxelmorph_integrate),
    Rival("MONAI DVF2DDF", _monai_integrate),
)


def differences(u: Tensor) -> Tensor:
    """VoxelMorph's 'l2': the mean over the axes of the mean squared forward difference."""
    return torch.stack([(u.diff(dim=axis) ** 2).mean() for axis in (2, 3, 4)]).mean()


def central_differences(u: Tensor) -> Tensor:
    """MONAI's diffusion: the sum over the axes of squared central differences, in the interior of all axes."""
    inner = slice(1, -1)
    total = torch.zeros((), dtype=u.dtype, device=u.device)
    for axis in range(3):
        after, before = [inner] * 3, [inner] * 3
        after[axis], before[axis] = slice(2, None), slice(None, -2)
        total = (
            total + (((u[..., after[0], after[1], after[2]] - u[..., before[0], before[1], before[2]]) / 2) ** 2).mean()
        )
    return total


def _neurite_gradient(options: Options) -> Function:
    return module("neurite.nn.modules").SpatialGradient("l2")


def _monai_diffusion(options: Options) -> Function:
    return module("monai.losses").DiffusionLoss()


PENALTIES = (
    Rival("torch, differences", lambda options: differences),
    Rival("neurite SpatialGradient", _neurite_gradient),
    Rival("MONAI DiffusionLoss", _monai_diffusion, definition="central"),
)

RIVALS = {"warp": WARPS, "lncc": LNCCS, "integrate": INTEGRATIONS, "smoothness": PENALTIES}
"""Op -> the peers."""


def find(op: str, name: str) -> Rival:
    """A rival by its name; "fastreg" is fastreg."""
    if name == "fastreg":
        return ours(op)
    return next(rival for rival in RIVALS[op] if rival.name == name)


# ---------------------------------------------------------------- one job, gradients included


def thunk(rival: Rival, options: Options, inputs: tuple[Tensor, ...], wanted: tuple[int, ...]) -> Callable[[], Any]:
    """Does the whole job once: the value, and the gradients to the inputs of these numbers, from a fixed upstream.

    Raises:
        Absent: the rival is not installed, has no gradients or not this option.
    """
    if wanted and not rival.gradients:
        raise Absent("it gives no gradients")
    function, prepared = rival.make(options), rival.prepare(*inputs)
    if not wanted:
        if rival.compiles:
            _without_gradients(function, prepared)
        return lambda: _without_gradients(function, prepared)
    leaves = [x.detach().requires_grad_(k in wanted) for k, x in enumerate(prepared)]
    upstream: list[Tensor] = []

    def run() -> Any:
        out = function(*leaves)
        if not upstream:  # made at the first call, which no rival is judged by
            upstream.append(torch.randn_like(out) if out.ndim > 2 else torch.ones_like(out))
        return torch.autograd.grad(out, [leaves[k] for k in wanted], upstream[0])

    if rival.compiles:
        run()
    return run


def _without_gradients(function: Function, inputs: tuple[Any, ...]) -> Any:
    with torch.no_grad():
        return function(*inputs)
