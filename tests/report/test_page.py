"""The report page agrees with the tables, shows every explanation, loads nothing and escapes file names."""

import base64
import dataclasses
import io
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from worlds.tiny_world import render, scenes, tiny_explainer, tiny_params

from blobex.config.params import Params
from blobex.core.errors import BlobexError
from blobex.datasets.images import to_array
from blobex.explain.explanation import Explanation
from blobex.explain.feedback import ANSWERS, image_digest
from blobex.explain.request import Output, Request
from blobex.explain.results_folder import ResultsFolder
from blobex.metrics.interval import ratio_interval, share_interval
from blobex.report.gallery import GREY, blob_map, difference, page_image
from blobex.stages import report

HOSTILE = 'a"><script>alert(1)</script><img src=x onerror=alert(1)>&amp;.png'
CAR: dict[str, Any] = {
    **{"what": "removed", "thing": "car", "family": "vehicle", "place": "ahead", "before": "", "after": ""},
    **{"amount": 0.9, "phrase": "car ahead removed"},
}
LIGHT = CAR | {"what": "turned", "thing": "light", "family": "light", "place": "", "before": "red", "after": "green"}
LIGHT |= {"phrase": "light turned from red to green"}
VOID = {"meta", "img", "input", "br", "hr", "link"}


class Page(HTMLParser):
    """All elements with their attributes and text; asserts that elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[dict[str, Any]] = []
        self.open: list[dict[str, Any]] = []
        self.feed(text)
        self.close()
        assert not self.open, f"{self.open[-1]['tag']} is not closed"

    def handle_starttag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        element = {"tag": tag, "text": "", **dict(attrs)}
        self.elements.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: Sequence[tuple[str, str | None]]) -> None:
        self.elements.append({"tag": tag, "text": "", **dict(attrs)})

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1]["tag"] == tag, f"{self.open[-1]['tag']} is closed by {tag}"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for element in self.open:
            element["text"] += data

    def all(self, tag: str, kind: str = "") -> list[dict[str, Any]]:
        elements = [element for element in self.elements if element["tag"] == tag]
        return [element for element in elements if not kind or kind in element.get("class", "").split()]


@pytest.fixture(scope="module")
def records() -> list[Explanation]:
    """Two questions about each of three images; object changes are made up, and the last search failed."""
    images = [to_array(image) for image in render(scenes(3))]
    explanations = tiny_explainer().explain(images, Request(["stop", "left"]))
    assert sum(explanation.flipped for explanation in explanations) >= 3
    changes = [(CAR,), (CAR, LIGHT), (CAR,), (LIGHT,), (), ()]
    names = ["one.png", "one.png", HOSTILE, HOSTILE, "three.png", "three.png"]
    for number, (objects, name) in enumerate(zip(changes, names, strict=True)):
        fields = {"objects": objects, "sentence": "; ".join(change["phrase"] for change in objects) or "nothing"}
        explanations[number] = dataclasses.replace(explanations[number], image=f"/photos/{name}", **fields)
    failure = {"failed": True, "flipped": False, "perceptual": float("nan"), "score_after": float("nan")}
    return [*explanations[:-1], dataclasses.replace(explanations[-1], **failure)]


def write(records: list[Explanation], setup: str = "rect", variant: str = "basic") -> None:
    settings = {"decision": {"name": "painted", "outputs": ["forward", "stop", "left", "right"]}}
    folder = ResultsFolder.open(Output(f"reports/explain/{setup}/{variant}/results", replace=True), settings)
    names = list(dict.fromkeys(record.image for record in records))
    records = [dataclasses.replace(record, setup=setup) for record in records]
    for number, name in enumerate(names):
        folder.write(number, torch.zeros(3, 2, 2), [record for record in records if record.image == name])
    folder.finish(list(enumerate(names)))


def params(images: int = 8) -> Params:
    values = tiny_params()
    return dataclasses.replace(
        values,
        run=dataclasses.replace(values.run, tracking_uri="none"),
        report=dataclasses.replace(values.report, pictures=images),
    )


def render_page(images: int = 8) -> str:
    report.main(params(images))
    return Path("reports/report/report.html").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def text(records: list[Explanation], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The page of two setups, one of them with a second variant, and of the truth benchmark with its measures."""
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write(records)
        write(records[:4], "square")
        write(records[:2], "rect", "diverse")
        Path("reports/truth/rect").mkdir(parents=True)
        Path("reports/truth/rect/table.txt").write_text("method <b>ours</b>  0.91")
        Path("reports/truth/rect/metrics.json").write_text(
            json.dumps({"valid": 0.91, "valid_low": 0.85, "valid_high": 0.96, "valid_count": 200, "note": "text"})
        )
        return render_page()


def test_page_is_well_formed_and_loads_nothing(text: str) -> None:
    page = Page(text)
    for element in page.elements:
        for name in ("src", "href", "xlink:href", "srcset", "action", "data", "poster"):
            assert re.match(r"data:image/|#", element.get(name, "#")), element
    assert not page.all("link") and "@import" not in text and not re.search(r"url\((?!data:)", text)
    policy = next(each["content"] for each in page.all("meta") if each.get("http-equiv"))
    assert policy.startswith("default-src 'none'")
    identities = [each["id"] for each in page.elements if "id" in each]
    assert len(identities) == len(set(identities))
    targets = [each["href"] for each in page.elements if each.get("href", "").startswith("#")]
    assert targets and {target[1:] for target in targets} <= set(identities)


def test_every_image_has_a_text_and_every_field_a_label(text: str) -> None:
    page = Page(text)
    drawings = [each for each in page.all("svg") if each.get("role") == "img"]
    assert len(page.all("img")) == 2 * 12 and len(drawings) == 4 * 12
    assert all(each["alt"].strip() for each in page.all("img"))
    assert all(each["aria-label"].strip() for each in drawings)
    labelled = " ".join(each["text"] for each in page.all("label"))
    assert all(name in labelled for name in ("setup", "variant", "attribute", "verdict", "changed", "search", "sort"))
    assert len(page.all("label")) == len(page.all("select")) + len(page.all("input"))
    assert all(each.get("tabindex") == "0" for each in page.elements if "wide" in each.get("class", ""))


def test_hostile_file_names_are_escaped(text: str) -> None:
    page = Page(text)
    assert len(page.all("script")) == 1
    assert not any("onerror" in each for each in page.elements)
    sources = [each["text"] for each in page.all("p", "source")]
    assert sum(HOSTILE.split("/")[-1] in source for source in sources) == 4
    assert "method <b>ours</b>" in next(each["text"] for each in page.all("pre"))


def test_figures_agree_with_the_table(text: str, folder: Path, records: list[Explanation]) -> None:
    write(records)
    rows = pq.read_table(folder / "reports/explain/rect/basic/results/explanations.parquet").to_pylist()
    wanted = {
        "flipped": [row["flipped"] for row in rows],
        "pd_parser": [row["perceptual"] for row in rows if not row["failed"]],
        "changed blobs": [len(row["changed_blobs"]) for row in rows if not row["failed"]],
    }
    assert len(wanted["pd_parser"]) == 5
    cells = Page(render_page()).all("td")
    names = [row["image"] for row in rows]
    sound = [row["image"] for row in rows if not row["failed"]]
    for name, values in wanted.items():
        if name == "flipped":
            expected = share_interval(values, names)
        else:
            expected = ratio_interval(values, [1] * len(values), sound, 0)
        (cell,) = [each["text"] for each in cells if each.get("data-label") == name]
        mean, low, high = (float(value) for value in re.findall(r"[\d.]+", cell))
        scale = 100 if "%" in cell else 1
        for number, true in ((mean, np.mean(values)), (low, expected.low), (high, expected.high)):
            assert number == pytest.approx(scale * true, abs=0.5 if scale == 100 else 0.005 * max(true, 1))
    written = json.loads((folder / "reports/report/metrics.json").read_text())
    assert written["rect_basic_flip_rate"] == np.mean(wanted["flipped"])
    assert written["bytes"] == (folder / "reports/report/report.html").stat().st_size
    assert written["explanations"] == written["shown"] == 6


def test_frequent_changes(text: str, folder: Path, records: list[Explanation]) -> None:
    """Only flips count; shares are of explanations, not of changes."""
    changes = [(True, (CAR,)), (True, (CAR, LIGHT, LIGHT)), (True, (LIGHT,)), (False, (CAR,))]
    question = {"from_class": "not stop", "to_class": "stop"}
    write(
        [
            dataclasses.replace(record, attribute=f"stop{number}", flipped=flipped, objects=objects, **question)
            for number, (record, (flipped, objects)) in enumerate(zip(records, changes, strict=False))
        ]
    )
    page = Page(render_page())
    sentence = next(each["text"] for each in page.all("p", "sentence"))
    assert sentence == (
        "To make the model say “stop”: light turned green in 67%, vehicle ahead removed in 67% of 3 counterfactuals."
    )
    rows = [each["text"] for each in page.all("tr") if each["text"].startswith(("vehicle", "light"))]
    assert [row.split("[")[0] for row in rows] == ["light turned green67% ", "vehicle ahead removed67% "]


def test_cards_hold_the_values_of_filters_and_sorting(text: str, records: list[Explanation]) -> None:
    cards = Page(text).all("article")
    assert len(cards) == 12
    assert [card["data-order"] for card in cards] == [str(number) for number in range(12)]
    for card, record in zip(cards, records, strict=False):
        assert (card["data-setup"], card["data-variant"]) == ("rect", "basic")
        assert card["data-attribute"] == record.attribute and card["data-verdict"] == record.verdict
        assert card["data-changed"] == "|".join(sorted({each["family"] for each in record.objects}))
    assert float(cards[0]["data-distance"]) == pytest.approx(records[0].perceptual)
    assert "data-distance" not in cards[5] and cards[5]["data-verdict"] == "failed"  # no distance: sorted last
    assert [each.get("value") for each in Page(text).all("option")].count("vehicle") == 1


def test_answers_name_the_counterfactual_and_what_the_model_decides(text: str, records: list[Explanation]) -> None:
    groups = {each["data-digest"]: each for each in Page(text).all("div") if "data-digest" in each}
    for record in (each for each in records if not each.failed):
        group = groups[image_digest(record.counterfactual)]
        assert group["data-output"] == record.attribute
        assert group["data-decided"] == str(record.score_after > 0.5).lower()
    buttons = [each.get("value") for each in Page(text).all("button")]
    assert all(buttons.count(answer) == 11 for answer in ANSWERS)  # 12 cards, one of them of a failed search


def test_card_shows_scores_and_words(text: str, records: list[Explanation]) -> None:
    card = Page(text).all("article")[0]
    before, after = records[0].scores_before.tolist(), records[0].scores_after.tolist()
    for name, *pair in zip(("forward", "stop", "left", "right"), before, after, strict=True):
        assert f"{name}{pair[0]:.2f}{pair[1]:.2f}" in card["text"]
    assert records[0].words in card["text"] and records[0].sentence in card["text"]
    assert "not finite" in Page(text).all("article")[5]["text"]


def test_measures_are_shown_with_their_intervals(text: str) -> None:
    page = Page(text)
    assert any(each["text"] == "valid0.91 [0.85, 0.96] (n = 200)" for each in page.all("tr"))


def test_gallery_is_limited_but_figures_count_all_images(folder: Path, records: list[Explanation]) -> None:
    write(records)
    page = Page(render_page(1))
    assert len(page.all("article")) == 2
    assert any("6 explanations of 3 images" in each["text"] for each in page.all("th"))


def test_missing_results_are_listed_with_their_commands(folder: Path, records: list[Explanation]) -> None:
    with pytest.raises(BlobexError, match=r"dvc repro explain"):
        render_page()
    assert not Path("reports/report").exists()
    write(records)
    lines = [each["text"] for each in Page(render_page()).all("li")]
    assert "explanations of square, basic: run `dvc repro explain@square-basic`" in lines
    assert "measures of truth, rect: run `dvc repro truth@rect`" in lines
    Path("reports/evaluate/rect").mkdir(parents=True)
    Path("reports/evaluate/rect/metrics.json").write_text("{")
    with pytest.raises(BlobexError, match=r"evaluate/rect/metrics.json is damaged"):
        render_page()


def test_page_is_reproducible(text: str, folder: Path, records: list[Explanation]) -> None:
    write(records)
    assert render_page() == render_page()


def test_small_images_are_stored_losslessly() -> None:
    image = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    read = Image.open(io.BytesIO(base64.b64decode(page_image(image).uri.split(",")[1])))
    assert (np.asarray(read.convert("RGB")) == image).all()


@pytest.mark.parametrize(("step", "gain"), [(1, 8), (20, 4), (40, 2), (100, 1), (200, 1)])
def test_difference_is_amplified_around_grey(step: int, gain: int) -> None:
    query = np.zeros((8, 8, 3), np.uint8)
    other = query.copy()
    other[0, 0, 1] = step
    image, used = difference(query, other)
    assert used == gain and image[0, 0, 1] == min(GREY + gain * step, 255)
    image[0, 0, 1] = GREY
    assert (image == GREY).all()
    assert (difference(query, query)[0] == GREY).all()


def test_blob_map_colours_and_numbers_changed_blobs() -> None:
    blobs = np.full((32, 64), -1)
    blobs[4:28, 8:40] = 3
    blobs[:, 50:] = 4  # unchanged
    drawn = blob_map(blobs, [3])
    (mark,) = drawn.marks
    assert mark.number == 3 and 8 <= mark.x < 40 and 4 <= mark.y < 28
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(drawn.uri.split(",")[1]))).convert("RGB"))
    inside, unchanged, background = pixels[10, 20], pixels[10, 60], pixels[0, 0]
    assert np.ptp(inside.astype(int)) > 50 and np.ptp(unchanged.astype(int)) == np.ptp(background.astype(int)) == 0
    assert not blob_map(np.full((32, 64), -1), [3]).marks  # the changed blob is not visible


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
def test_filters_in_a_browser(text: str, tmp_path: Path) -> None:
    """Apply filters and sorting in Chromium and read the visible cards back."""
    play = """
    const set = (name, value) => { form.elements[name].value = value;
      form.elements[name].dispatchEvent(new Event("input", {bubbles: true})); };
    const all = () => [...document.querySelectorAll(".card")];
    const visible = () => all().filter(card => !card.hidden).map(card => card.dataset.order);
    const orders = [visible()];
    for (const [name, value] of PLAYED) { set(name, value); orders.push(visible()); }
    document.title = JSON.stringify(orders);
    """
    played = [["setup", "square"], ["setup", ""], ["changed", "light"], ["text", "GREEN one.png"], ["sort", "distance"]]
    played += [["changed", ""], ["text", ""], ["verdict", "failed"]]
    path = tmp_path / "page.html"
    script = play.replace("PLAYED", json.dumps(played))
    path.write_text(text.replace("</script>\n</body>", f"{script}</script>\n</body>"), encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"file://{path}"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    title = re.search(r"<title>(.*?)</title>", shown)
    assert title
    steps = json.loads(title[1])
    every = [str(number) for number in range(12)]
    # 0-5 rect basic, 6 and 7 rect diverse (the first picture), 8-11 square
    assert steps[0] == every and steps[1] == ["8", "9", "10", "11"] and steps[2] == every
    assert steps[3] == ["1", "3", "7", "9", "11"]
    assert steps[4] == ["1", "7", "9"]
    assert sorted(steps[5]) == sorted(steps[6]) == ["1", "7", "9"]
    away = {card["data-order"]: float(card.get("data-distance", "inf")) for card in Page(text).all("article")}
    assert steps[7] == sorted(every, key=lambda name: away[name])
    assert steps[7][-1] == "5"  # without a distance: last
    assert steps[8] == ["5"]
