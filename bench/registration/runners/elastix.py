"""elastix, B-splines from the headers' positions. Options: entries that replace those of its default parameter map.

The environment limits its threads: SetNumberOfThreads crashes this release.
"""

import itk
from protocol import finish, measured, read_job

job = read_job()
fixed, moving = itk.imread(job.fixed, itk.F), itk.imread(job.moving, itk.F)
parameters = itk.ParameterObject.New()
chosen = parameters.GetDefaultParameterMap("bspline")
for name, values in {"WriteResultImage": ["false"], **job.options}.items():
    chosen[name] = values
parameters.AddParameterMap(chosen)

with measured() as result:
    registration = itk.ElastixRegistrationMethod.New(fixed, moving)
    registration.SetParameterObject(parameters)
    registration.SetLogToConsole(False)
    registration.UpdateLargestPossibleRegion()

found = registration.GetTransformParameterObject()
field = itk.transformix_deformation_field(moving, found)
found.SetParameter(0, "ResampleInterpolator", "FinalNearestNeighborInterpolator")
moved = itk.transformix_filter(itk.imread(job.labels, itk.F), found)
itk.imwrite(moved, job.moved_labels)
itk.imwrite(field, job.file("warp.nii.gz"))
finish(job, result, [job.file("warp.nii.gz")], "itk-elastix")
