"""The page in a browser, from disk and without a network: sorting, keys, every view, sizes. Needs Chromium."""

import io
import json
import shutil
import time

import numpy as np
import pytest

pytest.importorskip("PIL")
pytest.importorskip("selenium")

from PIL import Image as Picture
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from fastreg.geometry.image import Image
from fastreg.geometry.transforms import Warp
from fastreg.plots.report.page import Entry, write_page
from fastreg.plots.report.viewer import vendored, volumes
from fastreg.plots.report.views import views
from fastreg.utils.files import InputError

SHAPE = (40, 48, 36)
FLAGS = (
    "--headless=new", "--no-sandbox", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--hide-scrollbars", "--window-size=1280,900",
)  # fmt: skip


def started(folder, *flags):
    """Chromium with a new profile; skips where there is none."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("needs chromium and chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, *flags, f"--user-data-dir={folder}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = started(tmp_path_factory.mktemp("profile"), "--disable-gpu")
    yield found
    found.quit()


def quiet(browser):
    """The console is empty and nothing was asked of a network."""
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert {url.partition(":")[0] for url in asked}.isdisjoint({"http", "https", "ws", "wss"})


def pair_of_balls():
    """Two balls, three voxels apart, and a wave between them."""
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE), indexing="ij"), -1).astype(np.float32)
    images = []
    for shift in (0, 3):
        distance = np.linalg.norm((index - np.array(SHAPE) / 2 + [shift, 0, 0]) / [14, 18, 12], axis=-1)
        images.append(Image((1.3 - distance).clip(0) + 0.3 * (distance < 0.4), np.diag([1.0, 1, 1.5, 1])))
    warp = Warp(np.zeros((*SHAPE, 3), np.float32), images[0].affine, images[0].affine, SHAPE)
    warp.flow[..., 0] = 2 * np.sin(index[..., 1] / 6)
    return (*images, warp)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Four pairs: one is suspect, one failed, one has no pictures; Dice in another order than the names."""
    fixed, moved, warp = pair_of_balls()
    pictures = views(fixed, moved, moved, warp)
    entries = [
        (Entry("alpha", "done", figures={"dice": 0.7, "seconds": 2.0}), {"views": pictures}),
        (Entry("pair10", "suspect", why="it folds", figures={"dice": 0.5, "seconds": 3.0}), {"views": pictures}),
        (Entry("pair9", "failed", why="no such file <b>"), {}),
        (Entry("zeta", "done", note="No pictures: gone", figures={"dice": 0.9, "seconds": 1.0}), {}),
    ]
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(path, "Four <pairs>", "today", {"metric": "auto"}, entries)
    return path


@pytest.fixture
def opened(browser, page):
    """The page as it is when it was opened; after the test the console must be empty and nothing fetched."""
    browser.get(page.as_uri())
    ready(browser, 1)
    yield browser
    quiet(browser)


def ready(browser, pair):
    wanted = time.monotonic() + 20
    while browser.find_element(By.ID, "pair").get_attribute("data-ready") != str(pair):
        assert time.monotonic() < wanted, browser.get_log("browser")
        time.sleep(0.02)


def names(browser):
    return [line.find_element(By.TAG_NAME, "td").text for line in browser.find_elements(By.CSS_SELECTOR, "#rows tr")]


def head(browser, key):
    return browser.find_element(By.CSS_SELECTOR, f"th[data-key={key}]")


def pixels(browser, plane=0):
    """[rows, columns, 4] of what a plane shows."""
    script = """const {canvas, context} = state.planes[arguments[0]];
        const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
        return [canvas.height, canvas.width, Array.from(data)]"""
    rows, columns, values = browser.execute_script(script, plane)
    return np.array(values).reshape(rows, columns, 4)


def press(browser, *keys):
    ActionChains(browser).send_keys(*keys).perform()


def choose(browser, view):
    browser.find_element(By.CSS_SELECTOR, f"[data-view={view}]").click()


@pytest.mark.slow
def test_suspects_first_and_sorting_by_click_and_key(opened):
    assert names(opened) == ["pair10", "pair9", "alpha", "zeta"]
    assert opened.find_element(By.ID, "name").text == "pair10"
    assert opened.find_element(By.ID, "title").text == "Four <pairs>"
    assert "no such file <b>" in opened.find_element(By.ID, "rows").text
    counts = opened.find_element(By.ID, "counts").text.split("\n")
    assert counts == ["2 not suspect", "1 failed", "1 suspect"]
    head(opened, "dice").find_element(By.TAG_NAME, "button").click()
    assert (
        names(opened) == ["pair10", "alpha", "zeta", "pair9"]
        and head(opened, "dice").get_attribute("aria-sort") == "ascending"
    )
    head(opened, "dice").find_element(By.TAG_NAME, "button").send_keys(Keys.ENTER)
    assert names(opened) == ["zeta", "alpha", "pair10", "pair9"]  # what has no value stays last
    head(opened, "name").find_element(By.TAG_NAME, "button").send_keys(Keys.SPACE)
    assert names(opened) == ["alpha", "pair9", "pair10", "zeta"]
    assert head(opened, "dice").get_attribute("aria-sort") == "none"


@pytest.mark.slow
def test_filter_rows_and_keys(opened):
    field = opened.find_element(By.ID, "filter")
    field.send_keys("PAIR susp")
    assert names(opened) == ["pair10"] and opened.find_element(By.ID, "found").text == "1 of 4"
    field.clear()
    field.send_keys(" ")
    assert len(names(opened)) == 4
    lines = opened.find_elements(By.CSS_SELECTOR, "#rows tr")
    lines[0].send_keys(Keys.ARROW_DOWN)
    press(opened, Keys.ARROW_DOWN, Keys.ENTER)
    ready(opened, 0)
    assert opened.find_element(By.ID, "name").text == "alpha"
    assert [line.get_attribute("aria-selected") for line in opened.find_elements(By.CSS_SELECTOR, "#rows tr")] == [
        "false", "false", "true", "false",
    ]  # fmt: skip
    press(opened, "j")
    ready(opened, 3)
    assert opened.find_element(By.ID, "note").text == "No pictures: gone"
    assert not opened.find_element(By.ID, "pictures").is_displayed()
    opened.find_element(By.ID, "previous").click()
    ready(opened, 0)
    assert opened.find_element(By.ID, "pictures").is_displayed()
    dot = opened.find_element(By.CSS_SELECTOR, ".strip .dot[data-pair='1']")
    opened.execute_script("arguments[0].dispatchEvent(new MouseEvent('click'))", dot)
    ready(opened, 1)


@pytest.mark.slow
def test_flicker_shows_one_image_and_then_the_other(opened):
    fixed = pixels(opened)
    assert opened.find_element(By.ID, "shown").text == "Fixed image"
    opened.find_element(By.ID, "swap").click()
    moved = pixels(opened)
    assert opened.find_element(By.ID, "shown").text == "Moved image"
    assert fixed.std() > 20 and np.abs(fixed - moved).max() > 100
    label = opened.find_element(By.CSS_SELECTOR, "#planes canvas").get_attribute("aria-label")
    assert label.startswith("Moved image, axial slice ")
    opened.find_element(By.ID, "title").click()
    press(opened, " ")
    assert np.array_equal(pixels(opened), fixed)
    press(opened, "p")
    seen = set()
    for _ in range(40):
        seen.add(opened.find_element(By.ID, "shown").text)
        time.sleep(0.04)
    assert seen == {"Fixed image", "Moved image"} and opened.find_element(By.ID, "play").text == "Pause"
    press(opened, "p")
    assert opened.find_element(By.ID, "play").text == "Play"


@pytest.mark.slow
def test_checkerboard_difference_edges_deformation(opened):
    fixed = pixels(opened)
    opened.find_element(By.ID, "swap").click()
    moved = pixels(opened)
    choose(opened, "checkerboard")
    board = pixels(opened)
    ours, theirs = (np.abs(board - image).max(-1) < 3 for image in (fixed, moved))
    assert (ours | theirs).all() and not ours.all() and not theirs.all()
    choose(opened, "difference")
    after = pixels(opened)
    apart = np.abs(fixed - moved)[..., 0]
    assert after[apart > 100][:, 0].min() > 180 and after[apart == 0][:, :3].max() < 10
    choose(opened, "edges")
    orange = (pixels(opened)[..., 0] - pixels(opened)[..., 2]) > 80
    assert 0.001 < orange.mean() < 0.1
    choose(opened, "deformation")
    opened.find_element(By.ID, "jacobian").click()
    mesh = pixels(opened)
    opened.find_element(By.ID, "mesh").click()
    assert np.abs(pixels(opened) - moved)[..., :3].max() <= 2
    lines = (np.abs(mesh - moved).max(-1) > 40).mean()
    assert 0.02 < lines < 0.4 and "grid of the moving image" not in opened.find_element(By.ID, "legend").text
    press(opened, Keys.ESCAPE)
    opened.find_element(By.ID, "title").click()
    press(opened, "1")
    assert opened.find_element(By.CSS_SELECTOR, "[aria-checked=true]").text == "Flicker"


@pytest.mark.slow
def test_slices_step_by_key_slider_and_click(opened):
    canvas = opened.find_elements(By.CSS_SELECTOR, "#planes canvas")

    def places():
        return [plane.text for plane in opened.find_elements(By.CSS_SELECTOR, ".plane figcaption span")]

    before, shown = places(), pixels(opened)
    canvas[0].send_keys(Keys.ARROW_UP, Keys.ARROW_UP)
    assert places()[0] != before[0] and places()[1:] == before[1:] and not np.array_equal(pixels(opened), shown)
    opened.find_element(By.CSS_SELECTOR, ".plane input").send_keys(Keys.HOME)
    assert int(places()[0].split()[1]) < int(before[0].split()[1])
    width, height = canvas[0].size["width"], canvas[0].size["height"]
    ActionChains(opened).move_to_element_with_offset(canvas[0], -0.3 * width, -0.3 * height).click().perform()
    right, front = int(places()[2].split()[1]), int(places()[1].split()[1])
    assert right > int(before[2].split()[1]) and front > int(before[1].split()[1])  # the patient's right and front


@pytest.mark.slow
def test_an_address_leads_to_a_pair_and_a_view(opened, page):
    choose(opened, "edges")
    assert opened.current_url.endswith("#pair10/edges")
    opened.get("about:blank")
    opened.get(f"{page.as_uri()}#alpha/difference")
    ready(opened, 0)
    assert opened.find_element(By.ID, "shown").text == "Difference of the fixed image and the moved image"
    opened.get("about:blank")
    opened.get(f"{page.as_uri()}#no%20such%E0%pair/none")
    ready(opened, 1)


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light")])
def test_nothing_overlaps_or_sticks_out(width, scheme, opened):
    opened.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    sizes = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    opened.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", sizes)
    try:
        assert opened.execute_script("return document.documentElement.scrollWidth") == width
        script = """const parts = 'h1, h2, .strip, .scroll, #views, #controls, .plane, #facts div';
            const shown = [...document.querySelectorAll(parts)].filter(node => node.offsetParent);
            const boxes = shown.map(node => node.getBoundingClientRect()), bad = [];
            for (let i = 0; i < boxes.length; i++) for (let j = 0; j < i; j++) {
              const [a, b] = [boxes[i], boxes[j]];
              if (Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
                  && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1) bad.push([i, j]);
            }
            return [bad, boxes.filter(box => box.right > innerWidth + 1).length]"""
        assert opened.execute_script(script) == [[], 0]
        shot = np.asarray(Picture.open(io.BytesIO(opened.get_screenshot_as_png())).convert("RGB")).astype(float)
        paper = np.median(shot)
        assert (paper < 60) == (scheme == "dark") and shot.std() > 15
    finally:
        opened.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        opened.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.slow
def test_the_viewer_shows_both_volumes(tmp_path):
    try:
        viewer = vendored()
    except InputError as error:
        pytest.skip(str(error))
    fixed, moved, warp = pair_of_balls()
    shown = {"views": views(fixed, moved, moved, warp), "volumes": volumes(fixed, moved)}
    write_page(tmp_path / "page.html", "3-D", "", {}, [(Entry("a", "done"), shown)], viewer)
    browser = started(tmp_path / "profile", "--use-angle=swiftshader", "--enable-unsafe-swiftshader")
    try:
        browser.get((tmp_path / "page.html").as_uri())
        ready(browser, 0)
        browser.find_element(By.ID, "volumes").click()
        wanted = time.monotonic() + 60
        while not browser.find_elements(By.CSS_SELECTOR, "#viewer canvas[data-volumes='2']"):
            assert time.monotonic() < wanted and "WebGL" not in browser.find_element(By.ID, "viewer").text
            time.sleep(0.1)
        canvas = browser.find_element(By.CSS_SELECTOR, "#viewer canvas")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", canvas)
        time.sleep(0.5)
        seen = np.asarray(Picture.open(io.BytesIO(canvas.screenshot_as_png)).convert("RGB")).astype(float)
        assert (seen.max(-1) > 60).mean() > 0.05 and canvas.size["height"] > 300
        quiet(browser)
    finally:
        browser.quit()
