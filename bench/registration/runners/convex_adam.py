"""ConvexAdam with MIND, its published package on the CPU. Options: whatever `convex_adam_pt` takes.

It knows arrays alone: both images must lie on one grid of voxels.
"""

import nibabel as nib
import numpy as np
import torch
from convexAdam.convex_adam_MIND import convex_adam_pt
from protocol import finish, measured, read_job
from scipy.ndimage import map_coordinates

job = read_job()
torch.set_num_threads(job.threads)
fixed, moving = nib.load(job.fixed), nib.load(job.moving)
arrays = [torch.from_numpy(np.asarray(image.dataobj, dtype=np.float32)) for image in (fixed, moving)]

with measured() as result:
    voxels = convex_adam_pt(*arrays, device=torch.device("cpu"), dtype=torch.float32, **job.options)

index = np.stack(np.meshgrid(*map(np.arange, fixed.shape), indexing="ij"), -1)
labels = nib.load(job.labels)
moved = map_coordinates(np.asarray(labels.dataobj), np.moveaxis(index + voxels, -1, 0), order=0)
nib.save(nib.Nifti1Image(moved, fixed.affine), job.moved_labels)
there, here = (places @ image.affine[:3, :3].T + image.affine[:3, 3]
               for places, image in ((index + voxels, moving), (index, fixed)))  # fmt: skip
field = nib.Nifti1Image(((there - here) * [-1, -1, 1])[:, :, :, None].astype(np.float32), fixed.affine)  # LPS, as ITK's
field.header.set_intent("vector")
nib.save(field, job.file("warp.nii.gz"))
finish(job, result, [job.file("warp.nii.gz")], "convexadam", "torch")
