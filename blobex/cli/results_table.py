"""Explanations on the command line: a table in words, details in numbers, or JSON."""

from __future__ import annotations

import json
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from blobex.explain.explanation import Explanation

DOUBTS = 5  # images that are named as not to be trusted
STYLES = {"flipped": "green", "already so": "cyan", "skipped": "yellow"}  # of verdicts; red otherwise
FULL_SIZE = "pictures/*/*_full.jpg"
ROWS = 1_000  # explanations of a table
WIDE = 10_000  # columns of what is no terminal: one line an explanation


@dataclass(frozen=True)
class _Row:
    """An explanation in words, without its images."""

    image: str
    verdict: str
    doubt: str
    style: str
    cells: tuple[str, str, str, str]  # decision, score, verdict, what changed
    details: Sequence[str]

    @classmethod
    def of(cls, record: Explanation, number: str, details: Sequence[str]) -> _Row:
        verdict, style = record.verdict, STYLES.get(record.verdict, "red")
        if record.doubt:
            verdict, style = f"{verdict}, in doubt", "yellow"
        if record.gate:
            verdict = f"{verdict} (reconstruction {record.gate})"
        before, after = (number.format(score) for score in (record.score_before, record.score_after))
        scores = "" if record.failed else f"{before} -> {after}"
        decision = f"{record.from_class} -> {record.to_class}"
        doubt = f"not to be trusted, as {record.doubt}: " if record.doubt and record.sentence else ""
        cells = decision, scores, verdict, doubt + (record.sentence or record.words)
        return cls(record.image, record.verdict, record.doubt, style, cells, details)


def print_results(
    records: Iterable[Explanation], out: Path, number: str, verbose: bool, names: Sequence[str] = ()
) -> None:
    """Print a table of explanations, a summary, the images in doubt, and last the paths of the overviews.

    Every ROWS explanations begin a new table, so that memory does not grow with their number.

    Args:
        number: Format of the scores.
        verbose: Whether to print what changed in numbers, too.
        names: Names of the generator's blobs; () without names.
    """
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else WIDE)
    rows = (_Row.of(record, number, _details(record, names) if verbose else ()) for record in records)
    verdicts, doubtful, doubts = Counter[str](), 0, dict[str, str]()
    while group := list(islice(rows, ROWS)):
        _print_table(console, group)
        for row in group if verbose else ():
            print(f"{Path(row.image).name}, {row.cells[0]}")
            for line in row.details:
                print(f"  {line}")
        verdicts.update(row.verdict for row in group)
        doubtful += sum(row.verdict == "flipped" and bool(row.doubt) for row in group)
        doubts |= {row.image: row.doubt for row in group if row.doubt}
    print(summary(verdicts, doubtful))
    for image, doubt in list(doubts.items())[:DOUBTS]:
        print(f"{image} is not to be trusted: {doubt}")
    if len(doubts) > DOUBTS:
        print(f"nor are {len(doubts) - DOUBTS} more images")
    if full := sum(1 for _ in out.glob(FULL_SIZE)):
        print(f"{full} at the size of the photo: {out / FULL_SIZE}")
    for path in sorted(out.glob("snapshot_*.png")):
        print(path)


def print_json(records: Iterable[Explanation], out: Path) -> None:
    """Print one JSON object: the explanations as in record.json, the number of flips, and the files."""
    from blobex.explain.record_files import as_json, finite

    flipped, before = 0, ""
    print('{\n  "explanations": [', end="")
    for record in records:  # one at a time: memory does not grow with their number
        flipped += record.verdict == "flipped"
        text = json.dumps(finite(as_json(record)), indent=2, allow_nan=False)
        print(before, textwrap.indent(text, "    "), sep="\n", end="")
        before = ","
    snapshots = [str(path) for path in sorted(out.glob("snapshot_*.png"))]
    rest = json.dumps({"flipped": flipped, "out": str(out), "snapshots": snapshots}, indent=2)
    print("\n  ],", rest.removeprefix("{\n"), sep="\n")


def summary(verdicts: Mapping[str, int], doubtful: int) -> str:
    """Describe counts of verdicts, of which `doubtful` flips are in doubt.

    >>> summary({"already so": 1, "flipped": 2, "not flipped": 1}, 1)
    '2 of 4 flipped (1 in doubt), 1 already so, 1 not flipped'
    """
    counts = Counter(verdicts)
    flipped = f"{counts['flipped']} of {counts.total()} flipped"
    del counts["flipped"]
    parts = [f"{flipped} ({doubtful} in doubt)" if doubtful else flipped]
    return ", ".join([*parts, *(f"{count} {verdict}" for verdict, count in counts.most_common())])


def _print_table(console: Console, rows: Sequence[_Row]) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("image", "decision", "score", "verdict", "what changed"):
        table.add_column(title, overflow="fold", no_wrap=title == "score")
    names = [Path(row.image).name for row in rows]
    if len(set(names)) < len({row.image for row in rows}):
        names = [row.image for row in rows]
    for name, row in zip(names, rows, strict=True):
        decision, scores, verdict, words = row.cells
        table.add_row(Text(name), Text(decision), Text(scores), Text(verdict, row.style), Text(words))
    with console.capture() as captured:
        console.print(table)
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _details(record: Explanation, names: Sequence[str]) -> list[str]:
    """Describe the changed blobs by name, and the distances, in numbers."""
    lines = []
    for change in record.blobs:
        name = change.name if change.blob is None or not names else names[change.blob]
        label = name if name == change.name else f"{name} ({change.name})"
        lines.append(f"{label}{change.words.removeprefix(change.name)}")
    lines = lines or ["no blob changed"]
    if not record.failed:
        distance = f"distance to the image {record.perceptual:.3g}, of the reconstruction"
        lines.append(f"{distance} {record.reconstruction_perceptual:.3g}; proximity {record.proximity:.3g}")
    return lines
