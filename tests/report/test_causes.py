"""Causes on the report's page are those that the truth benchmark has written, with their images."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blobex.core.errors import BlobexError
from blobex.metrics.effects import Effect
from blobex.metrics.interval import Interval
from blobex.report.causes import verified_causes
from blobex.report.page import page
from blobex.report.results import Report
from blobex.truth.cause_files import write_causes
from blobex.truth.effects import ImagePair, PhraseEffect


def found(phrase: str, excess: float, verified: bool) -> PhraseEffect:
    random = np.random.default_rng(len(phrase))
    images = tuple(random.integers(0, 256, (8, 16, 3), dtype=np.uint8) for _ in range(2))
    share, value = Interval(0.5, 0.25, 0.75, 8), Interval(excess, excess - 0.1, excess + 0.1, 64)
    return PhraseEffect(
        rule="night",
        phrase=phrase,
        frequency_rank=3,
        renderer=True,
        effect=Effect(Interval(-0.25, -0.5, -0.125, 64), None, share),
        excess=value,
        verified=verified,
        example=ImagePair("17", images, ({"left": False}, {"left": True})),
        decisions=(False, True),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    own = [found(f"left: change {number}", 0.9 - number / 10, True) for number in range(5)]
    effects = {"night": [*own, found("left: sky grew", 0.0, False)], "plain": [found("stop: sky grew", 0.0, False)]}
    write_causes(effects, tmp_path / "causes")
    return tmp_path


def test_reads_the_verified_causes_that_were_written(folder: Path) -> None:
    night, plain = verified_causes(folder)
    assert (night.rule, night.meaning, night.tried, plain.rule, plain.meaning) == (
        "night",
        "no left at night",
        6,
        *("plain", ""),
    )
    assert [card.cause.factor for card in night.cards] == ["left: change 0", "left: change 1", "left: change 2"]
    assert [name for name, _ in night.others] == ["left: change 3", "left: change 4"] and not plain.cards
    card, expected = night.cards[0], found("left: change 0", 0.9, True)
    assert card.cause.effect == expected.effect and card.cause.excess == expected.excess
    assert (card.cause.output, card.cause.phrase, card.cause.decisions) == ("left", "change 0", (False, True))
    for shown, image in zip(card.images, expected.example.images, strict=True):
        encoded = base64.b64decode(shown.uri.partition(",")[2])
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(encoded)).convert("RGB")), image)
    effect = card.bars["average effect"]
    assert effect is not None and (effect.mean, effect.low, effect.high) == (0.25, 0.125, 0.5)
    assert effect.text == "-0.25 [-0.50, -0.12]" and card.bars["necessary"] is None


def test_page_shows_each_model_with_its_cards(folder: Path) -> None:
    report = Report([], {}, {}, [], "pd_parser", None, 0)
    text = page(report, {"rect": verified_causes(folder)})
    assert text.count('<article class="card">') == 3 and text.count("data:image/webp") == 6
    assert "Trained with the shortcut: no left at night. Of 6 changes, 5 have too large an effect." in text
    assert "Trained without a shortcut. Of 1 changes, none have too large an effect." in text
    assert "before: not left" in text and "after: left" in text and "2 more" in text
    assert 'href="#causes"' in text and 'href="#causes"' not in page(report, {})


def test_no_run_and_damaged_files(tmp_path: Path) -> None:
    assert verified_causes(tmp_path) == []
    (tmp_path / "causes").mkdir()
    (tmp_path / "causes" / "night.json").write_text('{"phrases": [{}]}')
    with pytest.raises(BlobexError, match="dvc repro truth"):
        verified_causes(tmp_path)
