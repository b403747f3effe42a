"""Data of the painting loss, for the stages that train a generator on it."""

from __future__ import annotations

from pathlib import Path

import torch

from blobex.config.params import Params
from blobex.datasets.datamodule import load_images
from blobex.layout.assign import BlobAnchors, assign_segments, fit_anchors
from blobex.layout.segments import segment_from_mask
from blobex.layout.splat import Canvas
from blobex.networks.parser import load_parser
from blobex.networks.perceptual import PerceptualDistance, load_perceptual
from blobex.perception.segment_reader import parse_labels
from blobex.stages import common
from blobex.training.painting_data import BlobSlots, PaintingData, PasteChoice, choose_pastes, paste_objects


def load_painting(
    params: Params, setup: str, device: torch.device, canvas: Canvas, anchors: BlobAnchors | None = None
) -> tuple[PaintingData, BlobAnchors]:
    """Load the training images with the ellipses of their blobs and the objects to paste into them.

    Anchors are fitted to the images' segments if they are not given.
    """
    parser, images = load_parser(common.MODELS / "parser" / setup), load_images(params, setup, "train")
    segments, choices = [], list[PasteChoice]()
    for maps in parse_labels(parser, images, device):
        segments += [[segment_from_mask(*mask) for mask in of_image.masks()] for of_image in maps]
        choices += choose_pastes(images, maps, len(choices), params.run.seed)
    counts = {str(group): count for group, count in params.blobgan_pretrain.slots.items()}
    anchors = fit_anchors(segments, counts, canvas) if anchors is None else anchors
    ellipses = assign_segments(segments, counts, anchors, canvas)
    pasted = paste_objects(choices, (images.shape[2], images.shape[3]), BlobSlots(counts, anchors, canvas))
    return PaintingData(images, ellipses, pasted), anchors


def load_painting_distance(params: Params, setup: str, device: torch.device) -> PerceptualDistance | None:
    """Load the perceptual distance of the painting loss; None if its weight is 0."""
    if not params.blobgan_pretrain.perceptual:
        return None
    folder = common.MODELS / "parser" / setup
    return load_perceptual(params.data.perceptual, folder, Path(params.data.external)).to(device)
