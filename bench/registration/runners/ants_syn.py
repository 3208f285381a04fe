"""ANTs SyN through antspyx. Options: whatever `ants.registration` takes."""

import shutil

import ants
from protocol import finish, measured, read_job

job = read_job()
fixed, moving = ants.image_read(job.fixed), ants.image_read(job.moving)

with measured() as result:
    found = ants.registration(fixed, moving, outprefix=job.file("syn_"), **job.options)

if job.labels is not None:
    moved = ants.apply_transforms(
        fixed, ants.image_read(job.labels), found["fwdtransforms"], interpolator="nearestNeighbor"
    )
    ants.image_write(moved, job.moved_labels)
transforms = [
    shutil.copy(path, job.file(f"{k}_{path.rsplit('_', 1)[1]}")) for k, path in enumerate(found["fwdtransforms"])
]
finish(job, result, transforms, "antspyx")
