"""elastix. Options: `maps`, its default parameter maps that are run one after the other (if none are named, B-splines
alone, from the headers' positions); all others are entries that replace those of the last map.

The environment limits its threads: SetNumberOfThreads crashes this release.
"""

import itk
from protocol import finish, measured, read_job

job = read_job()
fixed, moving = itk.imread(job.fixed, itk.F), itk.imread(job.moving, itk.F)
entries = dict(job.options)
names = entries.pop("maps", ["bspline"])
parameters = itk.ParameterObject.New()
for name in names:
    chosen = parameters.GetDefaultParameterMap(name)
    for entry, values in {"WriteResultImage": ["false"], **(entries if name == names[-1] else {})}.items():
        chosen[entry] = values
    parameters.AddParameterMap(chosen)

with measured() as result:
    registration = itk.ElastixRegistrationMethod.New(fixed, moving)
    registration.SetParameterObject(parameters)
    registration.SetLogToConsole(False)
    registration.UpdateLargestPossibleRegion()

found = registration.GetTransformParameterObject()
itk.imwrite(itk.transformix_deformation_field(moving, found), job.file("warp.nii.gz"))
if job.labels is not None:
    for k in range(found.GetNumberOfParameterMaps()):
        found.SetParameter(k, "ResampleInterpolator", "FinalNearestNeighborInterpolator")
    itk.imwrite(itk.transformix_filter(itk.imread(job.labels, itk.F), found), job.moved_labels)
finish(job, result, [job.file("warp.nii.gz")], "itk-elastix")
