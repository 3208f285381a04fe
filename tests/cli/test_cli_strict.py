"""`register --strict`: a doubtful result is written all the same, and the exit code says so."""

import numpy as np
import pytest

from fastreg.cli import main
from fastreg.geometry.image import Image
from fastreg.io.images import save_image


@pytest.fixture
def strangers(tmp_path):
    """Two images that have nothing in common."""
    for name in ("fixed", "moving"):
        data = np.random.default_rng(len(name)).normal(100, 20, (16, 18, 20)).astype(np.float32)
        save_image(tmp_path / f"{name}.nii.gz", Image(data, np.eye(4)))
    return tmp_path


def ended(capsys, *words):
    """The exit code, and everything that was said."""
    with pytest.raises(SystemExit) as end:
        main([str(word) for word in words])
    out, err = capsys.readouterr()
    return end.value.code, out + err


def words(folder, *more):
    given = ("-f", folder / "fixed.nii.gz", "-m", folder / "moving.nii.gz", "-o", folder / "moved.nii.gz")
    return ("register", *given, "--metric", "lncc", "--init", "header", "--transform", "rigid", "--overwrite", *more)


@pytest.mark.parametrize("more", [(), ("--json",)])
def test_a_suspect_result_ends_with_1_where_that_is_asked_for(strangers, capsys, more):
    code, said = ended(capsys, *words(strangers, *more))
    assert code == 0 and "the contrasts seem to differ" in said
    (strangers / "moved.nii.gz").unlink()
    strict, said = ended(capsys, *words(strangers, "--strict", *more))
    assert strict == 1 and "the contrasts seem to differ" in said
    assert (strangers / "moved.nii.gz").is_file(), "it is written all the same"


def test_a_sound_result_ends_with_0(strangers, capsys):
    (strangers / "moving.nii.gz").write_bytes((strangers / "fixed.nii.gz").read_bytes())
    assert ended(capsys, *words(strangers, "--strict"))[0] == 0
