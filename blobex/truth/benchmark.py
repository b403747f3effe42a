"""The truth benchmark of a setup: all methods, on the same pictures, about models with and without a shortcut."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from blobex.config.data import ImageSizes
from blobex.config.evaluation import Truth
from blobex.config.explain import Explain, Invert
from blobex.config.params import Params
from blobex.core.errors import BlobexError
from blobex.core.ranks import ALONE, Ranks
from blobex.datasets.datamodule import explained_paths, load_image_files
from blobex.datasets.images import to_float
from blobex.explain.explainer import Explainer
from blobex.explain.request import Request
from blobex.metrics.interval import interval
from blobex.scenes.rules import PLAIN, RULES, Rule
from blobex.scenes.scene import Scene
from blobex.scenes.write import scene_of
from blobex.truth.detection import auc_interval, scores, told
from blobex.truth.judge import Row, judge
from blobex.truth.measures import Measures, detection, measures, rank
from blobex.truth.methods import METHODS
from blobex.truth.parts import Part, kept
from blobex.truth.reader import Reader, parser_reader
from blobex.truth.seeds import train_small
from blobex.truth.sheet import sheet
from blobex.truth.task import Answer, Task, begin

SAME = "ours_same"  # ours on the pictures that the published method answered about, where those are fewer


@dataclass(frozen=True)
class Findings:
    """What the benchmark found, by rule; within a rule by method, or SAME."""

    rows: dict[str, dict[str, list[Row]]]
    measures: dict[str, dict[str, Measures]]
    ranks: dict[str, dict[str, tuple[int | None, int]]]  # place of the shortcut among the phrases, and their number
    sheets: dict[str, np.ndarray]  # examples, uint8 (H,W,3)


@dataclass(frozen=True)
class Pictures:
    """Held-out pictures and the scenes behind them."""

    names: tuple[str, ...]
    queries: Tensor  # N,3,H,W in [-1,1]
    scenes: tuple[Scene, ...]


def benchmark(params: Params, setup: str, models: Path, ranks: Ranks = ALONE) -> Findings:
    """Everything, about the models in `models`/decision/<setup>/<rule> and, for several seeds, about small ones.

    The small ones are trained into `models`/truth/<setup>. What is found about each model is kept there until `forget`,
    so a run that was stopped goes on. Of several `ranks` each takes its share of the models; all get the findings.
    BlobexError: pictures that are no synthetic scenes, networks that are missing.
    """
    params.setup(setup)
    options, seed = params.truth, params.run.seed
    if options.seeds > 1 and "ours" not in options.methods:
        raise BlobexError("truth.seeds asks about small models, which only ours explains: add it to truth.methods")
    rules = [PLAIN, *(RULES[name] for name in options.rules)]
    for rule in rules:
        _trained(models, setup, rule)
    numbers = range(options.seeds if options.seeds > 1 else 0)
    asked = [(rule.name, number) for number in (None, *numbers) for rule in rules]
    share = [(each, _part(params, setup, models, *each)) for place, each in enumerate(asked) if ranks.has(place)]
    parts = dict(ranks.gather(share))
    rows = {rule.name: with_same(parts[rule.name, None].rows) for rule in rules}
    findings = assess(rows, {rule.name: parts[rule.name, None].sheet for rule in rules}, seed)
    small = {rule.name: [parts[rule.name, number].rows["ours"] for number in numbers] for rule in rules}
    for rule in rules[1:] if numbers else ():
        found = seed_measures(small[rule.name], small[PLAIN.name], rule, seed)
        findings.measures[rule.name].setdefault("ours", {}).update(found)
    return findings


def forget(models: Path, setup: str) -> None:
    """Remove what `benchmark` has kept of a setup; the small models stay."""
    shutil.rmtree(_kept(models, setup), ignore_errors=True)


def _kept(models: Path, setup: str) -> Path:
    return models / "truth" / setup / "parts"


def _part(params: Params, setup: str, models: Path, name: str, number: int | None) -> Part:
    """What all methods say of a rule's model or, with a number, what ours says of that small model."""
    options, rule = params.truth, RULES[name]
    if number is None:
        model, images = _trained(models, setup, rule), options.images
    else:
        model = train_small(params, setup, name, number, models / "truth" / setup / f"{name}_{number}")
        options, images = dataclasses.replace(options, methods=["ours"]), options.seed_images
    fast, shown = Explainer.load(setup, models, params, decision=str(model)), held_out(params, setup, images)

    def find() -> Part:
        published = "published" in options.methods
        paced = Explainer.load(setup, models, params.published(), decision=str(model)) if published else None
        task = begin(fast, paced, shown.names, shown.queries, params.explain.attributes)
        return Part(*examine(task, shown.scenes, rule, parser_reader(fast, rule), options))

    request = Request(params.explain.attributes, count=1, gate="report")
    searches = str((_own(params.explain, setup), _own(params.invert, setup), params.data.external, options))
    pictures = hashlib.sha256(shown.queries.numpy().tobytes()).hexdigest()
    made_of = [name, fast.settings(fast.plan(request)), searches, shown.names, pictures]
    return kept(_kept(models, setup), name if number is None else model.name, made_of, find)


def _own(section: Explain | Invert, setup: str) -> dict[str, object]:
    """What a section says, without what it says of other setups."""
    every = {field.name: getattr(section, field.name) for field in dataclasses.fields(section)}
    others = [field.name for field in dataclasses.fields(ImageSizes) if field.name != setup]
    return {name: value for name, value in every.items() if name not in others}


def assess(rows: dict[str, dict[str, list[Row]]], sheets: dict[str, np.ndarray], seed: int) -> Findings:
    """The measures of all rows, by rule and method; each planted rule is compared with the plain one."""
    found = {rule: {method: measures(some, seed) for method, some in each.items()} for rule, each in rows.items()}
    ranks: dict[str, dict[str, tuple[int | None, int]]] = {rule: {} for rule in rows}
    for rule, each in rows.items():
        for method, some in each.items() if rule != PLAIN.name else ():
            honest = rows[PLAIN.name][method]
            found[rule][method] |= detection(some, honest, rule, seed)
            ranks[rule][method] = rank(some, honest, rule)
    return Findings(rows, found, ranks, sheets)


def examine(
    task: Task, scenes: Sequence[Scene], rule: Rule, reader: Reader, options: Truth
) -> tuple[dict[str, list[Row]], np.ndarray]:
    """The rows of each of `options.methods`, and some of their answers as a picture, uint8 (H,W,3).

    The published method is slow: it answers the questions about the first `options.published_images` only.
    """
    answers, rows = dict[str, list[Answer]](), dict[str, list[Row]]()
    for method in options.methods:
        asked = task.first(options.published_images) if method == "published" else task
        answers[method] = METHODS[method](asked, options)
        rows[method] = judge(asked, method, answers[method], scenes, rule, reader, options)
    return rows, sheet(task, answers, rows, options.examples)


def with_same(rows: dict[str, list[Row]]) -> dict[str, list[Row]]:
    """`rows` by method with a further entry where published answered less: ours on the same pictures."""
    if "ours" not in rows or len(rows["ours"]) == len(rows.get("published", rows["ours"])):
        return rows
    same = {row.image for row in rows["published"]}
    return rows | {SAME: [row for row in rows["ours"] if row.image in same]}


def seed_measures(models: Sequence[Sequence[Row]], honest: Sequence[Sequence[Row]], rule: Rule, seed: int) -> Measures:
    """Each model's share of explanations that speak of the shortcut, and the AUC of that share.

    A model without explanations of the actions in question has a share of 0: nothing gave its shortcut away.
    """
    mine, others = (
        [float(np.mean(scores(told(rows, rule.refuses), rule.name) or [0.0])) for rows in some]
        for some in (models, honest)
    )
    return {
        "shortcut_share_seeds": interval(mine, seed),
        "honest_share_seeds": interval(others, seed),
        "auc_seeds": auc_interval(mine, others, seed),
    }


def held_out(params: Params, setup: str, count: int) -> Pictures:
    """The first pictures that no network was trained on; BlobexError if they are no synthetic scenes."""
    paths = explained_paths(params)[:count]
    scenes = tuple(scene_of(path) for path in paths)
    pictures = load_image_files(params, setup, paths, "truth")
    return Pictures(tuple(map(str, paths)), to_float(pictures.images), scenes)


def _trained(models: Path, setup: str, rule: Rule) -> Path:
    folder = models / "decision" / setup / rule.name
    if not folder.is_dir():
        raise BlobexError(f"there is no {folder}: run `python -m blobex.stages.decision {setup} {rule.name}` first")
    return folder
