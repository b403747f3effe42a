"""The questions that all methods answer, and the answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from blobex.core.device import ALONE
from blobex.core.errors import BlobexError
from blobex.counterfactual.questions import Questions, build_questions
from blobex.explain.explainer import Explainer
from blobex.explain.input_images import ImageShare
from blobex.explain.request import Request
from blobex.inversion.inversion import Inversion
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
    explainer: Explainer,
    published: Explainer | None,
    names: Sequence[str],
    queries: Tensor,
    attributes: Sequence[str],
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
