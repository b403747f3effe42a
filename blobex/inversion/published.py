"""The published inversion, step for step, as a baseline (OCTET, Zemni et al., CVPR 2023)."""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm import tqdm

from blobex.config.explain import InversionParams
from blobex.inversion.inversion import Inversion
from blobex.inversion.invert import evaluate_layouts, image_terms, mean_squared_error, weighted_sum
from blobex.layout.blobs import BlobLayout, concatenate, from_dict
from blobex.optim.network_callables import Networks
from blobex.optim.published import draw_blobs, leaves_with_adam

BATCH_SIZE = 8
STEPS = 400
LEARNING_RATE, SIZE_LEARNING_RATE = 0.02, 0.04
HALVE_EVERY = 100  # steps
WEIGHTS = {"perceptual": 1.0, "l2": 0.1, "decision": 0.1, "blobs": 0.1, "density": 0.0}


def invert_published(queries: Tensor, networks: Networks) -> Inversion:
    """Invert images (N,3,H,W) in [-1,1] by 400 steps of Adam, eight images at a time.

    As in the published script, the query's features are computed anew at every step, the blobs are drawn, and gradients
    of network weights are computed where these require them. Unlike there, layout and image both belong to the last
    step.
    """
    rates = {"learning_rate": LEARNING_RATE, "size_lr_multiplier": SIZE_LEARNING_RATE / LEARNING_RATE}
    params = InversionParams(steps=STEPS, decision_steps=STEPS, **rates, **WEIGHTS)
    with torch.no_grad():
        start = concatenate([networks.encode(part) for part in queries.split(BATCH_SIZE)])
    layouts = []
    batches = torch.arange(len(queries)).split(BATCH_SIZE)
    for index in tqdm(batches, desc="published inversion", disable=None, leave=False):
        layouts.append(_optimise(queries[index], start[index], networks, params))
    steps = torch.full((len(queries),), STEPS, device=queries.device)
    return evaluate_layouts(queries, start, concatenate(layouts), steps, networks, params, BATCH_SIZE)


def _optimise(queries: Tensor, start: BlobLayout, networks: Networks, params: InversionParams) -> BlobLayout:
    leaves, optimiser = leaves_with_adam(start, LEARNING_RATE, SIZE_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, HALVE_EVERY, 0.5)
    for _ in range(STEPS):
        layout = from_dict(leaves)
        image = networks.render(layout)
        draw_blobs(layout, *image.shape[2:])
        embedded, features = networks.perceptual.embed(queries), networks.features(queries)
        terms = image_terms(layout, start, image, queries, embedded, networks)
        terms["decision"] = mean_squared_error(networks.features(image), features)
        optimiser.zero_grad()
        weighted_sum(terms, params).sum().backward()
        optimiser.step()
        schedule.step()
    return layout.detach()
