"""The blobs of pictures that have no labels: the parser tells the segments."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from tqdm import tqdm

from blobex.datasets.images import to_float
from blobex.networks.parser import Parser, panoptic
from blobex.segments.place import Places, place
from blobex.segments.split import Segment, segments

BATCH = 64


@torch.no_grad()
def parsed(parser: Parser, images: Tensor, device: torch.device) -> list[list[Segment]]:
    """The segments of each picture, uint8 (N,3,H,W)."""
    found: list[list[Segment]] = []
    parser = parser.to(device)
    for batch in tqdm(images.split(BATCH), desc="segments", unit="batch", leave=False):
        output = parser(to_float(batch.to(device)))
        semantic, things = (maps.cpu().numpy() for maps in panoptic(output))
        drivable = output.drivable.argmax(1).cpu().numpy()
        found += [segments(*maps) for maps in zip(semantic, things, drivable, strict=True)]
    return found


def parsed_places(
    parser: Parser, images: Tensor, slots: Mapping[str, int], area: float, device: torch.device
) -> Places:
    """Where the blobs of pictures uint8 (N,3,H,W) are, one slot for each blob; `area` is that of a blob of size 0."""
    return place(parsed(parser, images, device), slots, images.shape[3] // images.shape[2], area)
