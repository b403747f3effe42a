"""A setup's trained networks: loaded from files, as callables in float32, bfloat16, or as the published scripts."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blobex.config.data import ImageSize
from blobex.config.params import Params
from blobex.core.device import resolve_precision
from blobex.core.errors import BlobexError
from blobex.core.project import in_project
from blobex.counterfactual.object_examples import ObjectExamples, groups_of, objects_of, surfaces_of
from blobex.decisions.decision import Decision, frozen_eval
from blobex.decisions.identity import identify
from blobex.decisions.load import Model, load
from blobex.decisions.source import from_callable
from blobex.explain.foreign import Foreign, foreign_images
from blobex.explain.plausibility import appearance_excess, sees_change
from blobex.layout.assign import layout_from_ellipses, with_appearance
from blobex.layout.splat import splat_by_solver
from blobex.networks import weights
from blobex.networks.blobgan import BlobGAN, load_blobgan
from blobex.networks.decision import DecisionModel
from blobex.networks.encoder import Encoder, load_encoder
from blobex.networks.parser import Parser, load_parser
from blobex.networks.perceptual import PerceptualDistance, load_perceptual
from blobex.networks.segment_encoder import load_pretrained
from blobex.optim.network_callables import Decide, Encode, Networks, Perceptual
from blobex.perception.segment_reader import SegmentReader
from blobex.tracking.store import load_model

Module = TypeVar("Module", bound=nn.Module)
InitialEncoder = Encoder | SegmentReader
P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class LoadedNetworks:
    """Model to explain and networks of its setup."""

    decision: Decision
    exact: Networks  # float32
    quick: Networks  # fastest precision of the device
    blobs: int  # of a layout, without the background
    weights: dict[str, str]  # SHA-256 of each network's weights, and of the model
    parser: Parser | None
    examples: ObjectExamples | None  # None with an encoder that knows no objects
    foreign: Foreign | None  # None without a parser


def load_networks(
    setup: str, models: Path, params: Params, device: torch.device, decision: str | Decision | Model
) -> LoadedNetworks:
    """Load the networks of `setup` from `models`; BlobexError if one is missing or for another image size."""
    _check_folders(setup, models, params)
    blobgan = load_blobgan(models / "blobgan" / setup)
    encoder = _load_initial_encoder(models, setup, params.invert.start, blobgan)
    perceptual = load_perceptual(params.data.perceptual, models / "parser" / setup, in_project(params.data.external))
    run, size = params.run, params.setup(setup)
    from_mlflow = partial(load_model, tracking_uri=run.tracking_uri, device=device, s3_endpoint=run.s3_endpoint)
    model = load(decision, size, device, models, setup, mlflow_loader=from_mlflow)
    networks = _to_device(blobgan, device), _to_device(encoder, device), _to_device(perceptual, device)
    hashes = {key: state_hash([net]) for key, net in zip(("blobgan", "encoder", "perceptual"), networks, strict=True)}
    # One that cannot be identified is another at each start.
    hashes["decision"] = identify(model, size, device).content or uuid.uuid4().hex
    blobs, parser = blobgan.network.blobs, load_parser_if_present(models / "parser" / setup, size, device)
    if parser is not None:
        hashes["parser"] = state_hash([parser])
    examples, foreign = _object_examples(encoder, device), None
    if parser is not None:
        foreign = foreign_images(parser, networks[0], device)
    complete = partial(
        dataclasses.replace,
        excess=appearance_excess(encoder, device),
        nameable=None if parser is None else sees_change(parser),
        segments=encoder.segment_maps if isinstance(encoder, SegmentReader) else None,
    )
    if params.search.mode == "published":
        exact = assemble_published(*networks, model)
        return LoadedNetworks(model, exact, exact, blobs, hashes, parser, None, foreign)
    exact = quick = complete(assemble(*networks, model))
    blobgan.generator.fold(torch.float32)
    if resolve_precision(params.run.precision, device) != "float32":
        quick = complete(assemble_bfloat16(*networks, model, device.type))
    return LoadedNetworks(model, exact, quick, blobs, hashes, parser, examples, foreign)


def load_parser_if_present(folder: Path, size: ImageSize, device: torch.device) -> Parser | None:
    """Load the parser of a setup, or return None without one; BlobexError if it is for another image size."""
    if not (folder / weights.CONFIG).is_file():
        return None
    check_size(folder, "parser", folder.name, size.height, size.width)
    return load_parser(folder).to(device)


def check_size(folder: Path, kind: str, setup: str, height: int, width: int) -> None:
    """Raise BlobexError unless the network in `folder` is for the setup's image size."""
    saved = weights.read_config(folder, kind)
    sizes = [saved[name] for name in ("height", "width", "aspect_ratio") if name in saved]
    if any(type(size) is not int for size in sizes):
        raise BlobexError(f"the config in {folder} is damaged: run `dvc repro {kind}` again")
    saved_height = saved.get("height", height)
    saved_width = saved.get("width", saved_height * saved.get("aspect_ratio", width // height))
    if (saved_height, saved_width, saved.get("setup", setup)) != (height, width, setup):
        raise BlobexError(
            f"the {kind} in {folder} is for {saved_height}x{saved_width} images but {setup} has {height}x{width}: "
            "give the models and parameters of one run"
        )


def state_hash(modules: Sequence[nn.Module]) -> str:
    """Return the SHA-256 of all parameters and buffers with their names."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in module.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _check_folders(setup: str, models: Path, params: Params) -> None:
    size, start = params.setup(setup), params.invert.start
    for kind in dict.fromkeys(("blobgan", start, *(["parser"] if params.data.perceptual == "parser" else []))):
        folder = models / kind / setup
        if kind == "blobgan_pretrain" and not (folder / weights.CONFIG).is_file():
            raise BlobexError(
                f"invert.start is {kind}, but there are no weights in {folder}: run `dvc repro {kind}` or `dvc pull`, "
                "or set invert.start to encoder"
            )
        check_size(folder, kind, setup, size.height, size.width)


def _load_initial_encoder(models: Path, setup: str, kind: str, blobgan: BlobGAN) -> InitialEncoder:
    """Load the encoder that initialises the inversion; BlobexError if it was trained with another BlobGAN."""
    encoder: InitialEncoder
    folder, generator = models / kind / setup, models / "blobgan" / setup
    if kind == "blobgan_pretrain":
        if weights.read_config(generator, "blobgan").get("start") != "pretrained":
            raise BlobexError(f"the BlobGAN in {generator} was not trained on segments: set invert.start to encoder")
        pretrained = load_pretrained(folder)
        encoder = SegmentReader(load_parser(models / "parser" / setup), pretrained)
        fits = pretrained.network == blobgan.network
    else:
        encoder = load_encoder(folder, kind)
        fits = encoder.config["w_size"] == blobgan.layout_network.w_size(encoder.mlp_idx)
    if not fits:
        raise BlobexError(f"the encoder in {folder} was trained with another BlobGAN: run `dvc repro {kind}`")
    return encoder


def _object_examples(encoder: InitialEncoder, device: torch.device) -> ObjectExamples | None:
    """Return the example images that are stored with a segment encoder."""
    if not isinstance(encoder, SegmentReader):
        return None
    stored = encoder.examples.to(device)
    ellipses = layout_from_ellipses(stored.xs, stored.ys, stored.covs, stored.sizes)
    layout = with_appearance(ellipses, *encoder.encoder.appearance(stored.codes))
    present = F.pad(stored.present, (1, 0), value=True)
    slots = encoder.slots
    return ObjectExamples(layout, present, objects_of(slots), surfaces_of(slots), groups_of(slots)).to(device)


def _to_device(network: Module, device: torch.device) -> Module:
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def assemble(blobgan: BlobGAN, encoder: InitialEncoder, perceptual: PerceptualDistance, decision: Decision) -> Networks:
    """Return the networks as callables; weights and images use channels_last memory."""
    return Networks(
        render=blobgan.render,
        scores=blobgan.scores,
        encode=encoder if isinstance(encoder, SegmentReader) else _encode(blobgan, encoder),
        decide=lambda images: decision.logits(_displayable(images)),
        features=lambda images: decision.features(_displayable(images)),
        perceptual=perceptual,
        together=blobgan.draw,
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
    return dataclasses.replace(
        networks,
        render=_autocast(networks.render, device_type),
        encode=_autocast(networks.encode, device_type),
        decide=decide,
        features=features,
        perceptual=_AutocastPerceptual(networks.perceptual, device_type),
        together=_autocast(renderer.draw, device_type),
    )


def assemble_published(
    blobgan: BlobGAN, encoder: InitialEncoder, perceptual: PerceptualDistance, decision: Decision
) -> Networks:
    """Return the networks as the published scripts run them: blobs are splatted with a linear solver, memory is
    contiguous, images are decided as they are rendered, not clamped, and the weights of generator and decision model
    require gradients that nobody reads; LPIPS is frozen.
    """
    own = _own_model(decision)
    if own:
        own = copy.deepcopy(own).requires_grad_(True)
        own.to(memory_format=torch.contiguous_format)
        decision = _with_network(decision, own)
    perceptual.to(memory_format=torch.contiguous_format)
    blobgan.requires_grad_(True).to(memory_format=torch.contiguous_format)
    blobgan.generator.splat = splat_by_solver
    return dataclasses.replace(
        assemble(blobgan, encoder, perceptual, decision),
        decide=decision.logits,
        features=decision.features,
    )


def decided(decision: Decision, device: torch.device, batch_size: int) -> Decide:
    """Return the model's outputs of any number of images (N,3,H,W) in [-1,1], on the CPU, without gradients."""

    def decide(images: Tensor) -> Tensor:
        with frozen_eval(decision), torch.no_grad():
            parts = images.split(batch_size)
            return torch.cat([decision.logits(_displayable(part.to(device))).cpu() for part in parts])

    return decide


def _encode(blobgan: BlobGAN, encoder: Encoder) -> Encode:
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


def _autocast(function: Callable[P, T], device_type: str) -> Callable[P, T]:
    def lowered(*args: P.args, **kwargs: P.kwargs) -> T:
        with torch.autocast(device_type, torch.bfloat16):
            return function(*args, **kwargs)

    return lowered


class _AutocastPerceptual:
    """Perceptual distance whose network computes in bfloat16."""

    def __init__(self, distance: Perceptual, device_type: str) -> None:
        self.embed = _autocast(distance.embed, device_type)
        self.distance_to = _autocast(distance.distance_to, device_type)
