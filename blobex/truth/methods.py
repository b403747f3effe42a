"""Four ways to find a counterfactual, all with one signature: the answers to a task's questions, in their order."""

from __future__ import annotations

from collections.abc import Callable

from blobex.config.evaluation import Truth
from blobex.core.errors import BlobexError
from blobex.explain.explanation import Explanation
from blobex.truth.attacks import pixel_attack, random_edits
from blobex.truth.task import Answer, Task

Method = Callable[[Task, Truth], list[Answer]]


def ours(task: Task, options: Truth) -> list[Answer]:
    """The search of this package, as the parameters have it."""
    explainer = task.explainer
    plan = explainer.plan(task.request)
    records = explainer.explain_inverted(task.images, lambda rows: task.inversion[rows], plan)
    return [_answer(record) for record in records]


def published(task: Task, options: Truth) -> list[Answer]:
    """Inversion and search step for step as published (OCTET, Zemni et al., CVPR 2023)."""
    if task.published is None:
        raise BlobexError("the published method needs an explainer with search.mode published: give one")
    explainer = task.published
    plan = explainer.plan(task.request)
    records = explainer.explain_inverted(task.images, lambda rows: explainer.invert(task.queries[rows]), plan)
    return [_answer(record) for record in records]


def pixels(task: Task, options: Truth) -> list[Answer]:
    """An attack on the pixels: what is no explanation at all."""
    return pixel_attack(task, options.pixels)


def random(task: Task, options: Truth) -> list[Answer]:
    """Random changes of all blobs: what chance finds."""
    return random_edits(task, options.random)


METHODS: dict[str, Method] = {"ours": ours, "published": published, "pixels": pixels, "random": random}


def _answer(record: Explanation) -> Answer:
    """A change that is laid over the query begins at the query, and at the reconstruction where all is rendered anew:
    what the generator cannot paint is no change."""
    before = record.query if record.compose == "photo" else record.reconstruction
    return Answer(before, record.counterfactual, record.flipped, record.reconstruction_agrees)
