"""PNG, JPEG, BMP and TIFF, against SimpleITK's places and the arrays that were written."""

import numpy as np
import pytest
import SimpleITK as sitk

from fastreg.io.images import load_image, load_labels, save_image
from fastreg.utils.files import InputError

pillow = pytest.importorskip("PIL.Image")
tifffile = pytest.importorskip("tifffile")


def grey(dtype=np.uint8):
    return (np.add.outer(np.arange(33), 3 * np.arange(21)) * (1 if dtype == np.uint8 else 200)).astype(dtype)


def colours():
    return np.random.default_rng(0).integers(0, 256, (33, 21, 3), dtype=np.uint8)


def place_in_itk(path, index):
    """LPS mm of a voxel by SimpleITK, as RAS."""
    image = sitk.ReadImage(str(path))
    place = np.zeros(3)
    place[: image.GetDimension()] = image.TransformIndexToPhysicalPoint([int(i) for i in index])
    return place * [-1, -1, 1]


@pytest.mark.parametrize("name", ["a.png", "a16.png", "a.bmp", "a.jpg", "dpi.jpg", "a.tif", "dpi.tif"])
def test_a_pixel_lies_where_itk_puts_it(tmp_path, name):
    path = tmp_path / name
    pixels = grey(np.uint16 if "16" in name else np.uint8)
    pillow.fromarray(pixels).save(path, **({"dpi": (300, 150)} if "dpi" in name else {}))
    image = load_image(path)
    assert image.shape == (33, 21) and image.data.dtype == np.float32
    if ".jpg" not in name:
        assert np.array_equal(image.data, pixels)
    np.testing.assert_allclose((image.affine @ [20, 7, 0, 1])[:3], place_in_itk(path, (7, 20)), atol=1e-5)


def test_labels_stay_numbers_of_a_palette(tmp_path):
    labels = (grey() % 3).astype(np.uint8)
    picture = pillow.fromarray(labels)
    picture.putpalette([0, 0, 0, 255, 0, 0, 0, 0, 255] + [0] * 759)
    picture.save(tmp_path / "p.png")
    assert np.array_equal(load_labels(tmp_path / "p.png").data, labels)
    assert load_labels(tmp_path / "p.png").data.dtype == np.uint8
    seen = load_image(tmp_path / "p.png").data
    np.testing.assert_allclose(seen[labels == 1], 0.299 * 255, rtol=1e-6)
    pillow.fromarray(labels > 0).save(tmp_path / "one.png")
    assert np.array_equal(load_labels(tmp_path / "one.png").data, labels > 0)
    with pytest.raises(InputError, match="expected one label a voxel, got 3 channels"):
        pillow.fromarray(colours()).save(tmp_path / "rgb.png")
        load_labels(tmp_path / "rgb.png")


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_colours_are_luminance_or_the_channel_that_is_named(tmp_path, ending):
    path, pixels = tmp_path / f"a.{ending}", colours()
    pillow.fromarray(pixels).save(path)
    luminance = pixels.astype(float) @ [0.299, 0.587, 0.114]
    np.testing.assert_allclose(load_image(path).data, luminance, atol=1e-4)
    np.testing.assert_allclose(load_image(path, channel="luminance").data, luminance, atol=1e-4)
    for name, number in (("red", 0), ("2", 2), (1, 1)):
        assert np.array_equal(load_image(path, channel=name).data, pixels[..., number])
    with pytest.raises(InputError, match=r"expected a channel of 0 to 2, got 3"):
        load_image(path, channel="alpha")
    with pytest.raises(InputError, match=r"channel: expected luminance, red, .* got purple"):
        load_image(path, channel="purple")
    transparent = np.dstack([pixels, np.full((33, 21), 9, np.uint8)])
    pillow.fromarray(transparent).save(tmp_path / "t.png")
    np.testing.assert_allclose(load_image(tmp_path / "t.png").data, luminance, atol=1e-4)
    assert (load_image(tmp_path / "t.png", channel="alpha").data == 9).all()


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_stack_is_a_volume_as_itk_has_it(tmp_path, dtype, compression):
    if compression == "lzw":
        pytest.importorskip("imagecodecs")
    stack = np.random.default_rng(1).integers(0, 200, (5, 7, 9)).astype(dtype)
    tifffile.imwrite(tmp_path / "s.tif", stack, compression=compression, photometric="minisblack")
    image, theirs = load_image(tmp_path / "s.tif"), sitk.ReadImage(str(tmp_path / "s.tif"))
    assert image.shape == theirs.GetSize() == (9, 7, 5)
    assert np.array_equal(image.data, sitk.GetArrayFromImage(theirs).T)
    np.testing.assert_allclose((image.affine @ [3, 2, 4, 1])[:3], place_in_itk(tmp_path / "s.tif", (3, 2, 4)))


def test_microscopes_say_how_large_a_voxel_is(tmp_path):
    stack = np.random.default_rng(1).integers(0, 200, (5, 7, 9)).astype(np.uint8)
    options = {"resolution": (1 / 0.65, 1 / 0.325), "metadata": {"spacing": 2.0, "unit": "um", "axes": "ZYX"}}
    tifffile.imwrite(tmp_path / "imagej.tif", stack, imagej=True, **options)
    metadata = {"axes": "ZYX", "PhysicalSizeX": 0.65, "PhysicalSizeY": 0.325, "PhysicalSizeZ": 2.0}
    tifffile.imwrite(tmp_path / "ome.ome.tif", stack, metadata=metadata)
    for name in ("imagej.tif", "ome.ome.tif"):
        np.testing.assert_allclose(load_image(tmp_path / name).spacing_mm, (0.00065, 0.000325, 0.002), rtol=1e-5)
    two = np.stack([stack, stack // 2], 1)
    tifffile.imwrite(tmp_path / "two.tif", two, imagej=True, metadata={"axes": "ZCYX"})
    assert np.array_equal(load_image(tmp_path / "two.tif", channel=1).data, (stack // 2).T)
    tifffile.imwrite(tmp_path / "time.tif", two, imagej=True, metadata={"axes": "TZYX"})
    with pytest.raises(InputError, match="expected a picture or a stack of pictures, got axes TZYX"):
        load_image(tmp_path / "time.tif")


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "z.tif"])
def test_what_is_cut_short_is_refused(tmp_path, name):
    if name == "z.tif":
        tifffile.imwrite(tmp_path / name, colours()[..., 0], compression="zlib")
    else:
        pillow.fromarray(colours()).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    for share in (0.05, 0.4, 0.9):
        (tmp_path / name).write_bytes(content[: int(len(content) * share)])
        with pytest.raises(InputError, match="not an image that can be read, or cut short"):
            load_image(tmp_path / name)


def test_an_animation_is_refused(tmp_path):
    frames = [pillow.fromarray(grey() + np.uint8(k)) for k in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(InputError, match="expected one picture, got an animation of 3"):
        load_image(tmp_path / "a.gif")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pictures_are_written(tmp_path, dtype):
    save_image(tmp_path / "a.png", grey(dtype).astype(np.float32) + 0.3, np.eye(4))
    read = np.array(pillow.open(tmp_path / "a.png"))
    assert read.dtype == dtype and np.array_equal(read, grey(dtype))
    with pytest.raises(InputError, match="expected a 2-D image for a picture"):
        save_image(tmp_path / "b.png", np.zeros((3, 3, 3)), np.eye(4))
