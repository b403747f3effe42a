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

    As in the published script, the blobs are drawn at every step, and gradients of network weights are computed where
    these require them. Unlike there, layout and image both belong to the last step.
    """
    params = _params()
    with torch.no_grad():
        start = concatenate([networks.encode(part) for part in queries.split(BATCH_SIZE)])
    layouts = []
    batches = torch.arange(len(queries)).split(BATCH_SIZE)
    for index in tqdm(batches, desc="published inversion", disable=None, leave=False):
        layouts.append(descend(queries[index], start[index], networks)[0])
    steps = torch.full((len(queries),), STEPS, device=queries.device)
    layout = concatenate(layouts)
    return evaluate_layouts(queries, start, layout, steps, networks, params, BATCH_SIZE, layout_error)


def descend(queries: Tensor, start: BlobLayout, networks: Networks) -> tuple[BlobLayout, Tensor]:
    """Take all steps from the layouts `start` of `queries` (N,3,H,W).

    Returns the layouts after the last step, and the losses (steps,N) before each step.
    """
    leaves, optimiser = leaves_with_adam(start, LEARNING_RATE, SIZE_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, HALVE_EVERY, 0.5)
    params, losses = _params(), []
    with torch.no_grad():
        features = networks.features(queries)
    for _ in range(STEPS):
        layout = from_dict(leaves)
        image = networks.render(layout)
        draw_blobs(layout, *image.shape[2:])
        embedded = networks.perceptual.embed(queries)
        terms = image_terms(layout, start, image, queries, embedded, networks, layout_error)
        terms["decision"] = mean_squared_error(networks.features(image), features)
        loss = weighted_sum(terms, params)
        losses.append(loss.detach())
        optimiser.zero_grad()
        loss.sum().backward()
        optimiser.step()
        schedule.step()
    return from_dict(leaves).detach(), torch.stack(losses)


def layout_error(layout: BlobLayout, target: BlobLayout) -> Tensor:
    """Return the sum over the six keys of the mean squared difference, (N,).

    As published, the mean of `sizes` is over K+1 entries, the unread entry 0 included; `blob_distance` leaves it out.

    >>> layout = BlobLayout(*(torch.zeros(1, 4) for _ in range(6)))
    >>> layout_error(layout, layout.replace({"sizes": torch.tensor([[0.0, 2.0, 0.0, 0.0]])}))
    tensor([1.])
    """
    errors = [mean_squared_error(tensor, getattr(target, key)) for key, tensor in layout.items()]
    return torch.stack(errors).sum(0)


def _params() -> InversionParams:
    rates = {"learning_rate": LEARNING_RATE, "size_lr_multiplier": SIZE_LEARNING_RATE / LEARNING_RATE}
    return InversionParams(steps=STEPS, decision_steps=STEPS, **rates, **WEIGHTS)
