"""Slicer's .fcsv and .mrk.json: points move, all else stays; csv and json read them as the formats say."""

import csv
import json

import numpy as np
import pytest

from fastreg.io.points import load_points, save_points
from fastreg.utils.files import InputError

POINTS = np.array([[-53.4, -73.25, 0.5], [49.875, -88.5, 12.0]])
SHIFT = np.array([1.5, -2, 0.25])
COLUMNS = "# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"


def fcsv(head, rows=None, columns=COLUMNS):
    rows = rows or [
        f'vtkMRMLMarkupsFiducialNode_{k},{x},{y},{z},0,0,0,1,1,1,0,"F, {k}",a note,vtkMRMLScalarVolumeNode1'
        for k, (x, y, z) in enumerate(POINTS.tolist())
    ]
    return "\n".join(["# Markups fiducial file version = 4.11", *head, columns, *rows]) + "\n"


@pytest.mark.parametrize(
    ("head", "space"),
    [
        (["# CoordinateSystem = LPS"], "lps"),
        (["# CoordinateSystem = RAS"], "ras"),
        (["# CoordinateSystem = 0"], "ras"),
        (["# CoordinateSystem = 1"], "lps"),
        ([], "ras"),
    ],
)
def test_fcsv_says_its_space_and_keeps_its_columns(tmp_path, head, space):
    (tmp_path / "a.fcsv").write_text(fcsv(head))
    given = load_points(tmp_path / "a.fcsv")
    assert given.space == space and given.labels == ("F, 0", "F, 1")
    np.testing.assert_array_equal(given.points, POINTS)
    save_points(tmp_path / "b.fcsv", given.moved(given.points + SHIFT))
    before, after = ((tmp_path / name).read_text().splitlines() for name in ("a.fcsv", "b.fcsv"))
    assert [line for line in after if line[0] == "#"] == [line for line in before if line[0] == "#"]
    for old, new, point in zip(csv.reader(before[-2:]), csv.reader(after[-2:]), POINTS + SHIFT, strict=True):
        np.testing.assert_allclose(np.array(new[1:4], float), point, atol=1e-6)
        assert new[:1] + new[4:] == old[:1] + old[4:]


def test_an_old_fcsv_has_other_columns(tmp_path):
    text = fcsv([], ["one,1,2,3,1,1", "two,4,5,6,1,1"], "# columns = label,x,y,z,sel,vis")
    (tmp_path / "a.fcsv").write_text(text.replace("Markups fiducial file", "Fiducial List file"))
    given = load_points(tmp_path / "a.fcsv")
    assert given.labels == ("one", "two")
    np.testing.assert_array_equal(given.points, [[1, 2, 3], [4, 5, 6]])


def mrk(**other):
    points = [
        {
            "id": str(k), "label": f"L{k}", "position": point, "orientation": [-1.0, 0, 0, 0, -1, 0, 0, 0, 1],
            "selected": True, "positionStatus": "defined",
        }
        for k, point in enumerate(POINTS.tolist())
    ]  # fmt: skip
    points.insert(1, {"id": "9", "label": "later", "position": [0.0, 0.0, 0.0], "positionStatus": "undefined"})
    return {
        "type": "Curve", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": points,
        "measurements": [{"name": "length", "value": 3}], "display": {"color": [1, 0.5, 0]}, **other,
    }  # fmt: skip


def write(path, *markups):
    path.write_text(json.dumps({"@schema": "https://example.org/markups", "markups": markups}))
    return path


def test_mrk_json_keeps_everything_but_positions(tmp_path):
    """Two markups in two coordinate systems; one point is still to be placed."""
    given = load_points(write(tmp_path / "a.mrk.json", mrk(), mrk(type="Fiducial", coordinateSystem="RAS")))
    assert given.space == "lps" and given.labels == ("L0", "L1") * 2
    np.testing.assert_array_equal(given.points, np.concatenate([POINTS, POINTS * [-1, -1, 1]]))
    save_points(tmp_path / "b.mrk.json", given.moved(given.points + SHIFT))
    old, new = (json.loads((tmp_path / name).read_text()) for name in ("a.mrk.json", "b.mrk.json"))
    for markup, signs in zip(new["markups"], ([1, 1, 1], [-1, -1, 1]), strict=True):
        moved = [markup["controlPoints"][k].pop("position") for k in (0, 2)]
        np.testing.assert_allclose(moved, POINTS + SHIFT * signs, rtol=1e-12)
    for markup in old["markups"]:
        for k in (0, 2):
            del markup["controlPoints"][k]["position"]
    assert new == old


@pytest.mark.parametrize(("said", "space"), [("LPS", "lps"), ("RAS", "ras"), ("0", "ras"), ("1", "lps"), (1, "lps")])
def test_mrk_json_says_its_space(tmp_path, said, space):
    assert load_points(write(tmp_path / "a.mrk.json", mrk(coordinateSystem=said))).space == space


def test_of_a_plane_only_the_points_move(tmp_path):
    path = write(tmp_path / "a.json", mrk(type="Plane", normal=[0, 0, 1]))
    with pytest.warns(UserWarning, match="its own origin and axes are kept"):
        load_points(path)


BAD = {
    "ROI": ({"type": "ROI"}, "got an ROI"),
    "unit": ({"coordinateUnits": "um"}, "expected mm, got the unit um"),
    "space": ({"coordinateSystem": "IJK"}, "expected the coordinate system LPS or RAS, got IJK"),
    "nobody": ({"controlPoints": []}, "expected points, got none"),
    "flat": ({"controlPoints": [{"position": [1, 2]}]}, "three numbers as point 1"),
    "nan": ({"controlPoints": [{"position": [1, 2, float("nan")]}]}, "finite"),
    "huge": ({"controlPoints": [{"position": [1, 2, 10**400]}]}, "three numbers"),
    "words": ({"controlPoints": "none"}, "list of control points"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_markups_that_cannot_be_used_are_one_line(tmp_path, name):
    other, message = BAD[name]
    path = write(tmp_path / "a.mrk.json", mrk(**other))
    with pytest.raises(InputError, match=message) as error:
        load_points(path)
    assert "a.mrk.json" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (fcsv(["# CoordinateSystem = IJK"]), "LPS or RAS, got IJK"),
        (fcsv([], ["1,here,2,3"]), "as point 1"),
        (fcsv([], ["1,2"]), "as point 1"),
        (fcsv([], ["1,2,3,inf"]), "finite"),
        (fcsv([], [""]), "expected points, got none"),
        (fcsv([], columns="# columns = id,r,a,s"), "expected the columns x, y and z"),
    ],
)
def test_broken_fcsv_is_one_line(tmp_path, text, message):
    (tmp_path / "a.fcsv").write_text(text)
    with pytest.raises(InputError, match=message) as error:
        load_points(tmp_path / "a.fcsv")
    assert "a.fcsv" in str(error.value) and "\n" not in str(error.value)


def test_json_of_another_kind_is_one_line(tmp_path):
    (tmp_path / "a.json").write_text('{"left": 1}')
    with pytest.raises(InputError, match="expected Slicer's markups, got JSON of another kind"):
        load_points(tmp_path / "a.json")


@pytest.mark.parametrize("space", ["ras", "lps", "voxel"])
@pytest.mark.parametrize("ending", [".fcsv", ".mrk.json"])
@pytest.mark.parametrize("ndim", [2, 3])
def test_a_table_becomes_markups_in_lps(tmp_path, ending, space, ndim):
    affine = np.array([[0, -2.0, 0, 30], [2, 0, 0, -12], [0, 0, 2.5, 4], [0, 0, 0, 1]])
    rows = POINTS[:, :ndim].tolist()
    head = ["label", *"xyz"[:ndim]]
    with (tmp_path / "a.csv").open("w") as file:
        csv.writer(file).writerows([head, ["left, 1", *rows[0]], ["right", *rows[1]]])
    given = load_points(tmp_path / "a.csv")
    assert given.labels == ("left, 1", "right") and given.space is None
    save_points(tmp_path / f"b{ending}", given, space, (affine, (9, 9, 9)))
    solid = np.concatenate([POINTS[:, :ndim], np.zeros((2, 3 - ndim))], 1)
    ras = {"ras": solid, "lps": solid * [-1, -1, 1], "voxel": solid @ affine[:3, :3].T + affine[:3, 3]}[space]
    if ending == ".fcsv":
        lines = (tmp_path / "b.fcsv").read_text().splitlines()
        assert lines[1] == "# CoordinateSystem = LPS" and lines[2] == COLUMNS
        found = [(row[11], row[1:4]) for row in csv.reader(lines[3:])]
    else:
        (markup,) = json.loads((tmp_path / "b.mrk.json").read_text())["markups"]
        assert (markup["type"], markup["coordinateSystem"]) == ("Fiducial", "LPS")
        found = [(point["label"], point["position"]) for point in markup["controlPoints"]]
    assert [label for label, _ in found] == ["left, 1", "right"]
    np.testing.assert_allclose(np.array([p for _, p in found], float), ras * [-1, -1, 1], atol=1e-6)
    back = load_points(tmp_path / f"b{ending}")
    save_points(tmp_path / "c.csv", back, "ras")
    again = load_points(tmp_path / "c.csv")
    assert again.labels == given.labels
    np.testing.assert_allclose(again.points, ras, atol=1e-6)
