"""What the benchmark found, as files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from blobex.core.files import whole_file, whole_folder
from blobex.datasets.images import write_png
from blobex.metrics.interval import Interval, flat
from blobex.scenes.rules import RULES
from blobex.truth.benchmark import SAME, Findings
from blobex.truth.judge import Row
from blobex.truth.measures import NAMES

TABLE, TEXT, EXAMPLES = "explanations.parquet", "table.txt", "examples"
CELL = 24  # characters
TITLES = {SAME: "ours, same pictures"}
SCHEMA = pa.schema(
    [
        *[(name, pa.string()) for name in ("rule", "method", "image", "attribute", "to_class")],
        *[(name, pa.bool_()) for name in ("flipped", "included", "valid")],
        *[(name, pa.float64()) for name in ("recall", "precision")],
        *[(name, pa.bool_()) for name in ("agrees", "planted")],
        ("phrases", pa.list_(pa.string())),
    ]
)


def metrics(findings: Findings) -> dict[str, float]:
    """All measures by "<rule>_<method>_<measure>", each with `_low`, `_high` and `_count`, and the counts behind them.

    `excluded` are the questions about whose query model and reading disagree. A shortcut that was not found has no
    rank.
    """
    found = dict[str, float]()
    for rule, methods in findings.rows.items():
        for method, rows in methods.items():
            key = f"{rule}_{method}"
            found[f"{key}_questions"] = float(len(rows))
            found[f"{key}_excluded"] = float(_excluded(rows))
            found |= {f"{key}_{name}": value for name, value in flat(findings.measures[rule][method]).items()}
            if method in findings.ranks[rule]:
                place, phrases = findings.ranks[rule][method]
                found[f"{key}_phrases"] = float(phrases)
                found |= {} if place is None else {f"{key}_rank": float(place)}
    return found


def table(findings: Findings) -> str:
    """One block per rule: measures down, methods across; each cell is the mean, the 95% interval and the count."""
    lines = []
    for rule, methods in findings.rows.items():
        lines += [f"{rule}: {RULES[rule].meaning}", _line("", [TITLES.get(method, method) for method in methods])]
        lines.append(_line("questions", [str(len(rows)) for rows in methods.values()]))
        lines.append(_line("  reading disagrees from the start", [str(_excluded(rows)) for rows in methods.values()]))
        found = findings.measures[rule]
        for name, words in NAMES.items():
            if any(name in each for each in found.values()):
                lines.append(_line(words, [_cell(found[method], name) for method in methods]))
        if findings.ranks[rule]:
            ranks = [f"{place or 'none'} of {count}" for place, count in findings.ranks[rule].values()]
            lines.append(_line("shortcut's rank among phrases", ranks))
        lines.append("")
    return "\n".join(lines)


def write(findings: Findings, folder: Path) -> list[Path]:
    """Write the table of explanations, the text and the examples; the files are given back."""
    paths = [folder / TABLE, folder / TEXT]
    answered = [rows for methods in findings.rows.values() for name, rows in methods.items() if name != SAME]
    rows = pa.Table.from_pylist([row.as_dict() for some in answered for row in some], schema=SCHEMA)
    with whole_file(paths[0]) as temporary:
        pq.write_table(rows, temporary)
    with whole_file(paths[1]) as temporary:
        temporary.write_text(table(findings), encoding="utf-8")
    with whole_folder(folder / EXAMPLES) as place:
        for name, picture in findings.sheets.items():
            write_png(place / f"{name}.png", picture)
    return [*paths, *(folder / EXAMPLES / f"{name}.png" for name in findings.sheets)]


def _excluded(rows: Sequence[Row]) -> int:
    return sum(not row.included for row in rows)


def _line(head: str, cells: list[str]) -> str:
    return f"{head:36}" + "".join(f"{cell:>{CELL}}" for cell in cells)


def _cell(found: Mapping[str, Interval], name: str) -> str:
    if name not in found:
        return "-"
    each = found[name]
    return f"{each.mean:.2f} [{each.low:.2f}, {each.high:.2f}] {each.count}"
