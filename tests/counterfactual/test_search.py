"""Counterfactual search with a linear renderer and a logistic decision, whose smallest change is known."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from worlds.linear_world import (
    BLOBS,
    LAMBDA_KEY,
    NETWORKS_ALL,
    NETWORKS_X,
    PARAMS,
    decide,
    layouts,
    networks,
    opposite,
    render_all,
    render_x,
    run,
    shifted,
)

from blobex.core.errors import BlobexError
from blobex.counterfactual.masks import build_masks
from blobex.counterfactual.problems import Problems, price_vector
from blobex.counterfactual.search import RETRY_FACTOR, search
from blobex.counterfactual.target import AttributeTarget, ClassTarget, RegionTarget
from blobex.counterfactual.verify import Counterfactuals
from blobex.layout.blobs import KEYS, BlobLayout
from blobex.layout.vector import VectorForm
from blobex.optim.network_callables import NetworkPair

UNSHRUNK = dataclasses.replace(PARAMS, margin=0.0, bisections=0)  # the nearest iterate itself


def proximity(layout: BlobLayout, start: BlobLayout) -> Tensor:
    form = VectorForm.of(start)
    return ((form.flatten(layout) - form.flatten(start)).abs() * price_vector(form, LAMBDA_KEY)).sum(1)


def same(first: Counterfactuals, second: Counterfactuals) -> bool:
    """Return whether all tensors of two results are equal to the bit."""
    names = [field.name for field in dataclasses.fields(Counterfactuals) if field.name not in ("target", "layout")]
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in names) and all(
        torch.equal(tensor, getattr(second.layout, key)) for key, tensor in first.layout.items()
    )


def take(result: Counterfactuals, index: list[int]) -> Counterfactuals:
    chosen = {field.name: getattr(result, field.name) for field in dataclasses.fields(result)}
    return Counterfactuals(**{name: value[torch.tensor(index)] for name, value in chosen.items()})


def test_smallest_change_is_found() -> None:
    start = layouts(4)
    result = run(start, params=UNSHRUNK)
    # The logit 10 (x - 0.5) changes its sign at x = 0.5; the steps of Adam are at most about one learning rate long.
    needed = 0.5 - start.xs[:, 0]
    moved = result.layout.xs[:, 0] - start.xs[:, 0]
    assert result.flipped.all()
    assert (moved > needed).all()
    assert (moved < needed + 1.01 * PARAMS.learning_rate).all()
    torch.testing.assert_close(result.proximity, 6.0 * moved / BLOBS)
    assert (result.step >= needed / PARAMS.learning_rate).all()
    torch.testing.assert_close(result.perceptual, moved)
    torch.testing.assert_close(result.l2, moved**2)
    torch.testing.assert_close(result.scores_after[:, 0], 1 / (1 + torch.exp(-10 * (result.layout.xs[:, 0] - 0.5))))


@pytest.mark.parametrize("bisections", [2, 5, 12, 30])
@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_bisections_find_the_decision_boundary(bisections: int, margin: float) -> None:
    start = layouts(4)
    params = dataclasses.replace(PARAMS, bisections=bisections, margin=margin)
    result, before = run(start, params=params), run(start, params=dataclasses.replace(params, bisections=0))
    assert result.flipped.all() and before.flipped.all()
    length = before.layout.xs[:, 0] - start.xs[:, 0]  # the boundary is at 0.5 + margin / 10
    beyond = result.layout.xs[:, 0] - 0.5 - margin / 10
    assert (beyond > -1e-6).all()
    assert (beyond <= length * 2.0 ** -(bisections // 2) + 1e-6).all()
    assert (result.proximity <= before.proximity).all()


def test_margin_is_reached_by_the_search() -> None:
    start = layouts(4)
    for margin in (0.0, 0.1, 0.5):
        found = run(start, params=dataclasses.replace(UNSHRUNK, margin=margin))
        assert (found.layout.xs[:, 0] > 0.5 + margin / 10).all()
    unreachable = run(start, params=dataclasses.replace(PARAMS, margin=100.0))
    assert unreachable.flipped.all()  # the margin is for the search only: passing the boundary is a flip


def test_patience_stops_the_search() -> None:
    steps, found = [], []
    for patience in (0, 5, 1000):
        seen: list[Tensor] = []

        def recording(layout: BlobLayout, seen: list[Tensor] = seen) -> Tensor:
            seen.append(layout.xs)
            return render_all(layout)

        params = dataclasses.replace(UNSHRUNK, patience=patience, lambda_prox=0.3)
        start = layouts(1)
        found.append(run(start, params=params, exact=NETWORKS_ALL, quick=networks(recording)))
        steps.append(len(seen))
    assert steps[0] <= steps[1] <= steps[2] == PARAMS.steps + 1
    assert steps[0] < steps[2]
    assert all(result.flipped.all() for result in found)
    assert found[0].proximity >= found[1].proximity >= found[2].proximity


@pytest.mark.parametrize("retries", [1, 2])
def test_missed_problems_are_retried_with_a_higher_learning_rate(retries: int) -> None:
    """A retry equals a search with the higher rate; problems that flip are not retried."""
    start = layouts(4)
    start.xs[0, 0] = 0.4999  # only this one is within reach before the last retry
    slow = dataclasses.replace(PARAMS, learning_rate=PARAMS.learning_rate / RETRY_FACTOR**retries)
    once, fast = run(start, params=slow), run(start)
    result = run(start, params=dataclasses.replace(slow, retries=retries))
    early = run(start, params=dataclasses.replace(slow, retries=retries - 1))
    assert once.flipped.tolist() == early.flipped.tolist() == [True, False, False, False]
    assert same(take(result, [1, 2, 3]), take(fast, [1, 2, 3])) and fast.flipped.all()
    assert same(take(result, [0]), take(once, [0])) and not same(take(result, [0]), take(fast, [0]))


def test_retries_may_exceed_the_largest_learning_rate_of_the_parameters() -> None:
    params = dataclasses.replace(PARAMS, learning_rate=10.0, retries=4, steps=1)
    refusing = networks(decision=lambda images: 0 * decide(images) - 1)
    assert not run(layouts(2), params=params, exact=refusing).flipped.any()


def test_skipped_problems_are_not_retried() -> None:
    start, world = layouts(2), NETWORKS_X
    index, target = opposite(world.render(start), (0,))
    params = dataclasses.replace(PARAMS, learning_rate=PARAMS.learning_rate / RETRY_FACTOR, retries=1)
    allowed = build_masks(BLOBS, KEYS, None, background=True)
    problems = Problems.of(world.render(start), start, index, target, allowed, params.lambda_key)
    skip = torch.tensor([True, False])
    result = search(problems, NetworkPair(world, world), params, 4, skip=skip)
    assert result.flipped.tolist() == [False, True] and result.changed.any(1).tolist() == [False, True]


def test_only_relevant_entries_change() -> None:
    start = layouts(4)
    result = run(start)
    assert torch.equal(result.layout.xs[:, 1:], start.xs[:, 1:])
    for key in set(KEYS) - {"xs"}:
        assert torch.equal(getattr(result.layout, key), getattr(start, key))


def test_sizes_have_a_higher_learning_rate() -> None:
    start = layouts(2)
    result = run(
        start, params=dataclasses.replace(PARAMS, steps=1), exact=networks(render_all, lambda x: -decide(x + 9))
    )
    torch.testing.assert_close((result.layout.xs - start.xs).abs(), torch.full((2, BLOBS), 0.01), rtol=1e-4, atol=1e-6)
    moved = (result.layout.sizes - start.sizes).abs()
    torch.testing.assert_close(moved[:, 1:], torch.full((2, BLOBS), 0.08), rtol=1e-4, atol=1e-6)
    assert not moved[:, 0].any()  # the background's size is never read


def test_strong_proximity_keeps_the_decision() -> None:
    start = layouts(4)
    # The gradient of the flip loss is at most 10, that of the proximity 10 * 6 / 3 = 20.
    result = run(start, params=dataclasses.replace(PARAMS, lambda_prox=10.0))
    assert not result.flipped.any()
    assert not result.failed.any()
    assert ((result.layout.xs - start.xs)[:, 0] < 3 * PARAMS.learning_rate).all()
    assert (result.scores_after[:, 0] >= result.scores_start[:, 0]).all()


def test_image_scores_and_layout_belong_together() -> None:
    start = layouts(3)
    result = run(start, (0, 1), exact=NETWORKS_ALL)
    queries = render_all(start)
    assert torch.equal(result.image, render_all(result.layout))
    torch.testing.assert_close(result.scores_after, decide(result.image).sigmoid())
    torch.testing.assert_close(result.scores_before, decide(queries).sigmoid()[result.image_index])
    torch.testing.assert_close(result.scores_start, result.scores_before)
    assert result.image_index.tolist() == [0, 0, 1, 1, 2, 2]
    assert result.target.column.tolist() == [0, 1] * 3
    row = torch.arange(6)
    wanted = result.target.wanted  # type: ignore[attr-defined]
    assert torch.equal(wanted, result.scores_before[row, result.target.column] <= 0.5)
    assert torch.equal(result.flipped, (decide(result.image)[row, result.target.column] > 0) == wanted)
    torch.testing.assert_close(result.proximity, proximity(result.layout, start[result.image_index]))
    difference = result.image - queries[result.image_index]
    torch.testing.assert_close(result.perceptual, difference.abs().mean((1, 2, 3)))
    torch.testing.assert_close(result.l2, difference.square().mean((1, 2, 3)))


@pytest.mark.parametrize("lambda_prox", [0.0, 0.05, 10.0])
@pytest.mark.parametrize("margin", [0.0, 0.2])
def test_best_iterate_is_the_nearest_flip_or_else_the_highest_margin(lambda_prox: float, margin: float) -> None:
    starts = layouts(4).map(lambda tensor: tensor - 0.2)
    params = dataclasses.replace(UNSHRUNK, lambda_prox=lambda_prox, learning_rate=0.03, margin=margin)
    for problem in range(4):
        seen: list[BlobLayout] = []

        def recording(layout: BlobLayout, seen: list[BlobLayout] = seen) -> Tensor:
            seen.append(layout.detach()[:1].map(Tensor.clone))
            return render_all(layout)

        start = starts[[problem]]
        result = run(start, params=params, exact=NETWORKS_ALL, quick=networks(recording))
        _, target = opposite(render_all(start), [0])
        margins = torch.cat([target.margin(decide(render_all(layout))) for layout in seen])
        distances = torch.cat([proximity(layout, start) for layout in seen])
        assert len(seen) <= params.steps + 1
        reached = margins > margin
        best = torch.where(reached, distances, math.inf).argmin() if reached.any() else margins.argmax()
        assert result.step == best
        assert result.flipped == (margins[best] > 0)
        for key, tensor in result.layout.items():
            assert torch.equal(tensor, getattr(seen[int(best)], key))


def test_masked_entries_keep_their_bits() -> None:
    start = layouts(2)
    allowed = build_masks(BLOBS, ("sizes", "covs", "style"), [1], background=True)
    result = run(start, allowed=allowed, exact=NETWORKS_ALL)
    changed = {key: tensor != getattr(start, key) for key, tensor in result.layout.items()}
    assert not any(changed[key].any() for key in ("xs", "ys", "features"))
    assert changed["sizes"].any(0).tolist() == [
        False,
        False,
        True,
        False,
    ]  # entry 0 is the background
    assert changed["covs"].flatten(2).any(2).any(0).tolist() == [False, True, False]
    assert changed["spatial_style"].any(2).any(0).tolist() == [True, False, True, False]


def test_masks_may_differ_between_images() -> None:
    start = layouts(2)
    allowed = build_masks(BLOBS, ("xs",), [[0], [1, 2]], background=False)
    result = run(start, (0, 1), NETWORKS_ALL, allowed=allowed)
    changed = result.layout.xs != start.xs[result.image_index]
    assert not changed[:2, 1:].any()
    assert not changed[2:, 0].any()
    assert changed[:2, 0].any() and changed[2:, 1:].any()


@pytest.mark.parametrize("attributes", [(0,), (0, 1)])
@pytest.mark.parametrize("batch_size", [1, 4, 5, 7, 33])
def test_results_do_not_depend_on_the_batch_size(attributes: tuple[int, ...], batch_size: int) -> None:
    start = layouts(5)
    params = dataclasses.replace(PARAMS, lambda_prox=0.01)
    together = run(start, attributes, batch_size=16, params=params, exact=NETWORKS_ALL)
    assert same(together, run(start, attributes, batch_size=batch_size, params=params, exact=NETWORKS_ALL))


def test_large_batches_change_nothing() -> None:
    """40 rows are enough for vector instructions over rows."""
    start = layouts(40)
    assert same(run(start, batch_size=40, exact=NETWORKS_ALL), run(start, batch_size=4, exact=NETWORKS_ALL))


def test_problems_are_independent() -> None:
    start = layouts(6)
    every = run(start, (1,), exact=NETWORKS_ALL)
    few = run(start[[4, 1]], (1,), exact=NETWORKS_ALL)
    assert torch.equal(few.image_index, torch.tensor([0, 1]))
    both = take(every, [4, 1])
    assert same(dataclasses.replace(both, image_index=few.image_index), few)
    asked = run(start, (0, 1), exact=NETWORKS_ALL)
    assert same(take(asked, list(range(1, 12, 2))), every)


def test_search_is_deterministic() -> None:
    first, second = run(layouts(3), exact=NETWORKS_ALL), run(layouts(3), exact=NETWORKS_ALL)
    assert same(first, second)


def test_problems_may_omit_and_repeat_images() -> None:
    start = layouts(4)
    queries, index = render_all(start), torch.tensor([3, 1, 3])
    target = AttributeTarget(torch.tensor([0, 1, 1]), decide(queries)[index, torch.tensor([0, 1, 1])] <= 0)
    allowed = build_masks(BLOBS, KEYS, None, background=True)
    problems = Problems.of(queries, start, index, target, allowed, LAMBDA_KEY)
    result = search(problems, NetworkPair(NETWORKS_ALL, NETWORKS_ALL), PARAMS, 8)
    every = run(start, (0, 1), exact=NETWORKS_ALL)
    assert result.image_index.tolist() == [3, 1, 3]
    assert same(take(every, [6, 3, 7]), result)


def test_nan_is_a_failure_and_no_flip() -> None:
    start = layouts(3)
    result = run(start, exact=networks(decision=lambda images: decide(images) * math.nan))
    assert result.failed.all()
    assert not result.flipped.any() and not result.reconstruction_agrees.any()
    assert torch.equal(result.layout.xs, start.xs)

    infinite = start.replace({"xs": torch.where(torch.arange(3)[:, None] == 1, math.nan, start.xs)})
    result = run(infinite, queries=render_x(start))
    assert result.failed.tolist() == [False, True, False]
    assert result.flipped.tolist() == [True, False, True]  # the others are not affected


def test_nan_after_a_flip_does_not_undo_it() -> None:
    start = layouts(3)

    def bad_when_bright(images: Tensor) -> Tensor:
        return torch.where(images.mean((1, 2, 3))[:, None] > 0.52, math.nan, decide(images))

    for margin in (0.0, 0.1, 0.5):  # no finite iterate reaches the last
        result = run(start, params=dataclasses.replace(PARAMS, margin=margin), exact=networks(decision=bad_when_bright))
        assert result.flipped.all() and not result.failed.any()
        assert result.scores_after.isfinite().all()


def test_failure_is_decided_by_the_exact_networks() -> None:
    start = layouts(3)
    bad = networks(decision=lambda images: decide(images) * math.nan)
    result = run(start, quick=bad)  # the search fails at its first step
    assert not result.failed.any() and not result.flipped.any()
    assert torch.equal(result.layout.xs, start.xs)
    assert result.reconstruction_agrees.all()


def test_disagreement_of_reconstruction_and_query_is_reported() -> None:
    start = layouts(2)
    bright = torch.ones(2, 3, 2, 2)
    result = run(start, queries=bright)
    assert not result.reconstruction_agrees.any()
    assert run(start).reconstruction_agrees.all()
    assert not result.target.wanted.any()  # type: ignore[attr-defined]
    assert result.step.tolist() == [0, 0]  # already flipped: no change is needed
    assert torch.equal(result.layout.xs, start.xs) and not result.proximity.any()
    assert result.flipped.all()


@pytest.mark.parametrize("boundary", [0.45, 0.505, 0.512, 0.514, 0.516, 0.53])
def test_flips_are_decided_by_the_exact_networks(boundary: float) -> None:
    """The quick networks have their boundary at 0.5 and pass it by 0.01, in steps of about 0.01."""
    start, params = layouts(8), dataclasses.replace(PARAMS, bisections=30)
    result = run(start, exact=networks(decision=shifted(boundary)), quick=NETWORKS_X, params=params)
    passed = run(start, params=dataclasses.replace(PARAMS, bisections=0)).layout.xs[:, 0]
    assert torch.equal(result.flipped, passed > boundary)  # a candidate shrunk too far is replaced
    shrunk = result.layout.xs[:, 0] < passed
    assert torch.equal(result.layout.xs[~shrunk, 0], passed[~shrunk])
    assert ((result.layout.xs[:, 0] - 0.51).abs() < 1e-3)[shrunk].all()
    assert (shrunk[result.flipped] == (boundary < 0.51)).all()
    assert not result.failed.any()
    assert torch.equal(result.image, render_x(result.layout))
    torch.testing.assert_close(result.scores_after, shifted(boundary)(result.image).sigmoid())
    torch.testing.assert_close(result.proximity, proximity(result.layout, start))


@pytest.mark.parametrize("x", [0.49, 0.498, 0.4995])
def test_a_start_flipped_for_the_quick_networks_only_is_searched(x: float) -> None:
    start = layouts(2)
    start = start.replace({"xs": torch.full_like(start.xs, x)})
    params = dataclasses.replace(PARAMS, steps=100)
    result = run(start, quick=networks(decision=shifted(0.492)), params=params)
    assert result.flipped.all() and (result.layout.xs[:, 0] > 0.5).all()


def test_a_flip_for_the_quick_networks_only_is_no_flip() -> None:
    start = layouts(4)
    result = run(start, exact=networks(decision=shifted(0.8)), quick=NETWORKS_X)
    assert not result.flipped.any() and not result.failed.any()
    assert (result.layout.xs[:, 0] > 0.5).all()  # their layout is the result nonetheless
    torch.testing.assert_close(result.scores_after, shifted(0.8)(result.image).sigmoid())


def test_classes_and_regions_have_targets() -> None:
    """Three classes by brightness, below 0.45, between, and above 0.55, of the image or of each pixel."""

    def classes(images: Tensor) -> Tensor:
        x = images.mean(1)
        return torch.stack([10 * (0.45 - x), 0 * x, 10 * (x - 0.55)], dim=1)

    start, index = layouts(4), torch.arange(4)
    last, allowed = torch.full((4,), 2), build_masks(BLOBS, KEYS, None, background=True)
    everywhere = torch.ones(4, 2, 2, dtype=torch.bool)
    region = RegionTarget(last, last[:, None, None].expand(-1, 2, 2), everywhere)
    cases = {"pixels": (region, classes), "class": (ClassTarget(last), lambda images: classes(images).mean((2, 3)))}
    for target, decision in cases.values():
        exact = networks(render_x, decision)
        params = dataclasses.replace(PARAMS, steps=200, margin=0.0, bisections=30)
        problems = Problems.of(render_x(start), start, index, target, allowed, LAMBDA_KEY)
        result = search(problems, NetworkPair(exact, exact), params, 4)
        assert result.flipped.all() and result.reconstruction_agrees.all()
        assert ((result.layout.xs[:, 0] - 0.55).abs() < 1e-4).all()
        assert torch.equal(result.scores_after.argmax(1), last)


def test_search_refuses_bad_input() -> None:
    start = layouts(2)
    with pytest.raises(BlobexError, match="3 of 2 images"):
        run(start, allowed=build_masks(BLOBS, ("xs",), [[0]] * 3, background=False))
    with pytest.raises(BlobexError, match="differentiable"):
        run(start, exact=networks(decision=lambda images: decide(images).detach()))
    with pytest.raises(BlobexError, match="no weight for covs"):
        run(start, params=dataclasses.replace(PARAMS, lambda_key={"xs": 1.0, "ys": 1.0}))
