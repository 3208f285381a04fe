"""Files of motion against the definitions of those who made them."""

import json
from pathlib import Path

import numpy as np
import pytest

from fastreg.geometry.image import Image
from fastreg.geometry.rigid import rigid_matrix, rigid_parameters
from fastreg.io.affines import load_affine
from fastreg.io.motion_files import check_matrices, displacement_file, matrix_files, parameter_files, save_files
from fastreg.utils.files import InputError

RNG = np.random.default_rng(0)
CENTRE = np.array([4.0, -12.0, 25.0])
PARAMETERS = RNG.normal(size=(5, 6)) * [2, 2, 2, 0.05, 0.05, 0.05]
MATRICES = np.array([rigid_matrix(row, CENTRE) for row in PARAMETERS])
CORRELATION = np.linspace(0.9, 1, 5)


def grid(handed=1.0, shape=(12, 13, 11)):
    affine = np.eye(4)
    affine[:3, :3] = np.linalg.qr(RNG.normal(size=(3, 3)))[0] * [3, 3.2, 4]
    affine[0, :3] *= np.sign(np.linalg.det(affine[:3, :3])) * handed
    affine[:3, 3] = [-20, 15, 30]
    return Image(np.zeros(shape, np.float32), affine)


def fsl_turn(axis, angle):
    """FSL's make_rot about a unit vector: its basis change, and its [[cos, sin], [-sin, cos]]."""
    x1 = np.eye(3)[axis]
    x2 = np.array([-x1[1], x1[0], 0]) if axis < 2 else np.array([1.0, 0, 0])
    basis = np.column_stack([x2, np.cross(x1, x2), x1])
    core = np.eye(3)
    core[:2, :2] = [[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]
    return basis @ core @ basis.T


@pytest.mark.parametrize("handed", [1, -1])
def test_fsl_composes_its_matrix_of_the_par_file(tmp_path, handed):
    """compose_aff: turns about x, y and z, the last of them first, about the centre of gravity, then the shift."""
    reference = volume = grid(handed)
    (content,) = parameter_files(tmp_path / "a.par", MATRICES, CENTRE, CORRELATION, reference, volume).values()
    (tmp_path / "a.par").write_bytes(content)
    files = matrix_files(tmp_path / "mats", MATRICES, reference, volume, "flirt")
    save_files(files)
    frame = np.diag([3, 3.2, 4, 1.0])  # FSL's mm of voxels
    if handed > 0:
        frame[0] = [-3, 0, 0, 33]
    centre = (frame @ np.linalg.inv(reference.affine) @ [*CENTRE, 1])[:3]
    rows = np.loadtxt(tmp_path / "a.par")
    assert rows.shape == (5, 6)
    for k, row in enumerate(rows):
        turned = fsl_turn(0, row[0]) @ fsl_turn(1, row[1]) @ fsl_turn(2, row[2])
        composed = np.eye(4)
        composed[:3, :3], composed[:3, 3] = turned, row[3:] + centre - turned @ centre
        written = np.loadtxt(tmp_path / "mats" / f"MAT_{k:04}")
        np.testing.assert_allclose(composed, written, atol=1e-6)
        world = (
            reference.affine @ np.linalg.inv(frame) @ np.linalg.inv(written) @ frame @ np.linalg.inv(reference.affine)
        )
        np.testing.assert_allclose(world, MATRICES[k], atol=1e-5)


def test_itk_reads_the_parameters_of_ants(tmp_path):
    sitk = pytest.importorskip("SimpleITK")
    (content,) = parameter_files(tmp_path / "a.csv", MATRICES, CENTRE, CORRELATION, grid(), grid()).values()
    lines = content.decode().splitlines()
    assert lines[0] == "MetricPre,MetricPost," + ",".join(f"MOCOparam{k}" for k in range(6))
    for k, line in enumerate(lines[1:]):
        row = [float(word) for word in line.split(",")]
        np.testing.assert_allclose(row[:2], [0, -CORRELATION[k]])
        transform = sitk.Euler3DTransform()
        transform.SetCenter((CENTRE * [-1, -1, 1]).tolist())
        transform.SetParameters(row[2:])
        place = np.array([30.0, -20, 10])
        moved = np.array(transform.TransformPoint((place * [-1, -1, 1]).tolist())) * [-1, -1, 1]
        np.testing.assert_allclose(moved, MATRICES[k, :3, :3] @ place + MATRICES[k, :3, 3], atol=1e-5)


def test_bids_columns_are_the_parameters(tmp_path):
    table, said = parameter_files(tmp_path / "sub_motion.tsv", MATRICES, CENTRE, CORRELATION, grid(), grid()).values()
    header, *lines = table.decode().splitlines()
    columns = header.split("\t")
    assert columns == [
        *(f"{kind}_{axis}" for kind in ("trans", "rot") for axis in "xyz"),
        "framewise_displacement",
        "rmsd",
    ]
    rows = np.array([[np.nan if word == "n/a" else float(word) for word in line.split("\t")] for line in lines])
    np.testing.assert_allclose(rows[:, :6], PARAMETERS, rtol=1e-6)
    np.testing.assert_allclose(rigid_parameters(MATRICES, CENTRE), PARAMETERS, atol=1e-12)
    assert set(json.loads(said)) == set(columns) and json.loads(said)["rot_x"]["Units"] == "rad"
    assert lines[0].endswith("n/a\tn/a")
    change = np.abs(np.diff(PARAMETERS, axis=0))
    np.testing.assert_allclose(rows[1:, 6], change[:, :3].sum(1) + 50 * change[:, 3:].sum(1), rtol=1e-6)


def displacement_rows():
    """Of the table's rows the cells: Power's and Jenkinson's."""
    content = displacement_file(Path("fd.csv"), MATRICES, CENTRE).decode()
    return [line.split(",") for line in content.splitlines()[1:]]


def test_rmsd_is_the_mean_over_a_ball():
    """Jenkinson's formula against places in a ball of 80 mm."""
    table = displacement_rows()
    ball = np.random.default_rng(1).normal(size=(200_000, 3))
    radius = np.random.default_rng(2).uniform(size=(200_000, 1)) ** (1 / 3)
    places = CENTRE + 80 * radius * ball / np.linalg.norm(ball, axis=1, keepdims=True)
    for k in range(1, 5):
        before, after = (places @ m[:3, :3].T + m[:3, 3] for m in MATRICES[k - 1 : k + 1])
        expected = np.sqrt(((after - before) ** 2).sum(1).mean())
        assert float(table[k][1]) == pytest.approx(expected, rel=5e-3)


def test_displacement_as_fsl_lists_it(tmp_path):
    (tmp_path / "fd.txt").write_bytes(displacement_file(tmp_path / "fd.txt", MATRICES, CENTRE))
    table = displacement_rows()
    assert table[0] == ["", ""]
    np.testing.assert_allclose(np.loadtxt(tmp_path / "fd.txt"), [0, *(float(row[0]) for row in table[1:])])


def test_afni_has_a_row_for_each_volume(tmp_path):
    plumb = Image(np.zeros((5, 5, 5), np.float32), np.diag([-3.0, 3, 3, 1]))
    (content,) = parameter_files(tmp_path / "a.aff12.1D", MATRICES, CENTRE, CORRELATION, plumb, plumb).values()
    rows = np.array([line.split() for line in content.decode().splitlines()[1:]], float).reshape(-1, 3, 4)
    flip = np.diag([-1.0, -1, 1, 1])
    np.testing.assert_allclose(rows, (flip @ MATRICES @ flip)[:, :3], atol=1e-12)


def test_matrices_are_those_that_are_read(tmp_path):
    files = matrix_files(tmp_path / "m", MATRICES, grid(), grid())
    save_files(files, None)
    names = sorted(path.name for path in (tmp_path / "m").iterdir())
    assert names == [f"volume_{k:04}.mat" for k in range(5)]
    for name, matrix in zip(names, MATRICES, strict=True):
        np.testing.assert_allclose(load_affine(tmp_path / "m" / name).matrix, matrix, atol=1e-12)


def test_a_longer_run_before_leaves_nothing(tmp_path):
    save_files(matrix_files(tmp_path / "m", MATRICES, grid(), grid()))
    with pytest.raises(InputError, match="m holds matrices; use --overwrite"):
        check_matrices(tmp_path / "m", False)
    check_matrices(tmp_path / "m", True)
    save_files(matrix_files(tmp_path / "m", MATRICES[:2], grid(), grid(), "flirt"), tmp_path / "m")
    assert sorted(path.name for path in (tmp_path / "m").iterdir()) == ["MAT_0000", "MAT_0001"]
    (tmp_path / "m" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"a folder of its own for matrices, got one that holds notes\.txt"):
        check_matrices(tmp_path / "m", True)
