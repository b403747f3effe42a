"""Train the encoder of a setup on generated images: models/encoder_pretrain/<setup> (phase 1)."""

from __future__ import annotations

import torch

from blobex.config.params import Params
from blobex.core.device import resolve_device
from blobex.datasets.datamodule import checksum
from blobex.networks import weights
from blobex.networks.blobgan import load_blobgan
from blobex.stages import common
from blobex.tracking import runs as tracking
from blobex.training.checkpoints import mark_finished
from blobex.training.encoder import EncoderPretrainModule, build_encoder, explained_variance
from blobex.training.fit import fit, resumed_run_id


def main(params: Params, setup: str) -> None:
    """Regress w from generated images; measure the explained share of w's variance."""
    folder = common.MODELS / "encoder_pretrain" / setup
    options, training = params.encoder_pretrain, params.encoder_pretrain.training
    blobgan = load_blobgan(common.MODELS / "blobgan" / setup)
    encoder = build_encoder(options, params.setup(setup), blobgan, params.run.seed)
    module = EncoderPretrainModule(encoder, blobgan, training, params.run.seed, {"setup": setup})
    module.depends_on(blobgan=checksum(*blobgan.state_dict().values()))
    count = torch.arange(training.batch_size * training.accumulate)
    run_id = resumed_run_id(module, training, common.checkpoints(folder))
    source = common.MODELS / "blobgan" / setup / weights.WEIGHTS
    with tracking.run(params, "encoder_pretrain", setup, source, run_id) as tracker:
        fit(module, lambda step: (count,), training, params.run, common.checkpoints(folder), tracker)
        weights.shorten(encoder)
        weights.save(folder, "encoder_pretrain", {"setup": setup, **encoder.config}, encoder)
        explained = explained_variance(module.to(resolve_device(params.run.device)), training.batch_size)
        common.write_metrics(folder, {"w_explained": explained}, tracker)
    mark_finished(common.checkpoints(folder), True)


if __name__ == "__main__":
    common.run_stage(main, "setup")
