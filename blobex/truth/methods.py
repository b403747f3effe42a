"""Four ways to find a counterfactual, all with one signature: the answers to a task's questions, in their order."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from blobex.config.evaluation import Truth
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


def _answer(record: Explanation) -> Answer:
    """A change that is laid over the query begins at the query, and at the reconstruction where all is rendered anew:
    what the generator cannot paint is no change."""
    before = record.query if record.compose == "photo" else record.reconstruction
    return Answer(before, record.counterfactual, record.flipped, record.reconstruction_agrees)


def _problems(task: Task) -> Problems:
    """The task's questions as problems in which every entry may change."""
    device, layout = task.explainer.device, task.inversion.layout.to(task.explainer.device)
    index, target = task.questions.image_index.to(device), task.questions.target
    assert isinstance(target, AttributeTarget)
    target = AttributeTarget(target.column.to(device), target.wanted.to(device))
    masks = build_masks(layout.blobs, KEYS, None, background=True)
    return Problems.of(task.queries.to(device), layout, index, target, masks, LAMBDA_KEY)


def _attack_answers(task: Task, images: Tensor, flipped: Tensor) -> list[Answer]:
    before, after = ([to_array(image) for image in batch.cpu()] for batch in (task.queries, images))
    rows = zip(task.pictures, after, flipped.tolist(), strict=True)
    return [Answer(before[index], image, flag) for index, image, flag in rows]
