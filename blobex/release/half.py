"""Weights in half precision, as far as that is harmless: what each network then says otherwise is measured."""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from blobex.files import whole_file
from blobex.networks.blobgan import BlobGAN, load_blobgan
from blobex.networks.decision import DecisionModel, load_decision
from blobex.networks.encoder import Encoder, load_encoder
from blobex.networks.parser import Parser, load_parser
from blobex.networks.segment_encoder import load_pretrained
from blobex.networks.weights import WEIGHTS

LIMIT = 0.01  # largest error of an output, relative to the largest output, that is still harmless
SAMPLES, SEED = 8, 0  # pictures that the networks are compared on, and of what they are drawn


@dataclass(frozen=True)
class Halved:
    """What became of a network's weights."""

    half: bool  # whether they are stored in half precision
    error: float  # largest relative error of the network's outputs, if they are or were
    bytes: int  # of the weights' file, as it is stored


def open_network(stage: str, folder: Path) -> nn.Module:
    """The network that a stage saved in a folder; of blobgan_pretrain a dictionary of both."""
    if stage == "blobgan_pretrain":
        pretrained = load_pretrained(folder)
        return nn.ModuleDict({"blobgan": pretrained.blobgan, "encoder": pretrained.encoder})
    if stage == "blobgan":
        return load_blobgan(folder)
    if stage == "encoder":
        return load_encoder(folder)
    return load_parser(folder) if stage == "parser" else load_decision(folder)


@torch.no_grad()
def outputs(network: nn.Module, images: Tensor) -> list[Tensor]:
    """All that a network says: of pictures (N,3,height,width) in [-1,1], and of random numbers if it is a BlobGAN."""
    if isinstance(network, BlobGAN):
        return [network.render(network.sample(latents(network)))]
    if isinstance(network, Parser):
        return [*vars(network(images)).values(), *network.features(images)]
    if isinstance(network, DecisionModel):
        return [network(images), network.features(images)]
    if isinstance(network, Encoder):
        return [network(images)]
    blobgan, encoder = network["blobgan"], network["encoder"]  # type: ignore[index]
    codes = encoder.codes(images, blobgan.sample(latents(blobgan)))
    return [*outputs(blobgan, images), codes, *encoder.looks(codes)]


def latents(blobgan: BlobGAN) -> Tensor:
    """(SAMPLES,z_dim), always the same."""
    return torch.randn(SAMPLES, blobgan.z_dim, generator=torch.Generator().manual_seed(SEED))


@torch.no_grad()
def pictures(blobgan: BlobGAN) -> Tensor:
    """The pictures (SAMPLES,3,height,width) in [-1,1] that networks are compared on: they are the BlobGAN's own."""
    return blobgan.render(blobgan.sample(latents(blobgan))).clamp(-1, 1)


def relative_error(exact: Sequence[Tensor], near: Sequence[Tensor]) -> float:
    """The largest of all outputs' errors, each relative to the largest number of that output.

    What is not finite errs infinitely.
    """
    errors = [
        ((one - other).abs().max() / one.abs().max().clamp(min=torch.finfo(one.dtype).tiny)).item()
        for one, other in zip(exact, near, strict=True)
    ]
    return max(math.inf if math.isnan(error) else error for error in errors)


def halve(stage: str, source: Path, target: Path, images: Tensor) -> Halved:
    """Write the weights of the network in `source` to `target`, where its config is already: in half precision, or as
    they are if some output errs by more than LIMIT.

    Only parameters are halved: buffers and whole numbers stay as they are.
    """
    network = open_network(stage, source)
    store(source / WEIGHTS, target / WEIGHTS, dict(network.named_parameters()).keys())
    error = relative_error(outputs(network, images), outputs(open_network(stage, target), images))
    if error > LIMIT:
        shutil.copyfile(source / WEIGHTS, target / WEIGHTS)
    return Halved(error <= LIMIT, error, (target / WEIGHTS).stat().st_size)


def store(source: Path, target: Path, names: Collection[str]) -> None:
    """Copy a file of tensors; those of `names` in half precision if they are float32."""
    tensors = load_file(source)
    halves = {name: tensors[name].half() for name in names if tensors[name].dtype == torch.float32}
    with whole_file(target) as temporary:
        save_file(tensors | halves, temporary)
        temporary.chmod(0o644)  # safetensors lets nobody else read it
