"""Conversion of checkpoints of the published BlobGAN and OCTET code to blobex networks.

The architecture follows from the tensors and settings of the file.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.layout.splat import AREA
from blobex.networks import published_names
from blobex.networks.blobgan import BlobGAN, from_config
from blobex.networks.decision import BLOCKS, DecisionModel
from blobex.networks.encoder import Encoder
from blobex.networks.layout_network import LEARNING_RATE_MULTIPLIER
from blobex.networks.weights import Module

# Names of a network's first tensor, after the names of the modules that contain the network.
_MODULES = r"((?:(?:module|model|encoder|decision)\.)*)"
_FIRST_TENSOR = {
    "encoder": _MODULES + r"()convs\.0\.0\.weight",
    "decision": _MODULES + r"((?:feat_extract\.)*(?:features\.)?)conv0\.weight",
}
_STATE_KEYS = ("model_state_dict", "model", "state_dict", None)
_SETTINGS = ("", "args.", "config.", "hyper_parameters.")


@dataclass(frozen=True)
class StoredNetwork:
    """Location and tensors of a network in a checkpoint."""

    key: str | None  # of the state dict; None if the checkpoint itself is one
    prefix: str  # of the tensors' names
    body: str  # name of a decision model's DenseNet
    tensors: dict[str, Tensor]


@contextmanager
def _published_form() -> Iterator[None]:
    """Raise BlobexError for any error that a damaged or foreign checkpoint causes within."""
    try:
        yield
    except BlobexError:
        raise
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {textwrap.shorten(str(error), 200)}"
        raise BlobexError(f"the checkpoint is not of the published form ({reason}): give another file") from error


def kinds(checkpoint: Mapping[str, Any]) -> list[str]:
    """Return which of "generator", "encoder" and "decision" a checkpoint contains."""
    state = checkpoint.get("state_dict")
    generator = isinstance(state, Mapping) and any(str(name).startswith("generator_ema.") for name in state)
    return ["generator"] * generator + [kind for kind in _FIRST_TENSOR if _stored_networks(checkpoint, kind)]


def find(checkpoint: Mapping[str, Any], kind: str) -> StoredNetwork:
    """Return the encoder or decision model in a checkpoint; raise BlobexError unless there is exactly one."""
    networks = _stored_networks(checkpoint, kind)
    if len(networks) != 1:
        count = "more than one" if networks else "no"
        raise BlobexError(f"the checkpoint holds {count} {kind} of the published form: give another file")
    return networks[0]


def _stored_networks(checkpoint: Mapping[str, Any], kind: str) -> list[StoredNetwork]:
    """All networks of a kind under the first key that has any."""
    for key in _STATE_KEYS:
        state = checkpoint if key is None else checkpoint.get(key)
        if not isinstance(state, Mapping):
            continue
        matches = [re.fullmatch(_FIRST_TENSOR[kind], str(name)) for name in state]
        networks = [
            StoredNetwork(key, match[1], match[2], published_names.strip(state, match[1])) for match in matches if match
        ]
        if networks:
            return networks
    return []


@_published_form()
def generator_from_checkpoint(checkpoint: Mapping[str, Any]) -> BlobGAN:
    """Convert the EMA generator and layout network of a published Lightning file, frozen.

    The file's noise maps are used if they fit the layers; `mean_w` is zero.

    Raises:
        BlobexError: if the file is of another form or blobex does not support its settings.
    """
    state = checkpoint.get("state_dict")
    if not isinstance(state, Mapping):
        raise BlobexError("the checkpoint has no state_dict: give a published BlobGAN Lightning file")
    generator, layout = published_names.strip(state, "generator_ema."), published_names.strip(state, "layout_net_ema.")
    if not generator or not layout:
        raise BlobexError("the checkpoint has no generator_ema and layout_net_ema: give a published BlobGAN file")
    settings = checkpoint.get("hyper_parameters")
    settings = settings if isinstance(settings, Mapping) else {}
    model = from_config(_generator_config(generator, layout, settings))
    model.generator.load_state_dict(published_names.generator_state(generator))
    multiplier = _setting(settings, float, "layout_net.mlp_lr_mul") or LEARNING_RATE_MULTIPLIER
    model.layout_network.load_state_dict(published_names.layout_state(layout, multiplier / LEARNING_RATE_MULTIPLIER))
    model.load_state_dict(noise_maps(checkpoint, model), strict=False)
    return _frozen(model)


def noise_maps(checkpoint: Mapping[str, Any], model: BlobGAN) -> dict[str, Tensor]:
    """Return the noise maps of the file under the names of `model`'s buffers, or none unless all of them fit."""
    maps = published_names.strip(checkpoint["state_dict"], "generator_ema.noises.noise_")
    shapes = [noise.shape for noise in model.fixed_noise()]
    if [maps[str(index)].shape for index in range(len(maps)) if str(index) in maps] != shapes:
        return {}
    return {f"noise_{index}": tensor for index, tensor in maps.items()}


@_published_form()
def encoder_from_checkpoint(checkpoint: Mapping[str, Any]) -> Encoder:
    """Convert a published encoder, frozen; `mlp_idx` is -1 unless the file has it."""
    mlp_idx = _setting(checkpoint, int, *(f"{prefix}mlp_idx" for prefix in _SETTINGS))
    return encoder_from_state(find(checkpoint, "encoder").tensors, -1 if mlp_idx is None else mlp_idx)


@_published_form()
def encoder_from_state(published: Mapping[str, Tensor], mlp_idx: int = -1) -> Encoder:
    """Convert the tensors of a published encoder, frozen."""
    state = published_names.residual_state(published)
    channels, aspect_ratio = published_names.residual_shape(state)
    encoder = Encoder("stylegan", channels, max(channels), aspect_ratio, state["output.weight"].shape[0], mlp_idx)
    encoder.body.load_state_dict(state)
    return _frozen(encoder)


@_published_form()
def decision_from_checkpoint(checkpoint: Mapping[str, Any], height: int, width: int) -> DecisionModel:
    """Convert a published decision model, frozen, for images of the given size, which its tensors do not contain."""
    stored = find(checkpoint, "decision")
    state = published_names.decision_state(stored.tensors, stored.body)
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
    for name, tensor in network.state_dict().items():
        if not tensor.isfinite().all():
            raise BlobexError(f"{name} has values that are not finite: the file is damaged, give another")
    return network.eval().requires_grad_(False)


def _setting(settings: Mapping[str, Any], kind: type, *paths: str) -> Any:
    """Return the first setting at the dotted `paths` that is a number of `kind`, or None."""
    for path in paths:
        value: Any = settings
        for key in path.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        try:
            return kind(value)
        except (TypeError, ValueError):  # missing, or a reference to another setting
            continue
    return None


def _generator_config(
    generator: Mapping[str, Tensor], layout: Mapping[str, Tensor], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the config of the BlobGAN, as `from_config` needs it."""
    layers = sum(name.endswith(".weight") for name in layout)
    first, last = layout["mlp.1.weight"], layout[f"mlp.{layers}.weight"]
    feature_dim = generator["conv1.conv.weight"].shape[2]
    style_dim = generator["conv1.conv.modulation.weight"].shape[1]
    levels = sum(name.startswith("to_rgbs.") and name.endswith(".conv.weight") for name in generator)
    convolutions = ["conv1", *(f"convs.{2 * level}" for level in range(levels))]
    widths = [generator[f"{convolution}.conv.weight"].shape[1] for convolution in convolutions]
    height = _setting(settings, int, "resolution", "generator.size")
    size_in = _setting(settings, int, "generator.size_in")
    if height is None and size_in is None:
        raise BlobexError("the checkpoint's hyper_parameters name no resolution: give a published BlobGAN file")
    height = size_in << levels if height is None else height
    aspect_ratio = _setting(settings, int, "aspect_ratio", "generator.aspect_ratio")
    layout_settings = settings.get("layout_net")
    norm_features = layout_settings.get("norm_features") if isinstance(layout_settings, Mapping) else None
    smallest = height >> levels
    per_blob = 6 + feature_dim + style_dim
    network = {
        "blobs": (last.shape[0] - 1 - feature_dim - style_dim) // (per_blob + 1),
        "blob_area": _setting(settings, float, "ab_norm", "layout_net.ab_norm") or AREA,
        "size_in": smallest,
        "feature_dim": feature_dim,
        "style_dim": style_dim,
        "layout": "mlp",
        "z_dim": first.shape[1],
        "layout_hidden": last.shape[1],
        "layout_layers": layers,
        "norm_features": norm_features not in (False, 0),
        "channels": {smallest << level: width for level, width in enumerate(widths)},
        "discriminator_channels": {},
        "rectangle": "legacy",
    }
    return {"network": network, "height": height, "aspect_ratio": 1 if aspect_ratio is None else aspect_ratio}
