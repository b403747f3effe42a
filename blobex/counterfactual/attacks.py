"""Baselines that flip decisions without explaining them: a gradient attack on pixels, and random edits of blobs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from blobex.config.evaluation import PixelAttack, RandomEdits
from blobex.counterfactual.compose import Composer
from blobex.counterfactual.published import LAMBDA_KEY
from blobex.counterfactual.target import Target
from blobex.datasets.images import to_float, to_uint8
from blobex.layout.blobs import BlobLayout
from blobex.layout.vector import VectorForm
from blobex.optim.batching import State, float32_batch_size, in_batches
from blobex.optim.networks import Decide, Networks


@dataclass(frozen=True)
class AttackedQueries:
    """N query images and the P targets of attacks on them."""

    queries: Tensor  # N,3,H,W in [-1,1], made of uint8
    image_index: Tensor  # P: the query of each target
    target: Target  # P targets


@dataclass(frozen=True)
class AttackResult:
    """Attacked images of P targets."""

    image: Tensor  # P,3,H,W in [-1,1]
    flipped: Tensor  # P, bool: the decision model reaches the target


def pixel_attack(attacked: AttackedQueries, decide: Decide, options: PixelAttack, batch_size: int) -> AttackResult:
    """Attack pixels by projected gradient descent within a maximum norm (PGD, Madry et al., ICLR 2018).

    It starts at the query and stops when the decision flips. Steps are whole grey levels, so that the images evaluated
    are those that a file can hold.
    """
    levels = to_uint8(attacked.queries)

    def attack(index: Tensor, numbers: Tensor) -> State:
        return _descend(levels[index], attacked.target[numbers], decide, options)

    numbers = torch.arange(len(attacked.image_index), device=levels.device)
    rows = float32_batch_size(batch_size, levels.device)
    return AttackResult(**in_batches(attack, rows, attacked.image_index, numbers))


def _descend(query: Tensor, target: Target, decide: Decide, options: PixelAttack) -> State:
    """Attack queries (R,3,H,W) uint8."""
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
    attacked: AttackedQueries,
    layout: BlobLayout,
    networks: Networks,
    options: RandomEdits,
    batch_size: int,
    seed: int,
) -> AttackResult:
    """Add normal noise to the inverted layouts of the queries, stronger with every try, until the decision flips.

    The noise of a key is in inverse proportion to its published price, so that one unit of strength costs the same in
    each key. It depends only on the seed, the image and the target's column.
    """
    form, device = VectorForm.of(layout), attacked.queries.device
    rows = float32_batch_size(batch_size, device)
    composer = Composer.over_queries(attacked.queries, layout, networks, rows)
    scale = form.spread({key: 1 / price for key, price in LAMBDA_KEY.items()}).to(device)

    @torch.no_grad()
    def edit(start: Tensor, index: Tensor, numbers: Tensor) -> State:
        target = attacked.target[numbers]
        every_blob = torch.ones(len(start), layout.blobs + 1, dtype=torch.bool, device=device)
        image, flipped = attacked.queries[index], torch.zeros(len(start), dtype=torch.bool, device=device)
        pairs = zip(index.tolist(), target.column.tolist(), strict=True)
        generators = [np.random.default_rng([seed, *pair]) for pair in pairs]
        for number in range(options.tries):
            noise = np.stack([generator.standard_normal(start.shape[1], dtype=np.float32) for generator in generators])
            strength = options.first * options.factor**number
            vector = start + strength * scale * torch.from_numpy(noise).to(device)
            edited = composer.compose(vector, index, every_blob)
            image = torch.where(flipped[:, None, None, None], image, edited)
            flipped = flipped | (target.margin(networks.decide(edited)) > 0)
            if flipped.all():
                break
        return {"image": image, "flipped": flipped}

    start = form.flatten(layout)[attacked.image_index]
    numbers = torch.arange(len(start), device=device)
    return AttackResult(**in_batches(edit, rows, start, attacked.image_index, numbers))
