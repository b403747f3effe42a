"""Blobs of unlabelled images, from the segments that a parser finds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from blobex.datasets.images import to_float
from blobex.layout.assign import BlobEllipses, assign_segments, layout_from_ellipses, with_appearance
from blobex.layout.blobs import BlobLayout
from blobex.layout.paste import LabelMaps
from blobex.layout.segments import Segment, extract_segments, segment_from_mask
from blobex.networks.parser import Parser, ParserOutput, panoptic
from blobex.networks.segment_encoder import Pretrained

BATCH = 64


@torch.no_grad()
def parse_labels(parser: Parser, images: Tensor, device: torch.device) -> Iterator[list[LabelMaps]]:
    """Yield the label maps of batches of images (N,3,H,W) uint8; the parser is moved to `device`."""
    parser = parser.to(device)
    for batch in tqdm(images.split(BATCH), desc="segments", unit="batch", leave=False, disable=None):
        yield label_maps(parser(to_float(batch.to(device))))


def label_maps(output: ParserOutput) -> list[LabelMaps]:
    """Return the label maps of each image of a parser's output."""
    semantic, instances = (maps.cpu().numpy() for maps in panoptic(output))
    drivable = output.drivable.argmax(1).cpu().numpy()
    return [LabelMaps(*maps) for maps in zip(semantic, instances, drivable, strict=True)]


def segments_of(output: ParserOutput) -> list[list[Segment]]:
    """Return the segments of each image of a parser's output."""
    return [extract_segments(maps.semantic, maps.things, maps.drivable) for maps in label_maps(output)]


class SegmentReader(nn.Module):
    """Images (N,3,height,width) in [-1,1] to blobs: the parser gives their shapes, the encoder their appearance."""

    def __init__(self, parser: Parser, pretrained: Pretrained) -> None:
        super().__init__()
        self.parser, self.encoder, self.slots = parser, pretrained.encoder, pretrained.slots
        self.examples = pretrained.examples

    @torch.no_grad()
    def forward(self, images: Tensor) -> BlobLayout:
        images = images.contiguous(memory_format=torch.channels_last)
        assignment = self._assign(segments_of(self.parser(images)))
        layout = layout_from_ellipses(*(tensor.to(images.device) for tensor in assignment.tensors()[:4]))
        return with_appearance(layout, *self.encoder.appearance(self.encoder.codes(images, layout)))

    @torch.no_grad()
    def segment_maps(self, images: Tensor) -> Tensor:
        """Return the pixels of each blob's segment, bool (N,K+1,height,width); the background has none."""
        masks = [maps.masks() for maps in label_maps(self.parser(images.contiguous(memory_format=torch.channels_last)))]
        numbers = self._assign([[segment_from_mask(*each) for each in image] for image in masks]).segment
        result = torch.zeros(len(images), numbers.shape[1] + 1, *images.shape[2:], dtype=torch.bool)
        for image, blob in (numbers >= 0).nonzero().tolist():
            result[image, blob + 1] = torch.from_numpy(masks[image][numbers[image, blob]][1])
        return result.to(images.device)

    def _assign(self, segments: Sequence[Sequence[Segment]]) -> BlobEllipses:
        return assign_segments(segments, self.slots, self.encoder.anchors, self.encoder.canvas)
