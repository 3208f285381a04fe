"""The page of registrations: pictures that say where things are, a file that needs nothing else, names of any kind."""

import base64
import gzip
import io
import json
from html.parser import HTMLParser

import nibabel
import numpy as np
import pytest

pytest.importorskip("PIL")

from nibabel.affines import apply_affine
from nibabel.orientations import apply_orientation, inv_ornt_aff, ornt_transform
from nibabel.orientations import axcodes2ornt as ends_of
from PIL import Image as Picture

from fastreg.geometry.image import Image
from fastreg.geometry.transforms import Warp
from fastreg.plots.report import viewer as viewer_of_pages
from fastreg.plots.report import views as views_of_pairs
from fastreg.plots.report.page import COLUMNS, Entry, is_page, write_page
from fastreg.plots.report.viewer import LIMIT, vendored, volumes
from fastreg.plots.report.views import views
from fastreg.registration.reviews import FIGURES
from fastreg.utils.files import InputError

TURN = np.array([[0.96, -0.28, 0], [0.28, 0.96, 0], [0, 0, 1]])
OBLIQUE = np.block([[TURN * [1.9, 1.8, 2.2], np.array([[-20.0], [5], [9]])], [np.eye(4)[3:]]])


def decoded(uri):
    kind, content = uri.split(";base64,")
    picture = Picture.open(io.BytesIO(base64.b64decode(content)))
    assert kind == f"data:image/{picture.format.lower()}"
    return np.asarray(picture).astype(float)


def slices(plane, name):
    """[slices, rows, columns, ...] of a sprite."""
    pixels = decoded(plane["sprites"][name])
    return pixels.reshape(len(plane["indices"]), -1, *pixels.shape[1:])


def still(image):
    return Warp(np.zeros((*image.shape, image.ndim), np.float32), image.affine, image.affine, image.shape)


def test_the_patients_right_is_on_the_left_whatever_the_axes():
    """A spot at the right, front and top of the head, of voxels of 1, 2 and 3 mm."""
    world = np.zeros((24, 26, 22), np.float32)  # right, anterior, superior
    world[4:20, 4:22, 4:18] = 0.5
    world[16:20, 18:22, 14:18] = 1
    for codes in ("RAS", "LPS", "SRA", "AIL"):
        turn = ornt_transform(ends_of("RAS"), ends_of(codes))
        image = Image(apply_orientation(world, turn), np.diag([1.0, 2, 3, 1]) @ inv_ornt_aff(turn, world.shape))
        for plane in views(image, image)["planes"]:
            last = slices(plane, "fixed")[-1 if plane["axis"] == 0 else 0 if plane["axis"] is None else -1]
            rows, columns = np.nonzero(last > 200)
            assert rows.mean() < 0.4 * plane["height"] and columns.mean() < 0.4 * plane["width"], (codes, plane["name"])
            assert plane["letters"][0] in "RA" and plane["letters"][2] in "AS"
            sizes = {"axial": (24, 52), "coronal": (24, 66), "sagittal": (52, 66)}[plane["name"]]
            assert (plane["width"] * plane["pixel_mm"], plane["height"] * plane["pixel_mm"]) == pytest.approx(sizes)


@pytest.mark.parametrize("codes", ["RAS", "LPI", "SAR"])
def test_the_displacement_points_where_it_leads(codes):
    """2 mm to the patient's left, 3 mm to the back and 1 mm up, whatever the axes."""
    turn = ornt_transform(ends_of("RAS"), ends_of(codes))
    affine = np.diag([1.0, 2, 3, 1]) @ inv_ornt_aff(turn, (20, 20, 20))
    image = Image(apply_orientation(np.ones((20, 20, 20), np.float32), turn), affine)
    shift = np.linalg.inv(affine[:3, :3]) @ [-2.0, -3.0, 1.0]
    warp = Warp(np.broadcast_to(shift.astype(np.float32), (20, 20, 20, 3)).copy(), affine, affine, image.shape)
    found = views(image, image, image, warp)
    expected = {"axial": (2, 3), "coronal": (2, -1), "sagittal": (3, -1)}  # to the right of the screen, down
    for plane in found["planes"]:
        right, down, code = slices(plane, "field").mean((0, 1, 2))
        millimetres = (np.array([right, down]) - 128) * found["spread_mm"] / 127
        np.testing.assert_allclose(millimetres, expected[plane["name"]], atol=0.03)
        assert code == 128


@pytest.mark.parametrize("shape", [(18, 20, 22), (30, 24)])
def test_growth_and_folds_are_in_the_field(shape):
    image = Image(np.ones(shape, np.float32), np.eye(4))
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1).astype(np.float32)
    warp = Warp(0.1 * index, np.eye(4), np.eye(4), shape)
    found = views(image, image, None, warp)
    code = slices(found["planes"][0], "field")[..., 2]
    growth = (code - 128) / 127 * found["log_range"]
    np.testing.assert_allclose(growth, len(shape) * np.log(1.1), atol=2 * found["log_range"] / 127)
    warp.flow[tuple(n // 2 for n in shape)] -= 5
    assert (slices(views(image, image, None, warp)["planes"][0], "field")[..., 2] == 0).any()
    assert "before" not in found["planes"][0]["sprites"]


def test_planes_of_an_oblique_image_and_of_one_slice():
    volume = np.random.default_rng(0).random((30, 20, 10)).astype(np.float32)
    image = Image(volume, OBLIQUE)
    names = [plane["name"] for plane in views(image, image, image, still(image))["planes"]]
    assert names == ["axial", "coronal", "sagittal"]
    slab = Image(volume[..., :1], OBLIQUE)
    assert [plane["name"] for plane in views(slab, slab, slab, still(slab))["planes"]] == ["axial"]
    picture = Image(volume[..., 0], np.eye(4))
    (plane,) = views(picture, picture)["planes"]
    assert (plane["name"], plane["letters"], plane["indices"], plane["height"]) == ("image", None, [0], 30)


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan, np.inf])
def test_constant_images_and_nan_are_drawn(value):
    image = Image(np.full((8, 9, 10), value, np.float32), np.eye(4))
    warp = still(image)
    warp.flow[:] = value if np.isnan(value) else 0
    found = views(image, image, image, warp)
    assert json.loads(json.dumps(found, allow_nan=False)) and len(found["planes"]) == 3


def test_what_is_too_large_is_drawn_coarser(monkeypatch):
    noise = Image(np.random.default_rng(0).random((64, 64, 64)).astype(np.float32), np.eye(4))
    whole = views(noise, noise, noise, still(noise))
    monkeypatch.setattr(views_of_pairs, "LIMIT", len(json.dumps(whole)) // 3)
    less = views(noise, noise, noise, still(noise))
    assert len(json.dumps(less)) <= views_of_pairs.LIMIT
    assert len(less["planes"][0]["indices"]) < len(whole["planes"][0]["indices"])


@pytest.mark.slow
def test_a_pair_of_noise_at_one_millimetre_takes_less_than_two_megabytes():
    noise = Image(np.random.default_rng(0).random((160, 192, 224)).astype(np.float32), np.eye(4))
    warp = still(noise)
    warp.flow[:] = np.random.default_rng(1).normal(size=warp.flow.shape)
    assert len(json.dumps(views(noise, noise, noise, warp))) < 2_000_000


def test_volumes_lie_where_the_images_lie():
    """Read by nibabel: a bright corner is at its place in the world, in an image that is made coarser too."""
    data = np.zeros((120, 30, 20), np.float32)
    data[90:100, 10:20, 5:15] = 1
    for name, content in volumes(Image(data, OBLIQUE), Image(data[::-1], np.eye(4))).items():
        stored = nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(content)))
        values = np.asarray(stored.dataobj)
        assert values.dtype == np.uint8 and values.shape[0] == 112 and values.max() > 250
        middle = np.argwhere(values > 127).mean(0)
        expected = [94.5 if name == "fixed" else 24.5, 14.5, 9.5]
        np.testing.assert_allclose(apply_affine(stored.affine, middle), apply_affine(OBLIQUE, expected), atol=1)


def test_volumes_of_noise_keep_to_their_limit():
    noise = Image(np.random.default_rng(0).random((90, 90, 90)).astype(np.float32), np.eye(4))
    assert len(json.dumps(volumes(noise, noise))) <= LIMIT


def test_a_viewer_that_is_not_there_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(viewer_of_pages, "files", lambda package: tmp_path)
    with pytest.raises(InputError, match=r"in a checkout, python packaging/vendor_viewer.py brings it"):
        vendored()
    (tmp_path / "vendor").mkdir()
    (tmp_path / "vendor" / "niivue.js").write_text("a='</script><!-- x';")
    (tmp_path / "vendor" / "LICENCES.txt").write_text("BSD <&>")
    entry = (Entry("a", "done"), {"volumes": {"fixed": "x"}})
    write_page(tmp_path / "page.html", "t", "", {}, [entry], vendored())
    found = Page((tmp_path / "page.html").read_text())
    assert found.scripts["pre"].strip() == "BSD <&>" and json.loads(found.scripts["volumes-0"]) == {"fixed": "x"}
    assert found.tags.count("script") == 4 and r"a='<\/script><\!-- x';" in found.scripts["program"]


# ---------------------------------------------------------------- the file


class Page(HTMLParser):
    """Scripts by their ids, texts, and everything that a browser would fetch."""

    def __init__(self, text):
        super().__init__()
        self.scripts, self.fetched, self.tags, self.here = {}, [], [], None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.here = tag if tag != "script" else given.get("id", "program")
        self.tags.append(tag)
        self.fetched += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]

    def handle_data(self, data):
        self.scripts[self.here] = self.scripts.get(self.here, "") + data


NAMES = ["</script><b>&amp;", 'it\'s "quoted" & <i>', "Größe 脳 ✓", "a\u2028b", "plain", "<!-- x"]


def test_every_pair_is_in_the_page_and_nothing_is_fetched(tmp_path):
    image = Image(np.random.default_rng(0).random((12, 12, 12)).astype(np.float32), np.eye(4))
    pictures = views(image, image, image, still(image))
    entries = [Entry(name, "suspect", why=name, moving=name, figures={"dice": 0.5, "folds": 3}) for name in NAMES]
    page = tmp_path / "page.html"
    title = "</title><script>alert(1)</script>"
    pairs = [(entry, {} if k else {"views": pictures}) for k, entry in enumerate(entries)]
    returned = write_page(page, title, "made", {"metric": "<b>"}, pairs)
    assert returned == entries and is_page(page) and not is_page(tmp_path / "none.html")
    text = page.read_text(encoding="utf-8")
    found = Page(text)
    report = json.loads(found.scripts["report"])
    assert [row["name"] for row in report["rows"]] == [row["why"] for row in report["rows"]] == NAMES
    assert [column["key"] for column in report["columns"]] == ["dice", "folds"]
    assert json.loads(found.scripts["views-0"]) == json.loads(json.dumps(pictures)) and "views-1" not in found.scripts
    assert found.scripts["title"].strip() == title
    assert found.tags.count("script") == 3 and "b" not in found.tags and found.fetched == ["data:,"]
    assert "url(" not in found.scripts["style"] and "@import" not in found.scripts["style"]
    assert "fetch(" not in found.scripts["program"] and "import" not in found.scripts["program"]
    assert len(text) < len(json.dumps(pictures)) + 80_000


def test_nothing_stays_behind_where_a_pair_raises(tmp_path):
    def pairs():
        yield Entry("a", "done"), {}
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError):
        write_page(tmp_path / "page.html", "", "", {}, pairs())
    assert list(tmp_path.iterdir()) == []


def test_every_figure_of_a_review_has_a_column():
    assert sorted(column.key for column in COLUMNS) == sorted(FIGURES)
