"""Blobs of unlabelled images, from the segments that a parser finds."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from tqdm import tqdm

from blobex.datasets.images import to_float
from blobex.layout.assign import assign_segments, layout_from_ellipses, with_appearance
from blobex.layout.blobs import BlobLayout
from blobex.layout.segments import Segment, extract_segments
from blobex.networks.parser import Parser, ParserOutput, panoptic
from blobex.networks.segment_encoder import Pretrained

BATCH = 64


@torch.no_grad()
def parse_segments(parser: Parser, images: Tensor, device: torch.device) -> list[list[Segment]]:
    """Return the segments of each image (N,3,H,W) uint8; the parser is moved to `device`."""
    parser = parser.to(device)
    batches = tqdm(images.split(BATCH), desc="segments", unit="batch", leave=False, disable=None)
    return [segments for batch in batches for segments in segments_of(parser(to_float(batch.to(device))))]


def segments_of(output: ParserOutput) -> list[list[Segment]]:
    """Return the segments of each image of a parser's output."""
    semantic, instances = (maps.cpu().numpy() for maps in panoptic(output))
    drivable = output.drivable.argmax(1).cpu().numpy()
    return [extract_segments(*maps) for maps in zip(semantic, instances, drivable, strict=True)]


class SegmentReader(nn.Module):
    """Images (N,3,height,width) in [-1,1] to blobs: the parser gives their shapes, the encoder their appearance."""

    def __init__(self, parser: Parser, pretrained: Pretrained) -> None:
        super().__init__()
        self.parser, self.encoder, self.slots = parser, pretrained.encoder, pretrained.slots
        self.examples = pretrained.examples

    @torch.no_grad()
    def forward(self, images: Tensor) -> BlobLayout:
        images = images.contiguous(memory_format=torch.channels_last)
        segments = segments_of(self.parser(images))
        assignment = assign_segments(segments, self.slots, self.encoder.anchors, self.encoder.canvas)
        layout = layout_from_ellipses(*(tensor.to(images.device) for tensor in assignment.tensors()[:4]))
        return with_appearance(layout, *self.encoder.appearance(self.encoder.codes(images, layout)))
