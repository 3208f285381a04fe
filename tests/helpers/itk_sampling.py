"""What SimpleITK and ANTs read at the places of a displacement field, in a world of voxels, 2-D and 3-D."""

import numpy as np
import SimpleITK as sitk


def itk_field(flow):
    """[*grid, ndim] in voxels, as SimpleITK's image of vectors."""
    ndim = flow.shape[-1]
    turned = flow.transpose(*reversed(range(ndim)), ndim)
    return sitk.GetImageFromArray(np.ascontiguousarray(turned).astype(np.float64), isVector=True)


def itk_sampled(image, flow, interpolator, outside):
    """SimpleITK's values at the voxels' places p + flow(p)."""
    theirs = sitk.GetImageFromArray(np.ascontiguousarray(image.T))
    fixed = sitk.GetImageFromArray(np.zeros(flow.shape[-2::-1], np.float32))
    transform = sitk.DisplacementFieldTransform(itk_field(flow))
    return sitk.GetArrayFromImage(sitk.Resample(theirs, fixed, transform, interpolator, outside)).T


def ants_sampled(image, flow, interpolator, folder):
    """The values of ANTs' ResampleImageByTransform, as float32."""
    import ants

    sitk.WriteImage(itk_field(flow), str(folder / "field.nii.gz"))
    moving, fixed = ants.from_numpy(image.astype(np.float32)), ants.from_numpy(np.zeros(flow.shape[:-1], np.float32))
    found = ants.apply_transforms(fixed, moving, [str(folder / "field.nii.gz")], interpolator=interpolator)
    return found.numpy()
