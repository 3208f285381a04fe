"""Corner folds and NDV: by hand, and against every tetrahedron of a field written out in float64."""

import itertools

import numpy as np
import pytest
import torch

from fastreg.evaluation import metrics
from fastreg.evaluation.diffeomorphism import simplices

CUTS = {
    # A square's two diagonals; a cube's two ways into five tetrahedra. Each: the corner it starts at, its others.
    2: [[(c, [np.add(c, s * np.eye(2, dtype=int)[k]) for k, s in enumerate(1 - 2 * np.array(c))])
         for c in itertools.product((0, 1), repeat=2) if sum(c) % 2 == odd] for odd in (0, 1)],
    3: [[(c, [np.add(c, s * np.eye(3, dtype=int)[k]) for k, s in enumerate(1 - 2 * np.array(c))])
         for c in itertools.product((0, 1), repeat=3) if sum(c) % 2 == odd] for odd in (0, 1)],
}  # fmt: skip
CUTS[3][1].append(((0, 0, 0), [(1, 1, 0), (0, 1, 1), (1, 0, 1)]))
CUTS[3][0].append(((1, 1, 1), [(0, 0, 1), (0, 1, 0), (1, 0, 0)]))


def signed_volume(points):
    """Of a simplex, by its corners."""
    edges = np.array(points[1:]) - points[0]
    return np.linalg.det(edges) / (2 if len(edges) == 2 else 6)


def brute(u):
    """Every simplex of every cell on its own: least determinant, reversed volume and volume at each voxel."""
    ndim, size = len(u), u.shape[1:]
    place = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1).astype(float)
    there = place + np.moveaxis(u, 0, -1)
    least = np.full(size, np.inf)
    flipped, volume = np.zeros(size), np.zeros(size)
    for cell in itertools.product(*(range(length - 1) for length in size)):
        for cut in CUTS[ndim]:
            for start, others in cut:
                corners = [tuple(np.add(cell, corner)) for corner in (start, *others)]
                before = signed_volume([place[c] for c in corners])
                after = signed_volume([there[c] for c in corners]) * np.sign(before)
                flipped[corners[0]] += 0.5 * max(-after, 0)
                volume[corners[0]] += 0.5 * abs(before)
                if all(np.abs(np.subtract(other, start)).sum() == 1 for other in others):
                    least[corners[0]] = min(least[corners[0]], after * (2 if ndim == 2 else 6))
    return least, flipped, volume


@pytest.mark.parametrize("size", [(5, 4, 6), (11, 3, 2), (7, 6), (2, 2)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_every_simplex_is_looked_at(size, dtype):
    u = np.random.default_rng(len(size)).normal(size=(len(size), *size))
    found, (least, flipped, volume) = simplices(torch.from_numpy(u)[None].to(dtype)), brute(u)
    exact = 1e-12 if dtype == torch.float64 else 1e-5
    np.testing.assert_allclose(found.least, least, atol=exact)
    np.testing.assert_allclose(found.reversed, flipped, atol=exact)
    np.testing.assert_allclose(found.volume, volume, atol=exact)
    assert volume.sum() == pytest.approx(np.prod([length - 1 for length in size]))
    assert metrics.ndv_percent(found.reversed, found.volume) == pytest.approx(
        100 * flipped.sum() / volume.sum(), rel=10 * exact
    )


def test_a_pixel_that_jumps_over_its_neighbour_by_hand():
    """One pixel moves 3/2 along its row: two of its four corners have 1 - 3/2, and so has the pixel that it passed."""
    u = torch.zeros(1, 2, 5, 5, dtype=torch.float64)
    u[0, 1, 2, 2] = 1.5
    found = simplices(u)
    expected = torch.ones(5, 5, dtype=torch.float64)
    expected[2, 2] = expected[2, 3] = -0.5
    torch.testing.assert_close(found.least, expected)
    # At the pixel and at the one it passed, two triangles of area 1/4 are reversed, each in one of the two cuts.
    assert found.reversed.sum() == pytest.approx(4 * 0.5 * 0.25)
    figures = metrics.regularity(u)
    assert (figures["folds_corner"], figures["folds_corner_of"]) == (2, 25)
    assert figures["ndv_percent"] == pytest.approx(100 * 0.5 / 16)
    assert figures["folds_central"] == 0  # which is why the corners are looked at


def test_corners_see_what_central_differences_do_not():
    """Planes that take turns: every second difference is zero, so central ones see the identity."""
    u = torch.zeros(1, 3, 8, 8, 8)
    u[0, 0, ::2] = 1.5
    figures = metrics.regularity(u)
    assert figures["folds_corner"] == 512 and figures["ndv_percent"] > 25
    assert figures["folds_central"] == 128  # on the two outermost planes, where the differences are one-sided


def test_inside_a_mask():
    u = np.random.default_rng(1).normal(size=(3, 6, 5, 7))
    mask = np.zeros((6, 5, 7))
    mask[1:4, 1:3, 1:5] = 1
    figures, (least, flipped, _) = metrics.regularity(u, mask), brute(u)
    inside = mask > 0
    assert figures["folds_corner_mask"] == (least[inside] <= 0).sum() and figures["folds_corner_mask_of"] == 24
    assert figures["ndv_percent_mask"] == pytest.approx(100 * flipped[inside].sum() / 24)  # as LUMIR has it: of voxels
    assert np.isnan(metrics.regularity(u, mask * 0)["ndv_percent_mask"])


def test_nothing_folds_in_an_affine_map_and_everything_in_a_mirror():
    matrix = np.array([[1.2, 0.1, 0.0], [-0.3, 0.9, 0.2], [0.1, 0.0, 1.1]])
    grid = np.stack(np.meshgrid(*map(np.arange, (4, 5, 6)), indexing="ij")).astype(float)
    kept = metrics.regularity(np.einsum("ij,j...->i...", matrix - np.eye(3), grid))
    assert kept["folds_corner"] == 0 and kept["ndv_percent"] == 0
    mirror = metrics.regularity(np.einsum("ij,j...->i...", np.diag([-2.0, 1, 1]) - np.eye(3), grid))
    assert mirror["folds_corner"] == 120 and mirror["ndv_percent"] == pytest.approx(200)


def test_not_a_number_folds_and_what_is_no_field_is_refused():
    u = torch.zeros(1, 3, 4, 4, 4)
    u[0, 0, 1, 1, 1] = torch.nan
    assert metrics.folds(simplices(u).least).count > 0
    for wrong in (torch.zeros(2, 3, 4, 4, 4), torch.zeros(1, 3, 4, 1, 4)):
        with pytest.raises(ValueError, match="flow must be one field with at least 2 voxels"):
            simplices(wrong)
