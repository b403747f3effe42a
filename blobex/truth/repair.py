"""Repair of a model with a planted shortcut by its own counterfactuals, compared with other images to learn from.

As in counterfactual knowledge distillation (Bender et al., arXiv:2510.17524) the model is fine-tuned on images that
were made to change its decision, labelled by the plain rules: an explanation that shows what the model goes by has
images in which that is wrong, and mends it; one that shows nothing does not.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from blobex.config.params import Params
from blobex.core.code_state import code_digest
from blobex.core.device import resolve_device
from blobex.core.files import whole_file
from blobex.datasets.bdd import read_decisions
from blobex.datasets.datamodule import DecisionSet, data_root, load_planted
from blobex.datasets.images import to_array, to_float, to_tensor
from blobex.explain.explainer import Explainer
from blobex.explain.record_files import DAMAGES
from blobex.explain.request import Request
from blobex.metrics.groups import gain, group_accuracies, worst_group
from blobex.metrics.interval import Interval, flat
from blobex.networks import weights
from blobex.networks.decision import DecisionModel, load_decision
from blobex.scenes.groups import grouped_scenes
from blobex.scenes.rules import ACTIONS, PLAIN, RULES, Rule
from blobex.scenes.write import scene_of
from blobex.tracking.tracker import NullTracker, Tracker
from blobex.training.decision import decision_measures
from blobex.training.repair import Corrections, fine_tune
from blobex.training.step_module import in_batches
from blobex.truth.effects import scene_image
from blobex.truth.evaluation import ImageReader, parser_reader
from blobex.truth.methods import METHODS, Task, build_task

BEFORE, PHOTOS, OURS_SAME, UNCHANGED = (
    "before",
    "photos",
    "ours_same",
    "unchanged",
)  # rows of the table that are no methods of `truth`
PARTS, CHECKPOINTS = "parts", "checkpoints"  # folders of what is finished


@dataclass(frozen=True)
class Repaired:
    """Measures of one model: as it was, or repaired with the images of one method."""

    images: int  # that it learnt from
    wrong: float  # share of those images about which the model was wrong before, by their labels
    groups: dict[str, Interval]  # accuracy in each group of test scenes
    gain: float | None  # of the worst group
    accuracy: dict[str, float]  # of each action and their mean, about held-out scenes by the plain rules

    @property
    def worst(self) -> Interval:
        return worst_group(self.groups.values())

    def flat(self) -> dict[str, float]:
        """Return all measures by name."""
        values = {"images": float(self.images), "wrong": self.wrong, **self.accuracy}
        values |= {} if self.gain is None else {"gain": self.gain}
        return values | flat({"worst_group": self.worst}) | {name: each.mean for name, each in self.groups.items()}


@dataclass(frozen=True)
class Tests:
    """What all models of a rule are tested on; none of these images is trained on or explained."""

    rule: Rule
    grouped: Tensor  # N,3,H,W uint8
    groups: list[str]
    allowed: Tensor  # N,A bool: by the plain rules
    held_out: DecisionSet

    def measure(self, model: DecisionModel, batch_size: int) -> tuple[dict[str, Interval], dict[str, float]]:
        """Return the accuracy in each group, and about the held-out scenes."""
        columns = [ACTIONS.index(action) for action in self.rule.refuses]
        right = (decisions(model, self.grouped) == self.allowed)[:, columns].all(1)
        accuracies = group_accuracies(right.numpy(), self.groups)
        named = {str(group): accuracy for group, accuracy in accuracies.items()}
        return named, decision_measures(model, self.held_out, batch_size)


def repair_rule(
    params: Params, setup: str, rule_name: str, models: Path, folder: Path, tracker: Tracker
) -> tuple[dict[str, Repaired], DecisionModel]:
    """Repair the model `models`/decision/<setup>/<rule> with the images of each of `repair.methods`.

    What is finished is kept in `folder`/parts and in checkpoints beside it, so that a stopped repair resumes; the
    losses of the first method are tracked.

    Returns:
        The measures by method, those of the model as it was under BEFORE, and the model repaired by the first method.

    Raises:
        BlobexError: The data set holds no synthetic scenes, or networks are missing.
    """
    rule, options = RULES[rule_name], params.repair
    trained = models / "decision" / setup / rule_name
    model, training_set = load_decision(trained), load_planted(params, setup, "train", rule_name)
    names = [record.image.name for record in read_decisions(data_root(params), "train")][: options.images]
    for name in names:
        scene_of(name)
    load = partial(Explainer.load, setup, models, decision=str(trained))
    explainer = load(params=params)
    made = images_by_method(params, explainer, lambda: load(params=params.published()), training_set, names, folder)
    learnt = with_explained(made, training_set.images[: options.images], options.published_images)
    reader, tests = parser_reader(explainer, PLAIN), load_tests(params, setup, rule)
    device, size = resolve_device(params.run.device), options.training.batch_size
    before, accuracy = tests.measure(model.to(device), size)
    results = {BEFORE: Repaired(0, 0.0, before, None, accuracy)}
    first: DecisionModel | None = None
    for method, images in learnt.items():
        repaired, corrections = load_decision(trained), labelled(images, reader)
        log = NullTracker() if first else tracker
        if len(corrections):
            # Without training images: their labels hold the shortcut.
            fine_tune(repaired, corrections, None, options, params.run, folder / CHECKPOINTS / method, log)
            weights.shorten(repaired)
        groups, accuracy = tests.measure(repaired.to(device), size)
        gained = gain(results[BEFORE].worst.mean, worst_group(groups.values()).mean)
        wrong = share_wrong(corrections, decisions(model, images)) if len(corrections) else 0.0
        results[method] = Repaired(len(corrections), wrong, groups, gained, accuracy)
        first = first or repaired
    assert first is not None
    return results, first


def images_by_method(
    params: Params,
    explainer: Explainer,
    load_published: Callable[[], Explainer],
    data: DecisionSet,
    names: list[str],
    folder: Path,
) -> dict[str, Tensor]:
    """Return the images (N,3,H,W) uint8 to learn from, by method, the first method's first.

    They are the counterfactuals that flip decisions about the first training images, `names`; for PHOTOS, as many
    unchanged training images as the first method has counterfactuals. OURS_SAME are ours of the images of the published
    search, if it explains fewer.
    """
    options, count = params.repair, len(names)
    queries = to_float(data.images[:count])

    @cache
    def task() -> Task:
        published = load_published() if "published" in options.methods else None
        return build_task(explainer, published, names, queries, params.explain.attributes)

    def answers(method: str) -> tuple[Tensor, Tensor]:
        questions = task().first(options.published_images) if method == "published" else task()
        found = METHODS[method](questions, params.truth)
        flipped = [row for row, answer in enumerate(found) if answer.flipped]
        images = [to_tensor(found[row].after) for row in flipped]
        numbers = [questions.image_numbers[row] for row in flipped]
        return torch.stack(images) if images else data.images[:0], torch.tensor(numbers, dtype=torch.int64)

    plan = explainer.plan(Request(params.explain.attributes, count=1, gate="report"))
    pixels = hashlib.sha256(queries.numpy().tobytes()).hexdigest()
    inputs = [explainer.settings(plan), asdict(params.truth.pixels), params.data.external, names, pixels]
    images = dict[str, Tensor]()
    for method in [name for name in options.methods if name != PHOTOS]:
        own = [method, options.published_images] if method == "published" else [method]
        images[method], numbers = load_or_compute(folder / PARTS, method, [*inputs, *own], partial(answers, method))
        if method == "ours" and "published" in options.methods and options.published_images < count:
            images[OURS_SAME] = images[method][numbers < options.published_images]
    if PHOTOS in options.methods:
        most = len(next(iter(images.values()), queries))
        images[PHOTOS] = data.images[count : count + most]
    return images


def with_explained(images: Mapping[str, Tensor], explained: Tensor, published: int) -> dict[str, Tensor]:
    """Add to each method's images those that it explains; alone, they are UNCHANGED.

    A counterfactual has its meaning beside its query: what differs is what the label goes by.

    Args:
        explained: (N,3,H,W) uint8.
        published: Number of those that the published search explains.
    """
    counts = {"published": published, OURS_SAME: published}
    both = {name: torch.cat([own, explained[: counts.get(name)]]) for name, own in images.items()}
    return both | {UNCHANGED: explained}


def load_or_compute(
    folder: Path, method: str, inputs: object, compute: Callable[[], tuple[Tensor, Tensor]]
) -> tuple[Tensor, Tensor]:
    """Return the kept images and numbers of a method, or compute and keep them; `inputs` are JSON values."""
    content = json.dumps([inputs, code_digest(Path(__file__))], sort_keys=True, default=str)
    path = folder / f"{method}-{hashlib.sha256(content.encode()).hexdigest()[:12]}.npz"
    # From memory, as NumPy leaves a damaged file open.
    with suppress(*DAMAGES, EOFError, zipfile.BadZipFile), np.load(io.BytesIO(path.read_bytes())) as kept:
        return torch.from_numpy(kept["images"]), torch.from_numpy(kept["numbers"])
    images, numbers = compute()
    with whole_file(path) as temporary, temporary.open("wb") as file:
        np.savez(file, images=images.numpy(), numbers=numbers.numpy())
    return images, numbers


def labelled(images: Tensor, reader: ImageReader) -> Corrections:
    """Label images (N,3,H,W) uint8 by what the rules of a reader say about all ACTIONS."""
    read = reader([to_array(to_float(image)) for image in images]) if len(images) else []
    labels = [[float(each.allowed[action]) for action in ACTIONS] for each in read]
    return Corrections(images, torch.tensor(labels, dtype=torch.float32).reshape(-1, len(ACTIONS)))


def share_wrong(corrections: Corrections, decided: Tensor) -> float:
    """Return the share of the images with a label that decisions, bool (N,A), contradict."""
    return float(corrections.wrong(decided).any(1).float().mean())


def load_tests(params: Params, setup: str, rule: Rule) -> Tests:
    """Render the grouped scenes of a rule, and load the held-out images with their labels by the plain rules."""
    size, scenes = params.setup(setup), grouped_scenes(rule, params.repair.group_images, params.scenes.seed)
    images = [scene_image(each.scene, params.scenes.height, size) for each in scenes]
    allowed = torch.tensor([PLAIN.actions(each.scene) for each in scenes])
    held_out = load_planted(params, setup, "test", PLAIN.name)
    groups = [each.group for each in scenes]
    return Tests(rule, torch.stack([to_tensor(image) for image in images]), groups, allowed, held_out)


@torch.no_grad()
def decisions(model: DecisionModel, images: Tensor) -> Tensor:
    """Return the decisions (N,A) bool of a model about images (N,3,H,W) uint8."""
    device = next(model.parameters()).device
    return in_batches(lambda part: (model(to_float(part.to(device))) > 0).cpu(), images)


def metrics(results: Mapping[str, Repaired]) -> dict[str, float]:
    """Return all measures as "<method>_<measure>"."""
    return {f"{method}_{name}": value for method, each in results.items() for name, value in each.flat().items()}


def table(rule: Rule, results: Mapping[str, Repaired]) -> str:
    """Format the results, a line for each method."""
    heads = ("images", "wrong before", "worst group", "95%", "gain", "accuracy")
    lines = [f"{rule.name}: {rule.meaning}", f"{'learnt from':12}" + "".join(f"{head:>16}" for head in heads)]
    for method, each in results.items():
        worst = each.worst
        cells = [str(each.images), f"{each.wrong:.0%}", f"{worst.mean:.1%}", f"[{worst.low:.1%}, {worst.high:.1%}]"]
        cells += ["-" if each.gain is None else f"{each.gain:.2f}", f"{each.accuracy['accuracy']:.2%}"]
        lines.append(f"{method:12}" + "".join(f"{cell:>16}" for cell in cells))
    return "\n".join(lines) + "\n"
