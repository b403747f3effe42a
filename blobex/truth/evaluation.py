"""Evaluation of answers: is the decision flipped for the rule, too, and does the change concern its causes?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from blobex.config.explain import Truth
from blobex.counterfactual.target import AttributeTarget
from blobex.datasets.images import fit_mask, to_array, to_float, to_tensor
from blobex.explain.believable import Decide
from blobex.explain.explainer import Explainer
from blobex.metrics.witness import shared_flips
from blobex.perception.reading import SceneReading, scene_of_reading
from blobex.perception.sentences import general_phrases
from blobex.scenes.render import cause_mask, render
from blobex.scenes.rules import ACTIONS, Cause, Rule
from blobex.scenes.scene import Scene
from blobex.truth.methods import Answer, Task

VISIBLE = 24.0  # grey levels by which a pixel must differ, as in `cause_mask`
BATCH = 16  # images that a witness decides at once


@dataclass(frozen=True)
class ReadImage:
    """The decisions of a rule about one image."""

    allowed: Mapping[str, bool]  # decision for each of `rules.ACTIONS`
    reading: SceneReading | None = field(default=None, repr=False)  # needed for phrases
    scene: Scene | None = field(default=None, repr=False)  # as far as rules depend on it


ImageReader = Callable[[Sequence[np.ndarray]], list[ReadImage]]


def parser_reader(explainer: Explainer, rule: Rule) -> ImageReader:
    """Return a reader of images, uint8 (H,W,3), that uses the explainer's parser."""

    def read(images: Sequence[np.ndarray]) -> list[ReadImage]:
        read_images = []
        for image, reading in zip(images, explainer.readings(images), strict=True):
            scene = scene_of_reading(reading, image)
            read_images.append(ReadImage(dict(zip(ACTIONS, rule.actions(scene), strict=True)), reading, scene))
        return read_images

    return read


def change_phrases(before: ReadImage, after: ReadImage) -> list[str]:
    """List the changes between two images as general phrases, each once: objects and areas, then time and verge."""
    if before.reading is None or after.reading is None:
        return []
    scenes = (before.scene, after.scene) if before.scene and after.scene else None
    return general_phrases(before.reading, after.reading, scenes)


def change_map(before: np.ndarray, after: np.ndarray) -> np.ndarray:
    """Return the absolute change of each pixel in grey levels, the largest over channels; images uint8 (H,W,3)."""
    return np.abs(before.astype(np.int16) - after.astype(np.int16)).max(axis=2).astype(np.float64)


def cause_masks(
    scene: Scene, causes: Iterable[Cause], height: int, width: int, essential: bool = False
) -> list[np.ndarray]:
    """Return the mask of each visible cause, bool (height,width).

    With `essential`, a red light is its lamps alone: turned green it refuses nothing, but is still there.
    """
    ordered = sorted(causes, key=lambda cause: (cause.element, cause.thing))
    whole = [
        (lamps if essential and cause.element == "light" else cause_mask)(scene, cause, height) for cause in ordered
    ]
    masks = [fit_mask(mask.astype(np.uint8), height, width) > 0 for mask in whole]
    return [mask for mask in masks if mask.any()]


def lamps(scene: Scene, cause: Cause, height: int) -> np.ndarray:
    """Return the pixels (H,2H) of a scene that differ between its light and a green one."""
    green = dataclasses.replace(scene, light="green")
    return change_map(render(scene, height).image, render(green, height).image) > VISIBLE


def cause_recall(change: np.ndarray, masks: Sequence[np.ndarray], touched: float) -> float | None:
    """Return the share of causes whose mean change is at least `touched` grey levels; None without causes."""
    return float(np.mean([change[mask].mean() >= touched for mask in masks])) if masks else None


def cause_precision(change: np.ndarray, masks: Sequence[np.ndarray], dilation: int) -> float | None:
    """Return the share of the change within `dilation` pixels of the causes; None without causes or change."""
    total = change.sum()
    if not masks or total == 0:
        return None
    union = np.any(masks, axis=0)
    dilated = ndimage.binary_dilation(union, np.ones((3, 3)), iterations=dilation) if dilation else union
    return float(change[dilated].sum() / total)


@dataclass(frozen=True)
class EvaluatedAnswer:
    """A row of explanations.parquet: one method's answer to one question. Fields that do not apply are None."""

    rule: str
    method: str
    image: str
    attribute: str
    to_class: str  # the wanted decision: the attribute, with "not " in front if negated
    flipped: bool
    included: bool  # model and rule agree about the query; validity is undefined otherwise
    valid: bool | None  # if included: the decisions of model and rule are both flipped
    recall: float | None  # share of the true causes that the change touches; flips from refused to allowed only
    precision: float | None  # share of the change that lies on the true causes; the same flips
    agrees: bool | None  # the model decides the reconstruction as the query
    planted: bool  # the shortcut is one of the true causes
    phrases: list[str]  # the changes, in general words
    witness: bool | None = None  # if flipped, and there is a witness: its decision is flipped, too

    @property
    def to_allowed(self) -> bool:
        """True if the question asks to allow something refused; "stop" and half the brake count as refusals."""
        if self.attribute == "brake":
            return "<=" in self.to_class
        return (self.attribute == "stop") == self.to_class.startswith("not ")

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def evaluate_answers(
    task: Task,
    method: str,
    answers: Sequence[Answer],
    scenes: Sequence[Scene],
    rule: Rule,
    reader: ImageReader,
    options: Truth,
    decide: Decide | None = None,
) -> list[EvaluatedAnswer]:
    """Evaluate the answers of one method; `scenes` are those of the task's images, `decide` a witness of the rule.

    Causes exist only where the scene refuses an action (for "stop": where it demands it), so recall and precision are
    those of questions that ask for the opposite.
    """
    target = task.questions.target
    assert isinstance(target, AttributeTarget)
    queries = reader([to_array(query) for query in task.queries])
    images = reader([image for answer in answers for image in (answer.before, answer.after)])
    witnessed = [None] * len(answers) if decide is None else _witnessed(task, answers, target, decide)
    evaluated = []
    for number, (answer, index) in enumerate(zip(answers, task.image_numbers, strict=True)):
        attribute, wanted = task.questions.outputs[number], bool(target.wanted[number])
        before, after = images[2 * number : 2 * number + 2]
        included = queries[index].allowed[attribute] != wanted
        causes = rule.causes(scenes[index], attribute) if wanted != (attribute == "stop") else frozenset()
        recall, precision = _recall_precision(answer, scenes[index], causes, options)
        evaluated.append(
            EvaluatedAnswer(
                rule=rule.name,
                method=method,
                image=task.names[index],
                attribute=attribute,
                to_class=task.questions.after[number],
                flipped=answer.flipped,
                included=included,
                valid=(answer.flipped and after.allowed[attribute] == wanted) if included else None,
                recall=recall,
                precision=precision,
                agrees=answer.agrees,
                planted=attribute in rule.refuses and bool(rule.shortcut(scenes[index]) & causes),
                phrases=change_phrases(before, after),
                witness=witnessed[number] if answer.flipped else None,
            )
        )
    return evaluated


def _witnessed(task: Task, answers: Sequence[Answer], target: AttributeTarget, decide: Decide) -> list[bool | None]:
    """Return whether a witness shares each flip, from the query to the answer."""
    after = to_float(torch.stack([to_tensor(answer.after) for answer in answers]))
    with torch.no_grad():
        decided, seen = (
            torch.cat([decide(part).cpu() for part in images.split(BATCH)]) for images in (task.queries, after)
        )
    columns = torch.tensor([ACTIONS.index(name) for name in task.questions.outputs])
    shared: list[bool | None] = shared_flips(decided[task.image_numbers], seen, columns, target.wanted.cpu()).tolist()
    return shared


def _recall_precision(
    answer: Answer, scene: Scene, causes: frozenset[Cause], options: Truth
) -> tuple[float | None, float | None]:
    if not answer.flipped:
        return None, None
    height, width = answer.after.shape[:2]
    change = change_map(answer.before, answer.after)
    essential, whole = (cause_masks(scene, causes, height, width, essential) for essential in (True, False))
    return cause_recall(change, essential, options.touched), cause_precision(change, whole, options.dilation)
