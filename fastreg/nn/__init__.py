"""What learns: networks, losses, checkpoints; and the ops as modules: `Warp`, `Integrate`, `Resize`."""

from fastreg.nn.modules import Integrate as Integrate
from fastreg.nn.modules import Resize as Resize
from fastreg.nn.modules import Warp as Warp
