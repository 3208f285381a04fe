"""Two oblique grids and the command line that returns its exit code, as tests of commands on files share them."""

import numpy as np
import pytest

from fastreg.cli import main

FIXED = np.array([[-1.2, 0.1, 0, 9], [0.1, 1.1, 0.2, -8], [0, -0.2, 1.5, -10], [0, 0, 0, 1.0]])
FIXED[:3, :3] = np.linalg.qr(FIXED[:3, :3])[0] * [1.2, -1.1, 1.5]  # no shear, which ITK does not open
MOVING = np.array([[0, 0, 1.1, -9], [1.3, 0, 0, -10], [0, -1.2, 0, 8], [0, 0, 0, 1.0]])
SHAPE, MOVING_SHAPE = (14, 15, 13), (16, 13, 17)


def fastreg(*arguments):
    """Exit code of the command."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in arguments])
    return end.value.code
