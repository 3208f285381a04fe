import numpy as np
import pytest
from helpers.png_files import png

from fastreg.io.images import load_image, load_labels
from fastreg.io.png import read_png
from fastreg.utils.files import InputError


def filtered(rows, step, kinds):
    """Rows of bytes under the filters of the PNG specification, written out pixel by pixel."""
    lines, above = [], [0] * len(rows[0])
    for row, kind in zip(rows, kinds, strict=True):
        row, line = [int(value) for value in row], []
        for k, value in enumerate(row):
            a, b = row[k - step] if k >= step else 0, above[k]
            c = above[k - step] if k >= step else 0
            p = a + b - c
            paeth = a if abs(p - a) <= abs(p - b) and abs(p - a) <= abs(p - c) else b if abs(p - b) <= abs(p - c) else c
            line.append((value - (0, a, b, (a + b) // 2, paeth)[kind]) % 256)
        lines.append((kind, line))
        above = row
    return lines


@pytest.mark.parametrize("bits", [8, 16])
def test_every_filter(tmp_path, bits):
    chance = np.random.default_rng(0)
    image = chance.integers(0, 2**bits, (10, 7)).astype(">u2" if bits == 16 else np.uint8)
    rows = image.view(np.uint8).reshape(10, -1)
    path = tmp_path / "a.png"
    path.write_bytes(png(filtered(rows, bits // 8, [0, 1, 2, 3, 4] * 2), 7, bits))
    read = read_png(path)
    assert np.array_equal(read, image) and read.dtype == (np.uint16 if bits == 16 else np.uint8)


def test_few_bits(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png([(0, [0b10110010, 0b10000000]), (0, [0b01111111, 0])], 9, 1))
    assert read_png(path).tolist() == [[1, 0, 1, 1, 0, 0, 1, 0, 1], [0, 1, 1, 1, 1, 1, 1, 1, 0]]
    path.write_bytes(png([(0, [0xA3, 0xF0])], 3, 4))
    assert read_png(path).tolist() == [[10, 3, 15]]


def test_what_matplotlib_writes_and_reads(tmp_path):
    pillow = pytest.importorskip("PIL.Image")
    image = np.add.outer(np.arange(33), 3 * np.arange(21)).astype(np.uint8)
    pillow.fromarray(image).save(tmp_path / "a.png")
    assert np.array_equal(read_png(tmp_path / "a.png"), image)
    loaded = load_image(tmp_path / "a.png", ndim=2)
    assert loaded.shape == (33, 21) and loaded.spacing_mm == (1, 1) and loaded.data.dtype == np.float32
    assert load_labels(tmp_path / "a.png").data.dtype == np.uint8


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"GIF89a", "no PNG"),
        (png([(0, [1, 2, 3])], 1, 8, colour=2), "expected greyscale, got RGB"),
        (png([(0, [1])], 1, 8, interlaced=1), "not interlaced"),
        (png([(0, [1, 2])], 2)[:-16], "cut short"),
        (png([(0, [1, 2])], 2)[:20] + b"x" + png([(0, [1, 2])], 2)[21:], "damaged chunk"),
        (png([(7, [1, 2])], 2), "filter 7"),
        (png([(0, [1, 2])], 5), "cut short"),
    ],
)
def test_broken(tmp_path, content, message):
    (tmp_path / "a.png").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.png: .*{message}"):
        load_image(tmp_path / "a.png")
