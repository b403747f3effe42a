"""Small models to explain, images for them, and comparisons of their outputs and gradients."""

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from blobex.config.data import ImageSize
from blobex.core.errors import BlobexError
from blobex.decisions.decision import Input
from blobex.decisions.load import load

CPU = torch.device("cpu")
IMAGENET = Input(24, 40, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def noise(count=2, height=16, width=32, seed=0):
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def network(outputs=3, seed=0):
    """A classifier with batch normalisation and dropout; some modules are in eval mode, some parameters frozen."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.BatchNorm2d(4),
        nn.Tanh(),
        nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, outputs),
    )
    net(torch.randn(8, 3, 16, 16))  # running statistics other than the default
    net.train()
    net[1].eval()
    net[0].bias.requires_grad_(False)
    return net


class Segmenter(nn.Module):
    """A segmentation at a quarter of the size, returned as the item "out"."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.body = nn.Conv2d(3, 5, 4, stride=4)

    def forward(self, images):
        return {"out": self.body(images)}


def gradient(function, images, seed=9):
    """The gradient of a fixed random sum of the output with respect to the images."""
    images = images.clone().requires_grad_()
    output = function(images)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed))
    return torch.autograd.grad((output * weights).sum(), images)[0]


def assert_same(first, second, images):
    """Assert that two functions return equal outputs and equal gradients."""
    torch.testing.assert_close(first(images), second(images))
    torch.testing.assert_close(gradient(first, images), gradient(second, images))


def by_hand(images, size, mean, std):
    """Images resized and normalised, with colours in 0..1."""
    colours = (images + 1) / 2
    resized = F.interpolate(colours, size, mode="bilinear", align_corners=False, antialias=True)
    return (resized - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)


def opened(reference, height=32, width=32, models=Path(), **options):
    return load(str(reference), ImageSize(height, width // height), CPU, models, "rect", **options)


def opened_object(model, height=16, width=32, **options):
    return load(model, ImageSize(height, width // height), CPU, Path(), "rect", **options)


def refused(reference, words, **options):
    with pytest.raises(BlobexError, match=words) as caught:
        opened(reference, **options)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
