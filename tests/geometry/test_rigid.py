import numpy as np
import pytest
import torch

from fastreg.geometry.rigid import exponential, rigid_matrix, rigid_parameters, turn


@pytest.mark.parametrize("size", [0, 1e-9, 1e-5, 1e-3, 0.5, 3])
def test_exponential_is_that_of_matrices(size):
    rng = np.random.default_rng(0)
    x, y, z = rng.normal(size=3) * size
    velocity = np.zeros((4, 4))
    velocity[:3] = [[0, -z, y, 5], [z, 0, -x, -3], [-y, x, 0, 2]]
    expected = torch.linalg.matrix_exp(torch.from_numpy(velocity)).numpy()
    np.testing.assert_allclose(exponential(velocity), expected, atol=1e-12)


def test_turns_are_right_handed():
    np.testing.assert_allclose(turn(0, np.pi / 2) @ [0, 1, 0], [0, 0, 1], atol=1e-15)
    np.testing.assert_allclose(turn(1, np.pi / 2) @ [0, 0, 1], [1, 0, 0], atol=1e-15)
    np.testing.assert_allclose(turn(2, np.pi / 2) @ [1, 0, 0], [0, 1, 0], atol=1e-15)


def test_x_turns_first_and_the_centre_moves_by_the_translation():
    centre = np.array([10.0, -20, 30])
    matrix = rigid_matrix(np.array([1.0, 2, 3, 0.1, 0.2, 0.3]), centre)
    np.testing.assert_allclose(matrix[:3, :3] @ centre + matrix[:3, 3], np.add(centre, [1, 2, 3]), atol=1e-12)
    np.testing.assert_allclose(matrix[:3, :3], turn(2, 0.3) @ turn(1, 0.2) @ turn(0, 0.1), atol=1e-15)
    np.testing.assert_allclose(rigid_parameters(matrix[None], centre)[0], [1, 2, 3, 0.1, 0.2, 0.3], atol=1e-12)
