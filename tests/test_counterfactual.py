"""Counterfactual search against a linear renderer and a logistic decision, whose smallest change is known by hand."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from blobex.config import ExplainSetup
from blobex.counterfactual.objective import change, flip_loss, proximity, target_logit
from blobex.counterfactual.search import Counterfactuals, search
from blobex.counterfactual.space import masks, resolve_keys
from blobex.errors import BlobexError
from blobex.layout.layout import KEYS, BlobLayout

BLOBS = 3
LAMBDA_KEY = {"xs": 6.0, "ys": 6.0, "covs": 1.0, "sizes": 1.0, "features": 20.0, "spatial_style": 20.0}
SETUP = ExplainSetup(steps=60, learning_rate=0.01, size_lr_multiplier=8.0, lambda_prox=0.0, lambda_key=LAMBDA_KEY)


class MeanAbsolute:
    """A stand-in for the perceptual distance."""

    def embed(self, images: Tensor) -> Tensor:
        return images

    def distance_to(self, embedded: Tensor, images: Tensor) -> Tensor:
        return (embedded - images).abs().flatten(1).mean(1)


def layouts(count: int, seed: int = 0) -> BlobLayout:
    random = torch.Generator().manual_seed(seed)
    shapes = {"xs": (BLOBS,), "ys": (BLOBS,), "covs": (BLOBS, 4), "sizes": (BLOBS + 1,)}
    shapes |= {"features": (BLOBS + 1, 5), "spatial_style": (BLOBS + 1, 5)}
    return BlobLayout(**{key: torch.rand(count, *shape, generator=random) * 0.4 for key, shape in shapes.items()})


def render_x(layout: BlobLayout) -> Tensor:
    """Every pixel is the first blob's x."""
    return layout.xs[:, 0, None, None, None].expand(-1, 3, 2, 2)


def render_all(layout: BlobLayout) -> Tensor:
    """Every pixel is the sum of everything, each number weighted by its place."""
    total = sum(tensor.flatten(1) @ torch.linspace(0.1, 0.3, tensor[0].numel()) for _, tensor in layout.items())
    return torch.as_tensor(total)[:, None, None, None].expand(-1, 3, 2, 2)


def decide(images: Tensor) -> Tensor:
    """Logits of two attributes: the mean brightness above 0.5, and below 0.45."""
    brightness = images.mean((1, 2, 3))
    return torch.stack([10 * (brightness - 0.5), 10 * (0.45 - brightness)], dim=1)


def run(
    start: BlobLayout,
    attributes: tuple[int, ...] = (0,),
    render: Callable[[BlobLayout], Tensor] = render_x,
    decision: Callable[[Tensor], Tensor] = decide,
    setup: ExplainSetup = SETUP,
    batch_size: int = 8,
    allowed: dict[str, Tensor] | None = None,
    queries: Tensor | None = None,
) -> Counterfactuals:
    return search(
        render(start) if queries is None else queries,
        start,
        attributes,
        allowed or masks(BLOBS, KEYS, None, background=True),
        render=render,
        decide=decision,
        perceptual=MeanAbsolute(),
        setup=setup,
        batch_size=batch_size,
    )


def test_smallest_change_is_the_one_known_by_hand() -> None:
    start = layouts(4)
    result = run(start)
    # The logit 10 (x - 0.5) changes its sign at x = 0.5; Adam's steps are at most about the learning rate long here.
    needed = 0.5 - start.xs[:, 0]
    moved = result.layout.xs[:, 0] - start.xs[:, 0]
    assert result.flipped.all()
    assert (moved > needed).all()
    assert (moved < needed + 1.01 * SETUP.learning_rate).all()
    torch.testing.assert_close(result.proximity, 6.0 * moved / BLOBS)
    assert (result.step >= needed / SETUP.learning_rate).all()
    torch.testing.assert_close(result.perceptual, moved)
    torch.testing.assert_close(result.l2, moved**2)
    torch.testing.assert_close(result.scores_after[:, 0], 1 / (1 + torch.exp(-10 * (result.layout.xs[:, 0] - 0.5))))


def test_only_what_matters_moves() -> None:
    start = layouts(4)
    result = run(start)
    assert torch.equal(result.layout.xs[:, 1:], start.xs[:, 1:])
    for key in set(KEYS) - {"xs"}:
        assert torch.equal(getattr(result.layout, key), getattr(start, key))


def test_sizes_learn_faster() -> None:
    start = layouts(2)
    result = run(start, render=render_all, setup=dataclasses.replace(SETUP, steps=1), decision=lambda x: -decide(x + 9))
    torch.testing.assert_close((result.layout.xs - start.xs).abs(), torch.full((2, BLOBS), 0.01), rtol=1e-4, atol=1e-6)
    moved = (result.layout.sizes - start.sizes).abs()
    torch.testing.assert_close(moved[:, 1:], torch.full((2, BLOBS), 0.08), rtol=1e-4, atol=1e-6)
    assert not moved[:, 0].any()  # the background's entry is never read, and so never changed


def test_strong_proximity_keeps_the_decision() -> None:
    start = layouts(4)
    # The flip loss pulls with at most 10 per unit of x, the proximity with 10 * 6 / 3 = 20: no flip is worth its price.
    result = run(start, setup=dataclasses.replace(SETUP, lambda_prox=10.0))
    assert not result.flipped.any()
    assert not result.failed.any()
    assert ((result.layout.xs - start.xs)[:, 0] < 3 * SETUP.learning_rate).all()
    assert (result.logits_after[:, 0] >= result.logits_start[:, 0]).all()


def test_picture_scores_and_blobs_belong_together() -> None:
    start = layouts(3)
    result = run(start, (0, 1), render=render_all)
    assert torch.equal(result.image, render_all(result.layout))
    torch.testing.assert_close(result.logits_after, decide(result.image))
    assert result.image_index.tolist() == [0, 0, 1, 1, 2, 2]
    assert result.attribute.tolist() == [0, 1] * 3
    row = torch.arange(6)
    assert torch.equal(result.target, result.logits_before[row, result.attribute] <= 0)
    assert torch.equal(result.flipped, (result.logits_after[row, result.attribute] > 0) == result.target)
    chosen = proximity(result.layout, start[result.image_index], LAMBDA_KEY, KEYS)
    torch.testing.assert_close(result.proximity, chosen)


@pytest.mark.parametrize("lambda_prox", [0.0, 0.05, 10.0])
def test_best_iterate_is_the_nearest_flipped_or_else_the_highest_score(lambda_prox: float) -> None:
    seen: list[BlobLayout] = []

    def recording(layout: BlobLayout) -> Tensor:
        seen.append(layout.detach().map(Tensor.clone))
        return render_all(layout)

    start = layouts(4).map(lambda tensor: tensor - 0.2)
    setup = dataclasses.replace(SETUP, lambda_prox=lambda_prox, learning_rate=0.03)
    result = run(start, render=recording, setup=setup, queries=render_all(start))
    logits = torch.stack([decide(render_all(layout))[:, 0] for layout in seen])  # steps, problems
    distances = torch.stack([proximity(layout, start, LAMBDA_KEY, KEYS) for layout in seen])
    assert len(seen) == setup.steps + 1
    for problem in range(4):
        sign = 1 if result.target[problem] else -1
        flipped = sign * logits[:, problem] > 0
        assert result.flipped[problem] == flipped.any()
        if flipped.any():
            best = torch.where(flipped, distances[:, problem], math.inf).argmin()
        else:
            best = (sign * logits[:, problem]).argmax()
        assert result.step[problem] == best


def test_disallowed_entries_keep_their_bits() -> None:
    start = layouts(2)
    allowed = masks(BLOBS, ("sizes", "covs", "style"), [1], background=True)
    result = run(start, render=render_all, allowed=allowed)
    changed = {key: tensor != getattr(start, key) for key, tensor in result.layout.items()}
    assert not any(changed[key].any() for key in ("xs", "ys", "features"))
    assert changed["sizes"].any(0).tolist() == [False, False, True, False]  # blob 1 is entry 2 beside the background
    assert changed["covs"].flatten(2).any(2).any(0).tolist() == [False, True, False]
    assert changed["spatial_style"].any(2).any(0).tolist() == [True, False, True, False]


def test_each_picture_has_its_own_blobs() -> None:
    start = layouts(2)
    result = run(start, (0, 1), render=render_all, allowed=masks(BLOBS, ("xs",), [[0], [1, 2]], background=False))
    changed = result.layout.xs != start.xs[result.image_index]
    assert not changed[:2, 1:].any()
    assert not changed[2:, 0].any()
    assert changed[:2, 0].any() and changed[2:, 1:].any()


@pytest.mark.parametrize("attributes", [(0,), (0, 1)])
def test_results_do_not_depend_on_the_batch(attributes: tuple[int, ...]) -> None:
    start = layouts(5)
    setup = dataclasses.replace(SETUP, lambda_prox=0.01)
    together = run(start, attributes, render=render_all, batch_size=8, setup=setup)
    alone = run(start, attributes, render=render_all, batch_size=1, setup=setup)
    for key in KEYS:
        torch.testing.assert_close(getattr(together.layout, key), getattr(alone.layout, key), rtol=0, atol=1e-5)
    assert torch.equal(together.flipped, alone.flipped)
    assert torch.equal(together.step, alone.step)
    assert torch.equal(together.image_index, alone.image_index)


def test_other_problems_of_the_batch_do_not_matter() -> None:
    start = layouts(6)
    every = run(start, (1,), render=render_all)
    some = run(start[[4, 1]], (1,), render=render_all)
    torch.testing.assert_close(some.layout.xs, every.layout.xs[[4, 1]], rtol=0, atol=1e-6)
    assert torch.equal(some.step, every.step[[4, 1]])


def test_same_call_gives_the_same_bytes() -> None:
    first, second = run(layouts(3), render=render_all), run(layouts(3), render=render_all)
    assert torch.equal(first.image, second.image)


def test_nan_is_a_failure_and_never_a_flip() -> None:
    start = layouts(3)
    result = run(start, decision=lambda images: decide(images) * math.nan)
    assert result.failed.all()
    assert not result.flipped.any()
    assert torch.equal(result.layout.xs, start.xs)

    infinite = start.replace({"xs": torch.where(torch.arange(3)[:, None] == 1, math.nan, start.xs)})
    result = run(infinite, queries=render_x(start))
    assert result.failed.tolist() == [False, True, False]
    assert result.flipped.tolist() == [True, False, True]  # its neighbours do not disturb the others


def test_nan_after_a_flip_does_not_undo_it() -> None:
    start = layouts(3)

    def bad_when_bright(images: Tensor) -> Tensor:
        return torch.where(images.mean((1, 2, 3))[:, None] > 0.52, math.nan, decide(images))

    result = run(start, decision=bad_when_bright)
    assert result.flipped.all() and not result.failed.any()
    assert result.logits_after.isfinite().all()


def test_reconstruction_that_disagrees_with_its_query_is_told() -> None:
    start = layouts(2)
    bright = torch.ones(2, 3, 2, 2)
    result = run(start, queries=bright)
    assert not result.reconstruction_agrees.any()
    assert run(start).reconstruction_agrees.all()
    assert result.target.tolist() == [False, False]
    assert result.step.tolist() == [0, 0]  # already decided otherwise: nothing had to change


def test_flip_loss_worked_by_hand() -> None:
    logits = torch.tensor([[0.0, 9.0], [9.0, -2.0], [200.0, 0.0], [-200.0, 0.0]])
    attribute, target = torch.tensor([0, 1, 0, 0]), torch.tensor([True, True, False, False])
    expected = torch.tensor([math.log(2), math.log(1 + math.exp(2)), 200.0, 0.0])  # finite where p rounds to 1
    torch.testing.assert_close(flip_loss(logits, attribute, target), expected)
    assert target_logit(logits, attribute, target).tolist() == [0, -2, -200, 200]


def test_proximity_worked_by_hand() -> None:
    start = layouts(2)
    moved = start.replace(
        {"xs": start.xs + torch.tensor([[0.3, 0, 0], [0.3, 0.3, 0]]), "features": start.features - 0.5}
    )
    torch.testing.assert_close(change(moved, start)["xs"], torch.tensor([0.1, 0.2]))
    torch.testing.assert_close(proximity(moved, start, LAMBDA_KEY, KEYS), torch.tensor([10.6, 11.2]))
    torch.testing.assert_close(proximity(moved, start, {"xs": 1.0}, ["xs"]), torch.tensor([0.1, 0.2]))
    with pytest.raises(BlobexError, match="no weight for ys"):
        proximity(moved, start, {"xs": 1.0}, ["xs", "ys"])


def test_names_of_keys() -> None:
    assert resolve_keys(["style", "position", "xs"]) == ("xs", "ys", "spatial_style")
    assert resolve_keys(["size", "shape", "appearance"]) == ("covs", "sizes", "features")
    with pytest.raises(BlobexError, match="unknown key 'colour': choose from position"):
        resolve_keys(["colour"])
    with pytest.raises(BlobexError, match="no key"):
        resolve_keys([])


def test_masks_know_the_background() -> None:
    allowed = masks(BLOBS, KEYS, [0, 2], background=False)
    assert allowed["xs"].tolist() == [[True, False, True]]
    assert allowed["covs"].shape == (1, BLOBS, 1)
    assert allowed["sizes"].tolist() == [[False, True, False, True]]
    assert allowed["features"][..., 0].tolist() == [[False, True, False, True]]
    background = masks(BLOBS, ("features", "sizes"), [], background=True)
    assert background["features"][..., 0].tolist() == [[True, False, False, False]]
    assert not background["sizes"].any()
    assert set(background) == {"features", "sizes"}


@pytest.mark.parametrize(
    ("keys", "blobs", "background", "message"),
    [
        (("xs",), [3], True, "unknown blob 3: the blobs are numbered 0 to 2"),
        (("xs",), [-1], True, "unknown blob -1"),
        (("xs",), [[0], 1], True, "mixes"),
        (("xs", "sizes"), [], True, "nothing may change"),
        (("features",), [], False, "nothing may change"),
        (("features",), [[0], []], False, "nothing may change"),
    ],
)
def test_masks_refuse(keys: tuple[str, ...], blobs: list[int], background: bool, message: str) -> None:
    with pytest.raises(BlobexError, match=message):
        masks(BLOBS, keys, blobs, background)


def test_search_refuses_bad_input() -> None:
    start = layouts(2)
    for attribute in (2, -1):
        with pytest.raises(BlobexError, match=f"unknown attribute {attribute}"):
            run(start, (attribute,))
    with pytest.raises(BlobexError, match="no attribute"):
        run(start, ())
    with pytest.raises(BlobexError, match="2 layouts"):
        run(start, queries=torch.zeros(3, 3, 2, 2))
    with pytest.raises(BlobexError, match="3 of 2 pictures"):
        run(start, allowed=masks(BLOBS, ("xs",), [[0]] * 3, background=False))
    with pytest.raises(BlobexError, match="differentiable"):
        run(start, decision=lambda images: decide(images).detach())
