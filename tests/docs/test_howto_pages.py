"""Every command of the how-to pages runs as it stands, on files of the names that they use."""

import re
from pathlib import Path

import numpy as np
import pytest

from fastreg.cli import main
from fastreg.geometry.image import Image
from fastreg.io.images import load_image, save_image
from fastreg.io.markups import new_markups

DOCS = Path(__file__).parents[2] / "docs"
PAGES = {"channels.md": 4, "budgets.md": 2, "pipelines.md": 3, "within_subject.md": 1}
"""Page -> its commands."""
PLACES = np.array([[-14.0, 18, 22], [-30, 22, 30], [-20, 10, 20], [-25, 30, 28]])
QUICK = ("--levels", "2x3", "--device", "cpu")


@pytest.fixture
def folder(blobs, tmp_path, monkeypatch):
    """The pages' files."""
    made = blobs(2)
    monkeypatch.chdir(made)
    for name, image in (("fixed", "s0"), ("moving", "s1")):
        scan = load_image(f"{image}_image.nii.gz")
        save_image(f"{name}.nii.gz", scan)
        save_image(f"{name}_t1.nii.gz", scan)
        save_image(f"{name}_t2.nii.gz", Image(300 - scan.data, scan.affine))
        Path(f"{image}_labels.nii.gz").rename(f"{name}_labels.nii.gz")
        save_image(f"{name}_mask.nii.gz", Image(np.ones(scan.shape, np.uint8), scan.affine))
        Path(f"{name}.fcsv").write_bytes(new_markups(PLACES * [-1, -1, 1], None, ".fcsv"))
    for k, name in ((1, "fixed"), (2, "fixed")):
        save_image(f"visit{k}.nii.gz", load_image(f"{name}.nii.gz"))
    return made


@pytest.mark.slow
@pytest.mark.parametrize("page", list(PAGES))
def test_the_commands_of_a_page_run(folder, page):
    commands = re.findall(r"^    fastreg (.*)$", (DOCS / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert len(commands) == PAGES[page]
    for command in commands:
        words = command.split()
        budget = {"--preset", "--seconds", "--within-subject"} & set(words)
        quick = QUICK if words[0] == "register" and not budget else ()
        with pytest.raises(SystemExit) as end:
            main([*words, *quick])
        assert end.value.code == 0, command
