"""Models whose answers are random, depend on the batch or cannot be followed are named when they are loaded."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from worlds.decision_models import CPU, network, noise

from blobex.config.data import ImageSize
from blobex.core.errors import BlobexError
from blobex.decisions.load import load
from blobex.decisions.source import from_callable

SIZE = ImageSize(16, 2)
TRAINING = network(4).train()
NORMALISED = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
INSTANT = nn.Sequential(
    nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
)
VECTORS = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(3))


def loaded(model, **options):
    return load(model, SIZE, CPU, Path(), "rect", **options)


def seeded_noise(images):
    torch.manual_seed(0)
    return images.mean((2, 3)) + torch.randn(len(images), 3)


RANDOM, BATCH = "gives two answers about one image: switch off", "by the other images of its batch"


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (lambda images: TRAINING(images), RANDOM),  # dropout left on, in a module that nobody can see
        (lambda images: F.dropout(images, 0.1).mean((2, 3)), RANDOM),
        (lambda images: images.mean((2, 3)) + 1e-3 * torch.randn(3), RANDOM),
        (lambda images: NORMALISED(images), BATCH),
        (INSTANT, BATCH),
        (lambda images: images.mean((2, 3)) - images.mean((0, 2, 3)), BATCH),
        (seeded_noise, BATCH),
        (lambda images: VECTORS(images), r"fails on one image alone \(.* more than 1 value .*\): set its batch norm"),
        (lambda images: (images * 4).round().mean((2, 3)), "their gradient to the image is 0: leave out rounding"),
        (lambda images: (images * 1000).mean((2, 3)).tanh().round(), "their gradient to the image is 0"),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_unsuitable_models_are_named_before_any_inversion(model, words, wrapped):
    given = from_callable(model, "classes", "abcd") if wrapped else model
    with pytest.raises(BlobexError, match=words) as caught:
        loaded(given)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_an_exported_dropout_is_named():
    class Dropping(nn.Module):
        def forward(self, images):
            return F.dropout(images, 0.5, training=True).mean((2, 3))

    torch.export.save(torch.export.export(Dropping(), (noise(),)), "model.pt2")
    with pytest.raises(BlobexError, match=RANDOM):
        loaded("model.pt2")


@pytest.mark.parametrize(
    "model",
    [
        network(),  # in training mode, which is set to eval
        network().double(),
        network().bfloat16().eval(),
        lambda images: 1e4 * images.mean((2, 3)),  # saturated probabilities
        lambda images: 0 * images.mean((2, 3)) + 3,  # constant: nothing flips it, and that is true
        lambda images: images + (images.round() - images).detach() * 0.0 if images.ndim < 4 else images.mean((2, 3)),
        lambda images: images.mean((2, 3)).log_softmax(1),
        lambda images: torch.where(images.mean((1, 2, 3))[:, None] < -0.3, torch.nan, images.mean((2, 3))),
        nn.Sequential(nn.InstanceNorm2d(3), nn.Conv2d(3, 3, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ],
)
def test_sound_models_are_taken(model):
    assert loaded(model).kind == "classes"
