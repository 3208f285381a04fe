"""Descriptions of commands for pipelines and 3D Slicer."""

import json
from xml.etree import ElementTree

import pytest
import SimpleITK as sitk

from fastreg.cli import main
from fastreg.cli._describe import options_of
from fastreg.cli._paths import WRITTEN
from fastreg.io.transforms import load_transforms
from fastreg.io.warps import load_warp

COMMANDS = ("register", "warp", "compose", "invert", "evaluate", "template")


def fastreg(capsys, *words):
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    captured = capsys.readouterr()
    assert ended.value.code == 0, captured.err
    return captured.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_the_help_is_described(capsys, command):
    found = json.loads(fastreg(capsys, "describe", command))
    help_text = fastreg(capsys, command, "--help")
    names = {option.name for option in options_of(command)}
    assert set(WRITTEN.get(command, ())) <= names
    keys = [entry["value-key"] for entry in found["inputs"]]
    assert len(set(keys)) == len(keys) and all(key in found["command-line"] for key in keys)
    for entry in found["inputs"]:
        assert entry["command-line-flag"] in help_text and entry["description"]
        assert entry["type"] in ("File", "String", "Number", "Flag")
    for output in found.get("output-files", []):
        assert output["path-template"] in keys
    root = ElementTree.fromstring(fastreg(capsys, "describe", command, "--format", "slicer"))
    flags = {element.text for element in root.iter("longflag")}
    assert flags == {entry["command-line-flag"] for entry in found["inputs"]}
    for element in root.iter("string-enumeration"):
        assert len(element.findall("element")) > 1


@pytest.mark.parametrize("command", COMMANDS)
def test_boutiques_takes_the_descriptor(capsys, tmp_path, command):
    boutiques = pytest.importorskip("boutiques")
    fastreg(capsys, "describe", command, "-o", tmp_path / "d.json")
    boutiques.validate(str(tmp_path / "d.json"))


@pytest.mark.slow
def test_boutiques_runs_the_command_that_it_says(capsys, tmp_path, blobs):
    found = json.loads(fastreg(capsys, "describe", "register"))
    folder = blobs(2)
    given = {
        "[FIXED]": f"--fixed {folder}/s0_image.nii.gz", "[MOVING]": f"--moving {folder}/s1_image.nii.gz",
        "[WARP]": f"--warp {tmp_path}/w.nii.gz", "[PRESET]": "--preset fast", "[DEVICE]": "--device cpu",
    }  # fmt: skip
    line = " ".join(given.get(word, "" if word.startswith("[") else word) for word in found["command-line"].split())
    fastreg(capsys, *line.split()[1:])
    assert load_warp(tmp_path / "w.nii.gz").fixed_shape == (24, 20, 28)


@pytest.mark.slow
def test_bids_names(capsys, tmp_path, blobs):
    folder = blobs(2)
    words = ["register", "-f", folder / "s0_image.nii.gz", "-m", folder / "s1_image.nii.gz", "--levels", "2x5,1x2"]
    words += ["--device", "cpu", "--bids-prefix", tmp_path / "out" / "sub-01"]
    fastreg(capsys, *words, "--bids-spaces", "T1w,MNI")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["sub-01_from-MNI_to-T1w_mode-image_xfm.h5", "sub-01_from-T1w_to-MNI_mode-image_xfm.h5"]
    forth = sitk.ReadTransform(str(tmp_path / "out" / names[1]))
    (ours,) = load_transforms(tmp_path / "out" / names[1])
    place = ours.fixed_affine[:3, :3] @ [12, 10, 14] + ours.fixed_affine[:3, 3]
    there = forth.TransformPoint((place * [-1, -1, 1]).tolist())
    assert there == pytest.approx(ours(place[None])[0] * [-1, -1, 1], abs=1e-3)
    with pytest.raises(SystemExit):
        main([str(word) for word in (*words, "--bids-spaces", "T1w")])
    assert "--bids-prefix and --bids-spaces go together" in capsys.readouterr().err
