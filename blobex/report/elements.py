"""Elements of all pages: the templates, numbers as text, and bars with intervals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined

from blobex.metrics.interval import Interval


def environment() -> Environment:
    """Return the templates of all pages; every text is escaped."""
    templates = Environment(
        loader=PackageLoader("blobex.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"number": number, "share": _width}
    return templates


def _width(score: float) -> str:
    """Format a score as the share of a bar's width, clamped to [0, 1]."""
    return f"{min(max(score, 0.0), 1.0) if math.isfinite(score) else 0.0:.3f}"


@dataclass(frozen=True)
class Bar:
    """A mean with its interval: a bar in shares of its full width, and the numbers as text."""

    mean: float
    low: float
    high: float
    text: str


def number(value: float) -> str:
    """Format with three significant digits, integers in full; "not finite" for NaN and infinity.

    >>> number(0.12345), number(98765.4), number(float("nan"))
    ('0.123', '98,765', 'not finite')
    """
    if not math.isfinite(value):
        return "not finite"
    return f"{value:,.0f}" if abs(value) >= 1000 or float(value).is_integer() else f"{value:.3g}"


def share_bar(share: Interval) -> Bar:
    """Return the bar of a share."""
    return bar(share, 1.0, "{:.0%}".format)


def bar(value: Interval, top: float, text: Callable[[float], str]) -> Bar:
    """Return the bar of a value; `top` is that of the full width."""
    mean, low, high = (number / top if top else 0.0 for number in (value.mean, value.low, value.high))
    return Bar(mean, low, high, f"{text(value.mean)} [{text(value.low)}, {text(value.high)}]")
