"""`fastreg report` and `fastreg register --report`, as a user calls them."""

import json

import numpy as np
import pytest

pytest.importorskip("PIL")

from fastreg.cli import main
from fastreg.io.images import save_image
from fastreg.plots.report.page import is_page

FAST = ("--transform", "translation", "--affine", "--init", "header")


def run(capsys, *words):
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    return end.value.code, out, err


def report(page):
    text = page.read_text(encoding="utf-8")
    return json.loads(text.partition('id="report">')[2].partition("</script>")[0]), text


@pytest.fixture
def pairs(blobs):
    """Three pairs in a list: one is whole, one has no moving image, one has a name of its own."""
    folder = blobs(3)
    rows = [
        "s1,s1_image.nii.gz,s0_image.nii.gz",
        "lost,none.nii.gz,s0_image.nii.gz",
        "<é & ü>,s2_image.nii.gz,s0_image.nii.gz",
    ]
    (folder / "pairs.csv").write_text("\n".join(["name,moving,fixed", *rows]) + "\n", encoding="utf-8")
    return folder / "pairs.csv"


@pytest.mark.slow
def test_many_pairs_and_their_page(pairs, capsys, tmp_path):
    out, page = tmp_path / "out", tmp_path / "pages" / "all.html"
    words = ("register", "--pairs", pairs, "-o", out, *FAST, "--report", page)
    code, _, err = run(capsys, *words, "--part", "1/2")
    assert code == 0 and not page.exists()  # of all pairs the other process has one
    code, _, err = run(capsys, *words)
    assert code == 1 and "1 of 3 pairs failed" in err and is_page(page)
    run(capsys, *words)  # goes on, and its own page is no obstacle
    found, _ = report(page)
    states = {row["name"]: row["state"] for row in found["rows"]}
    assert states["lost"] == "failed" and set(states) == {"s1", "lost", "<é & ü>"}
    assert found["options"]["transform"] == "translation" and "fastreg" in found["made"]

    code, said, err = run(capsys, "report", out)
    assert code == 0 and "failed: lost: moving image" in said and "3/3" in err
    again, text = report(out / "report.html")
    figures = {row["name"]: row["figures"] for row in found["rows"]}
    assert {row["name"]: row["figures"] for row in again["rows"]} == figures
    assert text.count('id="views-') == 2 and figures["s1"]["overlap"] > 0.5
    assert run(capsys, "report", out)[0] == 1  # exists
    code, said, _ = run(capsys, "report", out, "--overwrite", "--strict", "--json")
    assert code == 1 and [pair["name"] for pair in json.loads(said)["pairs"]] == ["<é & ü>", "lost", "s1"]

    (pairs.parent / "s2_image.nii.gz").unlink()
    (pairs.parent / "s0_image.nii.gz").write_bytes(b"no image")
    (out / "s1" / "pair.json").write_text("{")
    assert run(capsys, "report", out, "--overwrite")[0] == 0
    found, text = report(out / "report.html")
    rows = {row["name"]: row for row in found["rows"]}
    assert rows["s1"]["state"] == "unreadable" and "expected one that fastreg register wrote" in rows["s1"]["why"]
    assert rows["<é & ü>"]["note"].startswith("No pictures: fixed image") and 'id="views-' not in text


@pytest.mark.slow
def test_one_pair_and_its_page(blobs, capsys, tmp_path):
    folder = blobs(2)
    pair = ("register", "-f", folder / "s0_image.nii.gz", "-m", folder / "s1_image.nii.gz", *FAST)
    labels = ("--fixed-labels", folder / "s0_labels.nii.gz", "--moving-labels", folder / "s1_labels.nii.gz")
    code, said, err = run(capsys, *pair, *labels, "--report", tmp_path / "one.html")
    assert code == 0 and "one.html" in said, err
    found, text = report(tmp_path / "one.html")
    (row,) = found["rows"]
    assert row["name"] == "s1_image to s0_image" and row["figures"]["dice"] > 0.1 and 'id="views-0"' in text
    assert row["fixed"].endswith("s0_image.nii.gz") and len(text) < 2_000_000
    code, _, err = run(capsys, *pair, "--report", tmp_path / "one.html")
    assert code == 1 and "one.html exists; use --overwrite" in err
    code, _, err = run(capsys, *pair, "--report", tmp_path / "one.pdf")
    assert code == 1 and "expected a name that ends in .html, .htm" in err


@pytest.mark.slow
def test_pictures_of_two_axes_by_a_list(tmp_path, capsys):
    rng = np.random.default_rng(0)
    index = np.indices((60, 50))
    picture = (120 + 100 * np.sin(index[0] / 7) * np.cos(index[1] / 5) + rng.normal(0, 2, (60, 50))).clip(0, 255)
    for name, shift in (("fixed", 0), ("moving", 4)):
        save_image(tmp_path / f"{name}.png", np.roll(picture, shift, 0).astype(np.uint8), np.eye(4))
    pair = ("-f", tmp_path / "fixed.png", "-m", tmp_path / "moving.png")
    code, _, err = run(
        capsys, "register", *pair, *FAST, "--warp", tmp_path / "warp.nii.gz", "-o", tmp_path / "moved.nii.gz"
    )
    assert code == 0, err
    (tmp_path / "done.csv").write_text("moving,fixed,moved,warp\nmoving.png,fixed.png,moved.nii.gz,warp.nii.gz\n")
    code, said, err = run(capsys, "report", tmp_path / "done.csv", "--title", "Sections")
    assert code == 0 and f"written: {tmp_path / 'done.html'}" in said, err
    found, text = report(tmp_path / "done.html")
    assert "<title>Sections</title>" in text and found["rows"][0]["figures"]["overlap"] > 0.9


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["{t}/none"], "none: no such file"),
        (["{t}"], "expected a folder of fastreg register --pairs"),
        (["{t}", "-o", "{t}/page.pdf"], "expected a name that ends in .html"),
        (["{t}/list.csv", "-o", "{t}/list.csv"], "output --output is the input --source"),
        (["{t}/list.csv", "-o", "{t}/x.html"], "expected a header with"),
    ],
)
def test_what_is_refused(words, said, tmp_path, capsys):
    (tmp_path / "list.csv").write_text("a,b\n1,2\n")
    code, _, err = run(capsys, "report", *[word.format(t=tmp_path) for word in words])
    assert code == 1 and said in err and err.count("\n") == 1


def test_without_pillow_it_says_so_before_the_work(tmp_path, capsys, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    code, _, err = run(capsys, "report", tmp_path)
    assert code == 1 and "needs Pillow: pip install 'fastreg[plot]'" in err
