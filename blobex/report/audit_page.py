"""The page of an audit: on what a model's decisions depend, with an example image of each factor, off and on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blobex.report.causes import Cause, cause_card
from blobex.report.elements import environment


@dataclass(frozen=True)
class AuditSection:
    """What is said of one output."""

    output: str
    sentence: str
    rows: Sequence[Cause]  # proven factors, then likely ones
    others: Sequence[tuple[str, str]]  # all others that were tried, and their effects


def audit_page(model: str, source: str, images: int, sections: Sequence[AuditSection]) -> str:
    """Render the page, which loads nothing; every text is escaped."""
    cards = [[cause_card(row) for row in section.rows] for section in sections]
    content = {"model": model, "source": source, "count": images}
    return environment().get_template("audit.html").render(**content, sections=list(zip(sections, cards, strict=True)))
