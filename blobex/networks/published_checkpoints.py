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
from blobex.networks import published_names
from blobex.networks.blobgan import BlobGAN, from_config
from blobex.networks.decision import DecisionModel
from blobex.networks.densenet import BLOCKS
from blobex.networks.encoder import Encoder
from blobex.networks.layout_network import LEARNING_RATE_MULTIPLIER
from blobex.networks.published_settings import HOLDERS, Settings, generator_config, multiplier, whole
from blobex.networks.weights import Module

# Names of a network's first tensor, after the names of the modules that contain the network.
_MODULES = r"((?:(?:module|model|encoder|decision)\.)*)"
_FIRST_TENSOR = {
    "encoder": _MODULES + r"()convs\.0\.0\.weight",
    "decision": _MODULES + r"((?:feat_extract\.)*(?:features\.)?)conv0\.weight",
}
_STATE_KEYS = ("model_state_dict", "model", "state_dict", None)
MLP_IDX = -1


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
def generator_from_checkpoint(checkpoint: Mapping[str, Any], settings: Settings | None = None) -> BlobGAN:
    """Convert the EMA generator and layout network of a published Lightning file, frozen; `mean_w` is zero.

    The noise maps are those of BlobGAN's seed, which are the maps that the published code draws for a file that it
    loads; the maps in the file are never used. What is read of its settings is noted in `settings` if given.

    Raises:
        BlobexError: if the file is of another form or blobex does not support its settings.
    """
    state = checkpoint.get("state_dict")
    if not isinstance(state, Mapping):
        raise BlobexError("the checkpoint has no state_dict: give a published BlobGAN Lightning file")
    generator, layout = published_names.strip(state, "generator_ema."), published_names.strip(state, "layout_net_ema.")
    if not generator or not layout:
        raise BlobexError("the checkpoint has no generator_ema and layout_net_ema: give a published BlobGAN file")
    settings = generator_settings(checkpoint) if settings is None else settings
    model = from_config(generator_config(generator, layout, settings))
    model.generator.load_state_dict(published_names.generator_state(generator))
    factor = multiplier(settings) / LEARNING_RATE_MULTIPLIER
    model.layout_network.load_state_dict(published_names.layout_state(layout, factor))
    return _frozen(model)


def generator_settings(checkpoint: Mapping[str, Any]) -> Settings:
    """Return the settings of a published BlobGAN file, of which none has been read."""
    tree = checkpoint.get("hyper_parameters")
    return Settings(tree if isinstance(tree, Mapping) else {})


@_published_form()
def encoder_from_checkpoint(
    checkpoint: Mapping[str, Any], mlp_idx: int | None = None, settings: Settings | None = None
) -> Encoder:
    """Convert a published encoder, frozen.

    Its `mlp_idx` is that of the file, which published scripts do not write, or the given one, or the default of these
    scripts, -1. What is read of the file's settings is noted in `settings` if given.
    """
    settings = other_settings(checkpoint) if settings is None else settings
    own = settings.read(_whole_or_none, "mlp_idx", *(f"{holder}.mlp_idx" for holder in HOLDERS))
    if None not in (own, mlp_idx) and own != mlp_idx:
        raise BlobexError(f"its mlp_idx is {own}, not {mlp_idx}: leave --mlp-idx out")
    chosen = mlp_idx if own is None else own
    if chosen is None:
        settings.defaults["mlp_idx"] = chosen = MLP_IDX
    elif own is None:
        settings.used["--mlp-idx"] = chosen
    return encoder_from_state(find(checkpoint, "encoder").tensors, chosen)


def other_settings(checkpoint: Mapping[str, Any]) -> Settings:
    """Return the settings of the file of an encoder or decision model, of which none has been read."""
    return Settings({name: checkpoint[name] for name in ("mlp_idx", *HOLDERS) if name in checkpoint})


def _whole_or_none(path: str, value: Any) -> int | None:
    return None if value is None else whole(path, value)


@_published_form()
def encoder_from_state(published: Mapping[str, Tensor], mlp_idx: int = MLP_IDX) -> Encoder:
    """Convert the tensors of a published encoder, frozen. Raises BlobexError for a fractional aspect ratio."""
    state = published_names.residual_state(published)
    channels, aspect_ratio = published_names.residual_shape(state)
    encoder = Encoder("stylegan", channels, max(channels), aspect_ratio, state["output.weight"].shape[0], mlp_idx)
    encoder.body.load_state_dict(state)
    return _frozen(encoder)


@_published_form()
def decision_from_checkpoint(checkpoint: Mapping[str, Any], height: int, width: int) -> DecisionModel:
    """Convert a published decision model, frozen, for images of the given size, which its tensors do not contain.

    The actions of a model that also explains them do not depend on its 21 reasons (`explainer.*`), which are dropped.
    """
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
