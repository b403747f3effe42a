"""Shrinking of flips: unneeded changes are pruned, and the rest moves towards the start."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from worlds.linear_world import BLOBS, LAMBDA_KEY, PARAMS, decide, layouts, networks, render_x, shifted

from blobex.counterfactual.compose import Composer
from blobex.counterfactual.flips import Shrinker
from blobex.counterfactual.masks import build_masks
from blobex.counterfactual.problems import Problems, SearchContext, price_vector
from blobex.counterfactual.target import AttributeTarget, Target
from blobex.layout.blobs import KEYS, BlobLayout
from blobex.layout.vector import VectorForm


def shrinker(start: BlobLayout, decision: Callable[[Tensor], Tensor], bisections: int, margin: float = 0.0) -> Shrinker:
    """Return a shrinker of changes that raise the first logit above the margin."""
    count, form = len(start), VectorForm.of(start)
    target = AttributeTarget(torch.zeros(count, dtype=torch.long), torch.ones(count, dtype=torch.bool))
    params = dataclasses.replace(PARAMS, bisections=bisections, margin=margin)
    return Shrinker(problems(start, target), SearchContext(Composer(networks(render_x, decision), form), params, 4))


def problems(start: BlobLayout, target: Target) -> Problems:
    allowed = build_masks(start.blobs, KEYS, None, background=True)
    return Problems.of(render_x(start), start, torch.arange(len(start)), target, allowed, LAMBDA_KEY)


def line_search(start: float, end: float, decision: Callable[[Tensor], Tensor], halvings: int) -> float:
    """Search the line between two values of all x; return the resulting x of the first blob."""
    first, last = (layouts(1).replace({"xs": torch.full((1, BLOBS), value)}) for value in (start, end))
    form = VectorForm.of(first)
    return form.unflatten(shrinker(first, decision, 2 * halvings).line_search(form.flatten(last))).xs[0, 0].item()


@pytest.mark.parametrize("halvings", [0, 1, 3, 10, 15])
def test_line_search_ends_at_the_boundary(halvings: int) -> None:
    x = line_search(0.0, 1.0, shifted(0.3), halvings)
    assert 0.3 < x <= 0.3 + 2.0**-halvings
    assert x * 2**halvings == round(x * 2**halvings)  # a whole number of halvings
    assert line_search(1.0, 1.0, shifted(0.3), halvings) == 1.0


def test_line_search_without_a_flip() -> None:
    assert line_search(0.0, 0.25, shifted(0.3), 10) == 0.25

    def nan_below(images: Tensor) -> Tensor:
        return torch.where(images.mean((1, 2, 3))[:, None] < 0.9, math.nan, decide(images))

    assert line_search(0.0, 1.0, nan_below, 15) == pytest.approx(0.9, abs=1e-4)  # NaN is no flip


@pytest.mark.parametrize("needed", [0.001, 0.05, 0.3, 0.9])
def test_prune_keeps_the_fewest_entries_of_highest_gain(needed: float) -> None:
    """The logit is a weighted sum of the changes."""
    start = layouts(5)
    form = VectorForm.of(start)
    random = torch.Generator().manual_seed(7)
    weight = torch.rand(sum(form.lengths), generator=random) - 0.4  # some of the changes work against the flip
    change = torch.where(torch.rand(5, sum(form.lengths), generator=random) < 0.7, 0.1, 0.0)
    allowed = form.spread(dict.fromkeys(KEYS, 1.0))
    vectors = form.flatten(start) + change * allowed
    begun = form.flatten(start)

    def logit(vector: Tensor) -> Tensor:
        return ((vector - begun[: len(vector)]) * weight).sum(1)

    gains = (change * allowed * weight).clamp(min=0).sum(1)  # of all entries that help
    boundary = needed * gains.min()
    # The image is the vector itself.
    world = networks(lambda layout: form.flatten(layout), lambda vector: vector)
    target = SumTarget(begun, weight, boundary)
    params = dataclasses.replace(PARAMS, bisections=30, margin=0.0)
    gradient = -weight.expand(5, -1)
    price = price_vector(form, LAMBDA_KEY)
    context = SearchContext(Composer(world, form), params, 8)
    pruned = Shrinker(problems(start, target), context).prune(vectors, gradient)  # type: ignore[arg-type]
    gain = torch.where((change * allowed * weight > 0), weight / price, -1)
    for problem in range(5):
        stays = pruned[problem] != begun[problem]
        assert torch.equal(pruned[problem][stays], vectors[problem][stays])
        assert logit(pruned)[problem] > boundary
        order = gain[problem].argsort(descending=True, stable=True)
        count = int(stays.sum())
        assert stays[order[:count]].all()
        fewer = pruned[problem].clone()
        fewer[order[count - 1]] = begun[problem, order[count - 1]]
        assert ((fewer - begun[problem]) * weight).sum() <= boundary


@dataclasses.dataclass(frozen=True)
class SumTarget:
    """Target of layout vectors (P,D) as outputs: a weighted sum of their changes above a boundary."""

    start: Tensor
    weight: Tensor
    boundary: Tensor

    def __getitem__(self, index: Tensor) -> "SumTarget":
        return SumTarget(self.start[index], self.weight, self.boundary)

    def margin(self, outputs: Tensor) -> Tensor:
        return ((outputs - self.start) * self.weight).sum(1) - self.boundary
