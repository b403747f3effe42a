"""HTML put together so that nothing a file is called can break it: what is no Markup is escaped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

VOID = {"img", "image", "input", "use"}  # elements without an end
STACKED = "figures"  # a table whose cells stand below each other where the page is narrow


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, attributes: Mapping[str, object], *inside: str) -> Markup:
    """An element; texts inside and values of attributes are escaped, and an attribute of None is left out.

    >>> tag("b", {"class": None}, "1 < 2")
    '<b>1 &lt; 2</b>'
    """
    given = "".join(f' {key}="{escape(str(value))}"' for key, value in attributes.items() if value is not None)
    if name in VOID:
        return Markup(f"<{name}{given}{'/' if name in ('image', 'use') else ''}>")
    return Markup(f"<{name}{given}>{joined(*inside)}</{name}>")


def joined(*parts: str) -> Markup:
    """Parts one after the other; what is no Markup is escaped.

    >>> joined(Markup("<hr>"), "a & b")
    '<hr>a &amp; b'
    """
    return Markup("".join(part if isinstance(part, Markup) else escape(part) for part in parts))


def number(value: float) -> str:
    """Three significant digits, whole numbers as they are; "not finite" for what failures have.

    >>> number(0.12345), number(98765.4), number(float("nan"))
    ('0.123', '98,765', 'not finite')
    """
    if not math.isfinite(value):
        return "not finite"
    if float(value).is_integer() and abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def percent(share: float) -> str:
    return f"{share:.0%}"


def table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]], kind: str = "") -> Markup:
    """A table that scrolls by itself where it is too wide, or is STACKED; the first cell of a row is its head."""
    top = tag("tr", {}, *(tag("th", {"scope": "col"}, head) for head in heads))
    named = kind == STACKED
    lines = [
        tag(
            "tr",
            {},
            tag("th", {"scope": "row"}, head),
            *(
                tag("td", {"data-label": name if named else None}, cell)
                for name, cell in zip(heads[1:], cells, strict=True)
            ),
        )
        for head, *cells in rows
    ]
    body = tag("table", {}, tag("caption", {}, caption), tag("thead", {}, top), tag("tbody", {}, *lines))
    frame = {"class": f"wide {kind}".strip(), "tabindex": "0", "role": "region", "aria-label": caption}
    return tag("div", frame, body)
