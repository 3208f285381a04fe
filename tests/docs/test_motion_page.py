"""Every command and the code of docs/motion.md run as they stand, on files of the names that they use."""

import re
from pathlib import Path

import nibabel
import numpy as np
import pytest
from helpers.moving_head import AFFINE, SHAPE, head, path_of, series_of

from fastreg.cli import main
from fastreg.geometry.image import affine_field
from fastreg.geometry.transforms import Affine, Warp
from fastreg.io.affines import save_affine
from fastreg.io.images import save_image
from fastreg.io.warps import save_warp

PAGE = Path(__file__).parents[2] / "docs" / "motion.md"


@pytest.mark.slow
def test_the_page_does_what_it_says(tmp_path, monkeypatch, threads):
    pytest.importorskip("matplotlib")
    threads(1)  # the images are small
    monkeypatch.chdir(tmp_path)
    nibabel.save(series_of(path_of(4)), "bold.nii.gz")
    affine = np.diag([-5.0, 5, 5, 1])
    affine[:3, 3] = [75, -100, -50]
    save_image("t1.nii.gz", head(affine_field(affine[:3], (30, 36, 26))), affine)
    save_affine("t1_to_template.mat", Affine(np.eye(4)))
    save_warp("distortion.nii.gz", Warp.from_displacement_mm(np.zeros((*SHAPE, 3)), AFFINE))
    commands = re.findall(r"^    fastreg (.*)$", PAGE.read_text(), re.MULTILINE)
    assert len(commands) == 6
    for command in commands:
        with pytest.raises(SystemExit) as end:
            main(command.split())
        assert end.value.code == 0, command
    one, other = (np.asanyarray(nibabel.load(f"bold_{name}.nii.gz").dataobj) for name in ("template", "t1"))
    np.testing.assert_allclose(one, other, atol=0.05)  # the one command does what the three do
    assert np.loadtxt("fd.txt").shape == (4,) and np.loadtxt("motion.par").shape == (4, 6)
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "motion.md", "exec"), names)
    np.testing.assert_array_equal(names["rmsd"], names["found"].rms_mm)
