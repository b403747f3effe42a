"""The published inversion against a plain loop over single images."""

import torch
from torch import Tensor
from worlds.linear_world import MeanAbsolute, adam_over, layouts

from blobex.inversion.published import invert_published
from blobex.layout.blobs import KEYS, BlobLayout
from blobex.layout.splat import splat
from blobex.optim.network_callables import Networks


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
