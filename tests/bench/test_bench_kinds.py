"""Pairs of any kind: files made ready, and ITK as the judge of what programs leave."""

import csv
import json

import numpy as np
import pytest

pytest.importorskip("SimpleITK")
pytest.importorskip("scipy")

import SimpleITK as sitk

from bench.registration import kinds

COLUMNS = ("kind", "pair", "fixed", "moving", "fixed_labels", "moving_labels", "fixed_points", "moving_points")


@pytest.fixture
def folder(tmp_path):
    """A volume with 4-D labels and points, 3 mm to the side of the other; a picture in colour; a pair without truth."""
    labels = np.zeros((2, 6, 8, 10), np.float32)
    labels[0, 1:4, 2:6, 2:5] = 1
    for who, shift in (("fixed", 0), ("moving", 1)):
        image = sitk.GetImageFromArray(np.roll(labels, shift, axis=3), isVector=False)
        image.SetSpacing((3.0, 1.0, 1.0, 1.0))
        sitk.WriteImage(image, str(tmp_path / f"{who}_labels.nii.gz"))
        sitk.WriteImage(image[:, :, :, 0], str(tmp_path / f"{who}.nii.gz"))
        (tmp_path / f"{who}.csv").write_text(f"id,x,y,z\n1,{6 + 3 * shift},2,1\n2,{9 + 3 * shift},3,2\n")
        pixels = np.zeros((6, 9, 3), np.uint8)
        pixels[2:4, 3 + shift : 6 + shift] = (255, 0, 100)
        sitk.WriteImage(sitk.GetImageFromArray(pixels, isVector=True), str(tmp_path / f"{who}.png"))
        sitk.WriteImage(sitk.GetImageFromArray((pixels[..., 0] > 0).astype(np.uint8)), str(tmp_path / f"{who}_l.png"))
        (tmp_path / f"{who}_l.csv").write_text(f"id,x,y\n1,{3 + shift},2\n")
    with (tmp_path / "pairs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        volume = ["knee", "a", *(f"{who}{what}" for what in (".nii.gz", "_labels.nii.gz", ".csv")
                                for who in ("fixed", "moving"))]  # fmt: skip
        writer.writerows([volume, ["leaf", "b", "fixed.png", "moving.png", "fixed_l.png", "moving_l.png",
                                   "fixed_l.csv", "moving_l.csv"],
                          ["look", "c", "fixed.png", "moving.png", "", "", "", ""]])  # fmt: skip
    return tmp_path


def shifted(pair, out, mm):
    """What a program leaves that moves by so many mm along x, as a field and a matrix that undoes nothing."""
    like = sitk.ReadImage(str(pair.labels[0]))
    move = sitk.TranslationTransform(like.GetDimension(), [mm] + [0.0] * (like.GetDimension() - 1))
    field = sitk.TransformToDisplacementField(
        move, sitk.sitkVectorFloat64, like.GetSize(), like.GetOrigin(), like.GetSpacing(), like.GetDirection()
    )
    sitk.WriteImage(field, str(out / "warp.nii.gz"))
    sitk.WriteTransform(sitk.AffineTransform(like.GetDimension()), str(out / "affine.mat"))
    moved = sitk.Resample(sitk.ReadImage(str(pair.labels[1])), like, move, sitk.sitkNearestNeighbor)
    sitk.WriteImage(moved, str(out / "moved_labels.nii.gz"))
    return [str(out / "warp.nii.gz"), str(out / "affine.mat")]


@pytest.mark.parametrize(("name", "mm", "before"), [("a", 3.0, 3.0), ("b", 1.0, 1.0)])
def test_transforms_of_a_peer_are_judged(folder, tmp_path, name, mm, before):
    rows = {row["pair"]: row for row in kinds.kinds_of(folder)}
    assert list(rows) == ["a", "b"]  # one without labels and points proves nothing
    with kinds.prepared(folder, rows[name]) as pair:
        start = pair.before()
        assert start["tre"] == pytest.approx(before) and start["dice"] == pytest.approx(2 / 3) and start["hd95"] > 0
        out = tmp_path / "out"
        out.mkdir()
        (out / "result.json").write_text(json.dumps({"transforms": shifted(pair, out, mm)}))
        assert pair.judged(out) == {"dice": 1, "hd95": 0, "tre": pytest.approx(0, abs=1e-6)}
        assert pair.flat == (name == "b") and pair.job["labels"] == pair.labels[1]


def test_points_and_labels_of_the_command_are_judged(folder, tmp_path):
    """Of a picture fastreg has rows first, in points and in NIfTI files."""
    row = next(row for row in kinds.kinds_of(folder) if row["pair"] == "b")
    with kinds.prepared(folder, row) as pair:
        assert pair.listed.read_text().split() == ["x,y", "2.00000,3.00000"]
        (tmp_path / "mapped_points.csv").write_text("x,y\n2,4\n")
        fixed = sitk.GetArrayFromImage(sitk.ReadImage(str(pair.labels[0])))
        sitk.WriteImage(sitk.GetImageFromArray(fixed.T), str(tmp_path / "moved_labels.nii.gz"))
        (tmp_path / "result.json").write_text(json.dumps({"transforms": []}))
        assert pair.judged(tmp_path) == {"dice": 1, "hd95": 0, "tre": 0}
