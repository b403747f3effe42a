"""The published inversion and search against plain loops, one problem at a time, with torch's Adam."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from worlds.linear_world import BLOBS, LAMBDA_KEY, MeanAbsolute, decide, layouts, networks, opposite, render_all
from worlds.tiny_networks import random_layout

from blobex.counterfactual import published
from blobex.counterfactual.masks import build_masks
from blobex.counterfactual.problems import Problems
from blobex.counterfactual.published import search_published
from blobex.counterfactual.target import ClassTarget
from blobex.inversion.published import invert_published
from blobex.layout.blobs import KEYS, BlobLayout
from blobex.layout.published_splat import splat_by_solver
from blobex.layout.splat import splat
from blobex.optim.networks import Networks
from blobex.optim.published import draw_blobs

ALL = build_masks(BLOBS, KEYS, None, background=True)


def adam_over(free: dict[str, Tensor], rate: float, size_rate: float) -> torch.optim.Adam:
    return torch.optim.Adam([{"params": [free[key]], "lr": size_rate if key == "sizes" else rate} for key in KEYS])


def with_unread_size(sizes: Tensor, start: Tensor) -> Tensor:
    """Return the sizes with entry 0 of the start: this renderer reads it, a generator does not."""
    return torch.cat([start[:, :1], sizes[:, 1:]], dim=1)


def plain_search(start: BlobLayout, column: int, wanted: bool, keys: tuple[str, ...]) -> BlobLayout:
    """Solve one problem by 200 steps of the published loss; keys that are not listed do not change."""
    free = {key: tensor.clone().requires_grad_() for key, tensor in start.items()}
    adam = adam_over(free, 0.01, 0.08)
    for _ in range(200):
        layout = BlobLayout(**{key: free[key] if key in keys else getattr(start, key) for key in KEYS})
        layout = layout.replace({"sizes": with_unread_size(layout.sizes, start.sizes)})
        logit = decide(render_all(layout))[0, column]
        moved = {key: (getattr(layout, key) - getattr(start, key)).abs() for key in KEYS}
        moved["sizes"] = moved["sizes"][:, 1:]
        price = sum(LAMBDA_KEY[key] * moved[key].mean() for key in KEYS)
        loss = F.binary_cross_entropy_with_logits(logit, torch.tensor(float(wanted), dtype=torch.float64)) + 0.1 * price
        adam.zero_grad()
        loss.backward()
        adam.step()
    found = BlobLayout(**{key: (free[key] if key in keys else getattr(start, key)).detach() for key in KEYS})
    return found.replace({"sizes": with_unread_size(found.sizes, start.sizes)})


@pytest.mark.parametrize("keys", [KEYS, ("xs", "sizes", "spatial_style")])
def test_search_is_the_published_loop(keys: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "draw_blobs", lambda *_: None)  # draws in float32
    # Of these sizes all prices are exact, so that float32 rounding does not move the kink of the price.
    start = layouts(3, blobs=4, dim=4).map(Tensor.double)
    queries = render_all(start)
    index, target = opposite(queries, (0, 1))
    allowed = build_masks(4, keys, None, background=True)
    problems = Problems.of(queries, start, index, target, allowed, LAMBDA_KEY)
    result = search_published(problems, networks(render_all))
    for problem in range(6):
        one = start[[int(index[problem])]]
        expected = plain_search(one, int(target.column[problem]), bool(target.wanted[problem]), keys)
        for key, tensor in expected.items():
            torch.testing.assert_close(getattr(result.layout, key)[[problem]], tensor, rtol=0, atol=1e-5)
    assert result.step.tolist() == [200] * 6
    torch.testing.assert_close(result.scores_after, decide(render_all(result.layout)).sigmoid())
    assert torch.equal(result.image, render_all(result.layout))


def test_search_respects_the_masks() -> None:
    start = layouts(2)
    allowed = build_masks(BLOBS, KEYS, [[1], [0, 2]], background=False)
    index, target = opposite(render_all(start), (0,))
    problems = Problems.of(render_all(start), start, index, target, allowed, LAMBDA_KEY)
    result = search_published(problems, networks(render_all))
    moved = result.layout.xs != start.xs
    assert moved.tolist() == [[False, True, False], [True, False, True]]
    assert torch.equal(result.layout.features[:, 0], start.features[:, 0])


def test_search_supports_classes() -> None:
    start = layouts(2)
    target = ClassTarget(torch.tensor([1, 1]))
    problems = Problems.of(render_all(start), start, torch.arange(2), target, ALL, LAMBDA_KEY)
    result = search_published(problems, networks(render_all))
    assert torch.equal(result.flipped, decide(result.image).argmax(1) == 1) and result.flipped.all()


def render_sums(layout: BlobLayout) -> Tensor:
    """Render 2x2 images whose pixels are four different weighted sums of the layout."""
    weights = [torch.linspace(-1, 1, tensor[0].numel()).roll(1) for _, tensor in layout.items()]
    sums = torch.stack([(t.flatten(1) * w).sum(1) for (_, t), w in zip(layout.items(), weights, strict=True)], dim=1)
    return torch.stack([sums[:, :4], sums[:, 1:5], sums[:, 2:]], dim=1).unflatten(2, (2, 2))


def features(images: Tensor) -> Tensor:
    return images.flatten(1)[:, :5]


def encode(images: Tensor) -> BlobLayout:
    return layouts(len(images)).map(lambda tensor: tensor + images.mean())


def world() -> Networks:
    return Networks(render_sums, lambda layout: splat(layout, 2, 2), encode, features, features, MeanAbsolute())


def plain_inversion(image: Tensor, start: BlobLayout) -> BlobLayout:
    free = {key: tensor.clone().requires_grad_() for key, tensor in start.items()}
    adam = adam_over(free, 0.02, 0.04)
    schedule = torch.optim.lr_scheduler.StepLR(adam, 100, 0.5)
    for _ in range(400):
        rendered = render_sums(BlobLayout(**free))
        difference = rendered - image
        loss = difference.abs().mean() + 0.1 * difference.square().mean()
        loss = loss + 0.1 * (features(rendered) - features(image)).square().mean()
        for key in KEYS:
            moved = (free[key] - getattr(start, key)).square()
            loss = loss + 0.1 * (moved[:, 1:] if key == "sizes" else moved).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        schedule.step()
    return BlobLayout(**free).detach()


def test_inversion_is_the_published_loop() -> None:
    images = torch.rand(3, 3, 2, 2, generator=torch.Generator().manual_seed(1)) * 2 - 1
    encoded = world().encode(images)
    result = invert_published(images, world())
    for number in range(3):
        expected = plain_inversion(images[[number]], encoded[[number]])
        for key, tensor in expected.items():
            torch.testing.assert_close(getattr(result.layout, key)[[number]], tensor, rtol=0, atol=1e-5)
    assert result.step.tolist() == [400] * 3
    assert (result.loss < result.encoder_loss).all()
    assert torch.equal(result.image, render_sums(result.layout))


@pytest.mark.parametrize(("height", "width"), [(16, 16), (16, 32), (8, 32)])
def test_solver_equals_the_closed_form(height: int, width: int) -> None:
    layout = random_layout(3, 5, 2)
    leaves = {key: [tensor.clone().requires_grad_() for _ in range(2)] for key, tensor in layout.items()}
    maps = [
        function(BlobLayout(**{key: both[number] for key, both in leaves.items()}), height, width)
        for number, function in enumerate((splat, splat_by_solver))
    ]
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(maps[1].sum(1), torch.ones(3, height, width, dtype=torch.float64))
    weight = torch.rand(maps[0].shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for number in range(2):
        (maps[number] * weight).sum().backward()
    for key in ("xs", "ys", "covs", "sizes"):
        torch.testing.assert_close(leaves[key][0].grad, leaves[key][1].grad, rtol=1e-8, atol=1e-10)


def test_each_blob_is_drawn_in_its_own_colour() -> None:
    layout = random_layout(2, 3, 2, dtype=torch.float32)
    image = draw_blobs(layout, 8, 16)
    assert image.shape == (2, 3, 8, 16) and (image >= 0).all() and (image <= 1).all()
    assert torch.equal(image, draw_blobs(layout, 8, 16))
    hidden = layout.replace({"sizes": torch.full_like(layout.sizes, -99.0)})
    background = draw_blobs(hidden, 8, 16)
    torch.testing.assert_close(background, background[:1, :, :1, :1].expand_as(background))
