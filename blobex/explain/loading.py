"""The trained networks of a setup, put together for inversion and search."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from blobex.config.data import ImageSize
from blobex.config.params import Params
from blobex.core.device import resolve_precision
from blobex.core.errors import BlobexError
from blobex.counterfactual.object_examples import ObjectExamples, objects_of, surfaces_of
from blobex.decisions.decision import Decision
from blobex.decisions.load import Model, load
from blobex.decisions.source import from_callable
from blobex.layout.assign import layout_from_ellipses, with_appearance
from blobex.layout.published_splat import splat_by_solver
from blobex.networks import weights
from blobex.networks.blobgan import BlobGAN, load_blobgan
from blobex.networks.decision import DecisionModel
from blobex.networks.encoder import Encoder, load_encoder
from blobex.networks.parser import Parser, load_parser
from blobex.networks.perceptual import PerceptualDistance, load_perceptual
from blobex.networks.segment_encoder import load_pretrained
from blobex.optim.networks import Encode, Networks, Perceptual
from blobex.perception.segment_reader import SegmentReader
from blobex.tracking.store import load_model

Module = TypeVar("Module", bound=nn.Module)
WEIGHTS = ("blobgan", "encoder", "perceptual")  # what the networks are called beside the decision model
Starter = Encoder | SegmentReader
T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class Loaded:
    """The model to explain, and all networks twice: `exact` in float32, `quick` to find the way."""

    decision: Decision
    exact: Networks
    quick: Networks
    blobs: int  # of a layout, without the background
    weights: dict[str, str]  # SHA-256 of each network's, by its name
    parser: Parser | None  # None where there is none
    examples: ObjectExamples | None  # of whole objects; None where inversions begin at an encoder's w


def load_networks(
    setup: str, models: Path, params: Params, device: torch.device, decision: str | Decision | Model
) -> Loaded:
    """The networks of `setup` saved in `models`; BlobexError: some are missing, or not of the parameters' sizes."""
    size, start = params.setup(setup), params.invert.start
    folders = {kind: models / kind / setup for kind in ("blobgan", start, "parser")}
    if params.data.perceptual != "parser":
        del folders["parser"]
    for kind, folder in folders.items():
        if kind == "blobgan_pretrain" and not (folder / weights.CONFIG).is_file():
            raise BlobexError(
                f"invert.start is {kind}, of which there are no weights in {folder}: run `dvc repro {kind}` or `dvc "
                "pull`, or set invert.start to encoder"
            )
        check_size(folder, kind, setup, size.height, size.width)
    blobgan = load_blobgan(folders["blobgan"])
    encoder = _starter(models, setup, start, blobgan)
    perceptual = load_perceptual(params.data.perceptual, models / "parser" / setup, Path(params.data.external))
    run = params.run
    store = partial(load_model, tracking_uri=run.tracking_uri, device=device, s3_endpoint=run.s3_endpoint)
    model = load(decision, size, device, models, setup, mlflow_loader=store)
    networks = _placed(blobgan, device), _placed(encoder, device), _placed(perceptual, device)
    hashes = {name: state_hash([network]) for name, network in zip(WEIGHTS, networks, strict=True)}
    hashes["decision"] = state_hash(model.modules)
    parser, examples = load_parser_if_present(models / "parser" / setup, size, device), _examples(encoder, device)
    if params.search.mode == "published":
        exact = _published(*networks, model)
        return Loaded(model, exact, exact, blobgan.network.blobs, hashes, parser, None)
    exact = assemble(*networks, model)
    blobgan.generator.fold(torch.float32)
    if resolve_precision(params.run.precision, device) == "float32":
        return Loaded(model, exact, exact, blobgan.network.blobs, hashes, parser, examples)
    quick = _quick(*networks, model, device.type)
    return Loaded(model, exact, quick, blobgan.network.blobs, hashes, parser, examples)


def _starter(models: Path, setup: str, kind: str, blobgan: BlobGAN) -> Starter:
    """What says where an inversion begins; BlobexError unless it is of this BlobGAN."""
    starter: Starter
    folder, trained, parser = (models / name / setup for name in (kind, "blobgan", "parser"))
    if kind == "blobgan_pretrain":
        if weights.read_config(trained, "blobgan").get("start") != "pretrained":
            raise BlobexError(f"the BlobGAN in {trained} never learnt to paint segments: set invert.start to encoder")
        pretrained = load_pretrained(folder)
        starter, fits = SegmentReader(load_parser(parser), pretrained), pretrained.blobgan.network == blobgan.network
    else:
        starter = load_encoder(folder, kind)
        fits = starter.config["w_size"] == blobgan.layout_network.w_size(starter.mlp_idx)
    if not fits:
        raise BlobexError(f"the encoder in {folder} is of another BlobGAN: run `dvc repro {kind}`")
    return starter


def _examples(encoder: Starter, device: torch.device) -> ObjectExamples | None:
    """The example pictures that came with a segment encoder."""
    if not isinstance(encoder, SegmentReader):
        return None
    kept = encoder.examples.to(device)
    places = layout_from_ellipses(kept.xs, kept.ys, kept.covs, kept.sizes)
    layout = with_appearance(places, *encoder.encoder.appearance(kept.codes))
    shown = F.pad(kept.present, (1, 0), value=True)
    return ObjectExamples(layout, shown, objects_of(encoder.slots), surfaces_of(encoder.slots)).to(device)


def _encode(blobgan: BlobGAN, encoder: Starter) -> Encode:
    """Pictures to the blobs where their inversion begins."""
    if isinstance(encoder, SegmentReader):
        return encoder
    return lambda images: blobgan.layout_from_w(encoder(_channels_last(images)), encoder.mlp_idx)


def load_parser_if_present(folder: Path, size: ImageSize, device: torch.device) -> Parser | None:
    """The parser in the folder of a setup, None if there is none; BlobexError if it is for pictures of another size."""
    if not (folder / weights.CONFIG).is_file():
        return None
    check_size(folder, "parser", folder.name, size.height, size.width)
    return load_parser(folder).to(device)


def assemble(blobgan: BlobGAN, encoder: Starter, perceptual: PerceptualDistance, model: Decision) -> Networks:
    """The networks as callables. Pictures come to them with channels last, as their weights are."""
    return Networks(
        render=blobgan.render,
        scores=blobgan.scores,
        encode=_encode(blobgan, encoder),
        decide=lambda images: model.logits(_shown(images)),
        features=lambda images: model.features(_shown(images)),
        perceptual=perceptual,
    )


def check_size(folder: Path, kind: str, setup: str, height: int, width: int) -> None:
    """BlobexError unless the network in `folder` is for the setup's pictures."""
    saved = weights.read_config(folder, kind)
    sizes = [saved[name] for name in ("height", "width", "aspect_ratio") if name in saved]
    if any(type(size) is not int for size in sizes):
        raise BlobexError(f"the config in {folder} is damaged: run `dvc repro {kind}` again")
    found_height = saved.get("height", height)
    found_width = saved.get("width", found_height * saved.get("aspect_ratio", width // height))
    if (found_height, found_width, saved.get("setup", setup)) != (height, width, setup):
        raise BlobexError(
            f"the {kind} in {folder} is for {found_height}x{found_width} pictures but {setup} has {height}x{width}: "
            "give the models and parameters of one run"
        )


def state_hash(modules: Sequence[nn.Module]) -> str:
    """SHA-256 of all parameters and buffers, with their names."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in module.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _placed(network: Module, device: torch.device) -> Module:
    return network.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)


def _shown(images: Tensor) -> Tensor:
    """Pictures as they can be shown: a decision about brighter than white explains nothing."""
    return _channels_last(images.clamp(-1, 1))


def _quick(blobgan: BlobGAN, encoder: Starter, perceptual: PerceptualDistance, model: Decision, kind: str) -> Networks:
    """The networks in bfloat16, as far as they are ours; somebody else's model stays as it is."""
    painter = copy.deepcopy(blobgan)
    painter.generator.fold(torch.bfloat16)
    own = _own(model)
    networks = assemble(painter, encoder, _lowered(perceptual), _rebuilt(model, _lowered(own)) if own else model)
    lowered = {name: _autocast(getattr(networks, name), kind) for name in ("render", "encode")}
    decide = {name: getattr(networks, name) for name in ("decide", "features")}
    if own:
        decide = {name: _autocast(function, kind) for name, function in decide.items()}
    distance = _LoweredPerceptual(networks.perceptual, kind)
    return Networks(**lowered, **decide, scores=networks.scores, perceptual=distance)


def _own(model: Decision) -> DecisionModel | None:
    """The network of blobex that the model is, if it is one."""
    return next((module for module in model.modules[:1] if isinstance(module, DecisionModel)), None)


def _rebuilt(model: Decision, network: DecisionModel) -> Decision:
    """The model with another network in its place."""
    return from_callable(network.eval(), model.kind, model.outputs, model.input)


def _lowered(module: Module) -> Module:
    """A copy whose convolutions and linear layers hold bfloat16; what normalises stays in float32."""
    lowered = copy.deepcopy(module)
    for part in lowered.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            part.to(torch.bfloat16)
    return lowered


def _autocast(function: Callable[[T], U], kind: str) -> Callable[[T], U]:
    def lowered(argument: T) -> U:
        with torch.autocast(kind, torch.bfloat16):
            return function(argument)

    return lowered


@dataclass(frozen=True)
class _LoweredPerceptual:
    """A perceptual distance whose network computes in bfloat16."""

    distance: Perceptual
    kind: str

    def embed(self, images: Tensor) -> list[Tensor]:
        with torch.autocast(self.kind, torch.bfloat16):
            return self.distance.embed(images)

    def distance_to(self, embedded: Sequence[Tensor], images: Tensor) -> Tensor:
        with torch.autocast(self.kind, torch.bfloat16):
            return self.distance.distance_to(embedded, images)


def _published(blobgan: BlobGAN, encoder: Starter, perceptual: PerceptualDistance, model: Decision) -> Networks:
    """The networks as the published scripts run them: a linear solver for the blobs, rows in memory, and generator and
    decision weights that ask for gradients although nobody reads them. LPIPS is frozen there too.

    The generator's style maps keep their closed form and its folding of constants is left out.
    """
    own = _own(model)
    if own:  # another's is left as it is
        own = copy.deepcopy(own).requires_grad_(True)
        own.to(memory_format=torch.contiguous_format)
        model = _rebuilt(model, own)
    perceptual.to(memory_format=torch.contiguous_format)
    blobgan.requires_grad_(True).to(memory_format=torch.contiguous_format)
    blobgan.generator.splat = splat_by_solver
    return Networks(
        render=blobgan.render,
        scores=blobgan.scores,
        encode=_encode(blobgan, encoder),
        decide=lambda images: model.logits(images.clamp(-1, 1)),
        features=lambda images: model.features(images.clamp(-1, 1)),
        perceptual=perceptual,
    )
