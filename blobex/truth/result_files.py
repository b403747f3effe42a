"""Files of the truth benchmark: the table of explanations, table.txt and examples; and running it into a folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from blobex.config.params import Params
from blobex.core.device import ALONE, Ranks
from blobex.core.files import whole_file, whole_folder, write_text
from blobex.datasets.images import write_png
from blobex.metrics.interval import Interval, flat
from blobex.scenes.rules import RULES
from blobex.truth.benchmark import Witness, benchmark, cache_folder
from blobex.truth.cause_files import write_causes
from blobex.truth.causes import effect_lines, effect_metrics, verify_phrases
from blobex.truth.control import CONTROL
from blobex.truth.evaluation import EvaluatedAnswer
from blobex.truth.measures import TITLES
from blobex.truth.results import OURS_SAME, TruthResults

TABLE, TEXT, EXAMPLES, CAUSES = "explanations.parquet", "table.txt", "examples", "causes"
CELL_WIDTH = 24  # characters
OTHERS = {CONTROL: "a regression: brake >= 0.5 or brake <= 0.5, judged by the plain rules' stop"}
METHOD_TITLES = {OURS_SAME: "ours, same pictures"}
SCHEMA = pa.schema(
    [
        *[(name, pa.string()) for name in ("rule", "method", "image", "attribute", "to_class")],
        *[(name, pa.bool_()) for name in ("flipped", "included", "valid")],
        *[(name, pa.float64()) for name in ("recall", "precision")],
        *[(name, pa.bool_()) for name in ("agrees", "planted")],
        ("phrases", pa.list_(pa.string())),
        ("witness", pa.bool_()),
    ]
)


def run_benchmark(
    params: Params,
    setup: str,
    models: Path,
    out: Path,
    ranks: Ranks = ALONE,
    track: Callable[[TruthResults, Sequence[Path]], None] | None = None,
    witness: Witness | None = None,
) -> None:
    """Run the benchmark; the first of `ranks` writes its files to `out`, prints the table and calls `track`.

    Cached results about single models are removed at the end. Without a `witness`, nothing says which flips it shares.
    """
    results = benchmark(params, setup, models, ranks, witness)
    if ranks.first:
        folder = cache_folder(models, setup) / "interventions"
        results = replace(results, effects=verify_phrases(params, setup, models, results, folder))
        paths = write(results, out)
        if track:
            track(results, paths)
        print(table(results))
        shutil.rmtree(cache_folder(models, setup), ignore_errors=True)


def metrics(results: TruthResults) -> dict[str, float]:
    """Return all measures as "<rule>_<method>_<measure>", with `_low`, `_high` and `_count`, and the counts of rows.

    `excluded` counts questions about whose query model and rule disagree. A shortcut that was not detected has no
    rank.
    """
    values = dict[str, float]()
    for rule, methods in results.rows.items():
        for method, rows in methods.items():
            key = f"{rule}_{method}"
            values[f"{key}_questions"] = float(len(rows))
            values[f"{key}_excluded"] = float(_excluded(rows))
            values |= {f"{key}_{name}": value for name, value in flat(results.measures[rule][method]).items()}
            if method in results.ranks[rule]:
                rank, phrases = results.ranks[rule][method]
                values[f"{key}_phrases"] = float(phrases)
                values |= {} if rank is None else {f"{key}_rank": float(rank)}
    return values | effect_metrics(results.effects)


def table(results: TruthResults) -> str:
    """Format one block per rule, with measures as rows and methods as columns: mean, 95% interval and count."""
    lines = []
    for rule, methods in results.rows.items():
        meaning = RULES[rule].meaning if rule in RULES else OTHERS[rule]
        lines += [f"{rule}: {meaning}", _line("", [METHOD_TITLES.get(name, name) for name in methods])]
        lines.append(_line("questions", [str(len(rows)) for rows in methods.values()]))
        lines.append(_line("  reading disagrees from the start", [str(_excluded(rows)) for rows in methods.values()]))
        measured = results.measures[rule]
        for name, title in TITLES.items():
            if any(name in values for values in measured.values()):
                lines.append(_line(title, [_cell(measured[method], name) for method in methods]))
        if results.ranks[rule]:
            ranks = [f"{rank or 'none'} of {count}" for rank, count in results.ranks[rule].values()]
            lines.append(_line("shortcut's rank among phrases", ranks))
        lines += effect_lines(rule, results.effects[rule]) if rule in results.effects else []
        lines.append("")
    return "\n".join(lines)


def write(results: TruthResults, folder: Path) -> list[Path]:
    """Write the table of explanations, table.txt, the examples and the causes; return the paths but of the causes."""
    paths = [folder / TABLE, folder / TEXT]
    answers = [rows for methods in results.rows.values() for name, rows in methods.items() if name != OURS_SAME]
    rows = pa.Table.from_pylist([row.as_dict() for rows in answers for row in rows], schema=SCHEMA)
    with whole_file(paths[0]) as temporary:
        pq.write_table(rows, temporary)
    write_text(paths[1], table(results))
    with whole_folder(folder / EXAMPLES) as new:
        for rule, image in results.examples.items():
            write_png(new / f"{rule}.png", image)
    write_causes(results.effects, folder / CAUSES)
    return [*paths, *(folder / EXAMPLES / f"{rule}.png" for rule in results.examples)]


def _excluded(rows: Sequence[EvaluatedAnswer]) -> int:
    return sum(not row.included for row in rows)


def _line(head: str, cells: list[str]) -> str:
    return f"{head:36}" + "".join(f"{cell:>{CELL_WIDTH}}" for cell in cells)


def _cell(measured: Mapping[str, Interval], name: str) -> str:
    if name not in measured:
        return "-"
    value = measured[name]
    return f"{value.mean:.2f} [{value.low:.2f}, {value.high:.2f}] {value.count}"
