"""Lists as spreadsheets, editors and shells write them."""

from pathlib import Path

import pytest

from fastreg.data.lists import find_file, read_rows
from fastreg.utils.files import InputError

COLUMNS = ("moving", "fixed", "moving_labels", "name")


def read(path, content, encoding="utf-8", **options):
    path.write_bytes(content.encode(encoding))
    return [dict(row.cells) for row in read_rows(path, "pairs", COLUMNS, **options)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("separator", [",", ";", "\t", " , "])
def test_tables(tmp_path, encoding, end, separator):
    lines = ["Fixed|moving|Moving-Label", "äpfel.nii|b c.nii|", "", "d.nii|e.nii|f.nii"]
    content = end.join(line.replace("|", separator) for line in lines)
    assert read(tmp_path / "l.csv", content, encoding) == [
        {"fixed": "äpfel.nii", "moving": "b c.nii"},
        {"fixed": "d.nii", "moving": "e.nii", "moving_labels": "f.nii"},
    ]


def test_words_on_lines(tmp_path):
    content = "# all of them\na#1 b  # the first\n\n'c d' \"e f\" g\n"
    assert read(tmp_path / "l.txt", content, positional=(2, 3)) == [
        {"moving": "a#1", "fixed": "b"},
        {"moving": "c d", "fixed": "e f", "moving_labels": "g"},
    ]


def test_a_table_without_a_header_where_it_may_be(tmp_path):
    assert read(tmp_path / "l.csv", "a,b\n", positional=(2,), headless=True) == [{"moving": "a", "fixed": "b"}]
    with pytest.raises(InputError, match="expected a header with"):
        read(tmp_path / "l.csv", "a,b\n", positional=(2,))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.csv", "moving,fixed\na\n", "line 2: expected 2 cells with moving and fixed"),
        ("l.csv", "moving,fixed\na,\n", "line 2: expected 2 cells with moving and fixed"),
        ("l.csv", "moving,moving,fixed\na,b,c\n", "'moving' comes twice"),
        ("l.csv", "moving,colour\na,b\n", "the column 'colour'"),
        ("l.csv", "moving\na\n", "expected a header with moving, fixed, and some of .*; got moving"),
        ("l.csv", "\n\n", "no pairs in it"),
        ("l.txt", "a b c d\n", "line 1: expected moving fixed, got 'a b c d'"),
        ("l.txt", "a 'b\n", "line 1: a quote that does not end"),
        ("l.txt", "a\0b", "expected text, got a binary file"),
    ],
)
def test_what_cannot_be_read(tmp_path, name, content, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path / name, content, required=("moving", "fixed"), positional=(2,))


def test_bytes_that_are_no_text(tmp_path):
    with pytest.raises(InputError, match="expected text in UTF-8"):
        read(tmp_path / "l.txt", "grüße fixed", "latin-1", positional=(2,))


def test_files_are_beside_the_list_or_here_or_at_home(tmp_path, monkeypatch):
    (tmp_path / "lists").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    listing = Path("lists") / "l.txt"
    (tmp_path / "here.nii").touch()
    assert find_file(listing, "here.nii") == Path("here.nii")
    (tmp_path / "lists" / "here.nii").touch()
    assert find_file(listing, "here.nii") == Path("lists/here.nii")
    assert find_file(listing, "nowhere.nii") == Path("lists/nowhere.nii")
    assert find_file(listing, "~/x.nii") == tmp_path / "home" / "x.nii"
    assert find_file(listing, "/x.nii") == Path("/x.nii")


def test_what_spreadsheets_and_editors_leave(tmp_path):
    wanted = [{"moving": "a.nii", "fixed": "b.nii"}]
    options = {"required": ("moving", "fixed")}
    assert read(tmp_path / "l.csv", "sep=;\r\nmoving;fixed\r\na.nii;b.nii\r\n", **options) == wanted
    assert read(tmp_path / "l.csv", "moving,fixed,,\na.nii,b.nii,,\n,,,\n", **options) == wanted
    assert read(tmp_path / "l.tsv", "moving\tfixed\na.nii\tb.nii\n", **options) == wanted
    assert read(tmp_path / "l.CSV", "\ufeff\ufeffmoving,fixed\na.nii,b.nii\n\x1a", **options) == wanted
    assert read(tmp_path / "l.csv", '"moving","fixed"\n"a.nii","b.nii"\n', **options) == wanted
    with pytest.raises(InputError, match="line 3: expected 2 cells"):
        read(tmp_path / "l.csv", "sep=;\nmoving;fixed\na.nii\n", **options)
    with pytest.raises(InputError, match="line 2: expected 2 cells"):
        read(tmp_path / "l.csv", "moving,fixed,\na.nii,b.nii,c.nii\n", **options)


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-32", "utf-16-le", "mac-roman"])
def test_other_encodings_are_refused_by_name(tmp_path, encoding):
    with pytest.raises(InputError, match=r"pairs .*l\.csv: expected text"):
        read(tmp_path / "l.csv", "moving,fixed\nä.nii,b.nii\n", encoding)


def test_a_home_that_nobody_has(tmp_path):
    assert find_file(tmp_path / "l.txt", "~nobody-of-this-name/a.nii") == tmp_path / "~nobody-of-this-name" / "a.nii"
