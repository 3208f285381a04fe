"""Surfaces: VTK's and meshio's own files, nibabel's GIFTI; what is written is read by them again."""

import nibabel
import numpy as np
import pytest
from nibabel.gifti import GiftiCoordSystem, GiftiDataArray, GiftiImage

from fastreg.io.gifti import new_gifti
from fastreg.io.points import encode_points, load_points, save_points
from fastreg.utils.files import InputError

POINTS = np.array([[0, 0, 0], [4, 0, 0.5], [4, 3, 0], [0, 3, -1.25], [2, 1.5, 5]], np.float32)
FACES = np.array([[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]])
SHIFT = np.array([1.5, -2, 0.25])


def polydata(vtk, kind="float"):
    """A roof over a square: polygons of three and four corners, a line, and data of every sort that VTK writes."""
    from vtk.util.numpy_support import numpy_to_vtk

    data = vtk.vtkPolyData()
    points = vtk.vtkPoints()
    points.SetData(numpy_to_vtk(POINTS.astype({"float": np.float32, "double": np.float64}[kind]), deep=True))
    data.SetPoints(points)
    polygons, lines = vtk.vtkCellArray(), vtk.vtkCellArray()
    for face in [*FACES.tolist(), [0, 1, 2, 3]]:
        polygons.InsertNextCell(len(face), face)
    lines.InsertNextCell(3, [4, 2, 0])
    data.SetPolys(polygons)
    data.SetLines(lines)

    def array(name, values):
        made = numpy_to_vtk(values, deep=True)
        made.SetName(name)
        return made

    rng = np.random.default_rng(0)
    data.GetPointData().SetNormals(array("Normals", rng.normal(size=(5, 3)).astype(np.float32)))
    data.GetPointData().SetScalars(array("thickness", rng.normal(size=5)))
    data.GetPointData().AddArray(array("two_numbers", rng.integers(0, 9, (5, 2)).astype(np.int32)))
    data.GetPointData().AddArray(array("bytes", np.arange(5, dtype=np.uint8)))
    data.GetPointData().SetVectors(array("flow", rng.normal(size=(5, 3))))
    data.GetPointData().SetTensors(array("diffusion", rng.normal(size=(5, 9)).astype(np.float32)))
    data.GetPointData().SetTCoords(array("texture", rng.uniform(size=(5, 2)).astype(np.float32)))
    data.GetFieldData().AddArray(array("cohort", np.array([7, 8], np.int64)))
    data.GetCellData().SetNormals(array("sides", rng.normal(size=(6, 3)).astype(np.float32)))
    colours = array("RGB", rng.integers(0, 255, (6, 3)).astype(np.uint8))
    data.GetCellData().SetScalars(colours)
    words = vtk.vtkStringArray()
    words.SetName("regions")
    for word in ("a", "b c", "", "d" * 70, "e"):
        words.InsertNextValue(word)
    data.GetPointData().AddArray(words)
    return data


def cells(vtk, array):
    """Every cell's points."""
    found = []
    for k in range(array.GetNumberOfCells()):
        ids = vtk.vtkIdList()
        array.GetCellAtId(k, ids)
        found.append([ids.GetId(j) for j in range(ids.GetNumberOfIds())])
    return found


def data_of(attributes):
    found = {}
    for k in range(attributes.GetNumberOfArrays()):
        array = attributes.GetAbstractArray(k)
        count = array.GetNumberOfValues()
        found[array.GetName()] = [array.GetVariantValue(j).ToString() for j in range(count)]
    return found


def read_by_vtk(vtk, path):
    from vtk.util.numpy_support import vtk_to_numpy

    reader = vtk.vtkPolyDataReader()
    for everything in ("Scalars", "Vectors", "Normals", "Tensors", "ColorScalars", "TCoords", "Fields"):
        getattr(reader, f"ReadAll{everything}On")()
    reader.SetFileName(str(path))
    reader.Update()
    out = reader.GetOutput()
    return out, vtk_to_numpy(out.GetPoints().GetData()), reader.GetHeader()


@pytest.mark.parametrize("kind", ["float", "double"])
@pytest.mark.parametrize("version", [42, 51])
@pytest.mark.parametrize("binary", [False, True])
def test_vtk_reads_its_own_file_again_with_other_points(tmp_path, binary, version, kind):
    vtk = pytest.importorskip("vtk")
    writer = vtk.vtkPolyDataWriter()
    writer.SetInputData(polydata(vtk, kind))
    writer.SetFileVersion(version)
    writer.SetHeader("3D Slicer output. SPACE=LPS")
    (writer.SetFileTypeToBinary if binary else writer.SetFileTypeToASCII)()
    writer.SetFileName(str(tmp_path / "a.vtk"))
    writer.Write()
    before, start, _ = read_by_vtk(vtk, tmp_path / "a.vtk")

    given = load_points(tmp_path / "a.vtk")
    assert given.space == "lps"
    np.testing.assert_array_equal(given.points, start)
    save_points(tmp_path / "b.vtk", given.moved(given.points + SHIFT))
    after, there, header = read_by_vtk(vtk, tmp_path / "b.vtk")
    np.testing.assert_allclose(there, start + SHIFT, rtol=1e-7 if kind == "float" else 1e-15)
    assert header == "3D Slicer output. SPACE=LPS" and there.dtype == start.dtype
    for kind in ("GetPolys", "GetLines"):
        assert cells(vtk, getattr(after, kind)()) == cells(vtk, getattr(before, kind)()) != []
    kept = data_of(before.GetPointData())
    assert kept.pop("Normals") and data_of(after.GetPointData()) == kept and len(kept) == 7
    kept = data_of(before.GetCellData())
    assert kept.pop("sides") and data_of(after.GetCellData()) == kept != {}
    assert data_of(after.GetFieldData()) == data_of(before.GetFieldData()) != {}
    triangles = given.triangles()
    assert len(triangles) == len(FACES) + 2
    np.testing.assert_array_equal(triangles[:4], FACES)
    assert {tuple(sorted(row)) for row in triangles[4:].tolist()} == {(0, 1, 2), (0, 2, 3)}


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("form", ["vtk42", "vtk51"])
def test_meshio_reads_an_unstructured_grid_again(tmp_path, form, binary):
    meshio = pytest.importorskip("meshio")
    mesh = meshio.Mesh(POINTS.astype(np.float64), [("triangle", FACES)], point_data={"depth": np.arange(5.0)})
    meshio.write(tmp_path / "a.vtk", mesh, file_format=form, binary=binary)
    given = load_points(tmp_path / "a.vtk")
    assert given.space is None
    np.testing.assert_array_equal(given.points, POINTS)
    save_points(tmp_path / "b.vtk", given.moved(given.points + SHIFT))
    back = meshio.read(tmp_path / "b.vtk")
    np.testing.assert_array_equal(back.points, POINTS + SHIFT)
    np.testing.assert_array_equal(back.cells_dict["triangle"], FACES)
    np.testing.assert_array_equal(back.point_data["depth"], np.arange(5.0))


@pytest.mark.parametrize("binary", [False, True])
def test_meshio_reads_a_ply_file_again(tmp_path, binary):
    meshio = pytest.importorskip("meshio")
    data = {"quality": np.arange(5.0), "nx": np.ones(5), "ny": np.zeros(5), "nz": np.zeros(5)}
    mesh = meshio.Mesh(POINTS.astype(np.float64), [("triangle", FACES)], point_data=data)
    meshio.write(tmp_path / "a.ply", mesh, binary=binary)
    given = load_points(tmp_path / "a.ply")
    np.testing.assert_array_equal(given.points, POINTS)
    np.testing.assert_array_equal(given.triangles(), FACES)
    save_points(tmp_path / "b.ply", given.moved(given.points + SHIFT))
    back = meshio.read(tmp_path / "b.ply")
    np.testing.assert_allclose(back.points, POINTS + SHIFT, rtol=1e-7)
    np.testing.assert_array_equal(back.cells_dict["triangle"], FACES)
    assert list(back.point_data) == ["quality"]  # the normals of the surface before are gone
    np.testing.assert_array_equal(back.point_data["quality"], np.arange(5.0))


@pytest.mark.parametrize("binary", [False, True])
def test_vtk_reads_ply_and_stl_again(tmp_path, binary):
    vtk = pytest.importorskip("vtk")
    from vtk.util.numpy_support import vtk_to_numpy

    only = vtk.vtkTriangleFilter()
    only.PassLinesOff()
    only.SetInputData(polydata(vtk))
    for ending, writer, reader in (
        (".ply", vtk.vtkPLYWriter(), vtk.vtkPLYReader()),
        (".stl", vtk.vtkSTLWriter(), vtk.vtkSTLReader()),
    ):
        if ending == ".ply":
            writer.AddComment("3D Slicer output. SPACE=LPS")
        else:
            writer.SetHeader("3D Slicer output. SPACE=LPS")
        writer.SetInputConnection(only.GetOutputPort())
        (writer.SetFileTypeToBinary if binary else writer.SetFileTypeToASCII)()
        writer.SetFileName(str(tmp_path / f"a{ending}"))
        writer.Write()
        given = load_points(tmp_path / f"a{ending}")
        assert given.space == "lps" and len(given.points) == 5
        save_points(tmp_path / f"b{ending}", given.moved(given.points + SHIFT))
        reader.SetFileName(str(tmp_path / f"b{ending}"))
        reader.Update()
        there = vtk_to_numpy(reader.GetOutput().GetPoints().GetData())
        assert {tuple(row) for row in there.tolist()} == {tuple(row) for row in (POINTS + SHIFT).tolist()}
        assert reader.GetOutput().GetNumberOfPolys() == 6
        assert load_points(tmp_path / f"b{ending}").space == "lps"


@pytest.mark.parametrize("binary", [False, True])
def test_stl_gets_the_normals_of_its_new_facets(tmp_path, binary):
    meshio = pytest.importorskip("meshio")
    meshio.write(tmp_path / "a.stl", meshio.Mesh(POINTS, [("triangle", FACES)]), binary=binary)
    given = load_points(tmp_path / "a.stl")
    turn = np.array([[0, -1.0, 0], [1, 0, 0], [0, 0, 1]])
    save_points(tmp_path / "b.stl", given.moved(given.points @ turn.T))
    back = meshio.read(tmp_path / "b.stl")
    corners = back.points[back.cells_dict["triangle"]]
    np.testing.assert_allclose(corners, (POINTS.astype(np.float64) @ turn.T)[FACES], atol=1e-6)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    content = (tmp_path / "b.stl").read_bytes()
    if binary:
        found = np.frombuffer(content, np.dtype([("normal", "<f4", 3), ("rest", "V38")]), offset=84)["normal"]
    else:
        found = np.array([line.split()[2:] for line in content.splitlines() if b"normal" in line], float)
    np.testing.assert_allclose(found, normals, atol=1e-6)


def gifti(path, *, meta=None, dataspace="NIFTI_XFORM_UNKNOWN", xformspace="NIFTI_XFORM_UNKNOWN", xform=None):
    system = GiftiCoordSystem(dataspace, xformspace, np.eye(4) if xform is None else xform)
    arrays = [
        GiftiDataArray(POINTS, "NIFTI_INTENT_POINTSET", coordsys=system, meta=meta or {}),
        GiftiDataArray(FACES.astype(np.int32), "NIFTI_INTENT_TRIANGLE"),
        GiftiDataArray(np.arange(5, dtype=np.float32), "NIFTI_INTENT_SHAPE"),
        GiftiDataArray(np.ones((5, 3), np.float32), "NIFTI_INTENT_VECTOR"),
    ]
    nibabel.save(GiftiImage(darrays=arrays), path)
    return path


def test_nibabel_reads_gifti_again(tmp_path):
    given = load_points(gifti(tmp_path / "a.surf.gii", meta={"AnatomicalStructurePrimary": "CortexLeft"}))
    assert given.space == "ras"
    np.testing.assert_array_equal(given.points, POINTS)
    save_points(tmp_path / "b.surf.gii", given.moved(given.points + SHIFT))
    back = nibabel.load(tmp_path / "b.surf.gii")
    points, faces = back.agg_data(("pointset", "triangle"))
    np.testing.assert_allclose(points, POINTS + SHIFT, rtol=1e-7)
    np.testing.assert_array_equal(faces, FACES)
    np.testing.assert_array_equal(back.agg_data("shape"), np.arange(5))
    assert back.darrays[0].meta["AnatomicalStructurePrimary"] == "CortexLeft" and len(back.darrays) == 3


CONFORMED = {
    "VolGeomX_R": "-1", "VolGeomX_A": "0", "VolGeomX_S": "0", "VolGeomY_R": "0", "VolGeomY_A": "0", "VolGeomY_S": "-1",
    "VolGeomZ_R": "0", "VolGeomZ_A": "1", "VolGeomZ_S": "0", "VolGeomC_R": "0", "VolGeomC_A": "0", "VolGeomC_S": "0",
}  # fmt: skip


@pytest.mark.parametrize("other", [{"VolGeomC_A": "-17.5"}, {"VolGeomX_R": "1"}])
def test_freesurfer_s_own_coordinates_are_refused_unless_they_are_the_scanner_s(tmp_path, other):
    assert load_points(gifti(tmp_path / "a.gii", meta=CONFORMED)).space == "ras"
    path = gifti(tmp_path / "b.gii", meta={**CONFORMED, **other})
    with pytest.raises(InputError, match=r"b\.gii: are in FreeSurfer.* mris_convert --to-scanner"):
        load_points(path)
    path = gifti(tmp_path / "c.gii", meta={**CONFORMED, **other}, dataspace="NIFTI_XFORM_SCANNER_ANAT")
    given = load_points(path)
    save_points(tmp_path / "d.gii", given.moved(given.points + SHIFT))
    assert not [key for key in nibabel.load(tmp_path / "d.gii").darrays[0].meta if key.startswith("VolGeom")]


def test_a_gifti_file_s_own_matrix_into_the_scanner_s_space_is_applied(tmp_path):
    matrix = np.array([[0, 1, 0, 5.0], [-1, 0, 0, -7], [0, 0, 1, 2], [0, 0, 0, 1]])
    words = {"xformspace": "NIFTI_XFORM_SCANNER_ANAT", "xform": matrix, "meta": {**CONFORMED, "VolGeomC_R": "5"}}
    given = load_points(gifti(tmp_path / "a.gii", **words))
    np.testing.assert_allclose(given.points, POINTS @ matrix[:3, :3].T + matrix[:3, 3], rtol=1e-6)
    save_points(tmp_path / "b.gii", given)
    np.testing.assert_allclose(load_points(tmp_path / "b.gii").points, given.points, rtol=1e-6)
    talairach = load_points(gifti(tmp_path / "c.gii", xformspace="NIFTI_XFORM_TALAIRACH", xform=matrix))
    np.testing.assert_array_equal(talairach.points, POINTS)  # the template's space is not the image's


@pytest.mark.parametrize("first", [".vtk", ".ply", ".stl", ".gii"])
@pytest.mark.parametrize("second", [".vtk", ".ply", ".stl", ".gii"])
def test_a_surface_becomes_one_of_another_format(tmp_path, first, second):
    """The places of its corners in the world stay, in whatever space each format says."""
    (tmp_path / "a.gii").write_bytes(new_gifti(POINTS, FACES))
    save_points(tmp_path / f"b{first}", load_points(tmp_path / "a.gii"))
    given = load_points(tmp_path / f"b{first}")
    save_points(tmp_path / f"c{second}", given, "lps")
    back = load_points(tmp_path / f"c{second}")
    assert back.space == "ras"
    np.testing.assert_array_equal(back.points[back.triangles()], POINTS[FACES])
    if second != ".gii":
        meshio = pytest.importorskip("meshio")
        if second != ".vtk":  # meshio reads no polygonal data of VTK
            mesh = meshio.read(tmp_path / f"c{second}")
            np.testing.assert_array_equal(mesh.points[mesh.cells_dict["triangle"]], POINTS[FACES])


def test_a_surface_becomes_a_table(tmp_path):
    (tmp_path / "a.gii").write_bytes(new_gifti(POINTS, FACES))
    text = encode_points("b.csv", load_points(tmp_path / "a.gii"), "lps").decode()
    assert text.splitlines()[:3] == ["x,y,z", "0.000000,0.000000,0.000000", "-4.000000,0.000000,0.500000"]


VTK = b"# vtk DataFile Version 3.0\nt\n"
BAD = {
    "a.vtk": (VTK + b"ASCII\nDATASET STRUCTURED_POINTS\n", "STRUCTURED_POINTS"),
    "short.vtk": (VTK + b"BINARY\nDATASET POLYDATA\nPOINTS 9 float\nabcd", "it ends too soon"),
    "huge.vtk": (VTK + b"BINARY\nDATASET POLYDATA\nPOINTS 999999999 float\nab", "got 2999999997"),
    "minus.vtk": (VTK + b"ASCII\nDATASET POLYDATA\nPOINTS -1 float\n", "got -3 values"),
    "nan.vtk": (VTK + b"ASCII\nDATASET POLYDATA\nPOINTS 1 float\n1 nan 2\n", "finite"),
    "none.vtk": (VTK + b"ASCII\nDATASET POLYDATA\nPOINTS 0 float\n", "got none"),
    "text.vtk": (b"hello\n", "does not begin as those do"),
    "a.ply": (b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nend_header\n1\n", "got 1 of 3 vertices"),
    "a.stl": (b"solid a\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\n", "cut short"),
    "a.gii": (b"<?xml version='1.0'?><GIFTI>", "not a GIFTI file"),
    "lh.white": (b"\xff\xff\xfecreated by me\n\n", "mris_convert --to-scanner"),
    "a.vtp": (b'<?xml version="1.0"?>\n<VTKFile type="PolyData">', "is VTK XML.*3D Slicer or ParaView"),
    "a.obj": (b"v 0 0 0\n", "is Wavefront OBJ.*meshio convert"),
    "a.nii.gz": (b"\x1f\x8b\x08\x00", "is an image.*marching_cubes"),
    "a.tt.gz": (b"\x1f\x8b\x08\x00", "is DSI Studio's streamlines"),
    "a.txt": (b"point\n2\n1 2 3\n", "is elastix' list of points"),
    "a.xlsx": (b"PK\3\4", "is a spreadsheet.*CSV"),
    "a.trx": (b"PK\3\4", "is TRX streamlines"),
    "a.gii.gz": (b"\x1f\x8b\x08\x00", "gunzip"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(BAD))
def test_other_and_broken_files_are_one_line(tmp_path, name):
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        load_points(tmp_path / name)
    assert name in str(error.value) and "\n" not in str(error.value)


def test_what_has_no_faces_becomes_no_surface(tmp_path):
    text = "# vtk DataFile Version 3.0\nt\nASCII\nDATASET POLYDATA\nPOINTS 2 float\n0 0 0 1 1 1\nLINES 1 3\n2 0 1\n"
    (tmp_path / "a.vtk").write_text(text)
    given = load_points(tmp_path / "a.vtk")
    with pytest.raises(InputError, match="expected a surface with polygons"):
        save_points(tmp_path / "b.ply", given)
    with pytest.raises(InputError, match=r"expected \.csv, .*\.gii for a surface, got \.trk"):
        save_points(tmp_path / "b.trk", given)
    save_points(tmp_path / "c.vtk", given)
    assert (tmp_path / "c.vtk").read_text() == text.replace("0 0 0 1 1 1", "0 0 0\n1 1 1")
