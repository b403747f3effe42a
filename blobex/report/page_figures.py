"""The figures of a report page: overview with intervals, every stage's measures, and what changes over a whole set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from blobex.explain.explanation import Explanation
from blobex.metrics.interval import Interval, interval
from blobex.perception.differences import summary
from blobex.report.page_markup import STACKED, Markup, joined, number, percent, table, tag
from blobex.report.page_results import Report, Results, measured, object_changes

SHARES = {"flip_rate": "flipped", "flipped_by_change": "flipped by the change"}
NONE = "-"  # where there is no number
MOST_PHRASES, TOLD = 6, 2  # bars for each question, and changes that its sentence names


def overview(report: Report) -> Markup:
    """What the explanations achieved, per setup and variant."""
    found = [(each, measured(each.rows, report.distance, report.seed)) for each in report.results]
    most = {
        name: max((some[name].high for _, some in found if name in some), default=1.0)
        for name in (report.distance, "changed_blobs")
    }
    parts = []
    for setup in dict.fromkeys(each.setup for each, _ in found):
        rows = [
            (
                joined(results.variant, _counted(results)),
                *(_share(some[name]) for name in SHARES),
                *(_value(some.get(name), most[name]) for name in most),
            )
            for results, some in found
            if results.setup == setup
        ]
        heads = ("variant", *SHARES.values(), report.distance, "changed blobs")
        parts.append(table(f"Explanations, {setup}", heads, rows, STACKED))
    return joined(*parts)


def stages(report: Report) -> Markup:
    """Each stage's measures as they stand in its metrics.json, the setups side by side."""
    parts = []
    for stage, setups in report.figures.items():
        told = {setup: _with_intervals(some) for setup, some in setups.items()}
        names = list(dict.fromkeys(name for some in told.values() for name in some))
        rows = [(name, *(some.get(name, NONE) for some in told.values())) for name in names]
        inside = table(f"Measures of {stage}", ("measure", *told), rows)
        parts.append(tag("details", {"class": "stage"}, tag("summary", {}, f"{stage} ({', '.join(told)})"), inside))
    return joined(*parts) if parts else tag("p", {}, "No stage has written measures yet.")


def whole_set(report: Report) -> Markup:
    """Which objects change, over all counterfactuals that flip the decision, per setup, variant and question."""
    parts = []
    for setup in dict.fromkeys(each.setup for each in report.results):
        for place, results in enumerate(each for each in report.results if each.setup == setup):
            inside = joined(*_questions(results, report.seed))
            head = tag("summary", {}, f"{setup}, {results.variant}")
            parts.append(tag("details", {"class": "set", "open": None if place else ""}, head, inside))
    return joined(*parts)


def _questions(results: Results, seed: int) -> list[Markup]:
    flipped = [record for record in results.records if record.verdict == "flipped"]
    if not flipped:
        return [tag("p", {}, "No counterfactual flipped the decision.")]
    if not any(record.sentence for record in flipped):
        return [
            tag("p", {}, f"No parser named the objects: run `dvc repro parser@{results.setup}`, then explain again.")
        ]
    asked: dict[tuple[str, str], list[Explanation]] = {}
    for record in flipped:
        asked.setdefault((record.from_class, record.to_class), []).append(record)
    return [tag("div", {"class": "questions"}, *(_question(*names, some, seed) for names, some in asked.items()))]


def _question(before: str, after: str, records: Sequence[Explanation], seed: int) -> Markup:
    changes = [object_changes(record) for record in records]
    shares = summary(changes)
    if not shares:
        return tag(
            "section", {}, tag("h4", {}, f"{before} → {after}"), tag("p", {}, "The parser sees nothing changed.")
        )
    told = ", ".join(f"{phrase} in {percent(share)}" for phrase, share in list(shares.items())[:TOLD])
    counted = f"{len(records)} counterfactual{'s' if len(records) > 1 else ''}"
    sentence = f"To make the model say “{after}”: {told} of {counted}."
    rows = []
    for phrase in list(shares)[:MOST_PHRASES]:
        occurs = [phrase in {change.general for change in some} for some in changes]
        rows.append((phrase, _share(interval(occurs, seed))))
    bars = table(f"{before} → {after}, {counted}", ("change", "share"), rows, "phrases")
    return tag("section", {}, tag("p", {"class": "sentence"}, sentence), bars)


def _counted(results: Results) -> Markup:
    pictures = len({row["image"] for row in results.rows})
    return tag("small", {}, f"{len(results.rows)} explanations of {pictures} pictures")


def _share(found: Interval) -> Markup:
    return _range(found, 1.0, f"{percent(found.mean)} [{percent(found.low)}, {percent(found.high)}]")


def _value(found: Interval | None, most: float) -> Markup:
    if found is None:
        return joined(NONE)
    return _range(found, most, f"{number(found.mean)} [{number(found.low)}, {number(found.high)}]")


def _range(found: Interval, most: float, words: str) -> Markup:
    """A bar up to the mean with the interval on it, and the numbers."""
    mean, low, high = (value / most if most else 0.0 for value in (found.mean, found.low, found.high))
    style = f"--mean:{mean:.4f};--low:{low:.4f};--high:{high:.4f}"
    return joined(tag("span", {"class": "range", "style": style, "aria-hidden": "true"}), words)


def _with_intervals(measures: Mapping[str, float]) -> dict[str, str]:
    """Measures as text; `name_low`, `name_high` and `name_count` become part of `name`'s."""
    parts = {f"{name}_{end}" for name in measures for end in ("low", "high", "count")} & set(measures)
    told = {}
    for name, value in measures.items():
        if name in parts and name.rsplit("_", 1)[0] in measures:
            continue
        low, high, count = (measures.get(f"{name}_{end}") for end in ("low", "high", "count"))
        words = number(value)
        words += f" [{number(low)}, {number(high)}]" if low is not None and high is not None else ""
        told[name] = words + (f" (n = {number(count)})" if count is not None else "")
    return told
