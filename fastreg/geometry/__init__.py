"""Where voxels lie and how they move: images, grids, resampling, displacement fields, transforms."""
