"""Measures of the reconstructions of an encoder."""

from __future__ import annotations

import torch
from torch import Tensor

from blobex.datasets.images import to_float
from blobex.metrics.agreement import attribute_agreement
from blobex.networks.decision import DecisionModel
from blobex.training.encoder import EncoderModule
from blobex.training.step_module import in_batches


def reconstruction_measures(
    module: EncoderModule, decision: DecisionModel, images: Tensor, distance: str
) -> dict[str, float]:
    """Return mean distances of uint8 images (N,3,H,W) to their reconstructions, and how decisions agree."""
    module.encoder.eval()
    perceptual = module.losses.perceptual

    def compare(batch: Tensor) -> Tensor:
        original = to_float(batch.to(module.device))
        reconstruction = module.reconstruct(original).clamp(-1, 1)
        distances = [perceptual.distance_to(perceptual.embed(original), reconstruction)]
        distances.append((reconstruction - original).square().flatten(1).mean(1))
        return torch.cat([torch.stack(distances, 1), decision(original), decision(reconstruction)], dim=1).cpu()

    columns = in_batches(compare, images, size=module.params.training.batch_size)
    before, after = columns[:, 2:].chunk(2, dim=1)
    means = {distance: columns[:, 0].mean().item(), "l2": columns[:, 1].mean().item()}
    return means | attribute_agreement(before, after, decision.output_names)
