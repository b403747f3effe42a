"""Counterfactual search: for each picture and attribute, the nearest layout that is decided otherwise.

Problems (one picture and one attribute each) are solved side by side in batches and do not influence each other; only
the rounding of floating-point sums may differ between batches of different sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from blobex.config import ExplainSetup
from blobex.counterfactual.objective import flip_loss, proximity, target_logit
from blobex.errors import BlobexError
from blobex.inversion.descent import adam, descend, finite, join, keep_better
from blobex.inversion.invert import Perceptual, Render
from blobex.layout.layout import KEYS, BlobLayout, from_dict

Decide = Callable[[Tensor], Tensor]  # (N,3,H,W) to logits (N,A), differentiable


@dataclass(frozen=True)
class Counterfactuals:
    """The best iterate of each of P problems. `image`, `logits_after` and all measures are those of `layout`.

    A problem is flipped if the decision about the iterate differs from that about the query. The best iterate is the
    nearest flipped one, or else the one with the highest score of the target class.
    """

    image_index: Tensor  # P: which picture
    attribute: Tensor  # P: which attribute
    layout: BlobLayout
    image: Tensor  # P,3,H,W
    logits_before: Tensor  # P,A: of the query
    logits_start: Tensor  # P,A: of its reconstruction
    logits_after: Tensor  # P,A
    target: Tensor  # P, bool: the class to reach, 1 - decision(query)
    flipped: Tensor  # P, bool
    failed: Tensor  # P, bool: no iterate was finite; never flipped
    proximity: Tensor  # P: weighted distance to the reconstruction's blobs
    perceptual: Tensor  # P: distance to the query
    l2: Tensor  # P: mean squared error to the query, pixels in [-1,1]
    step: Tensor  # P: the step after which the best iterate was found

    def __len__(self) -> int:
        return len(self.layout)

    @property
    def scores_before(self) -> Tensor:
        return self.logits_before.sigmoid()

    @property
    def scores_start(self) -> Tensor:
        return self.logits_start.sigmoid()

    @property
    def scores_after(self) -> Tensor:
        return self.logits_after.sigmoid()

    @property
    def reconstruction_agrees(self) -> Tensor:
        """Bool (P,): the attribute is decided alike for the query and its reconstruction."""
        start = target_logit(self.logits_start, self.attribute, self.target)
        return (start <= 0) & finite(self.logits_before)


def search(
    queries: Tensor,
    start: BlobLayout,
    attributes: Sequence[int],
    masks: Mapping[str, Tensor],
    *,
    render: Render,
    decide: Decide,
    perceptual: Perceptual,
    setup: ExplainSetup,
    batch_size: int,
) -> Counterfactuals:
    """Solve N·len(attributes) problems, `batch_size` at a time, ordered by picture and then by attribute.

    `queries` (N,3,H,W) in [-1,1], `start` their N inverted layouts, `masks` from `space.masks`: entries outside them
    keep their bits. BlobexError: an unknown attribute, masks of other pictures, scores without a gradient.
    """
    with torch.no_grad():
        before = torch.cat([decide(part) for part in queries.split(batch_size)])
    if before.ndim != 2 or len(before) != len(queries):
        raise BlobexError(f"the decision gives {tuple(before.shape)} for {len(queries)} pictures: it must give (N,A)")
    _check(len(queries), start, attributes, masks, before.shape[1])
    image_index = torch.arange(len(queries)).repeat_interleave(len(attributes))
    attribute = torch.tensor(attributes).repeat(len(queries))
    parts = []
    for index, chosen in zip(image_index.split(batch_size), attribute.split(batch_size), strict=True):
        rows = {key: mask[index] if len(mask) > 1 else mask for key, mask in masks.items()}
        problems = _Problems(index, chosen.to(before.device), start[index], queries[index], before[index], rows)
        parts.append(_solve(problems, render, decide, perceptual, setup))
    return join(parts)


@dataclass(frozen=True)
class _Problems:
    """The problems of one batch."""

    image_index: Tensor
    attribute: Tensor
    start: BlobLayout
    queries: Tensor
    before: Tensor  # logits
    masks: Mapping[str, Tensor]

    @property
    def target(self) -> Tensor:
        return self.before.gather(1, self.attribute[:, None])[:, 0] <= 0


def _solve(
    problems: _Problems, render: Render, decide: Decide, perceptual: Perceptual, setup: ExplainSetup
) -> Counterfactuals:
    start, target = problems.start.detach(), problems.target
    masks = {key: mask.to(start.xs.device) for key, mask in problems.masks.items()}
    free = {key: getattr(start, key).clone().requires_grad_() for key in masks}
    optimiser = adam(free, setup.learning_rate, setup.size_lr_multiplier)
    best: dict[str, Tensor] = {}
    for step in tqdm(range(setup.steps + 1), desc="counterfactuals", disable=None, leave=False):
        with torch.enable_grad():
            layout = start.replace({key: torch.where(masks[key], free[key], getattr(start, key)) for key in free})
            image = render(layout)
            logits = decide(image)
            distance = proximity(layout, start, setup.lambda_key, tuple(free))
            loss = flip_loss(logits, problems.attribute, target) + setup.lambda_prox * distance
        if not logits.requires_grad:
            raise BlobexError("the decision's scores carry no gradient: give a differentiable decision model")
        iterate = {key: tensor.detach() for key, tensor in layout.items()}
        iterate |= {"image": image.detach(), "logits_after": logits.detach(), "proximity": distance.detach()}
        iterate["sound"] = finite(problems.before, image, logits, *iterate.values())
        iterate["reached"] = target_logit(iterate["logits_after"], problems.attribute, target)
        iterate["step"] = torch.full_like(target, step, dtype=torch.long)
        best = best or iterate | {"logits_start": iterate["logits_after"]}
        best |= keep_better(_better(iterate, best), iterate, best)
        if step < setup.steps:
            descend(optimiser, loss)
    return _record(problems, best, perceptual)


def _better(new: Mapping[str, Tensor], best: Mapping[str, Tensor]) -> Tensor:
    """Bool (P,): the new iterate is flipped and nearer, or further on the target's side where none is flipped yet."""
    flipped, was_flipped = new["reached"] > 0, best["reached"] > 0
    nearer = flipped & (~was_flipped | (new["proximity"] < best["proximity"]))
    further = ~was_flipped & (new["reached"] > best["reached"])
    return new["sound"] & (~best["sound"] | nearer | further)


def _record(problems: _Problems, best: dict[str, Tensor], perceptual: Perceptual) -> Counterfactuals:
    layout = from_dict({key: best.pop(key) for key in KEYS})
    sound, reached = best.pop("sound"), best.pop("reached")
    with torch.no_grad():
        distance = perceptual.distance_to(perceptual.embed(problems.queries), best["image"])
    return Counterfactuals(
        image_index=problems.image_index,
        attribute=problems.attribute,
        layout=layout,
        logits_before=problems.before,
        target=problems.target,
        flipped=sound & (reached > 0),
        failed=~sound,
        perceptual=distance,
        l2=(best["image"] - problems.queries).square().flatten(1).mean(1),
        **best,
    )


def _check(
    count: int, start: BlobLayout, attributes: Sequence[int], masks: Mapping[str, Tensor], available: int
) -> None:
    if len(start) != count:
        raise BlobexError(f"{count} pictures but {len(start)} layouts: give one layout per picture")
    if not attributes:
        raise BlobexError("no attribute to explain: name at least one")
    unknown = [attribute for attribute in attributes if not 0 <= attribute < available]
    if unknown:
        raise BlobexError(f"unknown attribute {unknown[0]}: the decision model scores attributes 0 to {available - 1}")
    lengths = {len(mask) for mask in masks.values()} - {1, count}
    if lengths:
        raise BlobexError(
            f"blobs are listed for {lengths.pop()} of {count} pictures: give one list, or one per picture"
        )
