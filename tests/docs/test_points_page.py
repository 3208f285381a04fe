"""Every command and the code of docs/points.md run as they stand, on files of the names that they use."""

import re
from pathlib import Path

import nibabel
import numpy as np
import pytest

from fastreg.cli import main
from fastreg.io.images import load_image
from fastreg.io.markups import new_markups
from fastreg.io.points import load_points
from fastreg.io.warps import load_warp
from fastreg.registration.result import RegistrationResult

PAGE = Path(__file__).parents[2] / "docs" / "points.md"
PLACES = np.array([[-14.0, 18, 22], [-30, 22, 30]])


@pytest.mark.slow
def test_the_page_does_what_it_says(blobs, tmp_path, monkeypatch):
    folder = blobs(2)
    monkeypatch.chdir(folder)
    for name, image in (("fixed", "s0_image"), ("moving", "s1_image")):
        Path(f"{image}.nii.gz").rename(f"{name}.nii.gz")
    Path("landmarks.fcsv").write_bytes(new_markups(PLACES * [-1, -1, 1], None, ".fcsv"))
    tractogram = nibabel.streamlines.Tractogram([PLACES.astype(np.float32)], affine_to_rasmm=np.eye(4))
    nibabel.streamlines.save(tractogram, "tracts.trk", header={"dimensions": np.array([9, 9, 9], np.int16)})
    commands = re.findall(r"^    fastreg (.*)$", PAGE.read_text(), re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        with pytest.raises(SystemExit) as end:
            main(command.split())
        assert end.value.code == 0, command
    assert load_points("landmarks_moving.csv").labels == ("F-1", "F-2")
    np.testing.assert_allclose(
        load_points("tracts_fixed.trk").points, load_points("mapped.trk").points, atol=1e-3
    )  # the one command does what the two do
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    before = load_points("landmarks_moving.fcsv").points
    moving = load_image("moving.nii.gz")
    result = RegistrationResult(load_image("fixed.nii.gz"), moving, load_warp("warp.nii.gz", moving=moving))
    exec(compile(code, "points.md", "exec"), {"result": result})
    np.testing.assert_allclose(load_points("landmarks_moving.fcsv").points, before, atol=1e-3)
