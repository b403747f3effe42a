"""The published inversion, step for step, to compare with (OCTET, Zemni et al., CVPR 2023)."""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm import tqdm

from blobex.config.explain import InversionParams
from blobex.inversion.invert import Inversion, evaluate_layouts, loss_terms, mean_squared_error, weighted_sum
from blobex.layout.blobs import BlobLayout, concatenate, from_dict
from blobex.optim.networks import Networks
from blobex.optim.published import adam, draw_blobs

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
    setup = InversionParams(steps=STEPS, decision_steps=STEPS, **rates, **WEIGHTS)
    with torch.no_grad():
        start = concatenate([networks.encode(part) for part in images.split(BATCH)])
    found = []
    for chosen in tqdm(torch.arange(len(images)).split(BATCH), desc="published inversion", disable=None, leave=False):
        found.append(_descend(images[chosen], start[chosen], networks, setup))
    steps = torch.full((len(images),), STEPS, device=images.device)
    return evaluate_layouts(images, start, concatenate(found), steps, networks, setup, BATCH)


def _descend(images: Tensor, start: BlobLayout, networks: Networks, setup: InversionParams) -> BlobLayout:
    free, optimiser = adam(start, RATE, SIZE_RATE)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, HALVE_EVERY, 0.5)
    for _ in range(STEPS):
        layout = from_dict(free)
        image = networks.render(layout)
        draw_blobs(layout, *image.shape[2:])
        embedded, features = networks.perceptual.embed(images), networks.features(images)
        terms = loss_terms(layout, start, image, images, embedded, networks)
        terms["decision"] = mean_squared_error(networks.features(image), features)
        optimiser.zero_grad()
        weighted_sum(terms, setup).sum().backward()
        optimiser.step()
        schedule.step()
    return layout.detach()
