"""Points, surfaces and streamlines of every format through the commands, against SimpleITK on the same transforms."""

import csv
import json

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from helpers.oblique import FIXED, MOVING, MOVING_SHAPE, SHAPE, fastreg

from fastreg.geometry.image import affine_field
from fastreg.geometry.transforms import Affine, Warp
from fastreg.io.affines import save_affine
from fastreg.io.gifti import new_gifti
from fastreg.io.images import save_image
from fastreg.io.legacy_vtk import new_vtk
from fastreg.io.markups import new_markups
from fastreg.io.ply import new_ply
from fastreg.io.points import load_points
from fastreg.io.stl import new_stl
from fastreg.io.warps import save_warp

FLIP = np.array([-1.0, -1, 1])
FACES = np.array([[0, 1, 2], [2, 3, 4], [4, 5, 0]])


@pytest.fixture
def folder(tmp_path):
    """Two oblique grids, a warp and an affine between them."""
    rng = np.random.default_rng(0)
    save_image(tmp_path / "moving.nii.gz", rng.normal(size=MOVING_SHAPE), MOVING)
    matrix = np.eye(4)
    matrix[:3] += rng.normal(size=(3, 4)) * [0.05, 0.05, 0.05, 1.0]
    save_affine(tmp_path / "affine.mat", Affine(matrix))
    waves = 0.8 * np.sin(affine_field(np.eye(4)[:3], SHAPE) @ rng.normal(size=(3, 3)) * 0.3)
    flow = affine_field((np.linalg.inv(MOVING) @ FIXED - np.eye(4))[:3], SHAPE) + waves
    save_warp(tmp_path / "warp.nii.gz", Warp(flow.astype(np.float32), FIXED, MOVING, MOVING_SHAPE))
    return tmp_path


def places(count=6):
    """[N, 3] in RAS mm, inside the fixed grid."""
    voxels = np.random.default_rng(1).uniform(1, 11, (count, 3))
    return voxels @ FIXED[:3, :3].T + FIXED[:3, 3]


def write(path, ras):
    """A file with those places, in the space that its format says, or in RAS mm."""
    lps = ras * FLIP
    if path.suffix in (".trk", ".tck"):
        lines = [ras[:2].astype(np.float32), ras[2:].astype(np.float32)]
        header = {"voxel_to_rasmm": FIXED.astype(np.float32), "dimensions": np.array(SHAPE, np.int16)}
        tractogram = nibabel.streamlines.Tractogram(lines, affine_to_rasmm=np.eye(4))
        nibabel.streamlines.save(tractogram, path, header=header if path.suffix == ".trk" else None)
        return path
    path.write_bytes(
        {
            ".csv": lambda: ("x,y,z\n" + "".join(f"{x},{y},{z}\n" for x, y, z in ras)).encode(),
            ".fcsv": lambda: new_markups(lps, None, ".fcsv"),
            ".json": lambda: new_markups(lps, None, ".mrk.json"),
            ".vtk": lambda: new_vtk(lps, FACES, "lps"),
            ".ply": lambda: new_ply(ras, FACES, None),
            ".stl": lambda: new_stl(lps, FACES, "lps"),
            ".gii": lambda: new_gifti(ras, FACES),
        }[path.suffix]()
    )
    return path


def read(path):
    """The places in RAS mm, by the libraries and formulas of each format and not by fastreg's reader."""
    if path.suffix in (".trk", ".tck"):
        return nibabel.streamlines.load(path).streamlines.get_data()
    if path.suffix == ".gii":
        return nibabel.load(path).agg_data("pointset")
    if path.suffix == ".csv":
        return np.array(list(csv.reader(path.read_text().splitlines()))[1:], float)
    if path.suffix == ".fcsv":
        rows = [row for row in csv.reader(path.read_text().splitlines()) if not row[0].startswith("#")]
        return np.array([row[1:4] for row in rows], float) * FLIP
    if path.suffix == ".json":
        return np.array([p["position"] for p in json.loads(path.read_text())["markups"][0]["controlPoints"]]) * FLIP
    content = path.read_bytes()
    if path.suffix == ".vtk":
        start = content.index(b"\n", content.index(b"POINTS")) + 1
        return np.frombuffer(content, ">f4", 18, start).reshape(-1, 3) * FLIP
    if path.suffix == ".ply":
        return np.frombuffer(content, "<f4", 18, content.index(b"end_header\n") + 11).reshape(-1, 3)
    facets = np.frombuffer(content, np.dtype([("n", "<f4", 3), ("p", "<f4", (3, 3)), ("a", "<u2")]), offset=84)
    return facets["p"].reshape(-1, 3) * FLIP


def through(transform, ras):
    return np.array([transform.TransformPoint(point) for point in (ras * FLIP).tolist()]) * FLIP


KINDS = [".csv", ".fcsv", ".mrk.json", ".vtk", ".ply", ".stl", ".gii", ".trk", ".tck"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_goes_where_simpleitk_sends_it(folder, kind):
    """From the fixed image by warp and affine; from the moving image by the affine's inverse."""
    field = sitk.Cast(sitk.ReadImage(str(folder / "warp.nii.gz")), sitk.sitkVectorFloat64)
    affine = sitk.ReadTransform(str(folder / "affine.mat"))
    chain = sitk.CompositeTransform([affine, sitk.DisplacementFieldTransform(field)])  # ITK's last one comes first
    path = write(folder / f"a{kind}", places())
    start = read(path)
    np.testing.assert_allclose(start, places()[FACES.ravel()] if kind == ".stl" else places(), atol=1e-5)
    words = ["warp", "-i", folder / "moving.nii.gz", "--points", path, "--points-output", folder / f"b{kind}"]
    # What the file says counts: the option is true of a table alone, and of a surface that does not say its space.
    words += ["--points-space", "ras" if kind in (".csv", ".ply") else "lps"]
    assert fastreg(*words, "-t", folder / "warp.nii.gz", "-t", folder / "affine.mat") == 0
    there = read(folder / f"b{kind}")
    np.testing.assert_allclose(there, through(chain, start.astype(float)), atol=1e-4)
    assert np.linalg.norm(there - start, axis=1).min() > 0.5
    assert fastreg(*words, "-t", f"[{folder / 'affine.mat'},1]", "--overwrite") == 0
    np.testing.assert_allclose(read(folder / f"b{kind}"), through(affine.GetInverse(), start.astype(float)), atol=1e-4)
    if kind == ".trk":
        header = nibabel.streamlines.load(folder / "b.trk").header
        np.testing.assert_allclose(header["voxel_to_rasmm"], MOVING, atol=1e-6)
        assert tuple(header["dimensions"]) == MOVING_SHAPE


@pytest.mark.parametrize("space", ["ras", "lps", "voxel"])
def test_a_surface_that_does_not_say_its_space_is_in_that_of_the_option(folder, space):
    ras = places()
    given = {"ras": ras, "lps": ras * FLIP, "voxel": (ras - FIXED[:3, 3]) @ np.linalg.inv(FIXED[:3, :3]).T}[space]
    (folder / "a.vtk").write_bytes(new_vtk(given, FACES, None))
    words = ["-i", folder / "moving.nii.gz", "-t", folder / "warp.nii.gz", "--points", folder / "a.vtk"]
    assert fastreg("warp", *words, "--points-space", space, "--points-output", folder / "b.vtk") == 0
    field = sitk.Cast(sitk.ReadImage(str(folder / "warp.nii.gz")), sitk.sitkVectorFloat64)
    theirs = through(sitk.DisplacementFieldTransform(field), ras)
    if space == "lps":
        theirs = theirs * FLIP
    elif space == "voxel":
        theirs = (theirs - MOVING[:3, 3]) @ np.linalg.inv(MOVING[:3, :3]).T
    np.testing.assert_allclose(load_points(folder / "b.vtk").points, theirs, atol=1e-4)


def test_markups_are_printed_and_surfaces_are_not(folder, capsys):
    words = ["warp", "-t", folder / "affine.mat", "--points"]
    assert fastreg(*words, write(folder / "a.fcsv", places())) == 0
    printed = capsys.readouterr().out
    assert fastreg(*words, folder / "a.fcsv", "--points-output", folder / "b.fcsv") == 0
    assert printed == (folder / "b.fcsv").read_text()
    assert fastreg(*words, write(folder / "a.gii", places())) == 1
    assert "a surface is not printed; give --points-output" in capsys.readouterr().err


def test_streamlines_without_the_moving_image_are_written_with_a_warning(folder, capsys):
    words = ["-t", folder / "affine.mat", "--points", write(folder / "a.trk", places())]
    assert fastreg("warp", *words, "--points-output", folder / "b.trk") == 0
    assert "a.trk: the header goes on naming the image before; give --moving" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("kind", "output", "message"),
    [
        (".csv", "b.trk", "expected .csv, .fcsv, .mrk.json for a table, got .trk"),
        (".trk", "b.vtk", "expected .csv, .trk, .tck for streamlines, got .vtk"),
        (".fcsv", "b.gii", "for markups, got .gii"),
        (".gii", "b", "for a surface, got no ending"),
        (".tck", "b.trk", "a .trk file names its image; give --moving"),
    ],
)
def test_what_cannot_be_written_is_one_line_and_writes_nothing(folder, capsys, kind, output, message):
    write(folder / f"a{kind}", places())
    words = ["-t", folder / "affine.mat", "--points", folder / f"a{kind}", "--points-output", folder / output]
    assert fastreg("warp", *words, "--compose", folder / "all.nii.gz", "-r", folder / "moving.nii.gz") == 1
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1
    assert not (folder / output).exists() and not (folder / "all.nii.gz").exists()


FAST = ("--levels", "2x6,1x2", "--no-affine", "--device", "cpu")


@pytest.mark.slow
def test_register_carries_each_its_own_way(blobs, tmp_path):
    """Markups of the fixed image by the warp, streamlines of the moving one by the inverse, as SimpleITK does."""
    folder = blobs(2)
    ras = np.array([[-14.0, 18, 22], [-30, 22, 30], [-20, 25, 18]])
    write(tmp_path / "a.fcsv", ras)
    write(tmp_path / "b.trk", ras)
    words = ["register", "-f", folder / "s0_image.nii.gz", "-m", folder / "s1_image.nii.gz", *FAST]
    words += ["--warp", tmp_path / "warp.nii.gz", "--inverse-warp", tmp_path / "inverse.nii.gz"]
    words += ["--points", tmp_path / "a.fcsv", "--points-output", tmp_path / "a_moving.fcsv"]
    words += ["--points-moving", tmp_path / "b.trk", "--points-moving-output", tmp_path / "b_fixed.trk"]
    assert fastreg(*words) == 0
    for name, warp in (("a_moving.fcsv", "warp"), ("b_fixed.trk", "inverse")):
        field = sitk.Cast(sitk.ReadImage(str(tmp_path / f"{warp}.nii.gz")), sitk.sitkVectorFloat64)
        theirs = through(sitk.DisplacementFieldTransform(field), ras)
        np.testing.assert_allclose(read(tmp_path / name), theirs, atol=1e-3)
        assert np.abs(theirs - ras).max() > 0.1
    header = nibabel.streamlines.load(tmp_path / "b_fixed.trk").header
    fixed = nibabel.load(folder / "s0_image.nii.gz")
    np.testing.assert_allclose(header["voxel_to_rasmm"], fixed.affine, atol=1e-5)
    assert tuple(header["dimensions"]) == fixed.shape


@pytest.mark.slow
def test_pairs_write_the_kind_that_they_read(blobs, tmp_path):
    folder = blobs(2)
    write(tmp_path / "a.fcsv", np.array([[-14.0, 18, 22], [-30, 22, 30]]))
    text = (tmp_path / "a.fcsv").read_text().splitlines()
    (tmp_path / "b.fcsv").write_text("\n".join([*text[:3], text[4], text[3]]) + "\n")
    listed = tmp_path / "pairs.csv"
    images = f"{folder / 's1_image.nii.gz'},{folder / 's0_image.nii.gz'}"
    listed.write_text(f"name,moving,fixed,points_fixed,points_moving\nmine,{images},a.fcsv,b.fcsv\n")
    with pytest.warns(UserWarning, match="matched by their labels"):
        from fastreg.data.pairs import read_pair_files
        from fastreg.registration import batch

        options = {"stages": None, "transform": "translation", "device": "cpu"}
        (row,) = batch.run(read_pair_files(listed), batch.Batch(tmp_path / "out", options))
    assert row["tre_mm_before"] == 0 and "error" not in row
    assert load_points(tmp_path / "out" / "mine" / "points.fcsv").labels == ("F-1", "F-2")
