"""Train a setup's encoder on generated and real pictures: models/encoder/<setup> (phase 2)."""

from __future__ import annotations

import torch

from blobex import tracking
from blobex.config import Params
from blobex.datasets.datamodule import batch_indices, load_images
from blobex.datasets.images import to_float
from blobex.device import resolve_device
from blobex.metrics.flips import agreement_measures
from blobex.networks import weights
from blobex.networks.blobgan import load_blobgan
from blobex.networks.decision import load_decision
from blobex.networks.encoder import load_encoder
from blobex.networks.perceptual import load_perceptual
from blobex.scenes.rules import ACTIONS
from blobex.stages import common
from blobex.training.encoder import EncoderModule, Judges
from blobex.training.fit import fit, resumed_run_id


def main(params: Params, setup: str) -> None:
    """Go on from phase 1; the measures are those of reconstructions of real validation pictures."""
    folder, training = common.MODELS / "encoder" / setup, params.encoder.training
    blobgan = load_blobgan(common.MODELS / "blobgan" / setup)
    encoder = load_encoder(common.MODELS / "encoder_pretrain" / setup, "encoder_pretrain")
    device = resolve_device(params.run.device)
    decision = load_decision(common.MODELS / "decision" / setup / "plain").to(device)
    perceptual = load_perceptual(params.data.perceptual, common.MODELS / "parser" / setup).to(device)
    judges = Judges(perceptual, decision.features)
    module = EncoderModule(encoder, blobgan, judges, params.encoder, params.run.seed)
    images = load_images(params, setup, "train")

    def batches(step: int) -> tuple[torch.Tensor]:
        chosen = batch_indices(step, len(images), training.batch_size * training.accumulate, params.run.seed)
        return (images[chosen],)

    run_id = resumed_run_id(module, training, common.checkpoints(folder))
    with tracking.run(params, "encoder", setup, common.data_root(params), run_id) as tracker:
        fit(module, batches, training, params.run, common.checkpoints(folder), tracker)
        weights.save(folder, "encoder", {"setup": setup, **encoder.config}, encoder)
        encoder.eval()
        originals = to_float(load_images(params, setup, "val")).to(device)
        remade = common.in_batches(module.to(device).reconstruct, originals)
        measures = {"l2": (remade - originals).square().mean().item()}
        measures["perceptual"] = common.in_batches(perceptual.distance, originals, remade).mean().item()
        before, after = common.in_batches(decision, originals), common.in_batches(decision, remade)
        common.write_metrics(folder, measures | agreement_measures(before, after, ACTIONS), tracker)


if __name__ == "__main__":
    common.run_stage(main, "setup")
