"""A road world of five flat blobs and a decision about it: explanations without training."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from blobex.config.data import ImageSize
from blobex.config.explain import InversionParams
from blobex.config.params import Params
from blobex.config.read import load_params
from blobex.datasets.images import to_array
from blobex.decisions.decision import Decision
from blobex.decisions.source import from_callable
from blobex.explain.explainer import Explainer
from blobex.layout.blobs import BlobLayout
from blobex.layout.splat import splat
from blobex.optim.network_callables import Networks

HEIGHT, WIDTH, BLOBS = 32, 64, 5
PARAMS = Path(__file__).parents[2] / "profiles" / "synthetic.yaml"


def tiny_params(steps: int = 40) -> Params:
    """Return the default parameters at 32x64 with few search steps and an inversion of ten steps."""
    params = load_params(PARAMS)
    weights = {"perceptual": 1.0, "l2": 0.1, "decision": 1.0, "blobs": 0.0, "density": 0.0}
    invert = InversionParams(steps=10, decision_steps=10, learning_rate=0.25, size_lr_multiplier=2.0, **weights)
    # The smallest change of a light of few pixels is undone by a shift: no disturbances.
    search = {
        "steps": steps,
        "learning_rate": 0.03,
        "lambda_prox": 0.01,
        "retries": 0,
        "disturbances": 0,
        "nameable": False,
    }
    explain = dataclasses.replace(params.explain.rect, **search)
    return dataclasses.replace(
        params,
        setups=dataclasses.replace(params.setups, rect=ImageSize(HEIGHT, 2)),
        invert=dataclasses.replace(params.invert, rect=invert, start="encoder"),
        explain=dataclasses.replace(params.explain, rect=explain),
        search=dataclasses.replace(params.search, max_batch_pixels=4 * HEIGHT * WIDTH),
    )


def scenes(count: int, seed: int = 0) -> BlobLayout:
    """Return layouts of a road, two cars, a tree and a light (blob 4), which is red in every other image."""
    random = torch.Generator().manual_seed(seed)
    shift = torch.rand(count, BLOBS, generator=random) * 0.1 - 0.05
    xs = torch.tensor([0.5, 0.3, 0.75, 0.1, 0.5]) + shift
    ys = torch.tensor([0.9, 0.65, 0.7, 0.4, 0.2]) + shift.flip(1)
    covs = torch.tensor([[2.0, -1, 1, 0], [1, 0, 1, 0], [1, 0, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0]])
    sizes = torch.tensor([0.0, 9, 4, 4, 5, 3])
    colours = torch.tensor(
        [[0.1, 0.2, 0.4], [-0.4, -0.4, -0.4], [0, 0.4, 0.9], [0.8, 0.8, 0], [-0.5, 0.3, -0.5], [0.9, -0.8, -0.8]]
    ).repeat(count, 1, 1)
    colours[1::2, 5] = torch.tensor([-0.8, 0.9, -0.5])
    styles = torch.zeros(count, BLOBS + 1, 2)
    return BlobLayout(xs, ys, covs.repeat(count, 1, 1), sizes.repeat(count, 1), colours, styles)


def render(layout: BlobLayout) -> Tensor:
    """Paint each blob in the colour of its features."""
    return torch.einsum("nkhw,nkc->nchw", splat(layout, HEIGHT, WIDTH), layout.features)


def road_images(count: int) -> list[np.ndarray]:
    """Return the first scenes as images, uint8 (HEIGHT,WIDTH,3)."""
    return [to_array(image) for image in render(scenes(8))[:count]]


def scores(layout: BlobLayout) -> Tensor:
    return splat(layout, HEIGHT, WIDTH)


def decide(images: Tensor) -> Tensor:
    """Return logits of forward, stop (red in the upper middle), left and right (blue at the sides)."""
    light = images[:, :, 2:12, 26:38].mean((2, 3))
    red = light[:, 0] - light[:, 1]
    blue = (images[:, 2] - images[:, 0]).mean(1)
    return torch.stack([-8 * red, 8 * red, 9 * blue[:, :20].mean(1) - 3, 9 * blue[:, 44:].mean(1) - 3], dim=1)


class MeanAbsolute:
    def embed(self, images: Tensor) -> list[Tensor]:
        return [images]

    def distance_to(self, embedded: Sequence[Tensor], images: Tensor) -> Tensor:
        return (embedded[0] - images).abs().flatten(1).mean(1)


OUTPUTS = ("forward", "stop", "left", "right")
PLAIN = from_callable(decide, "attributes", OUTPUTS, name="painted")


def painted_networks(decision: Decision = PLAIN, shown: Callable[[BlobLayout], Tensor] = render) -> Networks:
    references = scenes(8)
    renderings = render(references)

    def encode(images: Tensor) -> BlobLayout:
        """Return the layout of the most similar reference, slightly shifted."""
        nearest = (images[:, None] - renderings).square().flatten(2).mean(2).argmin(1)
        return references[nearest].map(lambda tensor: tensor + 0.01)

    return Networks(shown, scores, encode, decision.logits, decision.features, MeanAbsolute())


def tiny_explainer(params: Params | None = None, decision: Decision = PLAIN) -> Explainer:
    networks = painted_networks(decision)
    return Explainer("rect", params or tiny_params(), torch.device("cpu"), decision, networks, networks, BLOBS)
