"""The published searches against a second implementation for single images."""

import dataclasses
from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor
from worlds import published_world
from worlds.linear_world import BLOBS, LAMBDA_KEY, decide, layouts, networks, opposite, render_all
from worlds.published_scripts import diverse, search
from worlds.published_world import generate, scenes

from blobex.counterfactual import published
from blobex.counterfactual.masks import build_masks
from blobex.counterfactual.problems import Problems
from blobex.counterfactual.published import (
    CHANGED_KEYS,
    descend,
    published_prices,
    published_settings,
    search_published,
)
from blobex.counterfactual.target import AttributeTarget, ClassTarget
from blobex.counterfactual.verify import SharedCounterfactuals
from blobex.layout.blobs import KEYS, BlobLayout
from blobex.layout.vector import VectorForm

ALL = build_masks(BLOBS, KEYS, None, background=True)
NETWORKS = published_world.networks()


def problems_of(
    start: BlobLayout, columns: Sequence[int], keys: Sequence[str] = KEYS, chosen: Sequence[int] | None = None
) -> Problems:
    """Ask to turn over the decisions about the renderings of `start`, in published_world."""
    queries = generate(start.as_dict())
    outputs, masks = published_world.decide(queries), build_masks(7, keys, chosen, background=chosen is None)
    index, column = torch.arange(len(start)).repeat_interleave(len(columns)), torch.tensor(columns).repeat(len(start))
    return Problems.of(queries, start, index, AttributeTarget(column, outputs[index, column] < 0), masks, LAMBDA_KEY)


def exact(problems: Problems, lambda_key: Mapping[str, float]) -> Problems:
    """Return the problems with the published prices, as `search_published` sets them."""
    return dataclasses.replace(problems, price=published_prices(problems.form, lambda_key))


def test_search_is_the_published_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "draw_blobs", lambda *_: None)  # takes most of the time
    # Of these sizes all prices are exact, so that float32 rounding does not move the kink of the price.
    start = layouts(3, blobs=3, dim=4).map(Tensor.double)
    # The renderer reads entry 0 of the sizes, which a generator does not and a search does not change.
    queries = render_all(start)
    index, target = opposite(queries, (0, 1))
    problems = Problems.of(queries, start, index, target, ALL, LAMBDA_KEY)
    result = search_published(problems, networks(render_all))
    for problem in range(6):
        one = start[[int(index[problem])]]

        def drawn(blobs: dict[str, Tensor], one: BlobLayout = one) -> Tensor:
            sizes = torch.cat([one.sizes[:, :1], blobs["sizes"][:, 1:]], 1)
            return render_all(BlobLayout(**blobs).replace({"sizes": sizes}))

        expected, _ = search("basic", one.as_dict(), drawn, decide, int(target.column[problem]))
        for key, tensor in expected.items():
            torch.testing.assert_close(getattr(result.layout, key)[[problem]], tensor, rtol=0, atol=1e-5)
    assert result.step.tolist() == [200] * 6 and not isinstance(result, SharedCounterfactuals)
    torch.testing.assert_close(result.scores_after, decide(render_all(result.layout)).sigmoid())
    assert torch.equal(result.image, render_all(result.layout))


@pytest.mark.parametrize(("script", "chosen"), [("basic", None), ("basic", [0, 5]), ("targeted", [1, 2, 6])])
def test_the_first_losses_are_the_published_ones(
    script: str, chosen: list[int] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """32x32 images of K = 7 blobs; the rendered ones leave [-1,1] and are decided as they are."""
    monkeypatch.setattr(published, "STEPS", 5), monkeypatch.setattr(published, "TARGETED_STEPS", 5)
    start = scenes(2)
    assert generate(start.as_dict()).abs().amax() > 1.5
    problems = problems_of(start, (0, 3), CHANGED_KEYS[script], chosen)
    settings = published_settings(script)
    priced = search_published(problems, NETWORKS, settings)
    found = descend(exact(problems, settings.lambda_key), NETWORKS, settings)
    for problem, (image, output) in enumerate(zip(problems.image_index, problems.target.column, strict=True)):
        blobs = start[[int(image)]].as_dict()
        expected, trace = search(script, blobs, generate, published_world.decide, int(output), chosen, steps=5)
        assert found[2][:, problem].tolist() == pytest.approx(trace, rel=0, abs=1e-6) and len(set(trace)) == 5
        for key, tensor in expected.items():
            torch.testing.assert_close(getattr(priced.layout, key)[[problem]], tensor, rtol=0, atol=1e-5)


def test_several_at_once_are_the_published_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "STEPS", 5)
    start, settings = scenes(2), published_settings("diverse", count=3, seed=4)
    problems = problems_of(start, (2,))
    vectors, shares, losses = descend(exact(problems, settings.lambda_key), NETWORKS, settings)
    result = search_published(problems, NETWORKS, settings)
    assert isinstance(result, SharedCounterfactuals) and result.shares.shape == (6, 8)
    random = torch.Generator().manual_seed(4)
    first = 1 + 0.05 * (2 * torch.rand(3, 8, generator=random) - 1)
    for image in range(2):
        blobs = start[[image]].as_dict()
        expected, assigned, trace = diverse(blobs, generate, published_world.decide, 2, first.double(), steps=5)
        assert losses[:, image].tolist() == pytest.approx(trace, rel=0, abs=1e-6) and len(set(trace)) == 5
        torch.testing.assert_close(shares[image], assigned, rtol=0, atol=1e-6)
        own = slice(3 * image, 3 * image + 3)
        torch.testing.assert_close(result.shares[own], assigned, rtol=0, atol=1e-6)
        for key, tensor in expected.items():
            torch.testing.assert_close(getattr(result.layout, key)[own], tensor, rtol=0, atol=1e-6)
    torch.testing.assert_close(shares.sum(1), torch.ones_like(shares[:, 0]))
    assert torch.equal(vectors.flatten(0, 1), problems.form.flatten(result.layout))


def test_settings_of_the_scripts() -> None:
    """As METHOD.md, section 5, tabulates them."""
    weights = {"xs": 6, "ys": 6, "covs": 1, "sizes": 1, "features": 20, "spatial_style": 20}
    basic, targeted = published_settings("basic"), published_settings("targeted")
    assert (basic.steps, basic.learning_rate, basic.size_learning_rate) == (200, 0.08 / 8, 0.08)
    assert (targeted.steps, targeted.learning_rate, targeted.lambda_prox) == (100, 0.08 / 8, 0.01)
    assert basic.lambda_prox == 0.1 and basic.lambda_key == targeted.lambda_key == weights
    assert CHANGED_KEYS == {"basic": KEYS, "targeted": ("spatial_style",), "diverse": KEYS}
    for several in (published_settings("diverse", 1), published_settings("diverse", 3), published_settings("basic", 3)):
        assert (several.learning_rate, several.size_learning_rate, several.lambda_prox) == (0.06 / 8, 0.06, 0.5)
        assert several.lambda_key == {"xs": 10, "ys": 10, "covs": 1, "sizes": 1, "features": 10, "spatial_style": 10}


def test_the_unread_size_counts_in_the_mean() -> None:
    form = VectorForm.of(layouts(1, blobs=7))
    prices = form.unflatten(published_prices(form, LAMBDA_KEY)[None])
    torch.testing.assert_close(prices.sizes, torch.tensor([[0.0] + [1 / 8] * 7]))
    torch.testing.assert_close(prices.xs, torch.full((1, 7), 6 / 7))
    torch.testing.assert_close(prices.features.sum(), torch.tensor(20.0))


def test_search_respects_the_masks() -> None:
    start = layouts(2)
    allowed = build_masks(BLOBS, KEYS, [[1], [0, 2]], background=False)
    index, target = opposite(render_all(start), (0,))
    problems = Problems.of(render_all(start), start, index, target, allowed, LAMBDA_KEY)
    result = search_published(problems, networks(render_all))
    moved = result.layout.xs != start.xs
    assert moved.tolist() == [[False, True, False], [True, False, True]]
    assert torch.equal(result.layout.features[:, 0], start.features[:, 0])
    several = search_published(problems, networks(render_all), published_settings("diverse", 2))
    moved = (several.layout.xs != start.xs.repeat_interleave(2, 0)).unflatten(0, (2, 2)).any(1)
    assert moved.tolist() == [[False, True, False], [True, False, True]]


def test_search_supports_classes() -> None:
    start = layouts(2)
    target = ClassTarget(torch.tensor([1, 1]))
    problems = Problems.of(render_all(start), start, torch.arange(2), target, ALL, LAMBDA_KEY)
    result = search_published(problems, networks(render_all))
    assert torch.equal(result.flipped, decide(result.image).argmax(1) == 1) and result.flipped.all()
