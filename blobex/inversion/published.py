"""The published inversion, step for step, to compare with (OCTET, Zemni et al., CVPR 2023)."""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm import tqdm

from blobex.config.search import InvertSetup
from blobex.inversion.invert import Inversion, look_terms, mean_square, measure, weighted
from blobex.inversion.networks import Networks
from blobex.layout.layout import BlobLayout, concatenate, from_dict
from blobex.layout.solver import splat_by_solver

BATCH = 8
STEPS = 400
RATE, SIZE_RATE = 0.02, 0.04
HALVE_EVERY = 100
WEIGHTS = {"perceptual": 1.0, "l2": 0.1, "decision": 0.1, "blobs": 0.1}


def invert_published(images: Tensor, networks: Networks) -> Inversion:
    """The blobs of `images` (N,3,H,W) in [-1,1] after 400 steps of Adam, eight pictures at a time.

    Nothing is prepared once: the picture's own features are computed at every step and the blobs drawn, as its scripts
    do. Every weight's gradient is computed too where the networks ask for it. Unlike the published script, blobs and
    picture are of one step, the last.
    """
    rates = {"learning_rate": RATE, "size_lr_multiplier": SIZE_RATE / RATE}
    setup = InvertSetup(steps=STEPS, decision_steps=STEPS, **rates, **WEIGHTS)
    with torch.no_grad():
        start = concatenate([networks.encode(part) for part in images.split(BATCH)])
    found = []
    for chosen in tqdm(torch.arange(len(images)).split(BATCH), desc="published inversion", disable=None, leave=False):
        found.append(_descend(images[chosen], start[chosen], networks, setup))
    steps = torch.full((len(images),), STEPS, device=images.device)
    return measure(images, start, concatenate(found), steps, networks, setup, BATCH)


def _descend(images: Tensor, start: BlobLayout, networks: Networks, setup: InvertSetup) -> BlobLayout:
    free, optimiser = adam(start, RATE, SIZE_RATE)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, HALVE_EVERY, 0.5)
    for _ in range(STEPS):
        layout = from_dict(free)
        image = networks.render(layout)
        draw_blobs(layout, *image.shape[2:])
        embedded, features = networks.perceptual.embed(images), networks.features(images)
        terms = look_terms(layout, start, image, images, embedded, networks)
        terms["decision"] = mean_square(networks.features(image), features)
        optimiser.zero_grad()
        weighted(terms, setup).sum().backward()
        optimiser.step()
        schedule.step()
    return layout.detach()


def adam(start: BlobLayout, rate: float, size_rate: float) -> tuple[dict[str, Tensor], torch.optim.Adam]:
    """Leaves that begin at `start`, by key, and Adam over them; `sizes` have a rate of their own."""
    free = {key: tensor.detach().clone().requires_grad_() for key, tensor in start.items()}
    groups = [{"params": [leaf], "lr": size_rate if key == "sizes" else rate} for key, leaf in free.items()]
    return free, torch.optim.Adam(groups)


@torch.no_grad()
def draw_blobs(layout: BlobLayout, height: int, width: int) -> Tensor:
    """The blob picture (N,3,height,width) that the published scripts draw at every step: a colour for each blob."""
    colours = torch.rand(layout.blobs + 1, 3, generator=torch.Generator().manual_seed(0)).to(layout.xs)
    return torch.einsum("nkhw,kc->nchw", splat_by_solver(layout, height, width), colours)
