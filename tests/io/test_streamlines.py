"""Streamlines: nibabel writes them and reads what is written."""

import nibabel
import numpy as np
import pytest

from fastreg.io.points import load_points, save_points
from fastreg.utils.files import InputError

FIXED = np.array([[-1.5, 0.2, 0, 20], [0.15, 2, 0.1, -30], [0, -0.1, 2.5, 7], [0, 0, 0, 1]])
MOVING = np.array([[2.0, 0, 0, -40], [0, 1.5, 0, 9], [0, 0, 3, -2], [0, 0, 0, 1]])
RNG = np.random.default_rng(0)
LINES = [RNG.uniform(-5, 20, (n, 3)).astype(np.float32) for n in (4, 1, 7)]
SHIFT = np.array([1.5, -2, 0.25])


@pytest.fixture
def trk(tmp_path):
    data = {"fa": [RNG.uniform(size=(len(line), 1)).astype(np.float32) for line in LINES]}
    tractogram = nibabel.streamlines.Tractogram(
        LINES,
        data_per_streamline={"weight": RNG.uniform(size=(3, 2)).astype(np.float32)},
        data_per_point=data,
        affine_to_rasmm=np.eye(4),
    )
    header = {
        "voxel_to_rasmm": FIXED.astype(np.float32),
        "dimensions": np.array([20, 30, 25], np.int16),
        "voxel_sizes": np.linalg.norm(FIXED[:3, :3], axis=0),
        "voxel_order": "LAS",
    }
    nibabel.streamlines.save(tractogram, tmp_path / "a.trk", header=header)
    return tmp_path / "a.trk"


@pytest.fixture
def tck(tmp_path):
    tractogram = nibabel.streamlines.Tractogram(LINES, affine_to_rasmm=np.eye(4))
    nibabel.streamlines.save(tractogram, tmp_path / "a.tck", header={"step_size": "0.5"})
    return tmp_path / "a.tck"


def check_lines(tractogram, expected, atol):
    assert [len(line) for line in tractogram.streamlines] == [len(line) for line in expected]
    for ours, theirs in zip(tractogram.streamlines, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=atol)


def test_trk_keeps_its_data_and_names_the_new_image(trk, tmp_path):
    given = load_points(trk)
    assert given.space == "ras"
    np.testing.assert_allclose(given.points, np.concatenate(LINES), atol=2e-5)
    save_points(tmp_path / "b.trk", given.moved(given.points + SHIFT, (MOVING, (41, 42, 43))))
    old, new = (nibabel.streamlines.load(path) for path in (trk, tmp_path / "b.trk"))
    check_lines(new.tractogram, [line + SHIFT for line in LINES], 4e-5)
    np.testing.assert_array_equal(
        new.tractogram.data_per_streamline["weight"], old.tractogram.data_per_streamline["weight"]
    )
    for ours, theirs in zip(new.tractogram.data_per_point["fa"], old.tractogram.data_per_point["fa"], strict=True):
        np.testing.assert_array_equal(ours, theirs)
    np.testing.assert_allclose(new.header["voxel_to_rasmm"], MOVING, rtol=1e-6)
    assert new.header["dimensions"].tolist() == [41, 42, 43] and new.header["voxel_order"] == b"RAS"
    np.testing.assert_allclose(new.header["voxel_sizes"], [2, 1.5, 3])


def test_trk_of_an_image_that_is_not_known_keeps_its_header_and_says_so(trk, tmp_path):
    given = load_points(trk)
    with pytest.warns(UserWarning, match="a.trk: the header goes on naming the image before"):
        moved = given.moved(given.points + SHIFT)
    save_points(tmp_path / "b.trk", moved)
    new = nibabel.streamlines.load(tmp_path / "b.trk")
    check_lines(new.tractogram, [line + SHIFT for line in LINES], 4e-5)
    np.testing.assert_allclose(new.header["voxel_to_rasmm"], FIXED, rtol=1e-6)


def test_tck_keeps_its_lengths_and_header(tck, tmp_path):
    given = load_points(tck)
    assert given.space == "ras"
    save_points(tmp_path / "b.tck", given.moved(given.points + SHIFT))
    new = nibabel.streamlines.load(tmp_path / "b.tck")
    check_lines(new.tractogram, [line + SHIFT for line in LINES], 1e-6)
    assert new.header["step_size"] == "0.5"


def test_each_becomes_the_other(trk, tck, tmp_path):
    save_points(tmp_path / "b.tck", load_points(trk))
    check_lines(nibabel.streamlines.load(tmp_path / "b.tck").tractogram, LINES, 2e-5)
    save_points(tmp_path / "b.trk", load_points(tck), grid=(MOVING, (41, 42, 43)))
    new = nibabel.streamlines.load(tmp_path / "b.trk")
    check_lines(new.tractogram, LINES, 2e-5)
    np.testing.assert_allclose(new.header["voxel_to_rasmm"], MOVING, rtol=1e-6)
    with pytest.raises(InputError, match=r"names its image; give --moving, or write \.tck"):
        save_points(tmp_path / "c.trk", load_points(tck))


def test_streamlines_become_a_table_with_their_numbers(tck, tmp_path):
    save_points(tmp_path / "b.csv", load_points(tck), "lps")
    rows = [line.split(",") for line in (tmp_path / "b.csv").read_text().splitlines()]
    assert rows[0] == ["streamline", "x", "y", "z"] and [row[0] for row in rows[1:]] == [*"0000", "1", *"2222222"]
    np.testing.assert_allclose(np.array(rows[1:], float)[:, 1:], np.concatenate(LINES) * [-1, -1, 1], atol=1e-6)


@pytest.mark.parametrize("ending", [".trk", ".tck"])
def test_cut_and_other_files_are_one_line(trk, tck, tmp_path, ending):
    whole = (trk if ending == ".trk" else tck).read_bytes()
    last = 4 + 7 * 16 + 8 if ending == ".trk" else 12  # bytes of the last line with its data, or of the end's mark
    for k, content in enumerate((whole[: len(whole) // 2], whole[:-7], whole[:-last], b"x,y,z\n1,2,3\n")):
        path = tmp_path / f"bad{k}{ending}"
        path.write_bytes(content)
        with pytest.raises(InputError) as error:
            load_points(path)
        assert path.name in str(error.value) and "\n" not in str(error.value)
    empty = nibabel.streamlines.Tractogram([], affine_to_rasmm=np.eye(4))
    nibabel.streamlines.save(empty, tmp_path / "empty.tck")
    with pytest.raises(InputError, match="expected points, got none"):
        load_points(tmp_path / "empty.tck")
