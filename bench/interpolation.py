"""What the interpolations of files cost and how near they are to the other libraries', in one run.

python -m bench interpolation                     # 160x192x224
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from bench.clock import Thunk, take_turns
from bench.peers.packages import module
from fastreg.geometry.image import Image, affine_field
from fastreg.geometry.resample import VOTES, sample_filled

ITK_NAMES = {
    "linear": "sitkLinear",
    "nearest": "sitkNearestNeighbor",
    "genericlabel": "sitkLabelLinear",
    "bspline": "sitkBSpline",
    "lanczos": "sitkLanczosWindowedSinc",
    "multilabel": "sitkLabelGaussian",
}
LABELS = 30


def problem(size: tuple[int, ...]) -> tuple[Image, Image, torch.Tensor]:
    """Smooth noise, a smooth map of labels, and a smooth field of a few voxels."""
    generator = torch.Generator().manual_seed(0)

    def smooth(channels: int, spacing: int) -> torch.Tensor:
        knots = [max(2, length // spacing) for length in size]
        return F.interpolate(torch.randn(1, channels, *knots, generator=generator), size, mode="trilinear")

    labels = smooth(LABELS, 24).argmax(1)[0].numpy().astype(np.uint8)
    return Image(smooth(1, 4)[0, 0].numpy(), np.eye(4)), Image(labels, np.eye(4)), smooth(3, 16) * 2


def by_itk(image: Image, flow: torch.Tensor, mode: str) -> Thunk:
    """SimpleITK's resampling, everything it needs made before."""
    sitk = module("SimpleITK")
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(torch.get_num_threads())
    vectors = flow[0].double().flip(0).movedim(0, -1).contiguous().numpy()
    transform = sitk.DisplacementFieldTransform(sitk.GetImageFromArray(vectors, isVector=True))
    theirs = sitk.GetImageFromArray(image.data)
    return partial(sitk.Resample, theirs, theirs, transform, getattr(sitk, ITK_NAMES[mode]), 0.0)


def by_scipy(image: Image, flow: torch.Tensor) -> Thunk:
    """The cubic spline of SciPy, on one thread."""
    places = affine_field(np.eye(4)[:3], image.shape) + flow[0].movedim(0, -1).numpy()
    ndimage = module("scipy.ndimage")
    return partial(ndimage.map_coordinates, image.data, np.moveaxis(places, -1, 0), order=3, mode="mirror")


def main(words: Sequence[str]) -> int:
    """Prints a table."""
    parser = argparse.ArgumentParser(prog="python -m bench interpolation", description=__doc__)
    parser.add_argument("--size", type=int, nargs=3, default=(160, 192, 224))
    parser.add_argument("--seconds", type=float, default=6.0, help="for each line")
    options = parser.parse_args(words)
    image, labels, flow = problem(tuple(options.size))
    sitk = module("SimpleITK")
    print("| -n | fastreg, s | SimpleITK, s | scipy, s | differs from SimpleITK |\n| --- | --- | --- | --- | --- |")
    for mode in ITK_NAMES:
        of = labels if mode in (*VOTES, "nearest") else image
        thunks: dict[str, Thunk] = {"ours": partial(sample_filled, of, flow, mode, 0), "itk": by_itk(of, flow, mode)}
        if mode == "bspline":
            thunks["scipy"] = by_scipy(of, flow)
        times, failed = take_turns(thunks, options.seconds)
        if failed:
            raise next(iter(failed.values()))
        ours, theirs = thunks["ours"](), sitk.GetArrayFromImage(thunks["itk"]())
        if of is labels:
            said = f"{100 * (ours != theirs).mean():.2g} % of voxels"
        else:
            said = f"{np.abs(ours - theirs).max() / np.ptp(image.data):.1g} of the range"
        seconds = {name: f"{statistics.median(taken) / 1000:.2g}" for name, taken in times.items()}
        print(f"| {mode} | {seconds['ours']} | {seconds['itk']} | {seconds.get('scipy', '')} | {said} |", flush=True)
    return 0
