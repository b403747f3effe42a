"""Scene parser: one body with heads for boxes, semantic categories, things and drivable area.

Boxes follow CenterNet (Zhou et al., 2019, "Objects as Points"), things Panoptic-DeepLab (Cheng et al., CVPR 2020). The
features also serve the perceptual and the Frechet distance if there are no networks trained on photographs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, cast

import pydantic.dataclasses
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from blobex.config.value_types import SECTION, Int
from blobex.core.errors import BlobexError
from blobex.networks import weights
from blobex.scenes.labels import DETECTION, DRIVABLE, SEMANTIC

STRIDE = 2  # pixels between two cells of the finest level
FIRST_THING = SEMANTIC.index("person")  # first of the semantic categories that are things
PRIOR = 0.05  # initial probability of heat maps, so that their many empty cells weigh little


@dataclass(frozen=True)
class ParserOutput:
    """Outputs of the heads, float32; h = H/2, w = W/2. Coordinates are in pixels; pixel i covers [i, i+1].

    An object is a peak of `heat`; the centre of its box is ((column, row) + `offset`) * 2.
    """

    heat: Tensor  # N,10,h,w: logits of the centre of an object, by category of labels.DETECTION
    offset: Tensor  # N,2,h,w: x and y of the centre within its cell, 0 to 1
    size: Tensor  # N,2,h,w: logarithm of width and height
    semantic: Tensor  # N,19,H,W: logits, by category of labels.SEMANTIC
    centres: Tensor  # N,1,H,W: logits of the centroid of a thing
    shifts: Tensor  # N,2,H,W: x and y from the pixel to the centroid of its thing
    drivable: Tensor  # N,3,H,W: logits, by category of labels.DRIVABLE

    def __getitem__(self, index: slice) -> ParserOutput:
        """Select images of the batch."""
        return ParserOutput(**{name: tensor[index] for name, tensor in vars(self).items()})

    def to(self, device: torch.device | str) -> ParserOutput:
        return ParserOutput(**{name: tensor.to(device) for name, tensor in vars(self).items()})


@dataclass(frozen=True)
class Detections:
    """Boxes detected in one image, by decreasing score."""

    boxes: Tensor  # M,4: x1, y1, x2, y2
    scores: Tensor  # M: 0 to 1
    categories: Tensor  # M: labels.DETECTION


@pydantic.dataclasses.dataclass(frozen=True, config=SECTION)
class _Saved:
    """Arguments of `Parser` in config.yaml."""

    channels: list[Annotated[Int, Field(ge=1, le=8192)]]
    height: Annotated[Int, Field(ge=1, le=4096)]
    width: Annotated[Int, Field(ge=1, le=8192)]


class Parser(nn.Module):
    """Network from images (N,3,H,W) in [-1,1] to `ParserOutput`.

    Args:
        channels: Channels of the levels at strides 2, 4, 8, ...
        height, width: Size of the images, divisible by the largest stride; else BlobexError is raised.
    """

    def __init__(self, channels: Sequence[int], height: int, width: int) -> None:
        super().__init__()
        coarsest = STRIDE ** len(channels)
        if not channels or height % coarsest or width % coarsest:
            size = f"{height}x{width} is not divisible by {coarsest}"
            raise BlobexError(f"parser.channels has {len(channels)} levels but {size}: change the number of levels")
        self.config: dict[str, Any] = {"channels": list(channels), "height": height, "width": width}
        above = [3 * STRIDE * STRIDE, *channels[:-1]]
        self.down = nn.ModuleList(
            _convolution(inputs, outputs, stride=1 if level == 0 else 2)
            for level, (inputs, outputs) in enumerate(zip(above, channels, strict=True))
        )
        self.blocks = nn.ModuleList(_Residual(width) for width in channels)
        self.lateral = nn.ModuleList(nn.Conv2d(below, above, 1) for above, below in itertools.pairwise(channels))
        self.merge = nn.ModuleList(_convolution(width, width) for width in channels[:-1])
        cell, finest = STRIDE * STRIDE, channels[0]  # a dense head predicts all pixels of a cell at once
        self.detect = _head(finest, len(DETECTION) + 4)
        self.name = _head(finest, len(SEMANTIC) * cell)
        self.group = _head(finest, 3 * cell)
        self.drive = _head(finest, len(DRIVABLE) * cell)
        for head, maps in ((self.detect, len(DETECTION)), (self.group, cell)):
            nn.init.constant_(cast(Tensor, head[-1].bias)[:maps], math.log(PRIOR / (1 - PRIOR)))

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the levels of the body, the finest first: (N,channels[i],H/2^(i+1),W/2^(i+1))."""
        x = F.pixel_unshuffle(x.contiguous(memory_format=torch.channels_last), STRIDE)
        levels = []
        for down, block in zip(self.down, self.blocks, strict=True):
            x = block(down(x))
            levels.append(x)
        return levels

    def pooled_features(self, x: Tensor) -> Tensor:
        """Return the mean of every channel of every level, (N, sum of channels) float32."""
        return torch.cat([level.float().mean((2, 3)) for level in self.features(x)], dim=1)

    def forward(self, x: Tensor) -> ParserOutput:
        levels = self.features(x)
        merged = levels[-1]
        for level in reversed(range(len(levels) - 1)):
            above = F.interpolate(self.lateral[level](merged), scale_factor=2.0, mode="nearest")
            merged = self.merge[level](levels[level] + above)
        heat, offset, size = self.detect(merged).float().split([len(DETECTION), 2, 2], dim=1)
        things = F.pixel_shuffle(self.group(merged).float(), STRIDE)
        return ParserOutput(
            heat=heat,
            offset=offset.sigmoid(),
            size=size,
            semantic=F.pixel_shuffle(self.name(merged).float(), STRIDE),
            centres=things[:, :1],
            shifts=things[:, 1:],
            drivable=F.pixel_shuffle(self.drive(merged).float(), STRIDE),
        )


def detections(output: ParserOutput, threshold: float = 0.3, max_count: int = 100) -> list[Detections]:
    """Return the boxes of each image: at most `max_count` peaks of the heat map from `threshold` on."""
    heat = output.heat.sigmoid()
    heat = heat * (heat == F.max_pool2d(heat, 3, stride=1, padding=1))
    count, categories, height, width = heat.shape
    scores, indices = heat.flatten(1).topk(min(max_count, categories * height * width))
    cells = indices % (height * width)
    corner = torch.stack([cells % width, cells // width], dim=-1)
    offset, size = (_gather(maps, cells) for maps in (output.offset, output.size))
    centre, half = (corner + offset) * STRIDE, size.exp() / 2
    boxes = torch.cat([centre - half, centre + half], dim=-1)
    limits = torch.tensor([width, height, width, height], device=boxes.device) * STRIDE
    boxes = boxes.clamp(min=0).minimum(limits.to(boxes.dtype))
    detected = scores >= threshold
    return [
        Detections(boxes[i][detected[i]], scores[i][detected[i]], indices[i][detected[i]] // (height * width))
        for i in range(count)
    ]


def panoptic(output: ParserOutput, threshold: float = 0.3, max_count: int = 100) -> tuple[Tensor, Tensor]:
    """Return category and thing number of each pixel, both (N,H,W) int64; stuff has thing number 0.

    A pixel of a thing category belongs to the centroid nearest to the point that its shift predicts (Cheng et al.,
    CVPR 2020, section 3.3); the pixels of a thing take the most frequent category among them.
    """
    category = output.semantic.argmax(1)
    things = torch.zeros_like(category)
    heat = output.centres.sigmoid()
    heat = (heat * (heat == F.max_pool2d(heat, 7, stride=1, padding=3)))[:, 0]
    height, width = heat.shape[1:]
    grid = torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy")).to(heat.device)
    targets = grid + output.shifts
    for i in range(len(heat)):
        scores, cells = heat[i].flatten().topk(min(max_count, height * width))
        cells = cells[scores >= threshold]
        inside = category[i] >= FIRST_THING
        if len(cells) == 0 or not inside.any():
            continue
        centres = torch.stack([cells % width, cells // width], dim=-1).to(targets.dtype)
        nearest = torch.cdist(targets[i][:, inside].T[None], centres[None])[0].argmin(1)
        votes = torch.zeros(len(cells), len(SEMANTIC), device=heat.device)
        votes.index_put_((nearest, category[i][inside]), torch.ones(len(nearest), device=heat.device), accumulate=True)
        category[i][inside] = votes.argmax(1)[nearest]
        things[i][inside] = nearest + 1
    return category, things


def load_parser(folder: Path) -> Parser:
    """Load a saved parser, frozen; raise BlobexError if there is none."""
    return weights.load_network(folder, "parser", _Saved, Parser).to(memory_format=torch.channels_last)


def _gather(maps: Tensor, cells: Tensor) -> Tensor:
    """Return the values (N,M,C) of maps (N,C,h,w) at flat indices (N,M)."""
    return maps.flatten(2).gather(2, cells[:, None].expand(-1, maps.shape[1], -1)).transpose(1, 2)


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


class _Residual(nn.Module):
    """Residual block (He et al., CVPR 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _convolution(channels, channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.second(self.first(x))))


def _head(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(*_convolution(inputs, inputs), nn.Conv2d(inputs, outputs, 1))
