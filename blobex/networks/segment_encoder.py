"""Segment encoder: the appearance of each blob from an image and the blobs' ellipses."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pydantic.dataclasses
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from blobex.config.read import parse
from blobex.config.training import Group, Network
from blobex.config.value_types import SECTION, Int
from blobex.core.errors import BlobexError
from blobex.layout.assign import BlobAnchors
from blobex.layout.blobs import BlobLayout
from blobex.layout.frames import interpolation, pool_maps
from blobex.layout.splat import Canvas, score_pyramid
from blobex.networks import weights
from blobex.networks.blobgan import BlobGAN, from_config, load_blobgan
from blobex.networks.ops import at_least_float32

STRIDE = 2  # pixels between two points of the body's finest level
WIDTHS = (48, 96)  # channels of the body's levels, the finest first
LOCAL = 16  # channels that are averaged around each point of a grid
MIN_MASS = 0.02  # pixels; the features around a point fade to zero where the blob covers less
KIND = "blobgan_pretrain"
BLOBGAN = "blobgan"  # folder of the BlobGAN, in that of the pretrained networks
MIN_SCORE = 1e-5  # share of the image; the features of a blob with a smaller total score fade to zero


class SegmentEncoder(nn.Module):
    """Network from images and ellipses to the appearance code of each blob.

    A code depends only on the image region that the blob covers: it is made of convolutional features averaged by the
    blob's scores, over the whole blob and around each point of a grid in its frame.
    """

    traits: Tensor
    usual: Tensor

    def __init__(self, canvas: Canvas, network: Network) -> None:
        super().__init__()
        self.canvas, self.feature_dim = canvas, network.feature_dim
        self.grid = 1 if network.appearance is None else network.appearance.texture_grid
        blobs, code_dim = network.blobs, network.feature_dim + network.style_dim
        self.register_buffer("traits", torch.zeros(blobs, 3))  # centres and mean_ellipses of BlobAnchors
        self.register_buffer("usual", torch.zeros(blobs, 6))
        first, second = WIDTHS
        self.fine = nn.Sequential(*_layer(3 * STRIDE**2, first, 1), *_layer(first, first, 1))
        self.coarse = nn.Sequential(*_layer(first, second, 2), *_layer(second, second, 1))
        self.local = nn.Conv2d(first, LOCAL, 1)
        self.code = nn.Linear(self.grid**2 * (LOCAL + 1) + first + second, code_dim)
        self.slot = nn.Parameter(0.5 * torch.randn(blobs + 1, code_dim))  # mean code of the blob

    def codes(self, images: Tensor, layout: BlobLayout) -> Tensor:
        """Return codes (N,K+1,code_dim) of images (N,3,height,width) and the ellipses of `layout`."""
        height = self.canvas.height // STRIDE
        with torch.autocast(images.device.type, enabled=False):
            pyramid = score_pyramid(layout, dataclasses.replace(self.canvas, height=height), height // 2)
            frames = interpolation(layout, self.canvas, height, self.grid)
        fine = self.fine(F.pixel_unshuffle(images.contiguous(memory_format=torch.channels_last), STRIDE))
        coarse = self.coarse(fine)
        local = at_least_float32(self.local(fine))
        parts = [pool_maps(local, pyramid[height], frames, MIN_MASS).flatten(2)]
        parts += [_means(fine, pyramid[height]), _means(coarse, pyramid[height // 2])]
        return at_least_float32(self.code(torch.cat(parts, dim=2))) + self.slot

    @property
    def anchors(self) -> BlobAnchors:
        return BlobAnchors(self.traits, self.usual)

    def set_anchors(self, anchors: BlobAnchors) -> None:
        self.traits.copy_(anchors.centres)
        self.usual.copy_(anchors.mean_ellipses)

    def appearance(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and styles (N,K+1,...) of codes: their first and last entries."""
        return codes[..., : self.feature_dim], codes[..., self.feature_dim :]


def _means(features: Tensor, scores: Tensor) -> Tensor:
    """Return the means (N,K+1,C) of features (N,C,h,w) by each blob's scores (N,K+1,h,w)."""
    weights = scores / (scores.sum((2, 3), keepdim=True) + MIN_SCORE * scores[0, 0].numel())
    points = features.permute(0, 2, 3, 1).flatten(1, 2)
    return at_least_float32(torch.bmm(weights.flatten(2).to(points.dtype), points))


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

    slots: dict[Group, Annotated[Int, Field(ge=1, le=512)]]
    examples: Annotated[Int, Field(ge=1, le=10**5)]


@dataclass(frozen=True)
class Pretrained:
    """Encoder and examples of the stage blobgan_pretrain."""

    network: Network  # of the BlobGAN
    encoder: SegmentEncoder
    slots: dict[str, int]  # number of blobs per group of segments, from back to front
    examples: StoredExamples


def build_segment_encoder(blobgan: BlobGAN) -> SegmentEncoder:
    """Build an untrained encoder for the blobs of a BlobGAN."""
    return SegmentEncoder(blobgan.generator.canvas, blobgan.network)


def save_pretrained(folder: Path, setup: str, blobgan: BlobGAN, pretrained: Pretrained) -> None:
    """Save the networks of blobgan_pretrain; the BlobGAN has a folder of its own, as that of the stage blobgan."""
    config, examples = {"setup": setup, **blobgan.config()}, pretrained.examples
    weights.save(folder / BLOBGAN, "blobgan", config | {"start": "pretrained"}, blobgan)
    config |= {"slots": dict(pretrained.slots), "examples": len(examples.xs)}
    weights.save(folder, KIND, config, nn.ModuleDict({"encoder": pretrained.encoder, "examples": examples}))


def load_pretrained(folder: Path) -> Pretrained:
    """Load the encoder and examples saved by blobgan_pretrain, frozen; raise BlobexError if there are none."""
    config = weights.read_config(folder, KIND)
    with weights.config_errors(folder, KIND):
        saved = parse(_Saved, {field.name: config.get(field.name) for field in dataclasses.fields(_Saved)})
        blobgan = from_config(config)
    slots, network = {str(group): count for group, count in saved.slots.items()}, blobgan.network
    if sum(slots.values()) != network.blobs:
        raise BlobexError(f"the config in {folder} is damaged: run `dvc repro {KIND}` again")
    encoder = build_segment_encoder(blobgan)
    examples = StoredExamples(saved.examples, network.blobs, network.feature_dim + network.style_dim)
    whole = nn.ModuleDict({"encoder": encoder, "examples": examples})
    weights.load_state(folder, KIND, whole)
    whole.eval().requires_grad_(False)
    return Pretrained(network, encoder, slots, examples)


def load_pretrained_blobgan(folder: Path) -> BlobGAN:
    """Load the BlobGAN saved by blobgan_pretrain, frozen; raise BlobexError if there is none."""
    return load_blobgan(folder / BLOBGAN)


def _layer(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride, 1), nn.LeakyReLU(0.2)]
