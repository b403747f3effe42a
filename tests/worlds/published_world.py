"""Random networks of 32x32 images and K = 7 blobs, as the published searches see them; images leave [-1,1].

All of them compute in float64: in float32 the first step of Adam would turn rounding into steps.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from worlds.linear_world import MeanAbsolute
from worlds.tiny_networks import random_blobgan, randomise, tiny_network

from blobex.layout.blobs import BlobLayout
from blobex.layout.splat import splat_by_solver
from blobex.networks.decision import DecisionModel
from blobex.optim.network_callables import Networks

HEIGHT, BLOBS = 32, 7
SHAPE = tiny_network(blobs=BLOBS, channels={8: 8, 16: 8, 32: 4}, discriminator_channels={4: 8, 8: 8, 16: 6, 32: 4})
BLOBGAN, SOLVED = (random_blobgan(SHAPE, HEIGHT).double() for _ in range(2))
SOLVED.generator.splat = splat_by_solver
DECISION = randomise(DecisionModel("densenet_small", HEIGHT, HEIGHT), spread=0.05).double().eval().requires_grad_(False)


def scenes(count: int, seed: int = 1) -> BlobLayout:
    """Return layouts of random z."""
    z = torch.randn(count, SHAPE.z_dim, generator=torch.Generator().manual_seed(seed))
    return random_blobgan(SHAPE, HEIGHT).sample(z).map(Tensor.double)


def encode(images: Tensor) -> BlobLayout:
    return scenes(len(images), seed=2)


def generate(blobs: dict[str, Tensor]) -> Tensor:
    """Render by the closed form; the networks of the code splat by the linear solver."""
    return BLOBGAN.render(BlobLayout(**blobs))


def features(images: Tensor) -> Tensor:
    return F.relu(DECISION.body(images)).mean((2, 3))


def decide(images: Tensor) -> Tensor:
    return DECISION.classifier(features(images))


def networks() -> Networks:
    return Networks(SOLVED.render, SOLVED.scores, encode, decide, features, MeanAbsolute())
