"""The local page in a real browser: load, drag, keys, explain, compare, download."""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from worlds.tiny_models import save_models, smooth_images

from blobex.datasets.images import to_array
from blobex.explain.results_folder import read_results

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
playwright = pytest.importorskip("playwright.sync_api")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")]
ROOT = Path(__file__).parents[2]
# The overlay is drawn anew at every change, so an element that was found may be gone a moment later: what is there is
# found and measured in one call, and counts once it was the same at two calls.
MEASURE = """selector => {
  const node = document.querySelector(selector);
  if (!node) return null;
  const { x, y, width, height } = node.getBoundingClientRect(), seen = [selector, x, y, width, height].join();
  const settled = window.seenAtLast === seen;
  window.seenAtLast = seen;
  return settled ? { x, y, width, height } : null;
}"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a server of tiny networks, in a process of its own."""
    folder = save_models(tmp_path_factory.mktemp("page"), steps=30)
    Image.fromarray(to_array(smooth_images(1)[0])).resize((300, 150)).save(folder / "street.png")
    command = [
        sys.executable,
        "-c",
        "from blobex.cli.main import main; main()",
        "app",
        "--port",
        "0",
        "--device",
        "cpu",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        found = re.search(r"http://127\.0\.0\.1:\d+", process.stdout.readline())
        assert found
        try:
            yield f"{found[0]} {folder / 'street.png'}"
        finally:
            process.terminate()


@pytest.fixture
def page(address: str) -> Iterator[object]:
    """A page with a photo in it; whatever goes wrong in its scripts is an error here."""
    url, photo = address.split(" ", 1)
    wrong: list[str] = []
    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 1280, "height": 1000}, accept_downloads=True)
        opened.on("pageerror", lambda error: wrong.append(str(error)))
        opened.on(
            "request",
            lambda asked: wrong.append(asked.url) if not asked.url.startswith((url, "data:", "blob:")) else None,
        )
        opened.goto(url)
        opened.get_by_text("Scene 0 is ready to edit").wait_for()
        opened.set_input_files("#file", photo)
        opened.get_by_text("street.png is ready to edit").wait_for()
        yield opened
        browser.close()
    assert not wrong


def source(page) -> str:
    return page.locator("#picture").get_attribute("src")


def changed(page, before: str) -> None:
    """Wait until the picture is another one."""
    playwright.expect(page.locator("#picture")).not_to_have_attribute("src", before)


def box(page, selector: str) -> dict[str, float]:
    """x, y, width and height, in pixels of the page, of an element that has come to rest."""
    return page.wait_for_function(MEASURE, arg=selector, polling=100).json_value()


def centre(page, selector: str) -> tuple[float, float]:
    place = box(page, selector)
    return place["x"] + place["width"] / 2, place["y"] + place["height"] / 2


def test_blobs_are_edited_by_mouse_and_by_keys(page) -> None:
    first = source(page)
    number = page.evaluate("document.querySelector('#overlay .dot').dataset.blob")
    dot = f"#overlay .dot[data-blob='{number}']"
    x, y = centre(page, dot)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 30, y + 15, steps=4)
    page.mouse.up()
    changed(page, first)
    moved = centre(page, dot)
    assert abs(moved[0] - x + 30) < 3 and abs(moved[1] - y - 15) < 3
    dragged = source(page)
    x, y = centre(page, "#overlay rect.knob")
    width = box(page, "#overlay .line.chosen")["width"]
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move((x + moved[0]) / 2, (y + moved[1]) / 2, steps=4)
    page.mouse.up()
    changed(page, dragged)
    assert box(page, "#overlay .line.chosen")["width"] < width
    page.get_by_role("button", name="Undo").click()
    page.get_by_role("button", name="Undo").click()
    playwright.expect(page.locator("#picture")).to_have_attribute("src", first)

    stage = page.get_by_role("application")
    stage.focus()
    for key, undone in (("ArrowLeft", True), ("+", True), ("]", True), ("h", False)):
        before = source(page)
        stage.press(key)
        changed(page, before)
        if undone:
            stage.press("Control+z")
            playwright.expect(page.locator("#picture")).to_have_attribute("src", before)
    playwright.expect(page.get_by_role("status")).to_contain_text("hidden")
    stage.press("Control+z")
    stage.press(" ")
    playwright.expect(page.get_by_label("the ticked blobs (1)")).to_be_checked()
    before = source(page)
    other = "1" if number != "1" else "2"
    page.get_by_label("Appearance of").select_option(other)
    changed(page, before)


def test_an_image_is_explained_compared_and_downloaded(page, tmp_path: Path) -> None:
    page.get_by_label("Decision to flip").select_option("left")
    explain = page.get_by_role("button", name="Explain", exact=True)
    explain.focus()
    explain.press("Enter")
    page.get_by_role("heading", name="Explanation").wait_for()
    playwright.expect(page.get_by_role("status")).to_contain_text("The explanation is below.")
    slider = page.get_by_role("slider", name="Share of the image that shows the query")
    compared = page.locator(".compare")
    page.wait_for_timeout(700)  # it scrolls
    shots = []
    for key in ("Home", "End"):
        slider.press(key)
        shots.append(np.asarray(Image.open(io.BytesIO(compared.screenshot())).convert("RGB")).astype(int))
    assert np.abs(shots[0] - shots[1]).max() > 0
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "street.zip"
    download.value.save_as(tmp_path / "street.zip")
    with zipfile.ZipFile(tmp_path / "street.zip") as archive:
        archive.extractall(tmp_path / "results")
    (record,) = read_results(tmp_path / "results")
    assert (record.image, record.attribute) == ("street.png", "left")
    assert record.verdict in page.locator(".verdict").inner_text()
    before = source(page)
    page.get_by_role("button", name="Edit this result").click()
    if record.blobs:
        changed(page, before)


def test_the_page_shows_errors(page, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    page.set_input_files("#file", tmp_path / "notes.txt")
    playwright.expect(page.get_by_role("alert")).to_have_text("notes.txt is not an image: give a PNG or JPEG file.")
    page.get_by_label("the ticked blobs").check()
    page.get_by_role("button", name="Explain", exact=True).click()
    playwright.expect(page.get_by_role("alert")).to_contain_text("tick a blob first")
    for width in (390, 800, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        wide = page.locator("html").evaluate("node => node.scrollWidth")
        assert wide <= width


def test_the_page_fits_a_phone(page) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator("#blobs .name").first.click()
    for _ in range(6):
        page.get_by_role("button", name="Larger").click()
    page.locator("#explain").scroll_into_view_if_needed()
    stage = box(page, "#stage")
    assert stage["y"] >= 0 and stage["y"] + stage["height"] < 844
    x, y = centre(page, "#overlay rect.knob")
    assert page.evaluate("([x, y]) => document.elementFromPoint(x, y).dataset.knob", [x - 7, y - 7]) == "resize"
    first, width = source(page), box(page, "#overlay .line.chosen")["width"]
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 20, y + 10, steps=3)
    page.mouse.up()
    changed(page, first)
    assert box(page, "#overlay .line.chosen")["width"] != width
