"""Pretrain the BlobGAN of a setup on the segments of images: models/blobgan_pretrain/<setup>."""

from __future__ import annotations

import dataclasses

import torch
from torch import nn
from torchvision.utils import make_grid

from blobex.config.params import Params
from blobex.core.device import resolve_device
from blobex.core.errors import BlobexError
from blobex.datasets.datamodule import checksum
from blobex.datasets.images import to_array
from blobex.datasets.manifest import manifest_path
from blobex.networks import weights
from blobex.networks.parser import load_parser
from blobex.networks.segment_encoder import KIND, Pretrained, save_pretrained
from blobex.stages import common
from blobex.stages.painting import load_painting, load_painting_distance
from blobex.tracking import runs as tracking
from blobex.training.checkpoints import mark_finished
from blobex.training.fit import fit, resumed_run_id
from blobex.training.layout_flow import appearance_codes, layout_training
from blobex.training.painting import SAMPLES, PaintModule, painting_measures, painting_samples
from blobex.training.painting_data import PaintingData


def main(params: Params, setup: str) -> None:
    """Train painting, then the layout flow; measure on training images that are held out."""
    check(params, setup)
    folder, options, seed = common.MODELS / KIND / setup, params.blobgan_pretrain, params.run.seed
    device = resolve_device(params.run.device)
    data, painter = prepare(params, setup, device)
    states = common.checkpoints(folder), common.checkpoints(folder) / "layout"
    run_id = resumed_run_id(painter, options.training, states[0])
    single = dataclasses.replace(params.run, devices=1)  # further processes would end with the first training
    with tracking.run(params, KIND, setup, manifest_path(params.data.root), run_id) as tracker:
        batches = data.batches(options.training, seed, device)
        fit(painter, batches, options.training, single, states[0], tracker)
        painter.eval().to(device)
        codes = appearance_codes(painter, data)
        model = painter.cpu().model
        layouts = layout_training(painter, codes, data, options.layout, seed)
        fit(*layouts, options.layout, single, states[1], tracker)
        painter.to(device)
        examples = data.examples(codes, options.examples, seed)
        weights.shorten(nn.ModuleList([model, painter.encoder, examples]))
        model.compute_mean_w(params.blobgan.mean_latent_samples, torch.Generator().manual_seed(seed))
        slots = {str(group): count for group, count in options.slots.items()}
        pretrained = Pretrained(model.network, painter.encoder, slots, examples)
        save_pretrained(folder, setup, model, pretrained)
        samples = painting_samples(painter, data.held_out)
        tracker.log_image("samples", to_array(make_grid(samples, nrow=SAMPLES // 2)), 0)
        common.write_metrics(folder, painting_measures(painter, data.held_out), tracker)
    for state in states:
        mark_finished(state, True)


def check(params: Params, setup: str) -> None:
    """Raise BlobexError if the network cannot be pretrained."""
    options, height = params.blobgan_pretrain, params.setup(setup).height
    network, slots = params.blobgan.network, sum(options.slots.values())
    if 2 ** (options.scales - 1) > height:
        raise BlobexError(
            f"blobgan_pretrain.scales is {options.scales}, but images of height {height} cannot be halved so often: "
            "lower it"
        )
    shares = options.pasted.removed + options.pasted.inserted + options.pasted.kept
    if shares > 1:
        raise BlobexError(
            f"the shares removed, inserted and kept of blobgan_pretrain.pasted are {shares:g} together: lower them to "
            "1 or less"
        )
    if slots != network.blobs:
        raise BlobexError(
            f"blobgan_pretrain.slots are {slots} but blobgan.network.blobs is {network.blobs}: make them as many"
        )
    if network.layout != "flow":
        raise BlobexError(
            "blobgan_pretrain fits a flow: set blobgan.network.layout to flow; to train from scratch with an mlp, run "
            f"`python -m blobex.stages.blobgan {setup}` by itself"
        )


def prepare(params: Params, setup: str, device: torch.device) -> tuple[PaintingData, PaintModule]:
    """Load the training images, assign their segments to blobs, and build the first training."""
    options, folder = params.blobgan_pretrain, common.MODELS / "parser" / setup
    perceptual = load_painting_distance(params, setup, device)
    painter = PaintModule(options, params.blobgan.network, params.setup(setup), perceptual, params.run.seed)
    data, anchors = load_painting(params, setup, device, painter.encoder.canvas)
    painter.encoder.set_anchors(anchors)
    painter.depends_on(data=data.checksum(), parser=checksum(*load_parser(folder).state_dict().values()))
    if perceptual is not None:
        painter.depends_on(perceptual=checksum(*perceptual.state_dict().values()))
    return data, painter


if __name__ == "__main__":
    common.run_stage(main, "setup")
