"""One reference, one Decision: the only way by which models to explain come in."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blobex.core.errors import BlobexError
from blobex.decisions.card import read_card
from blobex.decisions.decision import Decision, Kind
from blobex.decisions.files import load_program, load_script, still
from blobex.decisions.python import python_object
from blobex.decisions.source import Source, check, decide, source_of
from blobex.decisions.zoo import zoo_source
from blobex.networks.decision import load_decision

Model = Callable[[Tensor], Any]
MlflowLoader = Callable[[str], nn.Module]  # a URI to a model on the right device
VARIANTS = ("plain", "biased")
CARDS, SCRIPTS, PROGRAM = (".yaml", ".yml"), (".pt", ".ts", ".pth"), ".pt2"
PYTHON = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*")
FORMS = (
    "plain, biased, a folder of weights, a card (.yaml), a program (.pt2), TorchScript (.pt), "
    "torchvision:<model>:<state dict>, models:/<name>@<alias>, runs:/<run>/<model> or <module>:<function>"
)


def load(
    reference: str | Path | Decision | Model,
    setup_height: int,
    setup_width: int,
    device: torch.device,
    models: Path,
    setup: str,
    mlflow_loader: MlflowLoader | None = None,
    kind: Kind | None = None,
    outputs: Sequence[str] | None = None,
) -> Decision:
    """The decision model that `reference` names, tried with two grey pictures of the setup's size.

    `reference` is plain or biased (of `models` and `setup`), another of FORMS, or an object: a Decision, which is taken
    as it is, a module or a function. Models from files go to `device`, modules of the user's own stay where they are.
    `kind` and `outputs` go before a card, and a card before the reference's own: attributes with their names for
    blobex's weights, classes or segmentation with the names of torchvision's weights, and for all others segmentation
    where the answer has four dimensions, classes where it scores several things, attributes where it scores one, with
    the names "0", "1", ... BlobexError: there is no such model, it is damaged, or it will not do (see `check`).
    """
    if isinstance(reference, Path):
        reference = str(reference)
    card, folder = None, Path()
    if isinstance(reference, str) and reference.endswith(CARDS):
        path = Path(reference).expanduser()
        card, folder = read_card(path), path.parent
    name = card.model if card else reference
    found = _find(name, folder, device, models, setup, mlflow_loader) if isinstance(name, str) else name
    if isinstance(found, Decision):
        if kind or outputs or (card and not card.is_empty):
            raise BlobexError(f"{found.name} is a Decision: it says itself what it scores and reads, so leave that out")
        return check(found, setup_height, setup_width, device)
    source = found if isinstance(found, Source) else source_of(found, name if isinstance(name, str) else None)
    if name in VARIANTS and source.input.size(setup_height, setup_width) != (setup_height, setup_width):
        raise BlobexError(
            f"the decision in {models / 'decision' / setup / name} is for {source.input.height}x{source.input.width} "
            f"pictures but {setup} has {setup_height}x{setup_width}: give the models and parameters of one run"
        )
    if card:
        source = dataclasses.replace(source, input=card.input(source.input))
        kind, outputs = kind or card.kind, outputs or card.outputs
    return decide(source, kind, outputs, setup_height, setup_width, device)


def _find(
    reference: str, folder: Path, device: torch.device, models: Path, setup: str, mlflow_loader: MlflowLoader | None
) -> Decision | Source | Model:
    """What a text names; file names are relative to `folder`."""
    path = folder / Path(reference).expanduser()
    if reference in VARIANTS:
        return source_of(load_decision(models / "decision" / setup / reference).to(device), reference)
    if reference.startswith("torchvision:"):
        return zoo_source(reference, folder, device)
    if reference.startswith(("models:/", "runs:/")):
        if not mlflow_loader:
            raise BlobexError(f"{reference} is a model of MLflow, which is off: set run.tracking_uri to its store")
        return source_of(still(mlflow_loader(reference)), reference)
    if path.is_dir():
        return source_of(load_decision(path).to(device), reference)
    if path.suffix == PROGRAM:
        return source_of(load_program(path, device), reference)
    if path.suffix in SCRIPTS:
        return source_of(load_script(path, device), reference)
    if PYTHON.fullmatch(reference):
        return python_object(reference, folder)
    raise BlobexError(f"{reference} is no decision model: give {FORMS}")
