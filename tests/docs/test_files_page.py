"""Every command of docs/files.md runs as it stands, on files of the names that it uses."""

import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from fastreg.cli import main
from fastreg.io.images import WRITTEN, load_image, save_image
from fastreg.io.markups import new_markups
from fastreg.io.points import ENDINGS
from fastreg.io.transforms import TRANSFORM_ENDINGS

PAGE = Path(__file__).parents[2] / "docs" / "files.md"
PLACES = np.array([[-14.0, 18, 22], [-30, 22, 30], [-20, 10, 20], [-25, 30, 28]])


@pytest.mark.slow
def test_the_page_does_what_it_says(blobs, tmp_path, monkeypatch):
    pillow = pytest.importorskip("PIL.Image")
    folder = blobs(2)
    monkeypatch.chdir(folder)
    for name, image in (("fixed", "s0_image"), ("moving", "s1_image")):
        Path(f"{image}.nii.gz").rename(f"{name}.nii.gz")
    for name in ("f.fcsv", "m.fcsv"):
        Path(name).write_bytes(new_markups(PLACES * [-1, -1, 1], None, ".fcsv"))
    save_image("scan.nrrd", load_image("fixed.nii.gz"))
    y, x = np.mgrid[:80, :90]
    for name, shift in (("he.png", 0), ("ihc.tif", 3)):
        bumps = 120 + 60 * np.sin((x + shift) / 7) * np.cos(y / 9) + 40 * np.cos((x + shift + 2 * y) / 13)
        pillow.fromarray(np.dstack([bumps, bumps / 2, 255 - bumps]).astype(np.uint8)).save(name)
    commands = re.findall(r"^    fastreg (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(commands) == 11
    for command in commands:
        quick = (
            ["--levels", "2x3", "--device", "cpu"]
            if command.startswith("register") and "--levels" not in command
            else []
        )
        with pytest.raises(SystemExit) as end:
            main([*command.split(), *quick, *(["--overwrite"] if " -o moved.nii.gz" in command else [])])
        assert end.value.code == 0, command
    again = sitk.ReadTransform("both.h5")
    assert (
        again.GetDimension() == 3 and nibabel.load("fixed_in_moving.nii.gz").shape == load_image("moving.nii.gz").shape
    )


def test_the_tables_name_what_is_written():
    text = PAGE.read_text(encoding="utf-8")
    images, transforms, points = (text.split(f"## {name}")[1] for name in ("Images", "Transforms", "Points, surfaces"))
    for name, endings in ((images, WRITTEN), (transforms, TRANSFORM_ENDINGS), (points, ENDINGS)):
        missing = [ending for ending in endings if ending.lstrip(".").lower() not in name.lower()]
        assert not missing
