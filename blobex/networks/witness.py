"""Witnesses: two networks that nothing is trained or searched against, which only measure explanations.

Their architectures differ from those of the decision models and the parser, and they are trained on other scenes. A
counterfactual that also changes a witness's decision is not an adversarial example for one network.
"""

from __future__ import annotations

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

from blobex.config.value_types import SECTION, Int, Width
from blobex.core.errors import BlobexError
from blobex.networks import weights
from blobex.networks.parser import PRIOR, STRIDE, ParserOutput
from blobex.scenes.labels import DETECTION, DRIVABLE, SEMANTIC
from blobex.scenes.rules import ACTIONS

GROUPS = 8  # of each normalisation; widths are divisible by it
SUMMARY, HIDDEN = 16, 48  # channels of the flattened map, and units after it, of the decision witness
CELL = 4  # pixels between two positions of the reading witness
DILATIONS = (1, 2, 4, 8, 1, 2, 4, 1)  # of the residual blocks of the reading witness
KEPT = (0, 2, 4, 6, 8)  # numbers of the blocks, the first convolution being 0, whose output describes an image


class DecisionWitness(nn.Module):
    """Residual network from images (N,3,H,W) in [-1,1] to the logits (N,R,A) of R rules and the A actions.

    Args:
        channels: Channels of the levels at strides 2, 4, 8, ..., divisible by 8.
        rules: Number of rules.
        height, width: Size of the images, divisible by the largest stride; else BlobexError is raised.
    """

    def __init__(self, channels: Sequence[int], rules: int, height: int, width: int) -> None:
        super().__init__()
        coarsest = 2 ** len(channels)
        _check_widths(channels, GROUPS)
        if not channels or height % coarsest or width % coarsest:
            size = f"{height}x{width} is not divisible by {coarsest}"
            raise BlobexError(f"witness.decision.channels has {len(channels)} levels but {size}: change their number")
        self.rules = rules
        self.config: dict[str, Any] = {"channels": list(channels), "rules": rules, "height": height, "width": width}
        levels: list[nn.Module] = []
        for inputs, outputs in zip((3, *channels[:-1]), channels, strict=True):
            levels += [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), _Residual(outputs)]
        self.body = nn.Sequential(*levels, _activation(channels[-1]), nn.Conv2d(channels[-1], SUMMARY, 1))
        self.hidden = nn.Linear(SUMMARY * (height // coarsest) * (width // coarsest), HIDDEN)
        self.last = nn.Linear(HIDDEN, rules * len(ACTIONS))

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x.contiguous(memory_format=torch.channels_last)).float().relu().flatten(1)
        return _product(self.last, _product(self.hidden, x).relu()).view(len(x), self.rules, len(ACTIONS))


class ReadingWitness(nn.Module):
    """Scene parser without a pyramid: dilated residual blocks at stride 4 (Yu et al., CVPR 2017).

    Maps images (N,3,H,W) in [-1,1] to `ParserOutput`.

    Args:
        channels: Channels of all blocks, divisible by 16.
        height, width: Size of the images, divisible by 4; else BlobexError is raised.
    """

    def __init__(self, channels: int, height: int, width: int) -> None:
        super().__init__()
        if height % CELL or width % CELL:
            raise BlobexError(f"the reading witness needs images whose sides {CELL} divides, not {height}x{width}")
        _check_widths([channels], 2 * GROUPS)
        self.config: dict[str, Any] = {"channels": channels, "height": height, "width": width}
        blocks = [_Bottleneck(channels, dilation) for dilation in DILATIONS]
        self.body = nn.ModuleList([nn.Conv2d(3 * CELL * CELL, channels, 3, padding=1), *blocks])
        cell, peaks = CELL * CELL, (CELL // STRIDE) ** 2  # pixels, and cells of the heat map, of a position
        self.counts = [len(DETECTION) * peaks, 4 * peaks, len(SEMANTIC) * cell, 3 * cell, len(DRIVABLE) * cell]
        hidden, last = nn.Conv2d(channels, 2 * channels, 1), nn.Conv2d(2 * channels, sum(self.counts), 1)
        self.heads = nn.Sequential(_activation(channels), hidden, nn.ReLU(), last)
        heat, _, _, things, _ = cast(Tensor, last.bias).data.split(self.counts)
        for logits in (heat, things[:cell]):
            logits.fill_(math.log(PRIOR / (1 - PRIOR)))

    def features(self, x: Tensor) -> list[Tensor]:
        """Return the outputs of the first convolution and of every second block: (N,channels,H/4,W/4) each."""
        x = F.pixel_unshuffle(x, CELL).contiguous(memory_format=torch.channels_last)
        outputs = []
        for number, block in enumerate(self.body):
            x = block(x)
            if number in KEPT:
                outputs.append(x)
        return outputs

    def pooled_features(self, x: Tensor) -> Tensor:
        """Return the mean of every channel of `features`, (N, 5 * channels) float32."""
        return torch.cat([output.float().mean((2, 3)) for output in self.features(x)], dim=1)

    def forward(self, x: Tensor) -> ParserOutput:
        heat, boxes, semantic, things, drivable = self.heads(self.features(x)[-1]).float().split(self.counts, dim=1)
        boxes, things = F.pixel_shuffle(boxes, CELL // STRIDE), F.pixel_shuffle(things, CELL)
        return ParserOutput(
            heat=F.pixel_shuffle(heat, CELL // STRIDE),
            offset=boxes[:, :2].sigmoid(),
            size=boxes[:, 2:],
            semantic=F.pixel_shuffle(semantic, CELL),
            centres=things[:, :1],
            shifts=things[:, 1:],
            drivable=F.pixel_shuffle(drivable, CELL),
        )


@dataclass(frozen=True)
class Witness:
    """Both witnesses of a setup, frozen."""

    decision: DecisionWitness
    reading: ReadingWitness
    rules: tuple[str, ...]  # in the order of the decision witness: names of `scenes.rules.RULES`

    def decide(self, images: Tensor, rule: str) -> Tensor:
        """Return the logits (N,4) of `scenes.rules.ACTIONS` by a rule, for images (N,3,H,W) in [-1,1].

        Raises BlobexError if the witness does not know the rule.
        """
        if rule not in self.rules:
            raise BlobexError(f"the witness does not know the rule {rule!r}: it knows {', '.join(self.rules)}")
        return cast(Tensor, self.decision(images)[:, self.rules.index(rule)])


@pydantic.dataclasses.dataclass(frozen=True, config=SECTION)
class _Saved:
    """Arguments of `_Both` in config.yaml."""

    rules: list[str]
    decision_channels: list[Width]
    reading_channels: Width
    height: Annotated[Int, Field(ge=1, le=4096)]
    width: Annotated[Int, Field(ge=1, le=8192)]


class _Both(nn.Module):
    """Both witnesses, which are saved in one file."""

    def __init__(
        self, rules: Sequence[str], decision_channels: Sequence[int], reading_channels: int, height: int, width: int
    ) -> None:
        super().__init__()
        self.rules = tuple(rules)
        self.decision = DecisionWitness(decision_channels, len(self.rules), height, width)
        self.reading = ReadingWitness(reading_channels, height, width)


def save_witness(folder: Path, setup: str, witness: Witness) -> None:
    """Save both witnesses of a setup in one folder."""
    whole = nn.ModuleDict({"decision": witness.decision, "reading": witness.reading})
    decision, reading = witness.decision.config, witness.reading.config
    size = {key: reading[key] for key in ("height", "width")}
    channels = {"decision_channels": decision["channels"], "reading_channels": reading["channels"]}
    weights.save(folder, "witness", {"setup": setup, "rules": list(witness.rules), **channels, **size}, whole)


def load_witness(folder: Path) -> Witness:
    """Load the witnesses of a setup from models/witness/<setup>, frozen; raise BlobexError if there are none."""
    both = weights.load_network(folder, "witness", _Saved, _Both).to(memory_format=torch.channels_last)
    return Witness(both.decision, both.reading, both.rules)


def _check_widths(channels: Sequence[int], divisor: int) -> None:
    wrong = [width for width in channels if width % divisor]
    if wrong:
        raise BlobexError(f"a witness has {wrong[0]} channels: make them divisible by {divisor}")


def _activation(channels: int) -> nn.Sequential:
    return nn.Sequential(nn.GroupNorm(GROUPS, channels), nn.ReLU())


def _product(layer: nn.Linear, x: Tensor) -> Tensor:
    """Apply a linear layer without a matrix product, which may round a row by its position in the batch."""
    return (x[:, None] * layer.weight.float()).sum(-1) + layer.bias.float()


class _Residual(nn.Module):
    """Residual block with normalisation before each convolution (He et al., ECCV 2016; Wu and He, ECCV 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        first, second = (nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(2))
        self.path = nn.Sequential(_activation(channels), first, _activation(channels), second)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, x + self.path(x))


class _Bottleneck(nn.Module):
    """Residual block of half the channels inside, with a dilated convolution."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        inner = channels // 2
        reduce, widen = nn.Conv2d(channels, inner, 1, bias=False), nn.Conv2d(inner, channels, 1, bias=False)
        across = nn.Conv2d(inner, inner, 3, padding=dilation, dilation=dilation, bias=False)
        layers = (_activation(channels), reduce, _activation(inner), across, _activation(inner), widen)
        self.path = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, x + self.path(x))
