"""Files of other registration software: `fastreg.compat.voxelmorph.load_weights`."""
