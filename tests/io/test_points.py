"""Points as spreadsheets and other tools write them."""

import numpy as np
import pytest

from fastreg.io.points import load_points, save_points
from fastreg.utils.files import InputError

GOOD = {
    "ants": b"x,y,z,t,label\n1,2.5,-3,0,7\n4,5,6,0,8\n",
    "excel": b'\xef\xbb\xbfname,X,Y,Z\r\n"a, 1",1,2.5,-3\r\nb,4,5,6\r\n',
    "blank lines": b"x,y,z\n1,2.5,-3\n\n4,5,6\n,,\n\n",
    "spaces": b"x, y, z\n1, 2.5, -3\n4, 5, 6\n",
    "semicolons": b"x;y;z\n1;2.5;-3\n4;5;6\n",
    "tabs in UTF-16": "x\ty\tz\r\n1\t2.5\t-3\r\n4\t5\t6\r\n".encode("utf-16"),
    "old Mac": b"x,y,z\r1,2.5,-3\r4,5,6\r",
}


@pytest.mark.parametrize("name", list(GOOD))
def test_tables_of_many_hands_are_read_and_keep_their_columns(tmp_path, name):
    (tmp_path / "a.csv").write_bytes(GOOD[name])
    table = load_points(tmp_path / "a.csv")
    np.testing.assert_array_equal(table.points, [[1, 2.5, -3], [4, 5, 6]])
    (tmp_path / "b.csv").write_text(table.text(table.points + 1))
    back = load_points(tmp_path / "b.csv")
    np.testing.assert_array_equal(back.points, table.points + 1)
    assert back.header == table.header
    if name == "excel":
        assert back.rows[0][0] == "a, 1"


BAD = {
    "no header": (b"1,2,3\n", "expected a header with x, y and z"),
    "decimal commas": (b"x;y;z\n1,5;2;3\n", "expected finite numbers"),
    "nan": (b"x,y,z\nnan,1,2\n", "expected finite numbers"),
    "short": (b"x,y,z\n1,2\n", "expected finite numbers"),
    "none": (b"x,y,z\n", "expected points below the header"),
    "nothing": (b"", "got nothing"),
    "binary": (b"x,y,z\0\n", "binary"),
    "latin": (b"x,y,z,n\xe4me\n1,2,3,a\n", "UTF-8"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_tables_that_are_none_are_refused(tmp_path, name):
    content, message = BAD[name]
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match=message) as error:
        load_points(tmp_path / "a.csv")
    assert "a.csv" in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("axes", "space"), [("r,a,s", "ras"), ("l,p,s", "lps"), ("x,y,z", None)])
def test_slicer_s_tables_say_their_space(tmp_path, axes, space):
    (tmp_path / "a.csv").write_text(f"label,{axes},defined\nF-1,1,2.5,-3,1\n")
    table = load_points(tmp_path / "a.csv")
    assert table.space == space and table.labels == ("F-1",)
    assert table.text(table.points + 1) == f"label,{axes},defined\nF-1,2.000000,3.500000,-2.000000,1\n"


def test_a_table_keeps_its_ending_and_becomes_no_surface(tmp_path):
    """As ever a table may be called anything that is no other format."""
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    for name in ("b.txt", "b.points", "b"):
        save_points(tmp_path / name, load_points(tmp_path / "a.csv"))
        assert (tmp_path / name).read_text() == "x,y\n1.000000,2.000000\n"
    with pytest.raises(InputError, match=r"b\.ply: expected .* for a table, got \.ply"):
        save_points(tmp_path / "b.ply", load_points(tmp_path / "a.csv"))
