import numpy as np
import pytest

from fastreg.geometry.transforms import Warp
from fastreg.registration.quality import field_figures, found_inverse_error_mm
from fastreg.registration.verdict import of_field


def warp(shape: tuple[int, ...], scale: float, moving_affine: np.ndarray | None = None) -> Warp:
    """Voxel p of the fixed image lies at scale * p of the moving one, whose voxels are as large."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).astype(np.float32)
    there = np.eye(4) if moving_affine is None else moving_affine
    return Warp((scale - 1) * index, np.eye(4), there, shape)


@pytest.mark.parametrize("shape", [(12, 10, 14), (20, 16)])
def test_a_scale_changes_volumes_everywhere_alike(shape):
    figures = field_figures(warp(shape, 1.1))
    expected = len(shape) * np.log(1.1)
    assert figures["corner_folds"] == 0
    assert figures["log_jacobian_low"] == pytest.approx(expected, abs=2e-3)
    assert figures["log_jacobian_high"] == pytest.approx(expected, abs=2e-3)
    assert "inverse_error_mm" not in figures
    assert of_field(figures, 1680) is None


def test_finer_moving_voxels_are_no_growth():
    fine = np.diag([0.5, 0.5, 0.5, 1.0])
    index = np.stack(np.meshgrid(*map(np.arange, (8, 8, 8)), indexing="ij"), -1).astype(np.float32)
    figures = field_figures(Warp(index, np.eye(4), fine, (16, 16, 16)))  # moving voxel 2 p: the same place
    assert abs(figures["log_jacobian_high"]) < 1e-3


def test_a_mirrored_grid_does_not_fold():
    mirrored = np.diag([-1.0, 1.0, 1.0, 1.0])
    mirrored[0, 3] = 9.0
    index = np.stack(np.meshgrid(*map(np.arange, (10, 8, 8)), indexing="ij"), -1).astype(np.float32)
    flow = np.zeros_like(index)
    flow[..., 0] = 9 - 2 * index[..., 0]
    figures = field_figures(Warp(flow, np.eye(4), mirrored, (10, 8, 8)))
    assert figures["corner_folds"] == 0 and abs(figures["log_jacobian_low"]) < 1e-3


def test_folds_and_torn_volumes_are_suspect():
    torn = warp((12, 12, 12), 1.0)
    torn.flow[6, 6, 6] = 4.0
    figures = field_figures(torn)
    assert figures["corner_folds"] >= 2
    assert "folds" in str(of_field(figures, 12**3))
    assert "27-fold" in str(of_field(field_figures(warp((12, 12, 12), 3.0)), 12**3))


def test_the_way_back_is_measured_in_millimetres():
    there, back = (warp((16, 14, 12), 1.0) for _ in range(2))
    there.flow[:] = (2.0, 0.0, 0.0)
    back.flow[:] = (-1.5, 0.0, 0.0)
    assert field_figures(there, back)["inverse_error_mm"] == pytest.approx(0.5, abs=1e-4)


def test_an_axis_of_one_voxel_has_no_derivative():
    figures = field_figures(warp((8, 1, 8), 1.0))
    assert figures["corner_folds"] is None and of_field(figures, 64) is None


def test_the_least_and_the_largest_change_of_volume():
    """One voxel that is pulled: its neighbours' determinants, central differences by hand."""
    pulled = warp((9, 9, 9), 1.0)
    pulled.flow[4, 4, 4, 0] = 1.0
    figures = field_figures(pulled)
    assert figures["log_jacobian_min"] == pytest.approx(np.log(0.5), abs=1e-3)
    assert figures["log_jacobian_max"] == pytest.approx(np.log(1.5), abs=1e-3)
    assert figures["log_jacobian_low"] == figures["log_jacobian_high"] == 0


@pytest.mark.parametrize("shape", [(20, 18, 16), (24, 20)])
def test_a_map_is_found_back_and_a_fold_is_not(shape):
    """An oblique moving grid, turned and shifted far, with a wave on it; then a wave so steep that it folds."""
    ndim = len(shape)
    moving = np.array([[0.8, 0.3, 0, 40], [-0.4, 1.7, 0, -30], [0, 0, 2.0, 7], [0, 0, 0, 1]])
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    for height, folds in ((1.0, False), (6.0, True)):
        world = index.astype(float)
        world[..., 0] += height * np.sin(index[..., 0] * 2 * np.pi / 12)
        flow = (world - moving[:ndim, 3]) @ np.linalg.inv(moving[:ndim, :ndim]).T - index
        error = found_inverse_error_mm(Warp(flow.astype(np.float32), np.eye(4), moving, shape))
        assert (error > 1) if folds else (error < 0.02)


def test_a_warp_into_one_plane_has_an_error_too():
    flat = warp((8, 8, 8), 1.0)
    flat.flow[..., 0] = -np.arange(8.0, dtype=np.float32)[:, None, None]
    assert found_inverse_error_mm(flat) > 1
