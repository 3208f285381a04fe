"""Every command of docs/report.md runs as it stands, on files of the names that it uses."""

import re
import shlex
from pathlib import Path

import pytest

pytest.importorskip("PIL")

from fastreg.cli import main
from fastreg.plots.report.page import is_page
from fastreg.plots.report.viewer import vendored
from fastreg.utils.files import InputError

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "report.md").read_text()


@pytest.mark.slow
def test_the_page_does_what_it_says(blobs, monkeypatch):
    folder = blobs(2)
    monkeypatch.chdir(folder)
    for name, image in (("fixed", "s0_image"), ("moving", "s1_image")):
        Path(f"{image}.nii.gz").rename(f"{name}.nii.gz")
    Path("pairs.csv").write_text("name,moving,fixed\npair,moving.nii.gz,fixed.nii.gz\n")
    Path("done.csv").write_text("fixed,moving,warp\nfixed.nii.gz,moving.nii.gz,out/pair/warp.nii.gz\n")
    commands = re.findall(r"^    fastreg (.*)$", PAGE, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        with pytest.raises(SystemExit) as end:
            main(shlex.split(command))
        assert end.value.code == 0, command
    assert all(is_page(Path(name)) for name in ("out/report.html", "page.html", "done.html"))
    try:
        size = len(vendored()[0])
    except InputError:
        return
    assert round(size / 1e6, 1) == float(re.search(r"NiiVue.*, ([\d.]+) MB once", PAGE)[1])


def test_the_views_are_those_of_the_page():
    script = (ROOT / "fastreg" / "plots" / "report" / "page.js").read_text()
    views = re.findall(r'"(\w+)"', re.search(r"VIEWS = \[(.*)\]", script)[1])
    assert views == re.findall(r"^\| (\w+) \|", PAGE.partition("| view | |")[2], re.MULTILINE)
