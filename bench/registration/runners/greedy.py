"""Greedy (PICSL), greedy diffeomorphic registration from the headers' positions. Options: `arguments`."""

import SimpleITK as sitk
from picsl_greedy import Greedy3D
from protocol import finish, measured, read_job

job = read_job()
fixed, moving = (sitk.ReadImage(path, sitk.sitkFloat32) for path in (job.fixed, job.moving))
labels = sitk.ReadImage(job.labels)
greedy = Greedy3D()

field = job.file("warp.nii")

with measured() as result:
    # -wp 0: the field as it was found, not rounded to a tenth of a voxel. It can only be had as a file.
    greedy.execute(
        f"-i fixed moving -o {field} -wp 0 -threads {job.threads} {job.options['arguments']}",
        fixed=fixed,
        moving=moving,
    )

greedy.execute(
    f"-threads {job.threads} -rf fixed -ri NN -rm labels moved -r {field}", fixed=fixed, labels=labels, moved=None
)
sitk.WriteImage(greedy["moved"], job.moved_labels)
finish(job, result, [field], "picsl-greedy")
