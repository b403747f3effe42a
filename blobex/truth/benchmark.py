"""The truth benchmark of a setup: all methods, on the same pictures, about models with and without a shortcut."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from blobex.config.measures import Truth
from blobex.config.params import Params
from blobex.datasets.datamodule import explained_paths, load_pictures
from blobex.datasets.images import to_float
from blobex.errors import BlobexError
from blobex.explainer import Explainer
from blobex.metrics.interval import interval
from blobex.scenes.rules import PLAIN, RULES, Rule
from blobex.scenes.scene import Scene
from blobex.scenes.write import scene_of
from blobex.truth.detection import auc_interval, scores, told
from blobex.truth.judge import Row, judge
from blobex.truth.measures import Measures, detection, measures, rank
from blobex.truth.methods import METHODS
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


def benchmark(params: Params, setup: str, models: Path) -> Findings:
    """Everything, about the models in `models`/decision/<setup>/<rule> and, for several seeds, about small ones.

    The small ones are trained into `models`/truth/<setup>. BlobexError: pictures that are no synthetic scenes, networks
    that are missing.
    """
    params.setup(setup)
    options, seed = params.truth, params.run.seed
    if options.seeds > 1 and "ours" not in options.methods:
        raise BlobexError("truth.seeds asks about small models, which only ours explains: add it to truth.methods")
    rules = [PLAIN, *(RULES[name] for name in options.rules)]
    folders = {rule.name: _trained(models / "decision" / setup / rule.name, setup, rule) for rule in rules}
    shown = held_out(params, setup, options.images)
    rows, sheets = dict[str, dict[str, list[Row]]](), dict[str, np.ndarray]()
    for rule in rules:
        model, slow = str(folders[rule.name]), "published" in options.methods
        fast = Explainer.load(setup, models, params, decision=model)
        paced = Explainer.load(setup, models, params.published(), decision=model) if slow else None
        task = begin(fast, paced, shown.names, shown.queries, params.explain.attributes)
        answered, sheets[rule.name] = examine(task, shown.scenes, rule, parser_reader(fast, rule), options)
        rows[rule.name] = with_same(answered)
    findings = assess(rows, sheets, seed)
    for name, each in over_seeds(params, setup, models).items() if options.seeds > 1 else ():
        findings.measures[name].setdefault("ours", {}).update(each)
    return findings


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


def over_seeds(params: Params, setup: str, models: Path) -> dict[str, Measures]:
    """For each planted rule, how well the shortcut's share tells its small models from small plain ones."""
    options, seed = params.truth, params.run.seed
    shown = held_out(params, setup, options.seed_images)
    rules = [PLAIN, *(RULES[name] for name in options.rules)]
    ours = dataclasses.replace(options, methods=["ours"])
    rows = dict[str, list[list[Row]]]()
    for rule in rules:
        rows[rule.name] = []
        for number in range(options.seeds):
            folder = train_small(params, setup, rule.name, number, models / "truth" / setup / f"{rule.name}_{number}")
            fast = Explainer.load(setup, models, params, decision=str(folder))
            task = begin(fast, None, shown.names, shown.queries, params.explain.attributes)
            rows[rule.name].append(examine(task, shown.scenes, rule, parser_reader(fast, rule), ours)[0]["ours"])
    return {rule.name: seed_measures(rows[rule.name], rows[PLAIN.name], rule, seed) for rule in rules[1:]}


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
    pictures = load_pictures(params, setup, paths, "truth")
    return Pictures(tuple(map(str, paths)), to_float(pictures.images), scenes)


def _trained(folder: Path, setup: str, rule: Rule) -> Path:
    if not folder.is_dir():
        raise BlobexError(f"there is no {folder}: run `python -m blobex.stages.decision {setup} {rule.name}` first")
    return folder
