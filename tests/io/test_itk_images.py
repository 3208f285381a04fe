"""NRRD, MetaImage and DICOM: what other libraries wrote is read to the same voxels at the same places, and back."""

import locale

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from fastreg.geometry.image import Image
from fastreg.io.images import load_image, load_labels, save_image
from fastreg.utils.files import InputError


def volume(shape=(7, 9, 5), dtype=np.int16, seed=0):
    return np.random.default_rng(seed).integers(-50, 1000, shape).astype(dtype)


def oblique(seed=1):
    q, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3, :3] = q @ np.diag([1.0, 1.5, 2.5])
    affine[:3, 3] = [-20, 30, 10]
    return affine


@pytest.mark.parametrize("ending", ["nrrd", "mha", "mhd", "nhdr", "vtk", "gipl"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_simple_itk_and_nibabel_agree_on_what_we_read(tmp_path, ending, dtype):
    data, affine = volume(dtype=dtype), oblique() if ending not in ("vtk", "gipl") else np.diag([-1.0, -1.5, 2.5, 1])
    nibabel.save(nibabel.Nifti1Image(data, affine), tmp_path / "a.nii.gz")
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "a.nii.gz")), str(tmp_path / f"a.{ending}"))
    read = load_image(tmp_path / f"a.{ending}", integers=True)
    assert np.array_equal(read.data, data) and read.data.dtype == dtype
    np.testing.assert_allclose(read.affine, affine, atol=1e-4)
    assert load_labels(tmp_path / f"a.{ending}").data.dtype.kind in "iu"


@pytest.mark.parametrize("ending", ["nrrd", "mha", "mgz"])
@pytest.mark.parametrize("data", [volume(), volume(dtype=np.float32) / 7, volume(dtype=np.uint8)])
def test_others_read_what_we_write(tmp_path, ending, data):
    path = tmp_path / f"a.{ending}"
    save_image(path, data, oblique())
    if ending == "mgz":
        theirs = nibabel.load(path)
        voxels, affine = np.asarray(theirs.dataobj), theirs.affine
    else:
        theirs = sitk.ReadImage(str(path))
        voxels = sitk.GetArrayFromImage(theirs).T
        corner = np.array(theirs.TransformIndexToPhysicalPoint((3, 4, 2))) * [-1, -1, 1]
        affine = oblique()
        np.testing.assert_allclose(corner, (affine @ [3, 4, 2, 1])[:3], atol=1e-4)
    assert np.array_equal(voxels, data)
    np.testing.assert_allclose(affine, oblique(), atol=1e-5)
    read = load_image(path, integers=True)
    assert np.array_equal(read.data, data)
    np.testing.assert_allclose(read.affine, oblique(), atol=1e-5)


def test_pynrrd_reads_what_we_write_and_the_other_way(tmp_path):
    nrrd = pytest.importorskip("nrrd")
    save_image(tmp_path / "a.nrrd", volume(), oblique())
    data, header = nrrd.read(str(tmp_path / "a.nrrd"))
    assert np.array_equal(data, volume()) and header["space"] == "left-posterior-superior"
    flip = np.diag([-1, -1, 1])
    np.testing.assert_allclose(header["space directions"].T, flip @ oblique()[:3, :3], atol=1e-6)
    ras = {"space": "RAS", "space directions": oblique()[:3, :3].T, "space origin": oblique()[:3, 3]}
    nrrd.write(str(tmp_path / "b.nrrd"), volume(), header=ras)
    read = load_image(tmp_path / "b.nrrd", integers=True)
    assert np.array_equal(read.data, volume())
    np.testing.assert_allclose(read.affine, oblique(), atol=1e-6)


def test_flat_images_keep_their_plane(tmp_path):
    coronal = np.array([[1.0, 0, 0, 4], [0, 0, 1, 5], [0, 2, 0, 6], [0, 0, 0, 1]])
    save_image(tmp_path / "a.mha", Image(volume((7, 9)), coronal))
    read = load_image(tmp_path / "a.mha", ndim=2)
    np.testing.assert_allclose(read.affine[:3, [0, 1, 3]], coronal[:3, [0, 1, 3]], atol=1e-6)
    assert np.array_equal(read.data, volume((7, 9)))
    axial = np.diag([-2.0, -3, 1, 1])
    save_image(tmp_path / "b.nrrd", Image(volume((7, 9)), axial))
    assert load_image(tmp_path / "b.nrrd").shape == (7, 9)
    np.testing.assert_allclose(load_image(tmp_path / "b.nrrd").affine, axial)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", ["nrrd", "mha"])
def test_damage_is_refused(tmp_path, ending, packed):
    path = tmp_path / f"a.{ending}"
    sitk.WriteImage(sitk.GetImageFromArray(volume((20, 20, 20))), str(path), useCompression=packed)
    content = path.read_bytes()
    for share in (0.01, 0.5, 0.999):
        path.write_bytes(content[: int(len(content) * share)])
        with pytest.raises(InputError, match="not an image that can be read, or cut short"):
            load_image(path)
    if packed:
        path.write_bytes(content[:-3000] + bytes([content[-3000] ^ 255]) + content[-2999:])
        with pytest.raises(InputError, match="not an image that can be read, or cut short"):
            load_image(path)
    path.write_bytes(content.replace(b"20 20 20", b"99999 99999 9"))
    with pytest.raises(InputError):
        load_image(path)


def test_reading_leaves_the_locale_as_it_was(tmp_path):
    sitk.WriteImage(sitk.GetImageFromArray(volume()), str(tmp_path / "a.vtk"))
    before = locale.setlocale(locale.LC_ALL)
    load_image(tmp_path / "a.vtk")
    assert locale.setlocale(locale.LC_ALL) == before


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    import sys

    sitk.WriteImage(sitk.GetImageFromArray(volume()), str(tmp_path / "a.nrrd"))
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(InputError, match=r"image .*a.nrrd: needs SimpleITK: pip install 'fastreg\[io\]'"):
        load_image(tmp_path / "a.nrrd")


# ---------------------------------------------------------------- DICOM


def slices(folder, data, affine, *, series="1.2.3", places=None, slopes=None, prefix="im"):
    """One file a slice, in a shuffled order of names, by pydicom."""
    pydicom = pytest.importorskip("pydicom")
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    folder.mkdir(exist_ok=True)
    lps = np.diag([-1, -1, 1, 1]) @ affine
    across, down = (lps[:3, k] / np.linalg.norm(lps[:3, k]) for k in (0, 1))
    for k in range(data.shape[2]):
        place = lps[:3, 3] + lps[:3, 2] * (k if places is None else places[k])
        ds = pydicom.Dataset()
        ds.file_meta = pydicom.dataset.FileMetaDataset()
        ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.4"
        ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
        ds.SeriesInstanceUID, ds.StudyInstanceUID, ds.Modality = series, "1.2", "MR"
        ds.SeriesNumber, ds.SeriesDescription = 4, "T1 axial"
        ds.ImagePositionPatient = [f"{x:.10g}" for x in place]
        ds.ImageOrientationPatient = [f"{x:.10g}" for x in (*across, *down)]
        ds.PixelSpacing = [f"{np.linalg.norm(lps[:3, a]):.10g}" for a in (1, 0)]
        ds.SliceThickness = f"{np.linalg.norm(lps[:3, 2]):.10g}"
        ds.Rows, ds.Columns = data.shape[1], data.shape[0]
        ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
        ds.BitsAllocated = ds.BitsStored = 16
        ds.HighBit, ds.PixelRepresentation = 15, 1
        if slopes is not None:
            ds.RescaleSlope, ds.RescaleIntercept = str(slopes[k]), "-3"
        ds.PixelData = np.ascontiguousarray(data[:, :, k].T).astype("<i2").tobytes()
        ds.save_as(folder / f"{prefix}{(k * 3) % data.shape[2]:03}.dcm", enforce_file_format=True)


def square(seed=1):
    """Oblique, with slices at right angles."""
    return oblique(seed)


def test_a_dicom_folder_is_a_volume(tmp_path):
    slices(tmp_path / "dicom", volume(), square())
    image = load_image(tmp_path / "dicom", integers=True)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(tmp_path / "dicom")))
    theirs = reader.Execute()
    order = slice(None) if np.array_equal(image.data, sitk.GetArrayFromImage(theirs).T) else slice(None, None, -1)
    assert np.array_equal(image.data, sitk.GetArrayFromImage(theirs).T[..., order])
    back = np.linalg.inv(square())
    for index in ((0, 0, 0), (6, 8, 4), (2, 5, 1)):
        place = image.affine @ [*index, 1]
        voxel = np.rint(back @ place)[:3].astype(int)
        np.testing.assert_allclose(back @ place, [*voxel, 1], atol=1e-4)
        assert volume()[tuple(voxel)] == image.data[index]
    one = load_image(tmp_path / "dicom" / "im002.dcm", integers=True)
    assert np.array_equal(one.data, image.data)


def test_every_slice_has_its_own_rescaling(tmp_path):
    slopes = [1, 0.5, 2.25, 1, 3]
    slices(tmp_path / "dicom", volume(), square(), slopes=slopes)
    image = load_image(tmp_path / "dicom")
    back = np.linalg.inv(square())
    k = [int(np.rint((back @ image.affine @ [0, 0, z, 1])[2])) for z in range(5)]
    expected = np.stack([volume()[..., z] * slopes[z] - 3.0 for z in k], -1)
    np.testing.assert_allclose(image.data, expected, rtol=1e-6)


def test_what_is_no_stack_is_refused(tmp_path):
    slices(tmp_path / "gap", volume(), square(), places=[0, 1, 2, 4, 5])
    with pytest.raises(InputError, match=r"expected slices at equal distances, got 2.5 to 5 mm, the widest after"):
        load_image(tmp_path / "gap")
    slices(tmp_path / "twice", volume(), square(), places=[0, 1, 1, 2, 3])
    with pytest.raises(InputError, match="several slices in one place"):
        load_image(tmp_path / "twice")
    slices(tmp_path / "two", volume(), square())
    slices(tmp_path / "two", volume(seed=2), square(), series="1.2.4", prefix="other")
    with pytest.raises(InputError, match=r"expected one DICOM series, got 2; .* im000.dcm \(series 4, T1 axial, 5"):
        load_image(tmp_path / "two")
    one = load_image(tmp_path / "two" / "other001.dcm", integers=True)
    assert sorted(one.data.flat) == sorted(volume(seed=2).flat)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="a folder without a DICOM series"):
        load_image(tmp_path / "empty")


def test_a_tilted_gantry_is_a_sheared_volume(tmp_path):
    affine = np.diag([1.0, 1.5, 3, 1])
    affine[1, 2] = 1.0
    slices(tmp_path / "tilt", volume(), affine)
    with pytest.warns(UserWarning, match="sheared"):
        image = load_image(tmp_path / "tilt", integers=True)
    place = image.affine @ [1, 2, 3, 1]
    voxel = np.linalg.inv(affine) @ place
    np.testing.assert_allclose(voxel, np.rint(voxel), atol=1e-4)
    assert image.data[1, 2, 3] == volume()[tuple(np.rint(voxel[:3]).astype(int))]


def test_a_cut_slice_does_not_go_unsaid(tmp_path):
    slices(tmp_path / "dicom", volume(), square())
    files = sorted((tmp_path / "dicom").iterdir(), key=lambda f: int(f.stem[2:]) * 2 % 5)  # along the stack
    for path, end in ((files[0], "first"), (files[2], "middle")):
        whole = path.read_bytes()
        path.write_bytes(whole[:-60])
        with pytest.warns(UserWarning, match=f"1 of its DICOM files are no images that can be read, {path.name} first"):
            if end == "middle":
                with pytest.raises(InputError, match="expected slices at equal distances"):
                    load_image(tmp_path / "dicom")
            else:
                assert load_image(tmp_path / "dicom").shape == (7, 9, 4)
        path.write_bytes(whole)
