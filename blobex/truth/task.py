"""The questions that all methods answer, and what an answer is."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.core.ranks import ALONE
from blobex.counterfactual.questions import Questions, build_questions
from blobex.explain.batch import ImageShare
from blobex.explain.explainer import Explainer
from blobex.explain.request import Request
from blobex.inversion.inversion import Inversion
from blobex.scenes.rules import ACTIONS


@dataclass(frozen=True)
class Task:
    """Every one of `attributes` of every picture should become what it is not; questions are ordered by picture."""

    explainer: Explainer  # with search.mode fast
    published: Explainer | None  # the same networks with search.mode published; None: that method is not asked
    names: tuple[str, ...]
    queries: Tensor  # N,3,H,W in [-1,1], made of uint8
    attributes: tuple[str, ...]
    questions: Questions
    inversion: Inversion

    def __len__(self) -> int:
        return len(self.questions)

    def first(self, count: int) -> Task:
        """The task with the first `count` pictures only."""
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
    def pictures(self) -> list[int]:
        """The number of each question's picture."""
        return list(map(int, self.questions.image_index))


@dataclass(frozen=True)
class Answer:
    """What a method found for one question."""

    before: np.ndarray = field(repr=False)  # uint8 (H,W,3), where the change begins: the query or its reconstruction
    after: np.ndarray = field(repr=False)  # the counterfactual
    flipped: bool  # whether the model decides it as asked
    agrees: bool | None = None  # whether the reconstruction is decided as the query is; None: there is none


def begin(
    explainer: Explainer,
    published: Explainer | None,
    names: Sequence[str],
    queries: Tensor,
    attributes: Sequence[str],
) -> Task:
    """The task, for pictures (N,3,H,W) in [-1,1]; BlobexError if an attribute is none of `rules.ACTIONS`."""
    unknown = [name for name in attributes if name not in ACTIONS]
    if unknown:
        raise BlobexError(f"no rule decides about {unknown[0]!r}: choose attributes from {', '.join(ACTIONS)}")
    model = explainer.decision
    said = explainer.outputs(queries)
    if not torch.isfinite(said).all():
        raise BlobexError(f"{model.name} says of some pictures what is not finite: train it again")
    columns = explainer.plan(Request(attributes=attributes)).columns
    questions = build_questions(model.kind, model.outputs, said, columns)
    inversion = explainer.invert(queries)
    return Task(explainer, published, tuple(names), queries, tuple(attributes), questions, inversion)
