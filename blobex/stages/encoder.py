"""Train the encoder of a setup on generated and real images: models/encoder/<setup> (phase 2)."""

from __future__ import annotations

from pathlib import Path

from blobex.config.params import Params
from blobex.core.device import resolve_device
from blobex.datasets.datamodule import checksum, load_images
from blobex.datasets.manifest import manifest_path
from blobex.metrics.reconstruction import reconstruction_measures
from blobex.networks import weights
from blobex.networks.blobgan import load_blobgan
from blobex.networks.decision import load_decision
from blobex.networks.encoder import load_encoder
from blobex.networks.perceptual import load_perceptual, perceptual_name
from blobex.stages import common
from blobex.tracking import runs as tracking
from blobex.training.checkpoints import mark_finished
from blobex.training.encoder import EncoderModule, LossNetworks
from blobex.training.fit import fit, resumed_run_id
from blobex.training.step_module import sample_batches


def main(params: Params, setup: str) -> None:
    """Continue the training of phase 1; measure reconstructions of real validation images."""
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
    batches = sample_batches((images,), len(images), training, params.run.seed, device)
    run_id = resumed_run_id(module, training, common.checkpoints(folder))
    with tracking.run(params, "encoder", setup, manifest_path(params.data.root), run_id) as tracker:
        fit(module, batches, training, params.run, common.checkpoints(folder), tracker)
        weights.shorten(encoder)
        weights.save(folder, "encoder", {"setup": setup, **encoder.config}, encoder)
        distance = perceptual_name(params.data.perceptual)
        measures = reconstruction_measures(module.to(device), decision, load_images(params, setup, "val"), distance)
        common.write_metrics(folder, measures, tracker)
    mark_finished(common.checkpoints(folder), True)


if __name__ == "__main__":
    common.run_stage(main, "setup")
