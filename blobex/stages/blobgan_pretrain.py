"""Teach a setup's BlobGAN to paint and to lay out the parser's segments: models/blobgan_pretrain/<setup>."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.utils import make_grid

from blobex.config.params import Params
from blobex.config.training import Training
from blobex.core.device import resolve_device
from blobex.core.errors import BlobexError
from blobex.datasets.datamodule import batch_indices, checksum, load_images
from blobex.datasets.images import to_array, to_float
from blobex.datasets.manifest import manifest_path
from blobex.layout.assign import assign_segments, fit_anchors, layout_from_ellipses, with_appearance
from blobex.layout.blobs import BlobLayout
from blobex.networks import weights
from blobex.networks.layout_flow import LayoutFlow
from blobex.networks.parser import load_parser
from blobex.networks.perceptual import load_perceptual, perceptual_name
from blobex.networks.segment_encoder import StoredExamples
from blobex.perception.segment_reader import parse_segments
from blobex.stages import common
from blobex.tracking import runs as tracking
from blobex.training.blobgan_pretrain import PaintModule
from blobex.training.checkpoints import mark_finished
from blobex.training.fit import fit, resumed_run_id
from blobex.training.layout import LayoutModule
from blobex.training.step_module import Batch

KIND = "blobgan_pretrain"
HELD_OUT = 512  # training pictures that are only measured, or half of them where there are fewer
FITTED = 20_000  # pictures, at most, whose layouts' principal components are taken: they are held at once
SHOWN = 16


def main(params: Params, setup: str) -> None:
    """Painting first, then layouts; the measures are of training pictures that were held out."""
    folder, options, seed = common.MODELS / KIND / setup, params.blobgan_pretrain, params.run.seed
    network = params.blobgan.network
    blobs, wanted = sum(options.slots.values()), network.blobs
    if blobs != wanted:
        raise BlobexError(
            f"blobgan_pretrain.slots are {blobs} but blobgan.network.blobs is {wanted}: make them as many"
        )
    if network.layout != "flow":
        raise BlobexError(
            "blobgan_pretrain fits a flow: set blobgan.network.layout to flow; to train from scratch with an mlp, run "
            f"`python -m blobex.stages.blobgan {setup}` by itself"
        )
    images, places, painter = prepare(params, setup)
    learnt = max(len(images) - HELD_OUT, (len(images) + 1) // 2)
    states = common.checkpoints(folder), common.checkpoints(folder) / "layout"
    run_id = resumed_run_id(painter, options.training, states[0])
    alone = dataclasses.replace(params.run, devices=1)  # several processes end with the first of the two trainings
    with tracking.run(params, KIND, setup, manifest_path(params.data.root), run_id) as tracker:
        batches = batches_of((images, *places[:4]), learnt, options.training, seed)
        fit(painter, batches, options.training, alone, states[0], tracker)
        painter.eval().to(resolve_device(params.run.device))
        codes = common.in_batches(lambda *batch: codes_of(painter, batch), images, *places[:4])
        model = painter.cpu().model
        layouts = layout_lesson(painter, codes, places, learnt, options.layout, seed)
        fit(*layouts, options.layout, alone, states[1], tracker)
        painter.to(resolve_device(params.run.device))
        some = torch.randperm(learnt, generator=torch.Generator().manual_seed(seed))[: options.examples]
        examples = StoredExamples.of(codes[some], *(tensor[some] for tensor in places))
        weights.shorten(nn.ModuleList([model, painter.encoder, examples]))
        model.compute_mean_w(params.blobgan.mean_latent_samples, torch.Generator().manual_seed(seed))
        whole = nn.ModuleDict({"blobgan": model, "encoder": painter.encoder, "examples": examples})
        config = {"setup": setup, **model.config(), **painter.encoder.config, "slots": dict(options.slots)}
        weights.save(folder, KIND, config | {"examples": len(some)}, whole)
        held_out = (images[learnt:], *(tensor[learnt:] for tensor in places[:4]))
        tracker.log_image("samples", to_array(make_grid(shown(painter, held_out), nrow=SHOWN // 2)), 0)
        common.write_metrics(folder, measures(painter, held_out, params.data.perceptual), tracker)
    for state in states:
        mark_finished(state, True)


def prepare(params: Params, setup: str) -> tuple[Tensor, Batch, PaintModule]:
    """The training pictures, the tensors of their blobs' places, and what learns to paint them."""
    options, network, device = params.blobgan_pretrain, params.blobgan.network, resolve_device(params.run.device)
    folder = common.MODELS / "parser" / setup
    parser = load_parser(folder)
    perceptual = load_perceptual(params.data.perceptual, folder, Path(params.data.external)).to(device)
    images = load_images(params, setup, "train")
    slots = {str(group): count for group, count in options.slots.items()}
    painter = PaintModule(options, network, params.setup(setup), perceptual, params.run.seed)
    canvas, segments = painter.encoder.canvas, parse_segments(parser, images, device)
    painter.encoder.set_anchors(fit_anchors(segments, slots, canvas))
    ellipses = assign_segments(segments, slots, painter.encoder.anchors, canvas)
    painter.depends_on(
        data=checksum(images),
        parser=checksum(*parser.state_dict().values()),
        perceptual=checksum(*perceptual.state_dict().values()),
    )
    return images, ellipses.tensors(), painter


def batches_of(data: Batch, learnt: int, training: Training, seed: int) -> Callable[[int], Batch]:
    """The batch of a step, of the first `learnt` samples."""
    size = training.batch_size * training.accumulate

    def batch(step: int) -> Batch:
        chosen = batch_indices(step, learnt, size, seed)
        return tuple(tensor[chosen] for tensor in data)

    return batch


def codes_of(painter: PaintModule, batch: Batch) -> Tensor:
    images, *places = (tensor.to(painter.device) for tensor in batch)
    return painter.encoder.codes(to_float(images), layout_from_ellipses(*places)).cpu()


def layout_lesson(
    painter: PaintModule, codes: Tensor, places: Batch, learnt: int, training: Training, seed: int
) -> tuple[LayoutModule, Callable[[int], Batch]]:
    """What learns the flow of the layouts of pictures, of which the first `learnt` are its lesson, and its batches."""
    flow = cast(LayoutFlow, painter.model.layout_network)
    first = [tensor[: min(learnt, FITTED)] for tensor in (codes, *places)]
    flow.fit(layouts_of(painter, *first[:-1]), first[-1])
    lesson = [tensor[:learnt] for tensor in (codes, *places)]
    w = common.in_batches(lambda *batch: flow.project(layouts_of(painter, *batch[:-1]), batch[-1]), *lesson)
    module = LayoutModule(flow, training, seed)
    module.depends_on(w=checksum(w))
    return module, batches_of((w,), learnt, training, seed)


@torch.no_grad()
def layouts_of(painter: PaintModule, codes: Tensor, *places: Tensor) -> BlobLayout:
    """The blobs at xs, ys, covs and sizes of `BlobEllipses` that look as their codes say."""
    return with_appearance(layout_from_ellipses(*places), *painter.encoder.appearance(codes))


def measures(painter: PaintModule, held_out: Batch, perceptual: str) -> dict[str, float]:
    """Distances of pictures to what is painted of their blobs."""

    def compare(*batch: Tensor) -> Tensor:
        images, *places = (tensor.to(painter.device) for tensor in batch)
        original = to_float(images)
        painted = painter.paint(original, layout_from_ellipses(*places))[0].clamp(-1, 1)
        distance = painter.perceptual.distance_to(painter.perceptual.embed(original), painted)
        return torch.stack([distance, (painted - original).abs().flatten(1).mean(1)], dim=1).cpu()

    distance, l1 = common.in_batches(compare, *held_out).mean(0).tolist()
    return {perceptual_name(perceptual): distance, "l1": l1}


@torch.no_grad()
def shown(painter: PaintModule, held_out: Batch) -> Tensor:
    """Pictures, what is painted of their blobs, and as many new ones of random layouts."""
    images, *places = (tensor[: SHOWN // 2].to(painter.device) for tensor in held_out)
    painted = painter.paint(to_float(images), layout_from_ellipses(*places))[0]
    z = torch.randn(SHOWN, painter.model.z_dim, generator=torch.Generator().manual_seed(0)).to(painter.device)
    return torch.cat([to_float(images), painted, painter.model.render(painter.model.sample(z))])


if __name__ == "__main__":
    common.run_stage(main, "setup")
