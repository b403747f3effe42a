"""What the searches are compared with: a gradient attack on pixels, and random changes of blobs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from blobex.config.evaluation import PixelAttack, RandomEdits
from blobex.counterfactual.compose import Composer
from blobex.counterfactual.published import LAMBDA_KEY
from blobex.counterfactual.target import AttributeTarget, Target
from blobex.datasets.images import to_array, to_float, to_uint8
from blobex.decisions.decision import frozen_eval
from blobex.layout.vector import VectorForm
from blobex.optim.batching import State, float32_batch_size, in_batches
from blobex.optim.networks import Decide
from blobex.truth.task import Answer, Task


def pixel_attack(task: Task, options: PixelAttack) -> list[Answer]:
    """Projected gradient descent within a bound of the largest change of a pixel (PGD, Madry et al., ICLR 2018).

    It begins at the picture and ends as soon as the decision flips. Steps are whole grey levels, so the pictures that
    are judged are those that a file can hold.
    """
    decide, device = task.explainer.exact.decide, task.explainer.device

    def work(picture: Tensor, column: Tensor, wanted: Tensor) -> State:
        return _descended(picture, AttributeTarget(column, wanted), decide, options)

    index, column, wanted = _problems(task)
    with frozen_eval(task.explainer.decision):
        rows = float32_batch_size(task.explainer.batch_size, device)
        found = in_batches(work, rows, to_uint8(task.queries).to(device)[index], column, wanted)
    return _answers(task, found)


def _descended(picture: Tensor, target: Target, decide: Decide, options: PixelAttack) -> State:
    """`picture` is uint8 (R,3,H,W)."""
    start = picture.float()
    low, high = (start - options.bound).clamp(min=0), (start + options.bound).clamp(max=255)
    levels = start
    for _ in range(options.steps):
        with torch.enable_grad():
            leaf = to_float(levels).requires_grad_()
            outputs = decide(leaf)
            (slope,) = torch.autograd.grad(target.loss(outputs).sum(), leaf)
        open_ = target.margin(outputs.detach()) <= 0
        if not open_.any():
            break
        stepped = (levels - options.step * slope.sign()).clamp(low, high)
        levels = torch.where(open_[:, None, None, None], stepped, levels)
    with torch.no_grad():
        image = to_float(levels)
        return {"image": image, "flipped": target.margin(decide(image)) > 0}


def random_edits(task: Task, options: RandomEdits) -> list[Answer]:
    """Normal noise on all of a layout, stronger from try to try until the decision flips, laid over the picture.

    A key's noise is in inverse proportion to its published price, so that one unit of strength costs as much in each.
    Every try of every problem has noise of its own, which depends on nothing but the seed and the problem.
    """
    explainer, form = task.explainer, VectorForm.of(task.inversion.layout)
    rows, device = float32_batch_size(explainer.batch_size, explainer.device), explainer.device
    inversion = task.inversion.to(device)
    composer = Composer.over_queries(task.queries.to(device), inversion.layout, explainer.exact, rows)
    scale = form.spread({key: 1 / price for key, price in LAMBDA_KEY.items()}).to(device)
    index, column, wanted = _problems(task)
    start = form.flatten(inversion.layout)[index]
    seed = explainer.params.run.seed

    @torch.no_grad()
    def work(start: Tensor, index: Tensor, column: Tensor, wanted: Tensor) -> State:
        target = AttributeTarget(column, wanted)
        every = torch.ones(len(start), inversion.layout.blobs + 1, dtype=torch.bool, device=device)
        image = task.queries.to(device)[index]
        flipped = torch.zeros(len(start), dtype=torch.bool, device=device)
        generators = [
            np.random.default_rng([seed, *pair]) for pair in zip(index.tolist(), column.tolist(), strict=True)
        ]
        for number in range(options.tries):
            noise = np.stack([generator.standard_normal(start.shape[1], dtype=np.float32) for generator in generators])
            strength = options.first * options.factor**number
            vector = start + strength * scale * torch.from_numpy(noise).to(device)
            tried = composer.compose(vector, index, every)
            image = torch.where(flipped[:, None, None, None], image, tried)
            flipped = flipped | (target.margin(explainer.exact.decide(tried)) > 0)
            if flipped.all():
                break
        return {"image": image, "flipped": flipped}

    with frozen_eval(explainer.decision):
        return _answers(task, in_batches(work, rows, start, index, column, wanted))


def _problems(task: Task) -> tuple[Tensor, Tensor, Tensor]:
    """Picture, column, and what is wanted, each (P,), of the questions."""
    target, device = task.questions.target, task.explainer.device
    assert isinstance(target, AttributeTarget)
    return task.questions.image_index.to(device), target.column.to(device), target.wanted.to(device)


def _answers(task: Task, found: State) -> list[Answer]:
    queries = [to_array(query) for query in task.queries]
    images = [to_array(image) for image in found["image"].cpu()]
    flags = found["flipped"].tolist()
    return [Answer(queries[index], *rest) for index, *rest in zip(task.pictures, images, flags, strict=True)]
