"""The published search, step for step, as a baseline (OCTET, Zemni et al., CVPR 2023)."""

from __future__ import annotations

import torch
from torch import Tensor
from tqdm import tqdm

from blobex.config.explain import Key
from blobex.counterfactual.compose import Composer
from blobex.counterfactual.problems import Problems
from blobex.counterfactual.verify import Counterfactuals, verify
from blobex.layout.blobs import BlobLayout
from blobex.optim.network_callables import Networks
from blobex.optim.published import draw_blobs, leaves_with_adam

BATCH_SIZE = 8
STEPS = 200
LEARNING_RATE, SIZE_LEARNING_RATE = 0.01, 0.08
LAMBDA_PROX = 0.1
LAMBDA_KEY: dict[Key, float] = {"xs": 6, "ys": 6, "covs": 1, "sizes": 1, "features": 20, "spatial_style": 20}


def search_published(problems: Problems, networks: Networks) -> Counterfactuals:
    """Take 200 steps of Adam for each problem; the counterfactual is the last iterate.

    Attributes are searched one after the other, eight images at a time. As in the published script, the blobs are drawn
    at every step, and gradients of network weights are computed where these require them. `problems` need the published
    prices, LAMBDA_KEY.
    """
    vectors = torch.empty_like(problems.start)
    for column in problems.target.column.unique():
        numbers = (problems.target.column == column).nonzero()[:, 0]
        for index in tqdm(numbers.split(BATCH_SIZE), desc="published search", disable=None, leave=False):
            vectors[index] = _optimise(problems[index], networks)
    step = torch.full_like(problems.image_index, STEPS)
    return verify(vectors, problems, step, Composer(networks, problems.form), BATCH_SIZE)


def _optimise(problems: Problems, networks: Networks) -> Tensor:
    form, start = problems.form, problems.start
    leaves, optimiser = leaves_with_adam(form.unflatten(start), LEARNING_RATE, SIZE_LEARNING_RATE)
    for _ in range(STEPS):
        vector = torch.where(problems.mask, form.flatten(BlobLayout(**leaves)), start)
        layout = form.unflatten(vector)
        image = networks.render(layout)
        draw_blobs(layout, *image.shape[2:])
        loss = problems.target.loss(networks.decide(image)) + LAMBDA_PROX * problems.distance(vector)
        optimiser.zero_grad()
        loss.sum().backward()
        optimiser.step()
    return torch.where(problems.mask, form.flatten(BlobLayout(**leaves)).detach(), start)
