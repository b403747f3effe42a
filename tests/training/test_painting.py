"""Painting loss and its tasks, with a painter that is ideal: blobs are columns of the image."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from worlds.tiny_world import PARAMS

from blobex.config.read import load_params
from blobex.config.training import BlobganPretrain, Pasted
from blobex.layout.blobs import ABSENT, BlobLayout
from blobex.training.painting import only_blobs, painting_loss, painting_measures, pixel_loss

BLOBS, ROWS, WIDTH = 4, 16, 8
OPTIONS = dataclasses.replace(
    load_params(PARAMS).blobgan_pretrain,
    code_noise=0.0,
    pasted=Pasted(removed=0.25, inserted=0.25, kept=0.125, weight=3.0),
)
TASKS = {"inserted": slice(0, 4), "removed": slice(4, 8), "kept": slice(8, 10), "as it is": slice(10, 16)}


class Encoder:
    """Codes are the colours of the columns of an image; column 0 is the background's. Features are codes."""

    def codes(self, images: Tensor, layout: BlobLayout) -> Tensor:
        return images[:, :, 0, : BLOBS + 1].transpose(1, 2)

    def appearance(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        return codes, codes[..., :0]


class Painter:
    """Paints the column of each visible blob in its colour, and all others in that of the background."""

    generator = SimpleNamespace(random_noise=lambda batch, random: [])

    def render(self, layout: BlobLayout, noise: object = None) -> Tensor:
        colours = torch.where((layout.sizes > ABSENT / 2)[..., None], layout.features, layout.features[:, :1])
        return F.pad(colours.transpose(1, 2), (0, WIDTH - BLOBS - 1), mode="replicate")[:, :, None].repeat(1, 1, 4, 1)


class Careless(Painter):
    """Paints absent blobs, too."""

    def render(self, layout: BlobLayout, noise: object = None) -> Tensor:
        return super().render(layout.replace({"sizes": layout.sizes.clamp(min=1)}))


def world(seed: int = 0, count: int = ROWS) -> tuple[Tensor, ...]:
    """Return a batch: images of some of the blobs 0 to 2; the last one is pasted, but into every third image."""
    random = torch.Generator().manual_seed(seed)
    colours = torch.randint(0, 256, (2, count, BLOBS + 1, 3), generator=random, dtype=torch.uint8).float()
    sizes = torch.where(torch.rand(count, BLOBS, generator=random) < 0.7, 2.0, ABSENT)
    sizes[:, -1] = ABSENT
    blobs = torch.zeros(count, BLOBS, dtype=torch.bool)
    blobs[:, -1] = torch.arange(count) % 3 != 2
    with_object = torch.where(blobs, 2.0, sizes)
    shown = colours[0].clone()
    shown[:, -1] = colours[1][:, -1]  # the object has the colour of its own image

    def paint(layout_sizes: Tensor, features: Tensor) -> Tensor:
        layout = BlobLayout(*ellipses[:3], F.pad(layout_sizes, (1, 0)), features, features[..., :0])
        return Painter().render(layout).to(torch.uint8)

    places = torch.rand(2, count, BLOBS, generator=random)
    ellipses = [*places, torch.zeros(count, BLOBS, 4), sizes]
    mask = torch.zeros(count, 1, 4, WIDTH, dtype=torch.bool)
    mask[..., BLOBS] = blobs[:, -1, None, None]
    mask[..., BLOBS + 1 :] = mask[..., BLOBS : BLOBS + 1]  # columns beyond are like the last
    images, composite = paint(sizes, colours[0]), paint(with_object, shown)
    moved = paint(torch.full_like(sizes, 2.0), colours[1])
    return images, composite, moved, mask, blobs, *ellipses, *ellipses[:3], with_object


def loss_of(model: Painter, batch: tuple[Tensor, ...], options: BlobganPretrain = OPTIONS) -> tuple[float, dict]:
    total, parts = painting_loss(model, Encoder(), None, options, batch, torch.Generator().manual_seed(0))
    return total.item(), parts


def test_an_ideal_painter_has_no_loss() -> None:
    for seed in range(5):
        total, parts = loss_of(Painter(), world(seed))
        assert total == 0 and parts["l1"] == 0 and set(parts) == {"l1", "pixels"}


@pytest.mark.parametrize("task", TASKS)
def test_each_task_asks_for_its_image(task: str) -> None:
    """An object's pixels matter in the image that is asked for, and not in the other one of the pair."""
    target = {"inserted": 1, "removed": 0, "kept": 1, "as it is": 0}[task]
    rows, losses = torch.arange(ROWS)[TASKS[task]], []
    for place in (target, 1 - target):
        batch = [tensor.clone() for tensor in world()]
        batch[place][rows] = torch.where(batch[3][rows], batch[place][rows] ^ 255, batch[place][rows])
        losses.append(loss_of(Painter(), tuple(batch))[0])
    assert losses[1] == 0
    assert losses[0] > 0 or task in ("kept", "as it is")  # their codes are read from the target itself


def test_removal_needs_what_is_behind_the_object() -> None:
    batch = world()
    options = {
        name: dataclasses.replace(OPTIONS, pasted=dataclasses.replace(Pasted(0, 0, 0, 0), **{name: 1.0}))
        for name in ("removed", "inserted", "kept")
    }
    present = [tensor.clone() for tensor in batch]
    present[8][:, :-1], present[12][:] = 2.0, 2.0  # all blobs but the object are visible, so that it alone disappears
    layout = BlobLayout(*present[5:8], F.pad(present[8], (1, 0)), *2 * [torch.zeros(ROWS, BLOBS + 1, 0)])
    colours = present[1][:, :, 0, : BLOBS + 1].transpose(1, 2).float()
    with_object = layout.replace({"features": colours, "sizes": F.pad(present[12], (1, 0))})
    present[1] = Painter().render(with_object).to(torch.uint8)
    present[0] = Painter().render(with_object.replace({"sizes": layout.sizes})).to(torch.uint8)
    present[4][:, -1] = True
    assert loss_of(Painter(), tuple(present), options["removed"])[0] == 0
    assert loss_of(Careless(), tuple(present), options["removed"])[0] > 0
    assert loss_of(Careless(), tuple(present), options["kept"])[0] == 0


def test_an_inserted_object_has_the_code_of_its_own_image() -> None:
    """Only the pasted blob's code is read from there; without insertions, that image is not read at all."""
    batch = list(world())
    batch[2] = batch[2] ^ 255
    total, _ = loss_of(Painter(), tuple(batch))
    assert total > 0
    none = dataclasses.replace(OPTIONS, pasted=dataclasses.replace(OPTIONS.pasted, inserted=0.0))
    assert loss_of(Painter(), tuple(batch), none)[0] == 0
    batch = list(world())
    batch[2][..., :BLOBS] ^= 255  # what surrounds the object there
    assert loss_of(Painter(), tuple(batch))[0] == 0


def test_rows_without_an_object_are_images_as_they_are() -> None:
    batch = list(world())
    without = ~batch[4].any(1)
    assert without[TASKS["inserted"]].any() and without[TASKS["removed"]].any()
    batch[1][without] ^= 255
    batch[2][without] ^= 255
    assert loss_of(Painter(), tuple(batch))[0] == 0


@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_pixels_of_the_object_weigh_more(weight: float) -> None:
    """A painter that is wrong by 0.1 everywhere: 0.1 times the mean weight."""

    class Brighter(Painter):
        def render(self, layout: BlobLayout, noise: object = None) -> Tensor:
            return super().render(layout) + 0.1

    batch = world()
    options = dataclasses.replace(
        OPTIONS, scales=1, differences=0.0, l1=2.0, pasted=dataclasses.replace(OPTIONS.pasted, weight=weight)
    )
    total, parts = loss_of(Brighter(), batch, options)
    share = batch[3][:8].sum() / batch[3].numel()  # of the rows that insert or remove
    assert share > 0 and parts["l1"].item() == pytest.approx(0.1, rel=1e-5)
    assert total == pytest.approx(2.0 * 0.1 * (1 + weight * share.item()), rel=1e-5)


def test_noise_on_codes_is_drawn_from_the_generator() -> None:
    noisy = dataclasses.replace(OPTIONS, code_noise=0.1)
    assert loss_of(Painter(), world(), noisy)[0] == loss_of(Painter(), world(), noisy)[0] > 0


def image(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_pixel_loss_of_constant_and_alternating_errors() -> None:
    options = dataclasses.replace(OPTIONS, scales=3, differences=0.5)
    ones = torch.ones(1, 1, 16, 16)
    constant = pixel_loss(torch.full((1, 3, 16, 16), 0.3), torch.zeros(1, 3, 16, 16), ones, options)
    assert constant.item() == pytest.approx(0.3, rel=1e-5)  # at every scale, without differences
    board = 0.2 * ((torch.arange(16)[:, None] + torch.arange(16)) % 2 * 2.0 - 1).expand(1, 3, -1, -1)
    alternating = pixel_loss(board, torch.zeros(1, 3, 16, 16), ones, options)
    assert alternating.item() == pytest.approx(0.2 / 3 + 0.5 * 0.4, rel=1e-5)  # averages vanish, differences double


def test_pixel_loss_against_plain_loops() -> None:
    painted, target, weight = image(2, 3, 8, 12), image(2, 3, 8, 12, seed=1), image(2, 1, 8, 12, seed=2).abs()
    options = dataclasses.replace(OPTIONS, scales=2, differences=0.7)
    error = ((painted - target) * weight).numpy()
    blocks = error.reshape(2, 3, 4, 2, 6, 2).mean((3, 5))
    across, down = np.abs(error[..., 1:] - error[..., :-1]), np.abs(error[:, :, 1:] - error[:, :, :-1])
    expected = (np.abs(error).mean() + np.abs(blocks).mean()) / 2 + 0.7 * (across.mean() + down.mean()) / 2
    assert pixel_loss(painted, target, weight, options).item() == pytest.approx(expected, rel=1e-9)


def test_only_blobs_hides_all_others() -> None:
    layout = BlobLayout(*world()[5:8], F.pad(torch.full((ROWS, BLOBS), 2.0), (1, 0)), image(0), image(0))
    chosen = torch.rand(ROWS, BLOBS, generator=torch.Generator().manual_seed(1)) < 0.5
    sizes = only_blobs(layout, chosen).sizes
    assert torch.equal(sizes[:, 1:] == ABSENT, ~chosen) and torch.equal(sizes[:, 1:] == 2, chosen)
    assert torch.equal(sizes[:, 0], layout.sizes[:, 0])


def measured(model: Painter, batch: tuple[Tensor, ...]) -> dict[str, float]:
    painter = SimpleNamespace(device="cpu", encoder=Encoder())
    painter.render = lambda layout, codes: model.render(layout.replace({"features": codes}))
    return painting_measures(painter, batch)


def test_measures_of_an_ideal_and_a_careless_painter() -> None:
    batch = world(count=150)  # more than are computed at once
    images, shown, _, mask = batch[:4]
    difference = (images.double() - shown.double()).abs().mean(1, keepdim=True) / 127.5
    object_l1 = ((difference * mask).sum() / mask.sum()).item()
    ideal = measured(Painter(), batch)
    assert object_l1 > 0.3 and ideal["removal_l1_object"] == pytest.approx(object_l1, rel=1e-4)
    assert ideal["l1"] == ideal["removal_l1"] == ideal["insertion_l1"] == 0
    careless = measured(Careless(), batch)
    assert careless["removal_l1"] == pytest.approx(object_l1, rel=1e-4)
