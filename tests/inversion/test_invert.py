"""Inversion with linear toy networks, whose result is known."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor
from worlds.linear_world import MeanAbsolute

from blobex.config.explain import InversionParams
from blobex.core.errors import BlobexError
from blobex.inversion.inversion import Inversion
from blobex.inversion.invert import LAST_RATE, RELATIVE_RATES, invert
from blobex.layout.blobs import BlobLayout
from blobex.optim.network_callables import NetworkPair, Networks

PARAMS = InversionParams(
    steps=60,
    decision_steps=60,
    learning_rate=0.05,
    size_lr_multiplier=2.0,
    perceptual=1.0,
    l2=0.1,
    decision=0.1,
    blobs=0.1,
    density=0.0,
)
BLOBS = 2
XS_RATE = RELATIVE_RATES.get("xs", 1.0)  # of the learning rate


def encode(images: Tensor) -> BlobLayout:
    """Return layouts of zeros."""
    n = len(images)
    shapes = {"xs": (BLOBS,), "ys": (BLOBS,), "covs": (BLOBS, 4), "sizes": (BLOBS + 1,)}
    shapes |= {"features": (BLOBS + 1, 3), "spatial_style": (BLOBS + 1, 3)}
    return BlobLayout(**{key: torch.zeros(n, *shape) for key, shape in shapes.items()})


def render(layout: BlobLayout) -> Tensor:
    """Render 2x2 images: row k is the x of blob k, plus a tenth of the sum of sizes."""
    rows = layout.xs[:, None, :, None].expand(-1, 3, -1, 2)
    return rows + layout.sizes[:, 1:].sum(1)[:, None, None, None] * 0.1


def features(images: Tensor) -> Tensor:
    return images.flatten(1)[:, :5]


def world(**networks: object) -> Networks:
    chosen = {"render": render, "scores": render, "encode": encode, "decide": features, "features": features} | networks
    return Networks(**chosen, perceptual=MeanAbsolute())  # type: ignore[arg-type]


def run(
    images: Tensor,
    params: InversionParams = PARAMS,
    batch_size: int = 4,
    quick: Networks | None = None,
    exact: Networks | None = None,
    start: BlobLayout | None = None,
) -> Inversion:
    """Invert with the same networks twice, unless both are given."""
    exact = exact or quick or world()
    return invert(images, NetworkPair(quick or exact, exact), params, batch_size, start)


def same(first: Inversion, second: Inversion) -> bool:
    names = [field.name for field in dataclasses.fields(Inversion) if field.name != "layout"]
    return all(torch.equal(getattr(first, name), getattr(second, name)) for name in names) and all(
        torch.equal(tensor, getattr(second.layout, key)) for key, tensor in first.layout.items()
    )


def random_images(count: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 3, 2, 2, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_without_steps_the_result_is_the_encoders_layout() -> None:
    result = run(random_images(3), dataclasses.replace(PARAMS, steps=0))
    for key, tensor in result.layout.items():
        assert torch.equal(tensor, getattr(encode(random_images(3)), key))
    assert torch.equal(result.loss, result.encoder_loss)
    assert torch.equal(result.blobs, torch.zeros(3))
    assert result.step.tolist() == [0, 0, 0]


def test_loss_computed_by_hand() -> None:
    images = torch.full((1, 3, 2, 2), 0.5)
    result = run(images, dataclasses.replace(PARAMS, steps=0))
    # The rendering of zeros is black: |0.5| = 0.5, 0.5^2 = 0.25 over pixels and over features, and no change of blobs.
    torch.testing.assert_close(result.loss, torch.tensor([0.5 + 0.1 * 0.25 + 0.1 * 0.25]))


def test_first_step_moves_each_key_by_its_learning_rate() -> None:
    # Adam's first step is the learning rate times the gradient's sign (Kingma & Ba 2015, algorithm 1 with t = 1).
    result = run(torch.ones(1, 3, 2, 2), dataclasses.replace(PARAMS, steps=1))
    torch.testing.assert_close(result.layout.xs, torch.full((1, BLOBS), 0.05 * XS_RATE), rtol=1e-5, atol=0)
    torch.testing.assert_close(result.layout.sizes[:, 1:], torch.full((1, BLOBS), 0.1), rtol=1e-5, atol=0)
    assert not result.layout.ys.any()


def test_learning_rate_follows_a_half_cosine() -> None:
    # With a constant gradient every Adam step is one learning rate.
    params = dataclasses.replace(PARAMS, steps=6, l2=0.0, decision=0.0, blobs=0.0, size_lr_multiplier=1e-3)
    result = run(torch.full((1, 3, 2, 2), 9.0), params)
    rates = [LAST_RATE + (1 - LAST_RATE) * (1 + math.cos(math.pi * step / 6)) / 2 for step in range(6)]
    torch.testing.assert_close(result.layout.xs, torch.full((1, BLOBS), 0.05 * XS_RATE * sum(rates)), rtol=1e-3, atol=0)


def test_image_loss_and_layout_belong_together() -> None:
    images = random_images(5)
    result = run(images)
    assert torch.equal(result.image, render(result.layout))
    torch.testing.assert_close(result.l2, (result.image - images).square().mean((1, 2, 3)))
    torch.testing.assert_close(result.decision, (features(result.image) - features(images)).square().mean(1))
    torch.testing.assert_close(result.perceptual, (result.image - images).abs().mean((1, 2, 3)))
    moved = result.layout.replace({"sizes": result.layout.sizes[:, 1:]})
    torch.testing.assert_close(result.blobs, sum(tensor.square().flatten(1).mean(1) for _, tensor in moved.items()))
    total = result.perceptual + 0.1 * (result.l2 + result.decision + result.blobs)
    torch.testing.assert_close(result.loss, total)
    assert (result.loss < result.encoder_loss).all()


def test_best_iterate_is_kept() -> None:
    params = dataclasses.replace(PARAMS, learning_rate=0.5, l2=0.0, decision=0.0, blobs=0.0)  # too high: overshoots
    images, early = random_images(4), 0
    for number in range(4):
        seen: list[Tensor] = []

        def recording(layout: BlobLayout, seen: list[Tensor] = seen) -> Tensor:
            seen.append(render(layout).detach()[:1])
            return render(layout)

        result = run(images[[number]], params, quick=world(render=recording), exact=world())
        losses = torch.cat([(image - images[[number]]).abs().mean((1, 2, 3)) for image in seen])
        assert len(seen) == params.steps + 1
        torch.testing.assert_close(result.loss, losses.min()[None])
        assert losses[result.step].item() == pytest.approx(losses.min().item(), rel=1e-6)
        blind = dataclasses.replace(params, decision_steps=0)  # the best loss is then never reset
        assert run(images[[number]], blind, quick=world(), exact=world()).loss <= result.loss
        early += int(result.step < params.steps)
    assert early  # else the last iterate would pass, too


@pytest.mark.parametrize("batch_size", [1, 5, 7, 40])
def test_results_do_not_depend_on_the_batch_size(batch_size: int) -> None:
    images = random_images(9)
    assert same(run(images, batch_size=batch_size), run(images, batch_size=4))


def test_results_do_not_depend_on_other_images() -> None:
    images = random_images(9)
    every = run(images, batch_size=8)
    assert same(every[torch.tensor([6, 2])], run(images[[6, 2]], batch_size=8))


def test_inversion_is_deterministic() -> None:
    first, second = run(random_images(3)), run(random_images(3))
    assert torch.equal(first.image, second.image)
    assert torch.equal(first.loss, second.loss)


def test_nan_is_never_best_and_all_nan_is_a_failure() -> None:
    images, calls = random_images(3), 0

    def numbered(part: Tensor) -> BlobLayout:
        """Return layouts of zeros with the image's number as ys, which are not rendered."""
        number = (part[:, None] == images).flatten(2).all(2).long().argmax(1)
        return encode(part).replace({"ys": number[:, None].expand(-1, BLOBS).float()})

    def broken(layout: BlobLayout, number: int) -> Tensor:
        return torch.where(layout.ys[:, 0].detach() == number, math.nan, 0.0)[:, None, None, None]

    def turning_bad(layout: BlobLayout) -> Tensor:
        nonlocal calls
        calls += 1
        image = render(layout) + broken(layout, 0)  # the first image: always
        return image + broken(layout, 1) if calls > 3 else image  # the second: from the fourth iterate

    quick = world(render=turning_bad)
    result = run(images, quick=quick, exact=world(encode=numbered, render=lambda x: render(x) + broken(x, 0)))
    assert result.failed.tolist() == [True, False, False]
    assert torch.equal(result.layout.xs[0], torch.zeros(BLOBS))
    assert result.loss[1:].isfinite().all()
    assert result.step[1] <= 2
    torch.testing.assert_close(result.image[2], run(images[2:]).image[0])  # the others are not affected


def test_the_decision_term_enters_for_the_last_steps() -> None:
    asked: list[int] = []

    def counting(images: Tensor) -> Tensor:
        asked.append(len(images))
        return features(images)

    images = random_images(2)
    for late in (0, 3, 20):
        asked.clear()
        params = dataclasses.replace(PARAMS, steps=20, decision_steps=late)
        result = run(images, params, quick=world(features=counting), exact=world())
        assert len(asked) == 1 + late + (late > 0)  # the queries, and every iterate from then on
        torch.testing.assert_close(result.decision, (features(result.image) - features(images)).square().mean(1))
    blind = dataclasses.replace(PARAMS, steps=20, decision_steps=0)
    assert same(run(images, blind, quick=world(features=lambda x: features(x) * 9), exact=world()), run(images, blind))


def test_failure_of_the_quick_networks_gives_the_encoders_layout() -> None:
    images = random_images(3)
    failed = run(images, quick=world(render=lambda layout: render(layout) * math.nan), exact=world())
    assert same(failed, run(images, dataclasses.replace(PARAMS, steps=0)))
    assert not failed.failed.any() and failed.step.tolist() == [0, 0, 0]


def test_results_are_evaluated_by_the_exact_networks() -> None:
    """Quick networks with inverted images make the loss worse: the result is the encoder's layout."""
    images = random_images(4) * 0.1 + torch.tensor([1.0, -1.0])[:, None]
    astray = run(images, quick=world(render=lambda layout: -render(layout)), exact=world())
    assert (astray.loss <= astray.encoder_loss).all()
    assert torch.equal(astray.image, render(astray.layout))
    near = run(images, quick=world(render=lambda layout: render(layout) * 1.01), exact=world())
    assert torch.equal(near.image, render(near.layout))
    torch.testing.assert_close(near.l2, (near.image - images).square().mean((1, 2, 3)))
    assert (near.loss < near.encoder_loss).all()


def test_query_features_are_computed_once() -> None:
    calls = 0

    def counting(images: Tensor) -> Tensor:
        nonlocal calls
        calls += not images.requires_grad
        return features(images)

    run(random_images(2), dataclasses.replace(PARAMS, steps=5), quick=world(features=counting), exact=world())
    assert calls == 1


def test_unread_size_never_changes() -> None:
    def reading(layout: BlobLayout) -> Tensor:
        return render(layout) + layout.sizes[:, 0, None, None, None]

    result = run(random_images(3), quick=world(render=reading))
    assert (result.layout.sizes[:, 1:] != 0).all() and not result.layout.sizes[:, 0].any()


def test_network_weights_receive_no_gradients() -> None:
    weight = torch.ones((), requires_grad=True)
    params = dataclasses.replace(PARAMS, steps=2)
    result = run(random_images(2), params, quick=world(render=lambda layout: render(layout) * weight))
    assert weight.grad is None
    assert not result.image.requires_grad and not result.layout.xs.requires_grad


def test_images_of_another_shape_are_refused() -> None:
    for images in (torch.zeros(3, 2, 2), torch.zeros(0, 3, 2, 2)):
        with pytest.raises(BlobexError, match=r"\(N,3,H,W\)"):
            run(images)


def test_inversions_are_indexed() -> None:
    result = run(random_images(4), dataclasses.replace(PARAMS, steps=1))
    part = result[torch.tensor([2, 0])]
    assert len(part) == 2 and torch.equal(part.image, result.image[[2, 0]])
    assert torch.equal(part.layout.xs, result.layout.xs[[2, 0]])
    assert same(result[1:3], result[torch.tensor([1, 2])])


def test_inversion_starts_at_a_given_layout() -> None:
    images = random_images(3)
    start = encode(images).map(lambda tensor: tensor + 0.3)
    still = run(images, dataclasses.replace(PARAMS, steps=0), start=start)
    assert torch.equal(still.layout.xs, start.xs)
    moved = run(images, PARAMS, start=start)
    assert (moved.loss < still.loss).all()
    kept = moved.replaced(torch.tensor([1]), still[torch.tensor([1])])
    assert torch.equal(kept.layout.xs[1], start.xs[1]) and torch.equal(kept.layout.xs[0], moved.layout.xs[0])
    assert kept.loss.tolist() == [moved.loss[0].item(), still.loss[1].item(), moved.loss[2].item()]
