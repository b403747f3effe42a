"""The compared methods. All have one signature: they return the answers to a task's questions, in order."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from blobex.config.explain import Truth
from blobex.core.errors import BlobexError
from blobex.counterfactual.attacks import pixel_attack, random_edits
from blobex.counterfactual.masks import build_masks
from blobex.counterfactual.problems import Problems
from blobex.counterfactual.published import LAMBDA_KEY
from blobex.counterfactual.target import AttributeTarget
from blobex.datasets.images import to_array
from blobex.decisions.decision import frozen_eval
from blobex.explain.explanation import Explanation
from blobex.layout.blobs import KEYS
from blobex.truth.task import Answer, Task

Method = Callable[[Task, Truth], list[Answer]]


def ours(task: Task, options: Truth) -> list[Answer]:
    """Run the search of this package with the task's parameters."""
    explainer = task.explainer
    plan = explainer.plan(task.request)
    explanations = explainer.explain_inverted(task.images, lambda rows: task.inversion[rows], plan)
    return [_answer(explanation) for explanation in explanations]


def published(task: Task, options: Truth) -> list[Answer]:
    """Run inversion and search step for step as published (OCTET, Zemni et al., CVPR 2023)."""
    if task.published is None:
        raise BlobexError("the published method needs an explainer with search.mode published: give one")
    explainer = task.published
    plan = explainer.plan(task.request)
    explanations = explainer.explain_inverted(task.images, lambda rows: explainer.invert(task.queries[rows]), plan)
    return [_answer(explanation) for explanation in explanations]


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


def _answer(explanation: Explanation) -> Answer:
    """Return the answer of an explanation.

    A change composed over the query starts at the query, a full rendering at the reconstruction: the error of the
    reconstruction is not part of the change.
    """
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
