"""The report as one HTML page that loads nothing, so that it works offline and can be sent as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from blobex.metrics.interval import share_interval
from blobex.perception.sentences import summary
from blobex.report.believable import believable_lines
from blobex.report.causes import ModelCauses
from blobex.report.elements import Bar, bar, environment, number, share_bar
from blobex.report.gallery import SORTS, gallery
from blobex.report.results import Record, Report, Results, measured, object_changes

NO_NUMBER = "-"
MAX_PHRASES, MAX_IN_SENTENCE = 6, 2  # changes of a question that get a bar, and that its sentence names


def page(report: Report, causes: Mapping[str, Sequence[ModelCauses]]) -> str:
    """Render the page; every text is escaped. `causes` are those of the truth benchmark's models, by setup."""
    explained = [f"explain-{results.setup}-{results.variant}" for results in report.results]
    stages = [f"{stage.split()[0]}-..." for stage in report.measures if not stage.startswith("explain")]
    return (
        environment()
        .get_template("page.html")
        .render(
            report=report,
            causes=causes,
            overview=overview(report),
            questions=[(results, questions(results)) for results in report.results],
            believable=believable_lines(report.measures),
            gallery=gallery(report),
            sorts=SORTS,
            stage_tables=stage_tables(report),
            run_names=list(dict.fromkeys([*explained, *stages])),
        )
    )


@dataclass(frozen=True)
class Overview:
    """One row of the overview."""

    variant: str
    explanations: int
    images: int
    cells: Sequence[Bar | None]  # flipped, flipped by the change, distance, changed blobs


@dataclass(frozen=True)
class Question:
    """The changes that turned one decision into another, most frequent first."""

    before: str
    after: str
    count: str  # such as "3 counterfactuals"
    sentence: str
    bars: Mapping[str, Bar]  # by phrase; empty if the parser sees no change


def overview(report: Report) -> dict[str, list[Overview]]:
    """Return the rows of the overview by setup."""
    intervals = [measured(results, report.distance, report.seed) for results in report.results]
    scaled = (report.distance, "changed_blobs")
    tops = {name: max((each[name].high for each in intervals if name in each), default=1.0) for name in scaled}
    rows: dict[str, list[Overview]] = {}
    for results, each in zip(report.results, intervals, strict=True):
        shares = [share_bar(each[name]) for name in ("flip_rate", "flipped_by_change")]
        values = [bar(each[name], tops[name], number) if name in each else None for name in scaled]
        images = len({row["image"] for row in results.rows})
        row = Overview(results.variant, len(results.rows), images, [*shares, *values])
        rows.setdefault(results.setup, []).append(row)
    return rows


def questions(results: Results) -> list[Question] | str:
    """Return the frequent changes of every question among counterfactuals that flipped; a sentence if unknown."""
    flipped = [record for record in results.records if record["verdict"] == "flipped"]
    if not flipped:
        return "No counterfactual flipped the decision."
    if not any(record["sentence"] for record in flipped):
        return f"No parser named the objects: run `dvc repro parser@{results.setup}`, then explain again."
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in flipped:
        groups.setdefault((record["from_class"], record["to_class"]), []).append(record)
    return [_question(before, after, records) for (before, after), records in groups.items()]


def _question(before: str, after: str, records: Sequence[Record]) -> Question:
    changes = [object_changes(record) for record in records]
    shares = summary(changes)
    frequent = ", ".join(f"{phrase} in {share:.0%}" for phrase, share in list(shares.items())[:MAX_IN_SENTENCE])
    count = f"{len(records)} counterfactual{'s' if len(records) > 1 else ''}"
    bars = {}
    for phrase in list(shares)[:MAX_PHRASES]:
        occurs = [float(phrase in {change.general for change in each}) for each in changes]
        bars[phrase] = share_bar(share_interval(occurs, [record["image"] for record in records]))
    return Question(before, after, count, f"To make the model say “{after}”: {frequent} of {count}.", bars)


def stage_tables(report: Report) -> dict[str, dict[str, dict[str, str]]]:
    """Return every stage's measures as text by stage, measure and setup; an interval joins the row of its mean."""
    tables: dict[str, dict[str, dict[str, str]]] = {}
    for stage, setups in report.measures.items():
        texts = {setup: _with_intervals(measures) for setup, measures in setups.items()}
        names = dict.fromkeys(name for measures in texts.values() for name in measures)
        tables[stage] = {
            name: {setup: measures.get(name, NO_NUMBER) for setup, measures in texts.items()} for name in names
        }
    return tables


def _with_intervals(measures: Mapping[str, float]) -> dict[str, str]:
    ends = {f"{name}_{end}" for name in measures for end in ("low", "high", "count")}
    texts = {}
    for name, value in measures.items():
        if name not in ends:
            low, high, count = (measures.get(f"{name}_{end}") for end in ("low", "high", "count"))
            texts[name] = number(value)
            texts[name] += f" [{number(low)}, {number(high)}]" if low is not None and high is not None else ""
            texts[name] += f" (n = {number(count)})" if count is not None else ""
    return texts
