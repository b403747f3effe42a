"""Models of torchvision with state dicts on disk."""

from __future__ import annotations

import dataclasses
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from torchvision.models import get_model, get_model_weights, list_models

from blobex.core.errors import BlobexError, brief
from blobex.decisions.decision import Input, Kind
from blobex.decisions.files import freeze
from blobex.decisions.source import Source, source_of
from blobex.decisions.state_dicts import first_difference, fitted
from blobex.networks.checkpoint_file import read_listed

AUXILIARY = ("aux1.", "aux2.", "AuxLogits.", "aux_classifier.")  # heads used in training only
# Arguments with which torchvision builds them for its own weights.
INCEPTION = {"aux_logits": False, "transform_input": True, "init_weights": False}
OPTIONS: Mapping[str, Mapping[str, bool]] = {"googlenet": INCEPTION, "inception_v3": INCEPTION}
OLD_DENSENET = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")  # names before torchvision 0.3


def zoo_source(reference: str, folder: Path, device: torch.device) -> Source:
    """Load the model of `torchvision:<model>:<state dict>`; the file is relative to `folder`.

    The state dict gives the number of classes. Mean, std and names of classes are those of torchvision's own weights,
    and so is the input size: classifiers read the whole image stretched to the size of their crop, segmentation models
    images of the given height. Raises BlobexError if the model is unknown, or the file missing, damaged or of another.
    """
    _, _, rest = reference.partition(":")
    model_name, _, file = rest.partition(":")
    segmentation = list_models(module=torchvision.models.segmentation)
    if not file or model_name not in [*list_models(module=torchvision.models), *segmentation]:
        raise BlobexError(
            f"{reference} names no model: give torchvision:<model>:<state dict>, with a classification or segmentation "
            "model of torchvision.models, such as resnet18"
        )
    kind: Kind = "segmentation" if model_name in segmentation else "classes"
    path = folder / Path(file).expanduser()
    tree, dropped = _read(path)
    model = _with_state(model_name, kind, tree, path).to(device)
    best = get_model_weights(model_name).DEFAULT
    names = tuple(best.meta["categories"])
    notes = (f"objects in {path} that are no weights were left out: {brief(', '.join(dropped))}",) if dropped else ()
    source, model_input = source_of(model, reference), _input(best.transforms())
    return dataclasses.replace(source, input=model_input, kind=kind, names=names, notes=notes)


def _input(preset: Any) -> Input:
    """Return the input of a model by torchvision's own transforms."""
    crop = getattr(preset, "crop_size", None)
    height, width = (crop[0], crop[-1]) if crop else (preset.resize_size[0], None)
    return Input(height, width, tuple(preset.mean), tuple(preset.std), preset.interpolation.value)


def _with_state(name: str, kind: Kind, tree: Mapping[str, Any], path: Path) -> nn.Module:
    """Return the model with as many classes as the last layer of the state dict has rows."""
    model = _build(name, kind, {})
    expected = model.state_dict()
    head = next(reversed(expected)).rpartition(".")[0]
    try:
        state = fitted(tree, expected, head, _todays_name)
    except BlobexError as error:
        raise BlobexError(f"cannot use {path}: {error}") from error
    state = {key: value for key, value in state.items() if not key.startswith(AUXILIARY)}
    weight = state.get(f"{head}.weight")
    if weight is not None and weight.ndim and len(weight) != len(expected[f"{head}.weight"]):
        model = _build(name, kind, {"num_classes": len(weight)})
    if difference := first_difference(state, model.state_dict()):
        raise BlobexError(
            f"the weights in {path} are not those of a {name} ({difference}): name the model that they are of"
        )
    named = OrderedDict(state)
    named._metadata = {"": {"version": type(model)._version}}  # type: ignore[attr-defined]  # MNASNet reads it
    model.load_state_dict(named)
    return freeze(model)


def _build(name: str, kind: Kind, options: Mapping[str, int]) -> nn.Module:
    backbone = {"weights_backbone": None} if kind == "segmentation" else {}
    with torch.random.fork_rng(devices=[]):  # the random weights are all replaced
        return get_model(name, weights=None, **backbone, **OPTIONS.get(name, {}), **options)


def _read(path: Path) -> tuple[dict[str, Any], list[str]]:
    """Return the content of a file of weights, and the classes of objects that were dropped."""
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path)), []
        except (OSError, SafetensorError) as error:
            raise BlobexError(f"cannot read the weights {path}: check the path, or save them again") from error
    return read_listed(path)


def _todays_name(key: str) -> str:
    return OLD_DENSENET.sub(r"\1\2.", key)
