"""The modules of `voxelmorph.nn`."""

from fastreg.compat.voxelmorph.nn import functional as functional
from fastreg.compat.voxelmorph.nn import models as models
from fastreg.compat.voxelmorph.nn import modules as modules
