"""Loading of models to explain: from a reference in words, a YAML card, or an object."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blobex.config.data import ImageSize
from blobex.core.errors import BlobexError
from blobex.decisions.card import Card, read_card
from blobex.decisions.decision import Decision, Kind
from blobex.decisions.files import freeze, load_program, load_script
from blobex.decisions.onnx_file import load_onnx
from blobex.decisions.probe import check, decide
from blobex.decisions.python_code import REFERENCE, python_source
from blobex.decisions.source import Source, source_of
from blobex.networks import weights
from blobex.networks.control import load_control
from blobex.networks.decision import load_decision

Model = Callable[[Tensor], Any]
MlflowLoader = Callable[[str], nn.Module]  # URI to a model on the right device
VARIANTS = ("plain", "biased")  # models that the stage `decision` always trains; others by their folders
FORMS = (
    "plain, biased, night, verge, a folder of weights, a card (.yaml), a program (.pt2), TorchScript (.pt), "
    "ONNX (.onnx), torchvision:<model>:<state dict>, models:/<name>@<alias>, runs:/<run>/<model>, "
    "<module>:<function> or FILE.py:<function>"
)


def load(
    reference: str | Path | Decision | Model,
    size: ImageSize,
    device: torch.device,
    models: Path,
    setup: str,
    mlflow_loader: MlflowLoader | None = None,
    kind: Kind | None = None,
    outputs: Sequence[str] | None = None,
) -> Decision:
    """Load a model to explain, and check it with two grey images of the setup's size.

    Args:
        reference: One of FORMS, or a Decision, a module or a function.
        size: Size of the setup's images.
        device: Device of models from files; modules of the user's stay where they are.
        models, setup: Folder of trained networks, and shape, for the decision models in it.
        mlflow_loader: Loader of MLflow's models; None if MLflow is off.
        kind, outputs: Kind of the model and names of its outputs. By default a card's, then the reference's own:
            attributes for blobex's weights, the names of torchvision's weights, otherwise as in `probe.decide`.

    Raises BlobexError if there is no such model, it is damaged, or it cannot be explained (see `probe.check`).
    """
    if isinstance(reference, Path):
        reference = str(reference)
    card, folder = None, Path()
    if isinstance(reference, str) and reference.endswith((".yaml", ".yml")):
        path = Path(reference).expanduser()
        card, folder = read_card(path), path.parent
    name = card.model if card else reference
    model = _find(name, folder, device, models / "decision" / setup, mlflow_loader) if isinstance(name, str) else name
    if isinstance(model, Decision):
        if kind or outputs or (card and card != Card(card.model)):
            raise BlobexError(f"{model.name} is a Decision, which has its own kind, outputs and input: leave them out")
        return check(model, size, device)
    source = model if isinstance(model, Source) else source_of(model, name if isinstance(name, str) else None)
    if (
        isinstance(name, str)
        and _is_trained(name, models / "decision" / setup)
        and source.input.size(size.height, size.width) != (size.height, size.width)
    ):
        raise BlobexError(
            f"the decision in {models / 'decision' / setup / name} is for {source.input.height}x{source.input.width} "
            f"images but {setup} has {size.height}x{size.width}: give the models and parameters of one run"
        )
    if card:
        source = dataclasses.replace(source, input=card.input(source.input))
        kind, outputs = kind or card.kind, outputs or card.outputs
    return decide(source, kind, outputs, size, device, card.values if card else None)


def _is_trained(name: str, trained: Path) -> bool:
    """Return whether a name is that of a decision model of the pipeline."""
    return name in VARIANTS or (Path(name).name == name and weights.is_kind(trained / name, "decision"))


def _find(
    reference: str, folder: Path, device: torch.device, trained: Path, mlflow_loader: MlflowLoader | None
) -> Decision | Source | Model:
    """Return the model of a reference; file names are relative to `folder`, names of trained models to `trained`."""
    path = folder / Path(reference).expanduser()
    if _is_trained(reference, trained):
        return source_of(load_decision(trained / reference).to(device), reference)
    if reference.startswith("torchvision:"):
        from blobex.decisions.zoo import zoo_source  # torchvision is slow to import

        return zoo_source(reference, folder, device)
    if reference.startswith(("models:/", "runs:/")):
        if not mlflow_loader:
            raise BlobexError(f"{reference} is a model of MLflow, which is off: set run.tracking_uri to its store")
        return source_of(freeze(mlflow_loader(reference)), reference)
    if path.is_dir():
        own = load_control(path) if weights.is_kind(path, "control") else load_decision(path)
        return source_of(own.to(device), reference)
    if path.suffix == ".pt2":
        return source_of(load_program(path, device), reference)
    if path.suffix == ".onnx":
        return source_of(load_onnx(path, device), reference)
    if path.suffix in (".pt", ".ts", ".pth"):
        return source_of(load_script(path, device), reference)
    if REFERENCE.fullmatch(reference):
        return python_source(reference, folder)
    raise BlobexError(f"{reference} is no decision model: give {FORMS}")
