"""Elimination of blobs, against an exhaustive search for the smallest flipping set."""

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor
from worlds.linear_world import BLOBS, PARAMS, layouts, networks, opposite

from blobex.counterfactual.masks import build_masks
from blobex.counterfactual.problems import Problems
from blobex.counterfactual.search import SearchOptions, search
from blobex.counterfactual.verify import Counterfactuals
from blobex.layout.blobs import KEYS, BlobLayout
from blobex.optim.network_callables import NetworkPair


def saturating(limits: Tensor) -> object:
    """Return a renderer whose brightness is a sum over blobs; the x of blob k adds at most limits[k]."""

    def render(layout: BlobLayout) -> Tensor:
        gains = limits * torch.tanh(4 * layout.xs / limits)
        return gains.sum(1)[:, None, None, None].repeat(1, 3, 2, 2)

    return render


def run_search(limits: Tensor, few: bool, keys: tuple[str, ...] = ("xs",)) -> Counterfactuals:
    start = layouts(3).replace({"xs": torch.zeros(3, BLOBS)})
    world = networks(saturating(limits))  # type: ignore[arg-type]
    queries = world.render(start)
    index, target = opposite(queries, (0,))
    params = dataclasses.replace(PARAMS, steps=200, learning_rate=0.02, margin=0.05)
    allowed = build_masks(BLOBS, keys, None, background=True)
    problems = Problems.of(queries, start, index, target, allowed, params.lambda_key)
    return search(problems, NetworkPair(world, world), params, 4, SearchOptions(few=few))


@pytest.mark.parametrize(
    "limits", [(0.7, 0.2, 0.2), (0.3, 0.3, 0.1), (0.2, 0.2, 0.2), (0.1, 0.2, 0.55), (0.26, 0.23, 0.2)]
)
def test_the_smallest_set_is_found(limits: tuple[float, ...]) -> None:
    """The decision flips at a brightness of 0.5; a margin of 0.05 is reached at 0.505."""
    able = [
        set(chosen)
        for count in range(BLOBS + 1)
        for chosen in itertools.combinations(range(BLOBS), count)
        if sum(limits[blob] for blob in chosen) > 0.51
    ]
    smallest = min(map(len, able))
    few, free = (run_search(torch.tensor(limits), few) for few in (True, False))
    assert few.flipped.all() and free.flipped.all()
    assert few.changed.sum(1).tolist() == [smallest] * 3
    for row in few.changed:
        assert {int(entry) - 1 for entry in row.nonzero()[:, 0]} in able
    assert (free.changed.sum(1) >= few.changed.sum(1)).all()


def test_blobs_without_effect_do_not_change() -> None:
    result = run_search(torch.tensor([0.9, 0.2, 0.2]), True, KEYS)
    start = layouts(3)
    assert result.changed.sum(1).tolist() == [1] * 3
    for key in ("features", "spatial_style", "covs", "sizes"):
        for entry in range(1, BLOBS):
            assert torch.equal(getattr(result.layout, key)[:, entry], getattr(start, key)[:, entry])


def test_without_a_flip_nothing_fails() -> None:
    result = run_search(torch.tensor([0.1, 0.1, 0.1]), True)
    assert not result.flipped.any() and not result.failed.any()
