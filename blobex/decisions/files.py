"""Models from files: TorchScript, exported programs, Python modules, and state dicts of torchvision's models."""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torchvision
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.export.passes import move_to_device_pass
from torchvision.models import get_model, get_model_weights, list_models

from blobex.core.errors import BlobexError, brief
from blobex.decisions.decision import Decision, Input, Kind
from blobex.decisions.source import Source, source_of
from blobex.networks.checkpoint_file import read_checkpoint


def load_script(path: Path, device: torch.device) -> nn.Module:
    """Load a TorchScript file; BlobexError if it is missing or another file."""
    _require(path)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "`torch.jit.load` is deprecated", FutureWarning)
            module = torch.jit.load(path, map_location=device)
    except (RuntimeError, ValueError) as error:
        raise BlobexError(
            f"{path} is not a TorchScript file: write the model to a .pt2 file with torch.export.save, or give a state "
            "dict as torchvision:<model>:<file>"
        ) from error
    return freeze(module)


def load_program(path: Path, device: torch.device) -> nn.Module:
    """Load a file that torch.export.save wrote; BlobexError if it is missing or another file.

    As torch warns, such a file can hold code that runs when it is opened: open only files of people you trust.
    """
    _require(path)
    if not _is_program(path):  # torch would log a page about it
        raise BlobexError(f"{path} is not an exported program: write it with torch.export.save")
    try:
        module = move_to_device_pass(torch.export.load(path), device).module()
    except Exception as error:  # torch raises many kinds
        words = brief(f"{type(error).__name__}: {error}")
        raise BlobexError(f"the program {path} cannot be opened ({words}): export it again") from error
    return freeze(module)


def freeze(module: nn.Module) -> nn.Module:
    """Set a module to eval mode, unless it is an exported program, which has one mode, and drop its gradients."""
    if not isinstance(module, torch.fx.GraphModule):
        module.eval()
    for parameter in module.parameters():  # TorchScript has no module.requires_grad_
        parameter.requires_grad_(False)
    return module


def _require(path: Path) -> None:
    if not path.is_file():
        raise BlobexError(f"there is no model {path}: check the path")


def _is_program(path: Path) -> bool:
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/models/model.json") for name in archive.namelist())


def python_object(reference: str, folder: Path) -> Decision | Callable[..., Any]:
    """Import `package.module:name`: a Decision, a module, or a function of images to logits.

    Python looks in `folder`, then in the current folder, then as usual. Raises BlobexError if there is no such object,
    its code fails, or it is a class or cannot be called.
    """
    module_name, _, name = reference.partition(":")
    with _search_first(folder, Path.cwd()):
        try:
            model: Any = importlib.import_module(module_name)
            for part in name.split("."):
                if not hasattr(model, part):
                    raise BlobexError(f"{module_name} has no {name}: check the name after the colon")
                model = getattr(model, part)
        except BlobexError:
            raise
        except (Exception, SystemExit) as error:  # the module's code may raise anything
            words = brief(f"{type(error).__name__}: {error}")
            raise BlobexError(f"cannot import {module_name} ({words}): check the name and the code") from error
    if isinstance(model, type):
        raise BlobexError(f"{reference} is a class: make an object of it in {module_name}, and name that")
    if not isinstance(model, Decision) and not callable(model):
        raise BlobexError(f"{reference} is a {type(model).__name__}: name a function, a module or a Decision")
    return model


@contextmanager
def _search_first(*folders: Path) -> Iterator[None]:
    """Put folders at the start of Python's search path for a while."""
    before = list(sys.path)
    sys.path[:0] = [str(folder.resolve()) for folder in folders]
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path[:] = before


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
    model = _with_state(model_name, kind, _state(path), path).to(device)
    best = get_model_weights(model_name).DEFAULT
    names = tuple(best.meta["categories"])
    return dataclasses.replace(source_of(model, reference), input=_input(best.transforms()), kind=kind, names=names)


def _input(preset: Any) -> Input:
    """Return the input of a model by torchvision's own transforms."""
    crop = getattr(preset, "crop_size", None)
    height, width = (crop[0], crop[-1]) if crop else (preset.resize_size[0], None)
    return Input(height, width, tuple(preset.mean), tuple(preset.std), preset.interpolation.value)


def _with_state(name: str, kind: Kind, state: dict[str, Tensor], path: Path) -> nn.Module:
    """Return the model with as many classes as the last tensor of the state has rows."""
    model = _build(name, kind, {})
    last = next(reversed(model.state_dict()))
    count = len(state[last]) if last in state and state[last].ndim else 0
    if count and count != len(model.state_dict()[last]):
        model = _build(name, kind, {"num_classes": count})
    named = OrderedDict((OLD_DENSENET.sub(r"\1\2.", key), value) for key, value in state.items())
    named._metadata = {"": {"version": type(model)._version}}  # type: ignore[attr-defined]  # MNASNet reads it
    try:
        model.load_state_dict(named)
    except RuntimeError as error:
        raise BlobexError(f"the weights in {path} are not those of a {name}: name the model they are of") from error
    return freeze(model)


def _build(name: str, kind: Kind, options: Mapping[str, int]) -> nn.Module:
    backbone = {"weights_backbone": None} if kind == "segmentation" else {}
    with torch.random.fork_rng(devices=[]):  # the random weights are all replaced
        return get_model(name, weights=None, **backbone, **OPTIONS.get(name, {}), **options)


def _state(path: Path) -> dict[str, Tensor]:
    """Return the tensors of a state dict by torchvision's names."""
    if path.suffix == ".safetensors":
        try:
            tree: dict[str, Any] = load_file(path)
        except (OSError, SafetensorError) as error:
            raise BlobexError(f"cannot read the weights {path}: check the path, or save them again") from error
    else:
        tree = read_checkpoint(path)
    nested = (tree[key] for key in ("state_dict", "model_state_dict", "model") if isinstance(tree.get(key), Mapping))
    tensors = {key: value for key, value in next(nested, tree).items() if isinstance(value, Tensor)}
    if not tensors:
        raise BlobexError(f"{path} holds no state dict: save model.state_dict() with torch.save")
    prefix = "module." if all(key.startswith("module.") for key in tensors) else ""
    tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return {key: value for key, value in tensors.items() if not key.startswith(AUXILIARY)}
