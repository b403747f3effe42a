"""The published search, step for step, to compare with (OCTET, Zemni et al., CVPR 2023)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from tqdm import tqdm

from blobex.config.explain import Key
from blobex.counterfactual.compose import Composer
from blobex.counterfactual.objective import price_vector
from blobex.counterfactual.problems import Problems
from blobex.counterfactual.target import Target
from blobex.counterfactual.verify import Counterfactuals, verify
from blobex.layout.blobs import BlobLayout
from blobex.layout.vector import VectorForm
from blobex.optim.networks import Networks
from blobex.optim.published import adam, draw_blobs

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
    problems = Problems.of(start, image_index, target, masks, price_vector(form, LAMBDA_KEY))
    found = torch.empty_like(problems.start)
    for column in target.column.unique():
        same = (target.column == column).nonzero()[:, 0]
        for chosen in tqdm(same.split(BATCH), desc="published search", disable=None, leave=False):
            found[chosen] = _descend(problems[chosen], networks)
    step = torch.full_like(image_index, STEPS)
    return verify(found, queries, problems, step, Composer(networks, form, None), BATCH)


def _descend(problems: Problems, networks: Networks) -> Tensor:
    form, start = problems.form, problems.start
    free, optimiser = adam(form.unflatten(start), RATE, SIZE_RATE)
    for _ in range(STEPS):
        vector = torch.where(problems.mask, form.flatten(BlobLayout(**free)), start)
        layout = form.unflatten(vector)
        image = networks.render(layout)
        draw_blobs(layout, *image.shape[2:])
        loss = problems.target.loss(networks.decide(image)) + LAMBDA_PROX * problems.distance(vector)
        optimiser.zero_grad()
        loss.sum().backward()
        optimiser.step()
    return torch.where(problems.mask, form.flatten(BlobLayout(**free)).detach(), start)
