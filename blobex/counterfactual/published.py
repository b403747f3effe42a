"""The published search, step for step, to compare with (OCTET, Zemni et al., CVPR 2023)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from tqdm import tqdm

from blobex.config import Key
from blobex.counterfactual.objective import price_vector
from blobex.counterfactual.search import Counterfactuals, judged, problem_masks
from blobex.counterfactual.target import Target
from blobex.inversion.networks import Networks
from blobex.inversion.published import adam, draw_blobs
from blobex.layout.layout import BlobLayout
from blobex.layout.vector import VectorForm

BATCH = 8
STEPS = 200
RATE, SIZE_RATE = 0.01, 0.08
LAMBDA_PROX = 0.1
LAMBDA_KEY: dict[Key, float] = {
    "xs": 6.0,
    "ys": 6.0,
    "covs": 1.0,
    "sizes": 1.0,
    "features": 20.0,
    "spatial_style": 20.0,
}


def search_published(
    queries: Tensor,
    start: BlobLayout,
    image_index: Tensor,
    target: Target,
    masks: Mapping[str, Tensor],
    networks: Networks,
) -> Counterfactuals:
    """As `search.search`: where 200 steps of Adam end, whatever they passed on the way.

    One question after another, eight pictures at a time; the blobs are drawn at every step, and every weight's gradient
    is computed too where the networks ask for it. Distances have the published weights too.
    """
    form = VectorForm.of(start)
    vector = form.flatten(start.detach())[image_index]
    mask = problem_masks(masks, form, len(queries), image_index)
    price = price_vector(form, LAMBDA_KEY).to(vector.device)
    found = torch.empty_like(vector)
    for column in target.column.unique():
        problems = (target.column == column).nonzero()[:, 0]
        for chosen in tqdm(problems.split(BATCH), desc="published search", disable=None, leave=False):
            found[chosen] = _descend(vector[chosen], mask[chosen], target[chosen], price, form, networks)
    step = torch.full_like(image_index, STEPS)
    return judged(found, queries, image_index, target, vector, step, price, form, networks, BATCH)


def _descend(
    start: Tensor, mask: Tensor, target: Target, price: Tensor, form: VectorForm, networks: Networks
) -> Tensor:
    free, optimiser = adam(form.unflatten(start), RATE, SIZE_RATE)
    for _ in range(STEPS):
        vector = torch.where(mask, form.flatten(BlobLayout(**free)), start)
        layout = form.unflatten(vector)
        image = networks.render(layout)
        draw_blobs(layout, *image.shape[2:])
        loss = target.loss(networks.decide(image)) + LAMBDA_PROX * ((vector - start).abs() * price).sum(1)
        optimiser.zero_grad()
        loss.sum().backward()
        optimiser.step()
    return torch.where(mask, form.flatten(BlobLayout(**free)).detach(), start)
