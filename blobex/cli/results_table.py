"""Explanations on the command line: a table in words, details in numbers, or JSON."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from blobex.explain.explanation import Explanation

DOUBTS = 5  # images that are named as not to be trusted
STYLES = {"flipped": "green", "already so": "cyan", "skipped": "yellow"}  # of verdicts; red otherwise
FULL_SIZE = "pictures/*/*_full.jpg"
WIDE = 10_000  # columns of what is no terminal: one line an explanation


def print_results(
    records: Sequence[Explanation], out: Path, number: str, verbose: bool, names: Sequence[str] = ()
) -> None:
    """Print a table of explanations, a summary, the images in doubt, and last the paths of the overviews.

    Args:
        number: Format of the scores.
        verbose: Whether to print what changed in numbers, too.
        names: Names of the generator's blobs; () without names.
    """
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False, width=None if sys.stdout.isatty() else WIDE)
    _print_table(console, records, number)
    for record in records if verbose else ():
        print(f"{Path(record.image).name}, {record.from_class} -> {record.to_class}")
        for line in _details(record, names):
            print(f"  {line}")
    print(summary(records))
    doubts = {record.image: record.doubt for record in records if record.doubt}
    for image, doubt in list(doubts.items())[:DOUBTS]:
        print(f"{image} is not to be trusted: {doubt}")
    if len(doubts) > DOUBTS:
        print(f"nor are {len(doubts) - DOUBTS} more images")
    if full := len(list(out.glob(FULL_SIZE))):
        print(f"{full} at the size of the photo: {out / FULL_SIZE}")
    for path in sorted(out.glob("snapshot_*.png")):
        print(path)


def print_json(records: Sequence[Explanation], out: Path) -> None:
    """Print one JSON object: the explanations as in record.json, the number of flips, and the files."""
    from blobex.explain.record_files import as_json, finite

    content = {
        "explanations": [as_json(record) for record in records],
        "flipped": sum(record.verdict == "flipped" for record in records),
        "out": str(out),
        "snapshots": [str(path) for path in sorted(out.glob("snapshot_*.png"))],
    }
    print(json.dumps(finite(content), indent=2, allow_nan=False))


def summary(records: Sequence[Explanation]) -> str:
    """Count the verdicts: "2 of 4 flipped, 1 already so, 1 not flipped"."""
    counts = Counter(record.verdict for record in records)
    flipped = f"{counts.pop('flipped', 0)} of {len(records)} flipped"
    doubtful = sum(record.verdict == "flipped" and bool(record.doubt) for record in records)
    parts = [f"{flipped} ({doubtful} in doubt)" if doubtful else flipped]
    return ", ".join([*parts, *(f"{count} {verdict}" for verdict, count in counts.most_common())])


def _print_table(console: Console, records: Sequence[Explanation], number: str) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for title in ("image", "decision", "score", "verdict", "what changed"):
        table.add_column(title, overflow="fold", no_wrap=title == "score")
    names = [Path(record.image).name for record in records]
    if len(set(names)) < len({record.image for record in records}):
        names = [record.image for record in records]
    for name, record in zip(names, records, strict=True):
        verdict, style = record.verdict, STYLES.get(record.verdict, "red")
        if record.doubt:
            verdict, style = f"{verdict}, in doubt", "yellow"
        if record.gate:
            verdict = f"{verdict} (reconstruction {record.gate})"
        before, after = (number.format(score) for score in (record.score_before, record.score_after))
        scores = "" if record.failed else f"{before} -> {after}"
        decision = f"{record.from_class} -> {record.to_class}"
        doubt = f"not to be trusted, as {record.doubt}: " if record.doubt and record.sentence else ""
        texts = [Text(text) for text in (name, decision, scores, doubt + (record.sentence or record.words))]
        table.add_row(*texts[:3], Text(verdict, style), texts[3])
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
