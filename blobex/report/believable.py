"""The table of how believable images and explanations are; run as a module, it prints it as Markdown.

python -m blobex.report.believable [reports]
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from blobex.core.errors import BlobexError, sentence
from blobex.report.results import SETUPS, stage_measures

UNKNOWN = "-"  # not measured
Measures = Mapping[str, Mapping[str, Mapping[str, float]]]  # by stage, setup and name


@dataclass(frozen=True)
class Row:
    """A measure of a stage, its title in the table, and its goal in words."""

    title: str
    name: str
    goal: str = ""
    share: bool = False  # a percentage, otherwise a number
    stage: str = "evaluate"


@dataclass(frozen=True)
class Line:
    """A row with its values as text, by setup: mean, 95% interval and count."""

    title: str
    values: Mapping[str, str]
    goal: str


ROWS = (
    Row("decisions flipped, basic", "flip_rate", "99%", share=True),
    Row("`witness_flip`, basic", "witness_flip", "97%", share=True),
    Row("`witness_flip`, targeted", "targeted_witness_flip", "85%", share=True),
    Row("`witness_flip`, diverse", "diverse_witness_flip", "95%", share=True),
    Row("`witness_flip` of the pixel attack", "plain_pixels_witness_flip", "near 0", share=True, stage="truth"),
    Row("`witness_flip` of random edits", "plain_random_witness_flip", share=True, stage="truth"),
    Row("`legible_added`, basic", "legible_added", "95%", share=True),
    Row("`legible_removed`, basic", "legible_removed", "95%", share=True),
    Row("`legible_before`: objects of the queries", "legible_before", share=True),
    Row("`ghost`, basic: share of the query's own distance to the truth", "ghost", "0.3"),
    Row("`ghost_grey`, basic: grey levels", "ghost_grey"),
    Row("`collateral`, basic: grey levels", "collateral", "1.5"),
    Row("`painting_l1`: held-out images painted by the pretrained BlobGAN", "painting_l1", "0.05"),
    Row("the same by the trained BlobGAN", "blobgan_painting_l1"),
    Row("`fd_witness_real`: two halves of held-out images", "fd_witness_real"),
    Row("`fd_witness`: samples", "fd_witness", "3 times `fd_witness_real`"),
    Row("`fd_witness_painted`: painted by the pretrained BlobGAN", "fd_witness_painted"),
    Row("the same by the trained BlobGAN", "blobgan_fd_witness_painted"),
    Row("`fd_witness_queries`: the explained images", "fd_witness_queries"),
    Row("`fd_witness_reconstructions`: their reconstructions", "fd_witness_reconstructions"),
)


def believable_lines(measures: Measures) -> list[Line]:
    """Return the lines of the table for all setups that have been measured; none if nothing has."""
    lines = []
    for row in ROWS:
        values = {setup: _text(row, found) for setup, found in measures.get(row.stage, {}).items()}
        if any(value != UNKNOWN for value in values.values()):
            lines.append(Line(row.title, {setup: values.get(setup, UNKNOWN) for setup in SETUPS}, row.goal))
    return lines


def markdown(lines: list[Line]) -> str:
    """Format the lines as a Markdown table.

    >>> print(markdown([Line("`ghost`", {"rect": "0.7", "square": "0.6"}, "0.3")]))
    | measure | `rect` | `square` | goal |
    |---|---|---|---|
    | `ghost` | 0.7 | 0.6 | 0.3 |
    """
    heads = ["measure", *(f"`{setup}`" for setup in SETUPS), "goal"]
    cells = [[line.title, *(line.values[setup] for setup in SETUPS), line.goal] for line in lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, *cells]).replace(" |\n", " |\n|---|---|---|---|\n", 1)


def main(reports: Path) -> None:
    """Print the table of a folder of reports. BlobexError: nothing in it has been measured."""
    measures, _ = stage_measures(reports, Path("models"))
    lines = believable_lines(measures)
    if not lines:
        raise BlobexError(f"nothing in {reports} says how believable images are: run `dvc repro evaluate` first")
    print(markdown(lines))


def _text(row: Row, measures: Mapping[str, float]) -> str:
    numbers = [measures.get(f"{row.name}{end}") for end in ("", "_low", "_high", "_count")]
    if numbers[0] is None:
        return UNKNOWN
    texts = [UNKNOWN if value is None else _number(value, row.share) for value in numbers[:3]]
    text = f"{texts[0]}{'%' if row.share else ''} [{texts[1]}, {texts[2]}]"
    return text if numbers[3] is None else f"{text}, n = {numbers[3]:.0f}"


def _number(value: float, share: bool) -> str:
    return f"{100 * value:.0f}" if share else f"{value:.3g}"


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("reports"))
    except (BlobexError, OSError) as error:
        sys.exit(f"blobex: {sentence(error)}")
