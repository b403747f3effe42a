"""The blobs of pictures that have no labels: the parser tells the segments."""

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
def parsed(parser: Parser, images: Tensor, device: torch.device) -> list[list[Segment]]:
    """The segments of each picture, uint8 (N,3,H,W)."""
    found: list[list[Segment]] = []
    parser = parser.to(device)
    for batch in tqdm(images.split(BATCH), desc="segments", unit="batch", leave=False, disable=None):
        found += told(parser(to_float(batch.to(device))))
    return found


def told(output: ParserOutput) -> list[list[Segment]]:
    """The segments of each picture, as the parser's maps say."""
    semantic, things = (maps.cpu().numpy() for maps in panoptic(output))
    drivable = output.drivable.argmax(1).cpu().numpy()
    return [extract_segments(*maps) for maps in zip(semantic, things, drivable, strict=True)]


class SegmentReader(nn.Module):
    """Pictures (N,3,height,width) in [-1,1] to blobs: the parser tells where, the encoder how they look."""

    def __init__(self, parser: Parser, pretrained: Pretrained) -> None:
        super().__init__()
        self.parser, self.encoder, self.slots = parser, pretrained.encoder, pretrained.slots
        self.examples = pretrained.examples

    @torch.no_grad()
    def forward(self, images: Tensor) -> BlobLayout:
        images = images.contiguous(memory_format=torch.channels_last)
        segments = told(self.parser(images))
        places = assign_segments(segments, self.slots, self.encoder.anchors, self.encoder.canvas)
        layout = layout_from_ellipses(*(tensor.to(images.device) for tensor in places.tensors()[:4]))
        return with_appearance(layout, *self.encoder.appearance(self.encoder.codes(images, layout)))
