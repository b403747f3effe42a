"""The questions that all methods answer, the answers, and the compared methods, which share one signature."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from blobex.config.explain import Truth
from blobex.core.device import ALONE
from blobex.core.errors import BlobexError
from blobex.counterfactual.attacks import pixel_attack, random_edits
from blobex.counterfactual.masks import build_masks
from blobex.counterfactual.problems import Problems
from blobex.counterfactual.published import LAMBDA_KEY
from blobex.counterfactual.questions import Questions, build_questions
from blobex.counterfactual.target import AttributeTarget
from blobex.datasets.images import to_array
from blobex.decisions.decision import frozen_eval
from blobex.explain.explainer import Explainer
from blobex.explain.explanation import Explanation
from blobex.explain.input_images import ImageShare
from blobex.explain.request import Request
from blobex.inversion.inversion import Inversion
from blobex.layout.blobs import KEYS
from blobex.scenes.rules import ACTIONS


@dataclass(frozen=True)
class Task:
    """One question per image and attribute, ordered by image: how would the model decide the opposite?"""

    explainer: Explainer  # with search.mode fast
    published: Explainer | None  # the same networks with search.mode published; None if that method is not compared
    names: tuple[str, ...]
    queries: Tensor  # N,3,H,W in [-1,1], converted from uint8
    attributes: tuple[str, ...]
    questions: Questions
    inversion: Inversion

    def __len__(self) -> int:
        return len(self.questions)

    def first(self, count: int) -> Task:
        """Return the task with the first `count` images only."""
        questions = self.questions[(self.questions.image_index < count).nonzero()[:, 0]]
        names, queries, inversion = self.names[:count], self.queries[:count], self.inversion[:count]
        return dataclasses.replace(self, names=names, queries=queries, questions=questions, inversion=inversion)

    @property
    def request(self) -> Request:
        return Request(attributes=self.attributes, count=1, gate="report")

    @property
    def images(self) -> ImageShare:
        return ImageShare.of(self.names, self.queries, ALONE)

    @property
    def image_numbers(self) -> list[int]:
        """The number of each question's image."""
        return list(map(int, self.questions.image_index))


@dataclass(frozen=True)
class Answer:
    """The counterfactual of one method for one question."""

    before: np.ndarray = field(repr=False)  # uint8 (H,W,3), origin of the change: the query or its reconstruction
    after: np.ndarray = field(repr=False)  # the counterfactual
    flipped: bool  # the model decides as the question asks
    agrees: bool | None = None  # the model decides the reconstruction as the query; None without a reconstruction


def build_task(
    explainer: Explainer, published: Explainer | None, names: Sequence[str], queries: Tensor, attributes: Sequence[str]
) -> Task:
    """Ask about every attribute of images (N,3,H,W) in [-1,1], and invert them.

    Raises:
        BlobexError: if an attribute is not in `rules.ACTIONS`, or an output of the model is not finite.
    """
    unknown = [name for name in attributes if name not in ACTIONS]
    if unknown:
        raise BlobexError(f"no rule decides about {unknown[0]!r}: choose attributes from {', '.join(ACTIONS)}")
    model = explainer.decision
    outputs = explainer.outputs(queries)
    if not torch.isfinite(outputs).all():
        raise BlobexError(f"outputs of {model.name} for some images are not finite: train it again")
    columns = explainer.plan(Request(attributes=attributes)).columns
    questions = build_questions(model.kind, model.outputs, outputs, columns)
    inversion = explainer.invert(queries)
    return Task(explainer, published, tuple(names), queries, tuple(attributes), questions, inversion)


Method = Callable[[Task, Truth], list[Answer]]


def ours(task: Task, options: Truth) -> list[Answer]:
    """Run the search of this package with the task's parameters."""
    explainer = task.explainer
    plan = explainer.plan(task.request)
    explanations = explainer.explain_inverted(task.images, lambda rows: task.inversion[rows], plan)
    return [answer_of(explanation) for explanation in explanations]


def published(task: Task, options: Truth) -> list[Answer]:
    """Run inversion and search step for step as published (OCTET, Zemni et al., CVPR 2023).

    The scripts ask for the opposite of the decision about the reconstruction, so that the scores say which flip.
    """
    if task.published is None:
        raise BlobexError("the published method needs an explainer with search.mode published: give one")
    explainer = task.published
    plan = explainer.plan(task.request)
    explanations = explainer.explain_inverted(task.images, lambda rows: explainer.invert(task.queries[rows]), plan)
    target = task.questions.target
    assert isinstance(target, AttributeTarget)
    return [
        dataclasses.replace(answer_of(each), flipped=not each.failed and (each.score_after > 0.5) == wanted)
        for each, wanted in zip(explanations, target.wanted.tolist(), strict=True)
    ]


def pixels(task: Task, options: Truth) -> list[Answer]:
    """Attack the pixels: a change that is no explanation."""
    explainer = task.explainer
    with frozen_eval(explainer.decision):
        decide, batch_size = explainer.exact.decide, explainer.batch_size
        return _attack_answers(task, *pixel_attack(_problems(task), decide, options.pixels, batch_size))


def random(task: Task, options: Truth) -> list[Answer]:
    """Change all blobs at random: the flips that chance finds."""
    explainer, seed = task.explainer, task.explainer.params.run.seed
    with frozen_eval(explainer.decision):
        result = random_edits(_problems(task), explainer.exact, options.random, explainer.batch_size, seed)
        return _attack_answers(task, *result)


METHODS: dict[str, Method] = {"ours": ours, "published": published, "pixels": pixels, "random": random}


def answer_of(explanation: Explanation) -> Answer:
    """Return the answer that an explanation gives."""
    # A change composed over the query starts at the query, a full rendering at the reconstruction.
    before = explanation.query if explanation.compose == "photo" else explanation.reconstruction
    return Answer(before, explanation.counterfactual, explanation.flipped, explanation.reconstruction_agrees)


def _problems(task: Task) -> Problems:
    """Return the task's questions as problems in which every entry may change."""
    device, layout = task.explainer.device, task.inversion.layout.to(task.explainer.device)
    index, target = task.questions.image_index.to(device), task.questions.target
    assert isinstance(target, AttributeTarget)
    target = AttributeTarget(target.column.to(device), target.wanted.to(device))
    masks = build_masks(layout.blobs, KEYS, None, background=True)
    return Problems.of(task.queries.to(device), layout, index, target, masks, LAMBDA_KEY)


def _attack_answers(task: Task, images: Tensor, flipped: Tensor) -> list[Answer]:
    before, after = ([to_array(image) for image in batch.cpu()] for batch in (task.queries, images))
    rows = zip(task.image_numbers, after, flipped.tolist(), strict=True)
    return [Answer(before[index], image, flag) for index, image, flag in rows]
