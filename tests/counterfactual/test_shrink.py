"""The way back from a flip: what it does not need is undone, and the rest moved towards the start."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from worlds.linear_world import BLOBS, LAMBDA_KEY, PARAMS, decide, layouts, networks, render_x

from blobex.counterfactual.compose import Composer
from blobex.counterfactual.masks import build_masks
from blobex.counterfactual.problems import Problems, SearchContext
from blobex.counterfactual.proximity import price_vector
from blobex.counterfactual.shrink import Shrinker
from blobex.counterfactual.target import AttributeTarget, Target
from blobex.layout.blobs import KEYS, BlobLayout
from blobex.layout.vector import VectorForm


def shifted(border: float) -> Callable[[Tensor], Tensor]:
    return lambda images: decide(images + (0.5 - border))


def shrinker(start: BlobLayout, decision: Callable[[Tensor], Tensor], bisections: int, margin: float = 0.0) -> Shrinker:
    """From `start` to where the first logit is above the margin."""
    count, form = len(start), VectorForm.of(start)
    target = AttributeTarget(torch.zeros(count, dtype=torch.long), torch.ones(count, dtype=torch.bool))
    params = dataclasses.replace(PARAMS, bisections=bisections, margin=margin)
    return Shrinker(problems(start, target), SearchContext(Composer(networks(render_x, decision), form), params, 4))


def problems(start: BlobLayout, target: Target) -> Problems:
    allowed = build_masks(start.blobs, KEYS, None, background=True)
    return Problems.of(render_x(start), start, torch.arange(len(start)), target, allowed, LAMBDA_KEY)


def line(start: float, found: float, decision: Callable[[Tensor], Tensor], halvings: int) -> float:
    """Where the way back stops between two values of the first blob's x; "above 0.3" is what is wanted."""
    from_, to = (layouts(1).replace({"xs": torch.full((1, BLOBS), value)}) for value in (start, found))
    form = VectorForm.of(from_)
    return form.unflatten(shrinker(from_, decision, 2 * halvings).line_search(form.flatten(to))).xs[0, 0].item()


@pytest.mark.parametrize("halvings", [0, 1, 3, 10, 15])
def test_the_way_back_on_a_known_line(halvings: int) -> None:
    x = line(0.0, 1.0, shifted(0.3), halvings)
    assert 0.3 < x <= 0.3 + 2.0**-halvings
    assert x * 2**halvings == round(x * 2**halvings)  # a whole number of halvings
    assert line(1.0, 1.0, shifted(0.3), halvings) == 1.0


def test_the_way_back_where_there_is_no_flip() -> None:
    assert line(0.0, 0.25, shifted(0.3), 10) == 0.25
    x = line(0.0, 1.0, lambda images: torch.where(images.mean((1, 2, 3))[:, None] < 0.9, math.nan, decide(images)), 15)
    assert x == pytest.approx(0.9, abs=1e-4)  # NaN is no flip


@pytest.mark.parametrize("needed", [0.001, 0.05, 0.3, 0.9])
def test_what_the_flip_does_not_need_is_undone(needed: float) -> None:
    """A logit that is a weighted sum: the changes kept are the fewest of those worth most for their price."""
    start = layouts(5)
    form = VectorForm.of(start)
    random = torch.Generator().manual_seed(7)
    weight = torch.rand(sum(form.lengths), generator=random) - 0.4  # some of the changes work against the flip
    change = torch.where(torch.rand(5, sum(form.lengths), generator=random) < 0.7, 0.1, 0.0)
    allowed = form.spread(dict.fromkeys(KEYS, 1.0))
    found = form.flatten(start) + change * allowed
    begun = form.flatten(start)

    def logit(vector: Tensor) -> Tensor:
        return ((vector - begun[: len(vector)]) * weight).sum(1)

    gains = (change * allowed * weight).clamp(min=0).sum(1)  # of all that helps
    border = needed * gains.min()
    # The vector itself is the picture: a batch of rows keeps its order, so that each is compared with its own start.
    world = networks(lambda layout: form.flatten(layout), lambda vector: vector)
    target = Everywhere(begun, weight, border)
    params = dataclasses.replace(PARAMS, bisections=30, margin=0.0)
    slope = -weight.expand(5, -1)
    price = price_vector(form, LAMBDA_KEY)
    context = SearchContext(Composer(world, form), params, 8)
    kept = Shrinker(problems(start, target), context).prune(found, slope)  # type: ignore[arg-type]
    worth = torch.where((change * allowed * weight > 0), weight / price, -1)
    for problem in range(5):
        stays = kept[problem] != begun[problem]
        assert torch.equal(kept[problem][stays], found[problem][stays])
        assert logit(kept)[problem] > border
        order = worth[problem].argsort(descending=True, stable=True)
        count = int(stays.sum())
        assert stays[order[:count]].all()
        fewer = kept[problem].clone()
        fewer[order[count - 1]] = begun[problem, order[count - 1]]
        assert ((fewer - begun[problem]) * weight).sum() <= border


@dataclasses.dataclass(frozen=True)
class Everywhere:
    """Outputs are vectors (P,D); wanted is a weighted sum of their changes above a border."""

    start: Tensor
    weight: Tensor
    border: Tensor

    def __getitem__(self, index: Tensor) -> "Everywhere":
        return Everywhere(self.start[index], self.weight, self.border)

    def margin(self, outputs: Tensor) -> Tensor:
        return ((outputs - self.start) * self.weight).sum(1) - self.border
