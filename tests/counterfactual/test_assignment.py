"""The assignment of blobs to several counterfactuals: closed forms, alignment, and search results."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from worlds.linear_world import BLOBS, PARAMS, layouts, networks, opposite, render_x

from blobex.counterfactual.gradient_search import SPREAD, TEMPERATURE, BlobAssignment
from blobex.counterfactual.masks import build_masks
from blobex.counterfactual.problems import Problems
from blobex.counterfactual.search import RETRY_FACTOR, SearchOptions, search
from blobex.counterfactual.verify import Counterfactuals
from blobex.layout.blobs import BACKGROUND_KEYS, KEYS, BlobLayout
from blobex.layout.vector import VectorForm
from blobex.optim.network_callables import NetworkPair


def build_variables(shares: Tensor) -> tuple[BlobAssignment, Tensor, Tensor, BlobLayout]:
    """Return variables with proposals that change every entry by 1, for shares (count,K+1), and their start."""
    start = layouts(2)
    form = VectorForm.of(start)
    vector = form.flatten(start)
    assignment = (shares.clamp(min=1e-12).log() * TEMPERATURE).flatten().expand(2, -1)
    variables = torch.cat([(vector + 1).repeat(1, len(shares)), assignment], 1)
    return BlobAssignment(len(shares), form), variables, vector, start


def test_each_key_changes_by_the_share_of_its_blob_or_background() -> None:
    """xs, ys and covs have no background: their blob k is column k+1. The published code misaligns them."""
    shares = torch.tensor([[0.9, 0.1, 0.6, 0.3], [0.1, 0.9, 0.4, 0.7]])
    assignment, variables, vector, start = build_variables(shares)
    layout = VectorForm.of(start).unflatten(assignment.layouts(variables, vector))
    for key in KEYS:
        change = (getattr(layout, key) - getattr(start, key).repeat_interleave(2, 0)).unflatten(0, (2, 2))
        columns = shares if key in BACKGROUND_KEYS else shares[:, 1:]
        expected = columns.view(1, *columns.shape, *[1] * (change.ndim - 3)).expand_as(change)
        torch.testing.assert_close(change, expected, rtol=0, atol=1e-5)


def test_each_blob_has_one_owner() -> None:
    shares = torch.tensor([[0.9, 0.1, 0.6, 0.5], [0.1, 0.9, 0.4, 0.5]])  # the last one is a tie
    assignment, variables, vector, start = build_variables(shares)
    owned = assignment.owned(variables).unflatten(0, (2, 2))
    by_blob = VectorForm.of(start).by_blob(owned.flatten(0, 1).float()).unflatten(0, (2, 2)) > 0
    assert by_blob[0].tolist() == [[True, False, True, True], [False, True, False, False]]
    assert (owned.sum(1) == 1).all()
    torch.testing.assert_close(assignment.proposals(variables), (vector + 1).repeat_interleave(2, 0))


def test_entropy_in_closed_form() -> None:
    shares = torch.tensor([[0.5, 1.0, 0.25, 0.5], [0.5, 0.0, 0.75, 0.5]])
    assignment, variables, *_ = build_variables(shares)
    entropies = [math.log(2), 0, -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)), math.log(2)]
    expected = torch.full((2,), sum(entropies) / 4)
    torch.testing.assert_close(assignment.entropy(variables), expected, rtol=0, atol=1e-5)
    changeable = torch.tensor([[False, True, False, False], [True, True, True, True]])
    assert assignment.settled(variables, changeable).tolist() == [True, False]


def test_initial_assignment_is_nearly_even_and_equal_for_all_rows() -> None:
    assignment, _, vector, _ = build_variables(torch.full((3, BLOBS + 1), 1 / 3))
    variables = assignment.initial(vector)
    values = variables[:, 3 * vector.shape[1] :]
    assert torch.equal(values[0], values[1])
    assert ((values - 1).abs() <= SPREAD).all() and values.std() > 0
    assert torch.equal(assignment.layouts(variables, vector), vector.repeat_interleave(3, 0))  # nothing has changed


def diverse(count: int, seed: int = 0, few: bool = False, rate: float = 0.02, retries: int = 0) -> Counterfactuals:
    """Search where every blob's x alone can add enough brightness to flip the decision."""

    def render(layout: BlobLayout) -> Tensor:
        return layout.xs.sum(1)[:, None, None, None].repeat(1, 3, 2, 2)

    start = layouts(2).replace({"xs": torch.zeros(2, BLOBS)})
    world = networks(render)
    index, target = opposite(world.render(start), (0,))
    params = dataclasses.replace(PARAMS, steps=300, learning_rate=rate, patience=0, retries=retries)
    allowed = build_masks(BLOBS, ("xs",), None, background=False)
    options = SearchOptions(count=count, few=few, seed=seed)
    problems = Problems.of(world.render(start), start, index, target, allowed, params.lambda_key)
    return search(problems, NetworkPair(world, world), params, 4, options)


@pytest.mark.parametrize("few", [False, True])
def test_counterfactuals_of_one_problem_change_different_blobs(few: bool) -> None:
    result = diverse(3, few=few)
    assert len(result) == 6 and result.image_index.tolist() == [0, 0, 0, 1, 1, 1]
    assert result.flipped.all()
    changed = result.changed.unflatten(0, (2, 3))
    assert (changed.sum(1) <= 1).all()  # no blob changes in two of them
    assert (changed.sum(2) == 1).all()  # three blobs, three counterfactuals


def test_all_counterfactuals_of_a_problem_are_retried_together() -> None:
    """Also those that flipped before, or else two might change the same blob."""
    slow, fast, again = (
        diverse(3, rate=0.01 / RETRY_FACTOR),
        diverse(3, rate=0.01),
        diverse(3, rate=0.01 / RETRY_FACTOR, retries=1),
    )
    assert (slow.flipped.unflatten(0, (2, 3)).sum(1) == 2).all()
    assert fast.flipped.all()
    for key, tensor in fast.layout.items():
        assert torch.equal(getattr(again.layout, key), tensor)


def test_one_counterfactual_is_the_basic_search() -> None:
    start, world = layouts(4), networks(render_x)
    index, target = opposite(world.render(start), (0, 1))
    allowed = build_masks(BLOBS, KEYS, None, background=True)
    problems = Problems.of(world.render(start), start, index, target, allowed, PARAMS.lambda_key)
    basic = search(problems, NetworkPair(world, world), PARAMS, 4)
    one = search(problems, NetworkPair(world, world), PARAMS, 4, SearchOptions(count=1, seed=5))
    assert torch.equal(basic.image, one.image) and torch.equal(basic.step, one.step)


def test_search_is_deterministic_and_flips_for_another_seed() -> None:
    first, second = diverse(3), diverse(3)
    assert torch.equal(first.layout.xs, second.layout.xs)
    other = diverse(3, seed=1)
    assert other.flipped.all()
