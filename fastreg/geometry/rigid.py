"""Rigid motion: six parameters of a matrix, and how far a head has moved between two of them.

A motion is a matrix [4, 4] that takes places on the reference to those in a volume, RAS mm. Its parameters are three
translations of a centre in mm and three angles in radians, right-handed, about the axes x, y and z through it: first
the turn about x, then y, then z.
"""

from __future__ import annotations

import itertools

import numpy as np

FD_RADIUS_MM = 50.0
"""Power's: about the distance from a head's centre to its cortex."""
RMS_RADIUS_MM = 80.0
"""Jenkinson's: of the ball over which he takes the mean."""


def turn(axis: int, angle: float) -> np.ndarray:
    """[3, 3]: the right-handed rotation about an axis, in radians."""
    a, b = (axis + 1) % 3, (axis + 2) % 3
    matrix = np.eye(3)
    matrix[a, a] = matrix[b, b] = np.cos(angle)
    matrix[b, a] = np.sin(angle)
    matrix[a, b] = -matrix[b, a]
    return matrix


def rigid_matrix(parameters: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """[4, 4] of parameters [6], translations in mm before angles in radians, about `centre` [3]."""
    matrix = np.eye(4)
    x, y, z = (turn(axis, angle) for axis, angle in enumerate(parameters[3:]))
    matrix[:3, :3] = z @ y @ x
    matrix[:3, 3] = parameters[:3] + centre - matrix[:3, :3] @ centre
    return matrix


def rigid_parameters(matrices: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """[T, 6] of matrices [T, 4, 4]: the inverse of `rigid_matrix`."""
    rotation = matrices[:, :3, :3]
    angles = [
        np.arctan2(rotation[:, 2, 1], rotation[:, 2, 2]),
        np.arcsin(np.clip(-rotation[:, 2, 0], -1, 1)),
        np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0]),
    ]
    translation = rotation @ centre + matrices[:, :3, 3] - centre
    return np.column_stack([translation, *angles])


def framewise_displacement(parameters: np.ndarray, radius_mm: float = FD_RADIUS_MM) -> np.ndarray:
    """[T] in mm: the sum of the absolute changes of the six parameters since the volume before.

    Args:
        parameters: [T, 6] as of `rigid_parameters`.
        radius_mm: Of the sphere on which an angle is an arc.

    Returns:
        NaN for the first volume.

    Source: Power et al. 2012, "Spurious but systematic correlations in functional connectivity MRI networks arise from
        subject motion".
    """
    scaled = parameters * [1, 1, 1, radius_mm, radius_mm, radius_mm]
    return np.concatenate([[np.nan], np.abs(np.diff(scaled, axis=0)).sum(1)])


def rms_distance(first: np.ndarray, second: np.ndarray, centre: np.ndarray, radius_mm: float = RMS_RADIUS_MM) -> float:
    """Root mean square distance in mm of where two motions take the places of a ball about `centre`.

    Args:
        first: [4, 4].
        second: [4, 4].
        centre: [3], RAS mm.
        radius_mm: Of the ball.

    Source: Jenkinson 1999, "Measuring transformation error by RMS deviation", FSL's rmsdiff.
    """
    difference = second - first
    linear = difference[:3, :3]
    middle = linear @ centre + difference[:3, 3]
    return float(np.sqrt(radius_mm**2 / 5 * np.sum(linear**2) + middle @ middle))


def rms_displacement(matrices: np.ndarray, centre: np.ndarray, radius_mm: float = RMS_RADIUS_MM) -> np.ndarray:
    """[T] in mm: `rms_distance` of every motion of [T, 4, 4] from the one before; NaN for the first."""
    pairs = itertools.pairwise(matrices)
    return np.array([np.nan, *(rms_distance(first, second, centre, radius_mm) for first, second in pairs)])


def logarithm(matrix: np.ndarray) -> np.ndarray:
    """[4, 4]: the velocity whose `exponential` is a rigid motion [4, 4] that turns by less than half a turn."""
    rotation = matrix[:3, :3]
    angle = np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))
    found = np.zeros((4, 4))
    skew = (rotation - rotation.T) / 2
    found[:3, :3] = skew * (angle / np.sin(angle) if angle > 1e-9 else 1.0)
    # The translation is that of the twist whose exponential has the map's: V v = t.
    w, eye = found[:3, :3], np.eye(3)
    if angle > 1e-6:
        v = eye + (1 - np.cos(angle)) / angle**2 * w + (angle - np.sin(angle)) / angle**3 * w @ w
    else:
        v = eye + 0.5 * w
    found[:3, 3] = np.linalg.solve(v, matrix[:3, 3])
    return found


def exponential(twist: np.ndarray) -> np.ndarray:
    """[4, 4]: e to the power of a velocity [4, 4], an element of the algebra of rigid motions: its last row is 0."""
    rotation, translation = twist[:3, :3], twist[:3, 3]
    axis = np.array([rotation[2, 1], rotation[0, 2], rotation[1, 0]])
    angle = np.linalg.norm(axis)
    square = rotation @ rotation
    if angle < 1e-4:  # where the fractions cancel; the next terms of the series are below float64's rounding
        first, second, third = 1 - angle**2 / 6, 0.5 - angle**2 / 24, 1 / 6 - angle**2 / 120
    else:
        first, second = np.sin(angle) / angle, (1 - np.cos(angle)) / angle**2
        third = (1 - first) / angle**2
    matrix = np.eye(4)
    matrix[:3, :3] += first * rotation + second * square
    matrix[:3, 3] = (np.eye(3) + second * rotation + third * square) @ translation
    return matrix
