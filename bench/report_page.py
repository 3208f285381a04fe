"""The picture of a cohort's report in the documentation: phantoms, no data of anybody's.

python -m bench report-page                # makes demo/report/ and docs/img/report.png; needs Chromium

Nine pairs of people that `fastreg.data.phantom` makes, one whose moving image is a slab of five slices, which is
suspect, and one whose moving image is gone.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from bench import ROOT
from fastreg.data import phantom
from fastreg.io.images import save_image
from fastreg.utils.files import InputError, atomic

PICTURE = ROOT / "docs" / "img" / "report.png"
PEOPLE = 10
SLAB = slice(30, 35)
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars",
)  # fmt: skip


def make_cohort(folder: Path) -> Path:
    """Writes the images, label maps and the list of the pairs, and says where that is."""
    rows = ["name,moving,fixed,moving_labels,fixed_labels"]
    for seed in range(PEOPLE):
        person = phantom.subject(seed)
        save_image(folder / f"{seed}_t1.nii.gz", person.image, phantom.AFFINE)
        save_image(folder / f"{seed}_labels.nii.gz", person.labels, phantom.AFFINE)
        if seed:
            files = [f"{k}_{kind}.nii.gz" for kind in ("t1", "labels") for k in (seed, 0)]
            rows.append(",".join([f"person {seed}", *files]))
    affine = phantom.AFFINE.copy()
    affine[:3, 3] += affine[:3, 2] * SLAB.start
    save_image(folder / "slab_t1.nii.gz", np.ascontiguousarray(person.image[:, :, SLAB]), affine)
    rows += ["five slices,slab_t1.nii.gz,0_t1.nii.gz,,", "person 10,10_t1.nii.gz,0_t1.nii.gz,,"]
    (folder / "pairs.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder / "pairs.csv"


def photograph(page: Path, picture: Path, size: tuple[int, int], part: str = "") -> None:
    """What Chromium shows of a page, or of what `part` of its address leads to, as PNG.

    Raises:
        InputError: it is not installed, or takes no picture.
    """
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise InputError("the picture of a page needs chromium")
    with tempfile.TemporaryDirectory() as profile, atomic(picture) as partial:
        words = [f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}", "--virtual-time-budget=5000"]
        done = subprocess.run(
            [chromium, *_FLAGS, *words, f"--screenshot={partial}", f"{page.resolve().as_uri()}#{part}"],
            capture_output=True,
            text=True,
        )
        if done.returncode or not partial.stat().st_size:
            raise InputError(f"chromium took no picture of {page}: {done.stderr.strip()[-200:]}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes, registers, photographs."""
    parser = argparse.ArgumentParser(prog="python -m bench report-page", description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=ROOT / "demo" / "report", help="for cohort, results and page")
    folder = parser.parse_args(arguments).folder.absolute()
    pairs = make_cohort(folder / "cohort").relative_to(folder)
    words = ("register", "--pairs", pairs, "-o", "phantoms", "--report", "report.html")
    subprocess.run([sys.executable, "-m", "fastreg", *words], cwd=folder, check=False)  # one pair fails
    photograph(folder / "report.html", PICTURE, (1280, 1500), "person%202/deformation")
    print(PICTURE)
    return 0
