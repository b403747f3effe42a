"""Checkpoints of the published BlobGAN and OCTET code, as blobex networks.

The architecture is read off the file's tensors and settings; nothing about it is an option.
"""

from __future__ import annotations

import dataclasses
import re
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor, nn

from blobex.config.training import Network
from blobex.core.errors import BlobexError
from blobex.layout.splat import AREA
from blobex.networks.blobgan import BlobGAN, from_config
from blobex.networks.decision import BLOCKS, DecisionModel
from blobex.networks.encoder import Encoder
from blobex.networks.layout_network import LEARNING_RATE_MULTIPLIER
from blobex.networks.published_names import (
    decision_state,
    generator_state,
    layout_state,
    residual_shape,
    residual_state,
    strip,
)
from blobex.networks.residual import ResidualNetwork

Module = TypeVar("Module", bound=nn.Module)

# The tensor by which a network is known, after the names of the modules that hold the network.
_HOLDERS = r"((?:(?:module|model|encoder|decision)\.)*)"
_LANDMARKS = {
    "encoder": _HOLDERS + r"()convs\.0\.0\.weight",
    "decision": _HOLDERS + r"((?:feat_extract\.)*(?:features\.)?)conv0\.weight",
}
_PLACES = ("model_state_dict", "model", "state_dict")
_SETTINGS = ("", "args.", "config.", "hyper_parameters.")


@dataclass(frozen=True)
class StoredNetwork:
    """Where a checkpoint holds a network: under which key (None: at the top), behind which names of modules."""

    place: str | None
    prefix: str
    body: str  # what a decision model's DenseNet is called
    tensors: dict[str, Tensor]


@contextmanager
def _published_form() -> Iterator[None]:
    """Whatever goes wrong within is the checkpoint's fault."""
    try:
        yield
    except BlobexError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {textwrap.shorten(str(error), 200)}"
        raise BlobexError(f"the checkpoint is not of the published form ({reason}): give another file") from error


def kinds(checkpoint: Mapping[str, Any]) -> list[str]:
    """Which of generator, encoder and decision a checkpoint holds."""
    state = checkpoint.get("state_dict")
    generator = isinstance(state, Mapping) and any(str(name).startswith("generator_ema.") for name in state)
    return ["generator"] * generator + [kind for kind in _LANDMARKS if _places(checkpoint, kind)]


def find(checkpoint: Mapping[str, Any], kind: str) -> StoredNetwork:
    """The encoder or decision model of a checkpoint; BlobexError if there is none, or more than one."""
    found = _places(checkpoint, kind)
    if len(found) != 1:
        count = "more than one" if found else "no"
        raise BlobexError(f"the checkpoint holds {count} {kind} of the published form: give another file")
    return found[0]


def _places(checkpoint: Mapping[str, Any], kind: str) -> list[StoredNetwork]:
    """All networks of a kind under the first key that holds any."""
    for place in (*_PLACES, None):
        state = checkpoint if place is None else checkpoint.get(place)
        if not isinstance(state, Mapping):
            continue
        matches = [re.fullmatch(_LANDMARKS[kind], str(name)) for name in state]
        found = [StoredNetwork(place, match[1], match[2], strip(state, match[1])) for match in matches if match]
        if found:
            return found
    return []


@_published_form()
def generator_from_checkpoint(checkpoint: Mapping[str, Any]) -> BlobGAN:
    """The EMA generator and layout network of a published Lightning file, frozen.

    Its noise maps become the fixed ones if they fit the layers. `mean_w` is left at zero. BlobexError: the file is of
    another form, or needs what blobex cannot do.
    """
    state = checkpoint.get("state_dict")
    if not isinstance(state, Mapping):
        raise BlobexError("the checkpoint has no state_dict: give a published BlobGAN Lightning file")
    generator, layout = strip(state, "generator_ema."), strip(state, "layout_net_ema.")
    if not generator or not layout:
        raise BlobexError("the checkpoint has no generator_ema and layout_net_ema: give a published BlobGAN file")
    settings = checkpoint.get("hyper_parameters")
    settings = settings if isinstance(settings, Mapping) else {}
    network, height, aspect_ratio = _architecture(generator, layout, settings)
    model = from_config({"network": dataclasses.asdict(network), "height": height, "aspect_ratio": aspect_ratio})
    model.generator.load_state_dict(generator_state(generator))
    multiplier = setting(settings, float, "layout_net.mlp_lr_mul") or LEARNING_RATE_MULTIPLIER
    model.layout_network.load_state_dict(layout_state(layout, multiplier / LEARNING_RATE_MULTIPLIER))
    model.load_state_dict(noise_maps(checkpoint, model), strict=False)
    return _frozen(model)


def noise_maps(checkpoint: Mapping[str, Any], model: BlobGAN) -> dict[str, Tensor]:
    """The file's noise maps, by the names of `model`'s buffers; none unless each fits its layer."""
    prefix = "generator_ema.noises.noise_"
    given = strip(checkpoint["state_dict"], prefix)
    wanted = [noise.shape for noise in model.fixed_noise()]
    if [given[str(index)].shape for index in range(len(given)) if str(index) in given] != wanted:
        return {}
    return {f"noise_{index}": tensor for index, tensor in given.items()}


@_published_form()
def discriminator_from_state(published: Mapping[str, Tensor]) -> ResidualNetwork:
    """A published discriminator; its channels and aspect ratio follow from the shapes."""
    state = residual_state(published)
    channels, aspect_ratio = residual_shape(state)
    model = ResidualNetwork(channels, aspect_ratio, state["output.weight"].shape[0], standard_deviation=True)
    model.load_state_dict(state)
    return _frozen(model)


@_published_form()
def encoder_from_checkpoint(checkpoint: Mapping[str, Any]) -> Encoder:
    """A published encoder, frozen; its shape follows from the tensors, `mlp_idx` is -1 unless the file names it."""
    mlp_idx = setting(checkpoint, int, *(f"{place}mlp_idx" for place in _SETTINGS))
    return encoder_from_state(find(checkpoint, "encoder").tensors, -1 if mlp_idx is None else mlp_idx)


@_published_form()
def encoder_from_state(published: Mapping[str, Tensor], mlp_idx: int = -1) -> Encoder:
    """A published encoder with the discriminator's body; its shape follows from the tensors."""
    state = residual_state(published)
    channels, aspect_ratio = residual_shape(state)
    encoder = Encoder("stylegan", channels, max(channels), aspect_ratio, state["output.weight"].shape[0], mlp_idx)
    encoder.body.load_state_dict(state)
    return _frozen(encoder)


@_published_form()
def decision_from_checkpoint(checkpoint: Mapping[str, Any], height: int, width: int) -> DecisionModel:
    """A published decision model, frozen, for pictures of the given size, which a DenseNet does not tell."""
    found = find(checkpoint, "decision")
    state = decision_state(found.tensors, found.body)
    layers = [
        sum(bool(re.fullmatch(rf"body\.denseblock{block}\.denselayer\d+\.conv1\.weight", name)) for name in state)
        for block in range(1, 5)
    ]
    architecture = next((name for name, blocks in BLOCKS.items() if list(blocks) == layers), None)
    if architecture is None:
        raise BlobexError(f"the checkpoint's DenseNet has blocks of {layers} layers: give one of a DenseNet-121")
    model = DecisionModel(architecture, height, width, len(state["classifier.weight"]))
    model.load_state_dict(state)
    return _frozen(model)


def _frozen(network: Module) -> Module:
    """The network, ready for use; BlobexError if one of its numbers is not finite."""
    for name, tensor in network.state_dict().items():
        if not tensor.isfinite().all():
            raise BlobexError(f"{name} has values that are not finite: the file is damaged, give another")
    return network.eval().requires_grad_(False)


def setting(settings: Mapping[str, Any], kind: type, *paths: str) -> Any:
    """The first of the settings at dotted `paths` that is a number of `kind`; None if none is."""
    for path in paths:
        value: Any = settings
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        try:
            return kind(value)
        except (TypeError, ValueError):  # missing, or a reference to another setting
            continue
    return None


def _architecture(
    generator: Mapping[str, Tensor], layout: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> tuple[Network, int, int]:
    """The network, and the height and aspect ratio of its pictures."""
    layers = sum(name.endswith(".weight") for name in layout)
    first, last = layout["mlp.1.weight"], layout[f"mlp.{layers}.weight"]
    feature_dim = generator["conv1.conv.weight"].shape[2]
    style_dim = generator["conv1.conv.modulation.weight"].shape[1]
    levels = sum(name.startswith("to_rgbs.") and name.endswith(".conv.weight") for name in generator)
    widths = [generator["conv1.conv.weight"].shape[1]]
    widths += [generator[f"convs.{2 * level}.conv.weight"].shape[1] for level in range(levels)]
    height, size_in = (
        setting(settings, int, "resolution", "generator.size"),
        setting(settings, int, "generator.size_in"),
    )
    if height is None and size_in is None:
        raise BlobexError("the checkpoint's hyper_parameters name no resolution: give a published BlobGAN file")
    height = size_in << levels if height is None else height
    aspect_ratio = setting(settings, int, "aspect_ratio", "generator.aspect_ratio")
    layout_settings = settings.get("layout_net")
    norm_features = layout_settings.get("norm_features") if isinstance(layout_settings, Mapping) else None
    smallest = height >> levels
    per_blob = 6 + feature_dim + style_dim
    network = Network(
        blobs=(last.shape[0] - 1 - feature_dim - style_dim) // (per_blob + 1),
        blob_area=setting(settings, float, "ab_norm", "layout_net.ab_norm") or AREA,
        size_in=smallest,
        feature_dim=feature_dim,
        style_dim=style_dim,
        layout="mlp",
        z_dim=first.shape[1],
        layout_hidden=last.shape[1],
        layout_layers=layers,
        norm_features=norm_features not in (False, 0),
        channels={smallest << level: width for level, width in enumerate(widths)},
        discriminator_channels={},
        rectangle="legacy",
    )
    return network, height, 1 if aspect_ratio is None else aspect_ratio
