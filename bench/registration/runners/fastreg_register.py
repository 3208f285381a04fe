"""fastreg itself, in the environment that runs the benchmark.

Options: what `fastreg.register` takes, or `stages` for `fastreg.deform`.
"""

import numpy as np
import torch
from protocol import finish, measured, read_job

from fastreg.data.intensity import normalised
from fastreg.geometry.image import Image
from fastreg.geometry.resample import sample
from fastreg.geometry.transforms import Warp
from fastreg.io.images import load_image, load_labels, save_image
from fastreg.io.warps import save_warp
from fastreg.registration.deformable import deform
from fastreg.registration.pairwise import register
from fastreg.registration.stages import Stage

job = read_job()
torch.set_num_threads(job.threads)
fixed, moving = load_image(job.fixed), load_image(job.moving)


def by_stages(stages: list[list[int]]) -> Warp:
    """The optimisation alone, with fewer levels than `register` has; the images lie on one grid."""
    pair = [
        torch.from_numpy(np.ascontiguousarray(normalised(i.data, "percentile")))[None, None] for i in (fixed, moving)
    ]
    flow = deform(pair[0], pair[1], stages=[Stage(*stage) for stage in stages]).flow
    return Warp(np.moveaxis(flow[0].numpy(), 0, -1), fixed.affine, moving.affine, moving.shape)


with measured() as result:
    if "stages" in job.options:
        warp = by_stages(job.options["stages"])
    else:
        warp = register(fixed, moving, device="cpu", **job.options).warp

save_image(job.moved_labels, Image(sample(load_labels(job.labels), warp.tensor(), "nearest"), fixed.affine))
save_warp(job.file("warp.nii.gz"), warp, format="itk")
finish(job, result, [job.file("warp.nii.gz")], "fastreg", "torch")
