"""The published searches, step for step, as baselines (OCTET, Zemni et al., CVPR 2023)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from blobex.config.explain import Key
from blobex.counterfactual.compose import Composer
from blobex.counterfactual.problems import Problems
from blobex.counterfactual.verify import Counterfactuals, SharedCounterfactuals, verify
from blobex.layout.blobs import KEYS, BlobLayout
from blobex.layout.vector import VectorForm
from blobex.optim.network_callables import Networks
from blobex.optim.published import draw_blobs, leaves_with_adam

BATCH_SIZE = 8
STEPS = 200
LEARNING_RATE, SIZE_LEARNING_RATE = 0.01, 0.08
LAMBDA_PROX = 0.1
LAMBDA_KEY: dict[Key, float] = {"xs": 6, "ys": 6, "covs": 1, "sizes": 1, "features": 20, "spatial_style": 20}
TARGETED_STEPS, TARGETED_LAMBDA_PROX = 100, 0.01
DIVERSE_SIZE_LEARNING_RATE, DIVERSE_LAMBDA_PROX = 0.06, 0.5
DIVERSE_LAMBDA_KEY: dict[Key, float] = {**LAMBDA_KEY, "xs": 10, "ys": 10, "features": 10, "spatial_style": 10}
SPREAD = 0.05  # the assignment starts within 1 +- SPREAD
ENTROPY_WEIGHT = 0.4
CHANGED_KEYS: dict[str, tuple[str, ...]] = {"basic": KEYS, "targeted": ("spatial_style",), "diverse": KEYS}


@dataclass(frozen=True)
class PublishedSearch:
    """Settings of one of the published scripts."""

    steps: int
    learning_rate: float
    size_learning_rate: float  # of sizes and of the assignment
    lambda_prox: float
    lambda_key: Mapping[Key, float]
    count: int = 1  # counterfactuals of each problem, searched at once
    seed: int = 0  # of the initial assignment


def published_settings(variant: str, count: int = 1, seed: int = 0) -> PublishedSearch:
    """Return the settings of the script for basic, targeted or diverse counterfactuals; several at once are diverse.

    The published diverse script has no number of steps of its own: it has that of the basic one here.
    """
    basic = PublishedSearch(STEPS, LEARNING_RATE, SIZE_LEARNING_RATE, LAMBDA_PROX, LAMBDA_KEY, count, seed)
    if variant == "diverse" or count > 1:
        rate = DIVERSE_SIZE_LEARNING_RATE
        return PublishedSearch(STEPS, rate / 8, rate, DIVERSE_LAMBDA_PROX, DIVERSE_LAMBDA_KEY, count, seed)
    if variant == "targeted":
        return dataclasses.replace(basic, steps=TARGETED_STEPS, lambda_prox=TARGETED_LAMBDA_PROX)
    return basic


def published_prices(form: VectorForm, lambda_key: Mapping[Any, float]) -> Tensor:
    """Return the price (D,) per unit of absolute change of each number of a layout vector.

    As published, the mean of `sizes` is over K+1 entries, the unread entry 0 included; `price_vector` leaves it out.
    """
    return form.spread({key: lambda_key[key] / length for key, length in zip(KEYS, form.lengths, strict=True)})


def search_published(
    problems: Problems, networks: Networks, settings: PublishedSearch | None = None
) -> Counterfactuals:
    """Take all steps of Adam for each problem; the counterfactuals are the last iterate.

    Attributes are searched one after the other, eight images at a time. As in the published scripts, the blobs are
    drawn at every step, and gradients of network weights are computed where these require them. The prices of
    `problems` are not used. The settings are those of the basic script by default.
    """
    settings = settings or published_settings("basic")
    price = published_prices(problems.form, settings.lambda_key).to(problems.layouts.device)
    problems = dataclasses.replace(problems, price=price)
    repeated = problems.repeated(settings.count)
    vectors = torch.empty_like(repeated.start).unflatten(0, (-1, settings.count))
    shares = torch.ones_like(repeated.changeable, dtype=vectors.dtype).unflatten(0, (-1, settings.count))
    for column in problems.target.column.unique():
        numbers = (problems.target.column == column).nonzero()[:, 0]
        for index in tqdm(numbers.split(BATCH_SIZE), desc="published search", disable=None, leave=False):
            vectors[index], shares[index], _ = descend(problems[index], networks, settings)
    step = torch.full_like(repeated.image_index, settings.steps)
    result = verify(vectors.flatten(0, 1), repeated, step, Composer(networks, problems.form), BATCH_SIZE)
    return result if settings.count == 1 else SharedCounterfactuals.of(result, shares.flatten(0, 1))


def descend(problems: Problems, networks: Networks, settings: PublishedSearch) -> tuple[Tensor, Tensor, Tensor]:
    """Take all steps for P problems at once.

    With C = settings.count > 1 counterfactuals, C proposals v are optimised together with an assignment B (C,K+1). The
    layouts are v0 + A (v - v0), where A = softmax(B) over the counterfactuals; the mean of -A log A over all entries,
    times ENTROPY_WEIGHT, is added to the mean loss of the C layouts. Column 0 of A is the background's; a published
    script shifts the shares of sizes, features and styles by one blob.

    Returns:
        The layouts (P,C,D) after the last step, their shares A (P,C,K+1), and the losses (steps,P) before each step.
    """
    repeated, form, count = problems.repeated(settings.count), problems.form, settings.count
    start, owners = repeated.start, form.owners().to(repeated.start.device)
    leaves, optimiser = leaves_with_adam(form.unflatten(start), settings.learning_rate, settings.size_learning_rate)
    assignment = _initial_assignment(problems, settings)
    if count > 1:
        optimiser.add_param_group({"params": [assignment], "lr": settings.size_learning_rate})

    def iterate() -> tuple[Tensor, Tensor]:
        vectors, shares = torch.where(repeated.mask, form.flatten(BlobLayout(**leaves)), start), assignment.softmax(1)
        if count > 1:
            vectors = start + shares.flatten(0, 1)[:, owners] * (vectors - start)
        return vectors, shares

    losses = []
    for _ in range(settings.steps):
        vectors, shares = iterate()
        layout = form.unflatten(vectors)
        image = networks.render(layout)
        draw_blobs(layout, *image.shape[2:])
        loss = repeated.target.loss(networks.decide(image)) + settings.lambda_prox * repeated.distance(vectors)
        loss = loss.unflatten(0, (-1, count)).mean(1)
        if count > 1:
            loss = loss - ENTROPY_WEIGHT * torch.xlogy(shares, shares).mean((1, 2))
        losses.append(loss.detach())
        optimiser.zero_grad()
        loss.sum().backward()
        optimiser.step()
    vectors, shares = iterate()
    return vectors.detach().unflatten(0, (-1, count)), shares.detach(), torch.stack(losses)


def _initial_assignment(problems: Problems, settings: PublishedSearch) -> Tensor:
    """Return B (P,C,K+1), uniform within 1 +- SPREAD; that of a problem does not depend on the other problems."""
    random = torch.Generator().manual_seed(settings.seed)
    shape = settings.count, problems.changeable.shape[1]
    initial = 1 + SPREAD * (2 * torch.rand(shape, generator=random) - 1)
    return initial.to(problems.start).repeat(len(problems), 1, 1).requires_grad_()
