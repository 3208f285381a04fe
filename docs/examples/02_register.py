"""Register two files without training: `python 02_register.py fixed.nii.gz moving.nii.gz OUTPUT`."""

import sys
from pathlib import Path

import fastreg

fixed, moving, output = sys.argv[1], sys.argv[2], Path(sys.argv[3])
output.mkdir(parents=True, exist_ok=True)

# The images may differ in size, spacing and orientation. Contrasts that differ want metric="mi".
result = fastreg.register(fixed, moving, inverse=True)

result.save_moved(output / "moved.nii.gz")  # the moving image on the fixed image's grid
result.save_warp(output / "warp.nii.gz")  # ITK's format: ANTs, SimpleITK and Slicer apply it
print(f"registered in {result.seconds:.1f} s, on a grid of {result.fixed.shape}")

flow = result.flow  # [1, 3, X, Y, Z], in voxels of the moving image
print(f"largest displacement: {flow.norm(dim=1).max():.2f} voxels")

figures = fastreg.evaluate(warp=result.warp)
print(f"folds: {figures['folds_central']} of {figures['folds_central_of']} voxels, SDlogJ {figures['sdlogj']:.3f}")
