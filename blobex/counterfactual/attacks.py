"""Baselines that flip decisions without explaining them: a gradient attack on pixels, and random edits of blobs."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from blobex.config.explain import PixelAttack, RandomEdits
from blobex.counterfactual.compose import Composer
from blobex.counterfactual.problems import Problems
from blobex.counterfactual.published import LAMBDA_KEY
from blobex.counterfactual.target import Target
from blobex.datasets.images import to_float, to_uint8
from blobex.optim.batching import State, float32_batch_size, in_batches
from blobex.optim.network_callables import Decide, Networks


def pixel_attack(problems: Problems, decide: Decide, options: PixelAttack, batch_size: int) -> tuple[Tensor, Tensor]:
    """Attack pixels by projected gradient descent within a maximum norm (PGD, Madry et al., ICLR 2018).

    The attack of each of P problems starts at the query and stops when the decision flips. Steps are whole grey levels,
    so that the images evaluated are those that a file can hold. Returns the images (P,3,H,W) in [-1,1], and bool (P,):
    true where the target is reached.
    """
    levels = to_uint8(problems.queries)

    def attack(index: Tensor, numbers: Tensor) -> State:
        return _descend(levels[index], problems.target[numbers], decide, options)

    numbers = torch.arange(len(problems), device=levels.device)
    rows = float32_batch_size(batch_size, levels.device)
    state = in_batches(attack, rows, problems.image_index, numbers)
    return state["image"], state["flipped"]


def _descend(query: Tensor, target: Target, decide: Decide, options: PixelAttack) -> State:
    start = query.float()
    low, high = (start - options.bound).clamp(min=0), (start + options.bound).clamp(max=255)
    levels = start
    for _ in range(options.steps):
        with torch.enable_grad():
            leaf = to_float(levels).requires_grad_()
            outputs = decide(leaf)
            (gradient,) = torch.autograd.grad(target.loss(outputs).sum(), leaf)
        missed = target.margin(outputs.detach()) <= 0
        if not missed.any():
            break
        stepped = (levels - options.step * gradient.sign()).clamp(low, high)
        levels = torch.where(missed[:, None, None, None], stepped, levels)
    with torch.no_grad():
        image = to_float(levels)
        return {"image": image, "flipped": target.margin(decide(image)) > 0}


def random_edits(
    problems: Problems, networks: Networks, options: RandomEdits, batch_size: int, seed: int
) -> tuple[Tensor, Tensor]:
    """Add normal noise to the layouts of P problems, stronger with every try, until the decision flips.

    The noise of a key is in inverse proportion to its published price, so that one unit of strength costs the same in
    each key. It depends only on the seed, the image and the target's column. Returns the images (P,3,H,W) in [-1,1],
    and bool (P,): true where the target is reached.
    """
    form, device = problems.form, problems.queries.device
    rows = float32_batch_size(batch_size, device)
    composer = Composer.over_queries(problems.queries, form.unflatten(problems.layouts), networks, rows)
    scale = form.spread({key: 1 / price for key, price in LAMBDA_KEY.items()}).to(device)

    @torch.no_grad()
    def edit(numbers: Tensor) -> State:
        batch = problems[numbers]
        index, start, target = batch.image_index, batch.start, batch.target
        every_blob = torch.ones_like(batch.changeable)
        image, flipped = batch.queries[index], torch.zeros_like(every_blob[:, 0])
        pairs = zip(index.tolist(), target.column.tolist(), strict=True)
        generators = [np.random.default_rng([seed, *pair]) for pair in pairs]
        for number in range(options.tries):
            noise = np.stack([generator.standard_normal(start.shape[1], dtype=np.float32) for generator in generators])
            strength = options.first * options.factor**number
            edited = composer.compose(start + strength * scale * torch.from_numpy(noise).to(device), index, every_blob)
            image = torch.where(flipped[:, None, None, None], image, edited)
            flipped = flipped | (target.margin(networks.decide(edited)) > 0)
            if flipped.all():
                break
        return {"image": image, "flipped": flipped}

    state = in_batches(edit, rows, torch.arange(len(problems), device=device))
    return state["image"], state["flipped"]
