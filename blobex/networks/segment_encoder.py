"""Segment encoder: the appearance of each blob from an image and the blobs' ellipses."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pydantic.dataclasses
import torch
from pydantic import Field
from torch import Tensor, nn

from blobex.config.read import parse
from blobex.config.training import Group
from blobex.config.value_types import SECTION, Int
from blobex.core.errors import BlobexError
from blobex.layout.assign import BlobAnchors
from blobex.layout.blobs import BlobLayout
from blobex.layout.splat import Canvas, score_pyramid
from blobex.networks import weights
from blobex.networks.blobgan import BlobGAN, from_config
from blobex.networks.layout_network import FEATURE_EPSILON
from blobex.networks.ops import at_least_float32, pixel_norm

WIDTHS = (32, 64, 128)  # channels of the body's levels, the finest first
POSITION_SCALE = 3.0  # brings blob-relative positions to the scale of the features
MIN_SCORE = 1e-5  # share of the image; the features of a blob with a smaller total score fade to zero


class SegmentEncoder(nn.Module):
    """Network from images to one code per blob, and from codes to features and styles.

    A code depends only on the image region that the blob covers: it is made of convolutional features averaged by the
    blob's scores, plain and multiplied by the position relative to the blob's centre.
    """

    traits: Tensor
    usual: Tensor

    def __init__(self, canvas: Canvas, blobs: int, code_dim: int, feature_dim: int, style_dim: int) -> None:
        super().__init__()
        self.canvas, self.feature_dim = canvas, feature_dim
        self.config: dict[str, Any] = {"code_dim": code_dim}
        self.register_buffer("traits", torch.zeros(blobs, 3))  # centres and mean_ellipses of BlobAnchors
        self.register_buffer("usual", torch.zeros(blobs, 6))
        first, second, third = WIDTHS
        self.fine = nn.Sequential(*_layer(3, first, 1), *_layer(first, second, 2), *_layer(second, second, 1))
        self.coarse = nn.Sequential(*_layer(second, third, 2), *_layer(third, third, 1))
        self.code = nn.Linear(3 * (second + third), code_dim)
        self.slot = nn.Parameter(0.5 * torch.randn(blobs + 1, code_dim))  # mean code of the blob
        self.look = nn.Linear(code_dim, feature_dim + style_dim)

    def codes(self, images: Tensor, layout: BlobLayout) -> Tensor:
        """Return codes (N,K+1,code_dim) of images (N,3,height,width) and the ellipses of `layout`."""
        height = self.canvas.height
        with torch.autocast(images.device.type, enabled=False):
            pyramid = score_pyramid(layout, self.canvas, height // 4)
        fine = self.fine(images)
        maps = {height // 2: fine, height // 4: self.coarse(fine)}
        pooled = [part for level, features in maps.items() for part in self._pooled(features, pyramid[level], layout)]
        return at_least_float32(self.code(torch.cat(pooled, dim=2))) + self.slot

    @property
    def anchors(self) -> BlobAnchors:
        return BlobAnchors(self.traits, self.usual)

    def set_anchors(self, anchors: BlobAnchors) -> None:
        self.traits.copy_(anchors.centres)
        self.usual.copy_(anchors.mean_ellipses)

    def appearance(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and styles (N,K+1,...) of codes, normalised as those of a layout network."""
        feature, style = self.look(codes).split([self.feature_dim, self.look.out_features - self.feature_dim], dim=-1)
        return pixel_norm(feature, FEATURE_EPSILON), pixel_norm(style, FEATURE_EPSILON)

    def _pooled(self, features: Tensor, scores: Tensor, layout: BlobLayout) -> list[Tensor]:
        """Means of features (N,C,h,w) by each blob's scores (N,K+1,h,w): plain, times x, and times y."""
        height, width = scores.shape[2:]
        grid_y, grid_x = (
            torch.arange(size, device=scores.device, dtype=scores.dtype) / height for size in (height, width)
        )
        middle = torch.full_like(layout.xs[:, :1], 0.5)
        xs, ys = (torch.cat([middle, centres], 1)[..., None] for centres in (layout.xs, layout.ys))
        x = POSITION_SCALE * (grid_x - self.canvas.aspect_ratio * xs)  # N,K+1,w
        y = POSITION_SCALE * (grid_y - ys)  # N,K+1,h
        weights = scores / (scores.sum((2, 3), keepdim=True) + MIN_SCORE * height * width)
        points = features.permute(0, 2, 3, 1).flatten(1, 2)
        return [
            at_least_float32(torch.bmm(weighting.flatten(2).to(points.dtype), points))
            for weighting in (weights, weights * x[:, :, None], weights * y[..., None])
        ]


class StoredExamples(nn.Module):
    """Codes and ellipses of the blobs of E real images."""

    codes: Tensor  # E,K+1,code_dim
    xs: Tensor  # E,K; this and the following as in BlobLayout
    ys: Tensor
    covs: Tensor  # E,K,4
    sizes: Tensor  # E,K
    present: Tensor  # E,K bool

    def __init__(self, images: int, blobs: int, code_dim: int) -> None:
        super().__init__()
        self.register_buffer("codes", torch.zeros(images, blobs + 1, code_dim))
        for name, size in (("xs", ()), ("ys", ()), ("covs", (4,)), ("sizes", ())):
            self.register_buffer(name, torch.zeros(images, blobs, *size))
        self.register_buffer("present", torch.zeros(images, blobs, dtype=torch.bool))

    @classmethod
    def of(cls, codes: Tensor, xs: Tensor, ys: Tensor, covs: Tensor, sizes: Tensor, present: Tensor) -> StoredExamples:
        examples = cls(len(codes), codes.shape[1] - 1, codes.shape[2])
        tensors = {"codes": codes, "xs": xs, "ys": ys, "covs": covs, "sizes": sizes, "present": present}
        examples.load_state_dict(tensors)
        return examples


@pydantic.dataclasses.dataclass(frozen=True, config=SECTION)
class _Saved:
    """Keys of config.yaml beside those of the BlobGAN."""

    code_dim: Annotated[Int, Field(ge=1, le=8192)]
    slots: dict[Group, Annotated[Int, Field(ge=1, le=512)]]
    examples: Annotated[Int, Field(ge=1, le=10**5)]


@dataclass(frozen=True)
class Pretrained:
    """Networks and examples of the stage blobgan_pretrain."""

    blobgan: BlobGAN
    encoder: SegmentEncoder
    slots: dict[str, int]  # number of blobs per group of segments, from back to front
    examples: StoredExamples


def build_segment_encoder(blobgan: BlobGAN, code_dim: int) -> SegmentEncoder:
    """Build an untrained encoder for the blobs of a BlobGAN."""
    network = blobgan.network
    return SegmentEncoder(blobgan.generator.canvas, network.blobs, code_dim, network.feature_dim, network.style_dim)


def load_pretrained(folder: Path) -> Pretrained:
    """Load the networks saved by blobgan_pretrain, frozen; raise BlobexError if there are none."""
    kind = "blobgan_pretrain"
    config = weights.read_config(folder, kind)
    with weights.config_errors(folder, kind):
        saved = parse(_Saved, {field.name: config.get(field.name) for field in dataclasses.fields(_Saved)})
        blobgan = from_config(config)
    slots = {str(group): count for group, count in saved.slots.items()}
    if sum(slots.values()) != blobgan.network.blobs:
        raise BlobexError(f"the config in {folder} is damaged: run `dvc repro {kind}` again")
    encoder = build_segment_encoder(blobgan, saved.code_dim)
    examples = StoredExamples(saved.examples, blobgan.network.blobs, saved.code_dim)
    whole = nn.ModuleDict({"blobgan": blobgan, "encoder": encoder, "examples": examples})
    weights.load_state(folder, kind, whole)
    whole.eval().requires_grad_(False)
    return Pretrained(blobgan, encoder, slots, examples)


def _layer(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.LeakyReLU(0.2)]
