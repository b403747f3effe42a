"""The page of an audit: on what a model's decisions depend, with an example image of each factor, off and on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from blobex.metrics.effects import Effect
from blobex.metrics.interval import Interval
from blobex.report.gallery import PageImage, page_image
from blobex.report.page import Bar, environment


@dataclass(frozen=True)
class AuditRow:
    """A factor on which an output depends, with an example whose two decisions are `decisions`."""

    factor: str
    effect: Effect
    images: int
    example: str  # name of the image
    phrase: str  # the intervention
    off: np.ndarray  # uint8 (H,W,3)
    on: np.ndarray
    decisions: tuple[bool, bool]
    proven: bool  # otherwise it is likely only


@dataclass(frozen=True)
class AuditSection:
    """What is said of one output."""

    output: str
    sentence: str
    rows: Sequence[AuditRow]  # proven factors, then likely ones
    others: Sequence[tuple[str, str]]  # all others that were tried, and their effects


@dataclass(frozen=True)
class _Line:
    row: AuditRow
    bars: Sequence[Bar | None]  # size of the effect, necessity, sufficiency
    images: Sequence[PageImage]


def audit_page(model: str, source: str, images: int, sections: Sequence[AuditSection]) -> str:
    """Render the page, which loads nothing; every text is escaped."""
    lines = [[_line(row) for row in section.rows] for section in sections]
    content = {"model": model, "source": source, "count": images}
    return environment().get_template("audit.html").render(**content, sections=list(zip(sections, lines, strict=True)))


def _line(row: AuditRow) -> _Line:
    value = row.effect.effect
    low, high = sorted((abs(value.low), abs(value.high)))
    low = low if value.low * value.high > 0 else 0.0
    text = f"{value.mean:+.2f} [{value.low:+.2f}, {value.high:+.2f}]"
    bars = [Bar(abs(value.mean), low, high, text), _share(row.effect.necessity), _share(row.effect.sufficiency)]
    return _Line(row, bars, [page_image(row.off), page_image(row.on)])


def _share(value: Interval | None) -> Bar | None:
    if value is None:
        return None
    return Bar(value.mean, value.low, value.high, f"{value.mean:.0%} [{value.low:.0%}, {value.high:.0%}]")
