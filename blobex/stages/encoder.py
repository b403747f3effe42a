"""Train a setup's encoder on generated and real pictures: models/encoder/<setup> (phase 2)."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from blobex.config.params import Params
from blobex.core.device import resolve_device
from blobex.datasets.datamodule import batch_indices, checksum, load_images
from blobex.datasets.images import to_float
from blobex.datasets.manifest import manifest_path
from blobex.metrics.agreement import attribute_agreement
from blobex.networks import weights
from blobex.networks.blobgan import load_blobgan
from blobex.networks.decision import DecisionModel, load_decision
from blobex.networks.encoder import load_encoder
from blobex.networks.perceptual import load_perceptual, perceptual_name
from blobex.stages import common
from blobex.tracking import runs as tracking
from blobex.training.checkpoints import mark_finished
from blobex.training.encoder import EncoderModule, LossNetworks
from blobex.training.fit import fit, resumed_run_id


def main(params: Params, setup: str) -> None:
    """Go on from phase 1; the measures are those of reconstructions of real validation pictures."""
    folder, training = common.MODELS / "encoder" / setup, params.encoder.training
    blobgan = load_blobgan(common.MODELS / "blobgan" / setup)
    encoder = load_encoder(common.MODELS / "encoder_pretrain" / setup, "encoder_pretrain")
    device = resolve_device(params.run.device)
    decision = load_decision(common.MODELS / "decision" / setup / "plain").to(device)
    external = Path(params.data.external)
    perceptual = load_perceptual(params.data.perceptual, common.MODELS / "parser" / setup, external).to(device)
    losses = LossNetworks(perceptual, decision.features)
    module = EncoderModule(encoder, blobgan, losses, params.encoder, params.run.seed)
    images = load_images(params, setup, "train")
    networks = blobgan, decision, encoder, perceptual
    weights_before = [tensor for network in networks for tensor in network.state_dict().values()]
    module.depends_on(data=checksum(images), networks=checksum(*weights_before))

    def batches(step: int) -> tuple[torch.Tensor]:
        chosen = batch_indices(step, len(images), training.batch_size * training.accumulate, params.run.seed)
        return (images[chosen],)

    run_id = resumed_run_id(module, training, common.checkpoints(folder))
    with tracking.run(params, "encoder", setup, manifest_path(params.data.root), run_id) as tracker:
        fit(module, batches, training, params.run, common.checkpoints(folder), tracker)
        weights.shorten(encoder)
        weights.save(folder, "encoder", {"setup": setup, **encoder.config}, encoder)
        distance = perceptual_name(params.data.perceptual)
        measures = reconstruction_measures(module.to(device), decision, load_images(params, setup, "val"), distance)
        common.write_metrics(folder, measures, tracker)
    mark_finished(common.checkpoints(folder), True)


def reconstruction_measures(
    module: EncoderModule, decision: DecisionModel, images: Tensor, distance: str
) -> dict[str, float]:
    """Mean distances of uint8 pictures (N,3,height,width) to their reconstructions, and how decisions agree.

    `distance` is what the perceptual distance is called.
    """
    module.encoder.eval()
    batch_size = module.params.training.batch_size

    def compare(batch: Tensor) -> Tensor:
        original = to_float(batch.to(module.device))
        remade = module.reconstruct(original).clamp(-1, 1)
        distances = [module.losses.perceptual.distance_to(module.losses.perceptual.embed(original), remade)]
        distances.append((remade - original).square().flatten(1).mean(1))
        return torch.cat([torch.stack(distances, 1), decision(original), decision(remade)], dim=1).cpu()

    columns = common.in_batches(compare, images, size=batch_size)
    before, after = columns[:, 2:].chunk(2, dim=1)
    means = {distance: columns[:, 0].mean().item(), "l2": columns[:, 1].mean().item()}
    return means | attribute_agreement(before, after, decision.output_names)


if __name__ == "__main__":
    common.run_stage(main, "setup")
