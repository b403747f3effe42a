"""The gallery of a report page: one card per explanation, and what they are filtered and sorted by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import count
from pathlib import Path

from blobex.explain.explanation import Explanation
from blobex.report.page_markup import Markup, joined, number, table, tag
from blobex.report.page_pictures import GREY, difference, flat_map, image, shown, stored
from blobex.report.page_results import Painted, Report, Results, object_changes

MOST_SCORES = 8  # of a model's outputs that are shown; those that matter most
GOOD = ("flipped", "already so")
SORTS = (("order", "as explained"), ("distance", "nearest to the photo"), ("score", "score changed most"))


def gallery(report: Report) -> Markup:
    """The filters and all cards; without explanations a sentence."""
    if not any(results.shown for results in report.results):
        return tag("p", {}, "There are no explanations to show.")
    symbols, cards, numbers = list[Markup](), list[Markup](), count()
    for place, results in enumerate(report.results):
        keys: dict[str, str] = {}
        for record, painted in zip(results.shown, results.painted, strict=True):
            if record.image not in keys:
                keys[record.image] = f"picture-{place}-{len(keys)}"
                symbols.append(stored(f"{keys[record.image]}-query", record.query))
                symbols.append(stored(f"{keys[record.image]}-reconstruction", record.reconstruction))
            cards.append(_card(next(numbers), record, painted, results, keys[record.image], report.distance))
    store = tag("svg", {"class": "store", "width": 0, "height": 0, "aria-hidden": "true"}, tag("defs", {}, *symbols))
    told = tag("p", {"id": "count", "role": "status"}, f"{len(cards)} explanations")
    return joined(store, _filters(report.results), told, tag("div", {"class": "cards", "id": "cards"}, *cards))


def _filters(results: Sequence[Results]) -> Markup:
    records = [record for each in results for record in each.shown]
    choices = {
        "setup": list(dict.fromkeys(each.setup for each in results)),
        "variant": list(dict.fromkeys(each.variant for each in results)),
        "attribute": list(dict.fromkeys(record.attribute for record in records)),
        "verdict": list(dict.fromkeys(record.verdict for record in records)),
        "changed": sorted({change.family for record in records for change in object_changes(record)}),
    }
    fields = [_select(name, "any", [(each, each) for each in some]) for name, some in choices.items() if some]
    text = tag("label", {}, "search ", tag("input", {"type": "search", "name": "text", "placeholder": "file or words"}))
    buttons = [
        tag("button", {"type": "reset"}, "clear"),
        tag("button", {"type": "button", "id": "open", "aria-pressed": "false"}, "open all"),
    ]
    inside = joined(*fields, text, _select("sort", None, SORTS), *buttons)
    return tag("form", {"id": "filters", "class": "filters", "aria-label": "Filter the explanations"}, inside)


def _select(name: str, first: str | None, options: Sequence[tuple[str, str]]) -> Markup:
    given = ([("", first)] if first else []) + list(options)
    inside = [tag("option", {"value": value}, words) for value, words in given]
    return tag("label", {}, f"{name} ", tag("select", {"name": name}, *inside))


def _card(place: int, record: Explanation, painted: Painted, results: Results, key: str, distance: str) -> Markup:
    name, title = Path(record.image).name, f"card-{place}"
    said = f"{record.from_class} → {record.to_class}"
    several = f" · answer {record.number + 1}" if any(other.number for other in results.records) else ""
    marks = {
        "class": "card",
        "aria-labelledby": title,
        "data-setup": record.setup,
        "data-variant": results.variant,
        "data-attribute": record.attribute,
        "data-verdict": record.verdict,
        "data-changed": "|".join(sorted({change.family for change in object_changes(record)})),
        "data-order": place,
        "data-distance": record.perceptual if math.isfinite(record.perceptual) else None,
        "data-score": -abs(record.score_after - record.score_before) if math.isfinite(record.score_after) else None,
    }
    verdict = tag("span", {"class": f"verdict {'good' if record.verdict in GOOD else 'bad'}"}, record.verdict)
    head = tag("header", {}, tag("h3", {"id": title, "class": "searched"}, said), verdict)
    source = tag("p", {"class": "source searched"}, f"{name} · {record.setup} · {results.variant}{several}")
    query = shown(f"{key}-query", record.query, f"Query {name}")
    counterfactual = image(record.counterfactual, f"Counterfactual of {name}: {said}")
    pair = tag(
        "div",
        {"class": "pictures"},
        _figure(query, "query", record, record.score_before),
        _figure(counterfactual, "counterfactual", record, record.score_after),
    )
    sentence = tag("p", {"class": "sentence searched"}, record.sentence or record.words)
    return tag("article", marks, head, source, pair, sentence, _more(record, painted, results, key, distance))


def _more(record: Explanation, painted: Painted, results: Results, key: str, distance: str) -> Markup:
    name, changed = Path(record.image).name, ", ".join(record.changed_blobs) or "none"
    apart, gain = difference(record.query, record.counterfactual)
    rebuilt = shown(f"{key}-reconstruction", record.reconstruction, f"Reconstruction of {name}")
    change = image(apart, f"Difference of counterfactual and query of {name}", exact=False)
    maps = [
        flat_map(each, record.blobs, f"Blob map {when}; blobs in colour, which change: {changed}")
        for when, each in zip(("before", "after"), painted, strict=True)
    ]
    figures = [
        _figure(rebuilt, "reconstruction", record, record.score_reconstruction),
        _figure(change, f"difference; grey: none, white: +{GREY // gain} of 255"),
        _figure(maps[0], "blobs before; in colour: changed"),
        _figure(maps[1], "blobs after"),
    ]
    words = tag("p", {"class": "searched"}, tag("strong", {}, "Blobs: "), record.words)
    beside = tag("div", {"class": "beside"}, _scores(record, results.outputs), _numbers(record, distance))
    return tag(
        "details", {}, tag("summary", {}, "all about it"), tag("div", {"class": "pictures"}, *figures), words, beside
    )


def _figure(picture: Markup, caption: str, record: Explanation | None = None, score: float = 0.0) -> Markup:
    said = f", {record.attribute} {score:.2f}" if record else ""
    return tag("figure", {}, picture, tag("figcaption", {}, caption + said))


def _scores(record: Explanation, outputs: Sequence[str]) -> Markup:
    """The model's scores before and after as bars: all of them, or those that matter most."""
    before, after = record.scores_before.tolist(), record.scores_after.tolist()
    names = list(outputs) if len(outputs) == len(before) else [str(place) for place in range(len(before))]
    largest = sorted(range(len(before)), key=lambda place: (place != record.column, -max(before[place], after[place])))
    rows = [
        (
            tag("strong", {}, names[place]) if place == record.column else names[place],
            _bar(before[place]),
            _bar(after[place]),
        )
        for place in sorted(largest[:MOST_SCORES])
    ]
    return table("What the model says", ("output", "before", "after"), rows, "scores")


def _bar(score: float) -> Markup:
    width = min(max(score, 0.0), 1.0) if math.isfinite(score) else 0.0
    return joined(tag("span", {"class": "bar", "style": f"--share:{width:.3f}", "aria-hidden": "true"}), f"{score:.2f}")


def _numbers(record: Explanation, distance: str) -> Markup:
    rows = [
        (f"{distance} to the query", number(record.perceptual)),
        ("mean square to the query", number(record.l2)),
        (f"{distance} of the reconstruction", number(record.reconstruction_perceptual)),
        ("mean square of the reconstruction", number(record.reconstruction_l2)),
        ("score if rendered anew", number(record.score_full)),
        ("price of the change", number(record.proximity)),
        ("found after step", str(record.step)),
        ("made as", "change over the photo" if record.compose == "photo" else "rendered anew"),
        ("reconstruction", record.gate or ("agrees" if record.reconstruction_agrees else "decided otherwise")),
    ]
    return table("Numbers", ("measure", "value"), rows)
