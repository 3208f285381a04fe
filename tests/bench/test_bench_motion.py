"""Known motion in a real EPI is found to within what is asked: 0.05 mm and 0.05 degrees."""

import numpy as np
import pytest

from bench.motion import EPI, SPACING_MM, row, simulate
from fastreg import motion
from fastreg.geometry.rigid import rigid_matrix


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["mean", "middle"])
def test_motion_in_a_real_epi_is_found(real_data, reference):
    pytest.importorskip("scipy")
    image, motions, head = simulate(real_data / EPI, (56, 64, 32), 8, 21, 60.0)
    assert np.allclose(np.linalg.norm(image.affine[:3, :3], axis=0), SPACING_MM)
    found = motion(image, reference=reference)
    line = row("", found.matrices, motions @ np.linalg.inv(motions[4]), head.centre, 1.0, 1.0)
    mm, _, degrees, _, fd, *_ = (float(cell) for cell in line.strip("| ").split("|"))
    assert mm < 0.05 and degrees < 0.05 and fd < 0.05 and found.converged.all()


def test_a_row_says_what_is_wrong():
    still = np.array([np.eye(4)] * 3)
    moved = still.copy()
    moved[1] = rigid_matrix(np.array([0.3, 0, 0.4, 0, np.radians(2), 0]), np.zeros(3))
    cells = row("x", moved, still, np.zeros(3), 2.0, 3.0).strip("| ").split(" | ")
    assert [float(cell) for cell in cells[1:]] == pytest.approx(
        [0.5 / 3, 0.45, 2 / 3, 1.8, 0.7 + np.radians(2) * 50, 2, 3, 1.5], abs=1e-4
    )
