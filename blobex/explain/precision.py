"""Networks of one setup as callables, in float32, in bfloat16, or as the published scripts run them."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from blobex.decisions.decision import Decision
from blobex.decisions.source import from_callable
from blobex.layout.splat import splat_by_solver
from blobex.networks.blobgan import BlobGAN
from blobex.networks.decision import DecisionModel
from blobex.networks.encoder import Encoder
from blobex.networks.perceptual import PerceptualDistance
from blobex.optim.networks import Encode, Networks, Perceptual
from blobex.perception.segment_reader import SegmentReader

Module = TypeVar("Module", bound=nn.Module)
InitialEncoder = Encoder | SegmentReader
T = TypeVar("T")
U = TypeVar("U")


def assemble(blobgan: BlobGAN, encoder: InitialEncoder, perceptual: PerceptualDistance, decision: Decision) -> Networks:
    """Return the networks as callables; weights and images use channels_last memory."""
    return Networks(
        render=blobgan.render,
        scores=blobgan.scores,
        encode=_encode(blobgan, encoder),
        decide=lambda images: decision.logits(_displayable(images)),
        features=lambda images: decision.features(_displayable(images)),
        perceptual=perceptual,
    )


def assemble_bfloat16(
    blobgan: BlobGAN, encoder: InitialEncoder, perceptual: PerceptualDistance, decision: Decision, device_type: str
) -> Networks:
    """Return the networks in bfloat16; a decision model that is not of this package keeps its precision."""
    renderer = copy.deepcopy(blobgan)
    renderer.generator.fold(torch.bfloat16)
    own = _own_model(decision)
    networks = assemble(
        renderer, encoder, _to_bfloat16(perceptual), _with_network(decision, _to_bfloat16(own)) if own else decision
    )
    decide, features = networks.decide, networks.features
    if own:
        decide, features = _autocast(decide, device_type), _autocast(features, device_type)
    return Networks(
        render=_autocast(networks.render, device_type),
        scores=networks.scores,
        encode=_autocast(networks.encode, device_type),
        decide=decide,
        features=features,
        perceptual=_AutocastPerceptual(networks.perceptual, device_type),
    )


def assemble_published(
    blobgan: BlobGAN, encoder: InitialEncoder, perceptual: PerceptualDistance, decision: Decision
) -> Networks:
    """Return the networks as the published scripts run them.

    Blobs are splatted with a linear solver, memory is contiguous, and the weights of generator and decision model
    require gradients that nobody reads; LPIPS is frozen. The generator's style maps keep their closed form, and its
    constants are not folded.
    """
    own = _own_model(decision)
    if own:
        own = copy.deepcopy(own).requires_grad_(True)
        own.to(memory_format=torch.contiguous_format)
        decision = _with_network(decision, own)
    perceptual.to(memory_format=torch.contiguous_format)
    blobgan.requires_grad_(True).to(memory_format=torch.contiguous_format)
    blobgan.generator.splat = splat_by_solver
    return Networks(
        render=blobgan.render,
        scores=blobgan.scores,
        encode=_encode(blobgan, encoder),
        decide=lambda images: decision.logits(images.clamp(-1, 1)),
        features=lambda images: decision.features(images.clamp(-1, 1)),
        perceptual=perceptual,
    )


def _encode(blobgan: BlobGAN, encoder: InitialEncoder) -> Encode:
    if isinstance(encoder, SegmentReader):
        return encoder
    return lambda images: blobgan.layout_from_w(encoder(_channels_last(images)), encoder.mlp_idx)


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def _displayable(images: Tensor) -> Tensor:
    """Clamp images to the displayable range [-1, 1]."""
    return _channels_last(images.clamp(-1, 1))


def _own_model(decision: Decision) -> DecisionModel | None:
    """Return the network of a decision model of this package."""
    return next((module for module in decision.modules[:1] if isinstance(module, DecisionModel)), None)


def _with_network(decision: Decision, network: DecisionModel) -> Decision:
    return from_callable(network.eval(), decision.kind, decision.outputs, decision.input)


def _to_bfloat16(module: Module) -> Module:
    """Return a copy with bfloat16 convolutions and linear layers; normalisation layers keep float32."""
    lowered = copy.deepcopy(module)
    for part in lowered.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.to(torch.bfloat16)
    return lowered


def _autocast(function: Callable[[T], U], device_type: str) -> Callable[[T], U]:
    def lowered(argument: T) -> U:
        with torch.autocast(device_type, torch.bfloat16):
            return function(argument)

    return lowered


@dataclass(frozen=True)
class _AutocastPerceptual:
    """Perceptual distance whose network computes in bfloat16."""

    distance: Perceptual
    device_type: str

    def embed(self, images: Tensor) -> list[Tensor]:
        with torch.autocast(self.device_type, torch.bfloat16):
            return self.distance.embed(images)

    def distance_to(self, embedded: Sequence[Tensor], images: Tensor) -> Tensor:
        with torch.autocast(self.device_type, torch.bfloat16):
            return self.distance.distance_to(embedded, images)
