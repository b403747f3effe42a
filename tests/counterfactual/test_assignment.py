"""Several counterfactuals at once: the assignment's closed form, its alignment, and what it finds."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from worlds.linear_world import BLOBS, PARAMS, layouts, networks, opposite, render_x

from blobex.counterfactual.assignment import SPREAD, TEMPERATURE, BlobAssignment
from blobex.counterfactual.masks import build_masks
from blobex.counterfactual.problems import Problems
from blobex.counterfactual.search import RETRY_FACTOR, SearchOptions, search
from blobex.counterfactual.verify import Counterfactuals
from blobex.layout.blobs import BACKGROUND_KEYS, KEYS, BlobLayout
from blobex.layout.vector import VectorForm
from blobex.optim.networks import NetworkPair


def free_of(count: int, assignment: Tensor, change: float = 1.0) -> tuple[BlobAssignment, Tensor, Tensor, BlobLayout]:
    """Free numbers with every entry changed by `change`, and an assignment (count,K+1) given by its shares."""
    start = layouts(2)
    form = VectorForm.of(start)
    vector = form.flatten(start)
    shares = BlobAssignment(count, form, 0)
    raw = (assignment.clamp(min=1e-12).log() * TEMPERATURE).flatten().expand(2, -1)
    return shares, torch.cat([(vector + change).repeat(1, count), raw], 1), vector, start


def test_each_key_follows_its_own_blob_and_the_background_its_own() -> None:
    """The published alignment fault: xs, ys, covs have no background, so that blob k there is column k+1."""
    assignment = torch.tensor([[0.9, 0.1, 0.6, 0.3], [0.1, 0.9, 0.4, 0.7]])
    shares, free, vector, start = free_of(2, assignment)
    made = VectorForm.of(start).unflatten(shares.layouts(free, vector))
    for key in KEYS:
        gained = (getattr(made, key) - getattr(start, key).repeat_interleave(2, 0)).unflatten(0, (2, 2))
        columns = assignment if key in BACKGROUND_KEYS else assignment[:, 1:]
        wanted = columns.view(1, *columns.shape, *[1] * (gained.ndim - 3)).expand_as(gained)
        torch.testing.assert_close(gained, wanted, rtol=0, atol=1e-5)


def test_each_blob_is_owned_by_one() -> None:
    assignment = torch.tensor([[0.9, 0.1, 0.6, 0.5], [0.1, 0.9, 0.4, 0.5]])  # the last one is a tie
    shares, free, vector, start = free_of(2, assignment)
    owned = shares.owned(free).unflatten(0, (2, 2))
    by_blob = VectorForm.of(start).by_blob(owned.flatten(0, 1).float()).unflatten(0, (2, 2)) > 0
    assert by_blob[0].tolist() == [[True, False, True, True], [False, True, False, False]]
    assert (owned.sum(1) == 1).all()  # every entry has one owner
    torch.testing.assert_close(shares.proposals(free), (vector + 1).repeat_interleave(2, 0))


def test_entropy_in_closed_form() -> None:
    assignment = torch.tensor([[0.5, 1.0, 0.25, 0.5], [0.5, 0.0, 0.75, 0.5]])
    shares, free, *_ = free_of(2, assignment)
    each = [math.log(2), 0, -(0.25 * math.log(0.25) + 0.75 * math.log(0.75)), math.log(2)]
    torch.testing.assert_close(shares.entropy(free), torch.full((2,), sum(each) / 4), rtol=0, atol=1e-5)
    allowed = torch.tensor([[False, True, False, False], [True, True, True, True]])
    assert shares.settled(free, allowed).tolist() == [True, False]


def test_it_begins_near_even_and_the_same_for_all() -> None:
    shares, _, vector, _ = free_of(3, torch.full((3, BLOBS + 1), 1 / 3))
    begun = shares.initial(vector)
    assignment = begun[:, 3 * vector.shape[1] :]
    assert torch.equal(assignment[0], assignment[1])
    assert ((assignment - 1).abs() <= SPREAD).all() and assignment.std() > 0
    assert torch.equal(shares.layouts(begun, vector), vector.repeat_interleave(3, 0))  # nothing has changed yet


def diverse(count: int, seed: int = 0, few: bool = False, rate: float = 0.02, retries: int = 0) -> Counterfactuals:
    """The decision is about brightness, to which every blob's x can add enough alone."""

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
def test_counterfactuals_of_one_question_change_different_blobs(few: bool) -> None:
    result = diverse(3, few=few)
    assert len(result) == 6 and result.image_index.tolist() == [0, 0, 0, 1, 1, 1]
    assert result.flipped.all()
    changed = result.changed.unflatten(0, (2, 3))
    assert (changed.sum(1) <= 1).all()  # no blob changes in two of them
    assert (changed.sum(2) == 1).all()  # three blobs, three counterfactuals


def test_answers_are_searched_again_together() -> None:
    """All of a question's anew, although one may have flipped before: else two might change the same blob."""
    slow, fast, again = (
        diverse(3, rate=0.01 / RETRY_FACTOR),
        diverse(3, rate=0.01),
        diverse(3, rate=0.01 / RETRY_FACTOR, retries=1),
    )
    assert (slow.flipped.unflatten(0, (2, 3)).sum(1) == 2).all()
    assert fast.flipped.all()
    for key, tensor in fast.layout.items():
        assert torch.equal(getattr(again.layout, key), tensor)


def test_one_of_one_is_the_basic_search() -> None:
    start, world = layouts(4), networks(render_x)
    index, target = opposite(world.render(start), (0, 1))
    allowed = build_masks(BLOBS, KEYS, None, background=True)
    problems = Problems.of(world.render(start), start, index, target, allowed, PARAMS.lambda_key)
    basic = search(problems, NetworkPair(world, world), PARAMS, 4)
    one = search(problems, NetworkPair(world, world), PARAMS, 4, SearchOptions(count=1, seed=5))
    assert torch.equal(basic.image, one.image) and torch.equal(basic.step, one.step)


def test_no_counterfactual_depends_on_its_batch() -> None:
    first, second = diverse(3), diverse(3)
    assert torch.equal(first.layout.xs, second.layout.xs)
    other = diverse(3, seed=1)
    assert other.flipped.all()
