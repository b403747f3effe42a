"""Import of published weights into the models folder, as if a stage of blobex had trained them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from blobex import __version__
from blobex.config.data import ImageSize
from blobex.config.params import Params
from blobex.config.read import parse
from blobex.core.errors import BlobexError
from blobex.core.files import whole_folder
from blobex.networks import published_checkpoints as published
from blobex.networks import weights
from blobex.networks.blobgan import NOISE_SEED, from_config, load_blobgan
from blobex.networks.checkpoint_file import form, read_listed
from blobex.networks.decision import DecisionModel, load_decision
from blobex.networks.encoder import Encoder, load_encoder
from blobex.networks.published_settings import Settings

STAGES = {"generator": "blobgan", "encoder": "encoder", "decision": "decision"}  # that would have trained a kind
LOADERS: Mapping[str, Callable[[Path], nn.Module]] = {
    "generator": load_blobgan,
    "encoder": load_encoder,
    "decision": load_decision,
}
MEAN_W_SAMPLES = 10_000  # of the mean of w (BlobGAN, ECCV 2022, section 4)
PROVENANCE = "provenance.yaml"
METRICS = "metrics.json"  # an output of every stage; empty, as nothing is measured


@dataclass(frozen=True)
class _Network:
    """A converted network and its provenance."""

    module: nn.Module
    config: dict[str, Any]
    source: str  # location in the file
    dropped: list[str]  # content of the file that is not used
    computed: list[str]  # content of the network that is not in the file
    settings: Settings  # that have been read


def import_file(
    file: Path,
    kind: str,
    setup: str,
    params: Params,
    models: Path = Path("models"),
    variant: str = "plain",
    seed: int | None = None,
    mlp_idx: int | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Convert a published file and save its network in its folder under `models`.

    The folder is replaced once the new one is complete. Its other files, such as checkpoints, are kept; its measures
    are emptied.

    Args:
        file: Published checkpoint.
        kind: "generator", "encoder" or "decision".
        setup: "square" or "rect", whose image size is that of `params`.
        variant: Name of a decision model.
        seed: Seed of the z for the mean of w; `run.seed` by default.
        mlp_idx: Layer of the layout network whose input an encoder gives; by default that of the file, or -1.

    Returns:
        The folder, and the content of its provenance.yaml.

    Raises:
        BlobexError: if the file is unsafe, damaged or of another kind, or does not fit the setup or its BlobGAN.
    """
    if kind not in STAGES:
        raise BlobexError(f"unknown kind {kind!r}: choose {', '.join(STAGES)}")
    if not re.fullmatch(r"\w[\w-]*", variant):
        raise BlobexError(f"the variant {variant!r} cannot name a folder: use letters, digits, _ and -")
    size, seed = params.setup(setup), params.run.seed if seed is None else seed
    if mlp_idx is not None and kind != "encoder":
        raise BlobexError(f"--mlp-idx is of encoders, not of a {kind}: leave it out")
    checkpoint, opaque = read_listed(file)
    network = _convert(file, checkpoint, kind, size, seed, mlp_idx)
    try:
        _check(network.config, kind, setup, size, models / "blobgan" / setup)
    except BlobexError as error:
        raise BlobexError(f"{file}: {error}") from error
    folder = models / STAGES[kind] / setup / (variant if kind == "decision" else "")
    names = {"setup": setup, "variant": variant} if kind == "decision" else {"setup": setup}
    provenance = {
        "file": file.name,
        "sha256": sha256(file),
        "bytes": file.stat().st_size,
        "form": f"{form(file)}, {network.source}",
        "blobex": __version__,
        "dropped": [*network.dropped, *(f"objects of {name}" for name in opaque)],
        "computed": network.computed,
        **network.settings.provenance(),
    }
    try:
        with whole_folder(folder) as new:
            weights.save(new, STAGES[kind], names | network.config, network.module)
            LOADERS[kind](new)  # a network that cannot be loaded must not replace one that can
            (new / PROVENANCE).write_text(yaml.safe_dump(provenance, sort_keys=False), encoding="utf-8")
            (new / METRICS).write_text("{}\n", encoding="utf-8")
            _link_other_files(folder, new)
    except OSError as error:
        raise BlobexError(f"cannot write {folder}: {error}") from error
    return folder, provenance


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _convert(
    file: Path, checkpoint: Mapping[str, Any], kind: str, size: ImageSize, seed: int, mlp_idx: int | None
) -> _Network:
    kinds = published.kinds(checkpoint)
    if kind not in kinds:
        content = " and ".join(kinds) or "no known network"
        raise BlobexError(f"{file} holds no published {kind} but {content}: check --as")
    try:
        if kind == "generator":
            return _generator(checkpoint, seed)
        stored = published.find(checkpoint, kind)
        settings = published.other_settings(checkpoint)
        dropped = _dropped(checkpoint, stored.key, (stored.prefix,), settings.tree)
        module: Encoder | DecisionModel
        if kind == "encoder":
            module = published.encoder_from_checkpoint(checkpoint, mlp_idx, settings)
        else:
            module = published.decision_from_checkpoint(checkpoint, size.height, size.width)
            reasons = sum(name.startswith("explainer.") for name in stored.tensors)
            label = f"{stored.key}: " if stored.key else ""
            dropped += [f"{label}explainer.* ({reasons} tensors, the reasons)"] if reasons else []
    except BlobexError as error:
        raise BlobexError(f"{file}: {error}") from error
    source = f"{kind} under {stored.key or 'no key'}" + (f", names after {stored.prefix}" if stored.prefix else "")
    return _Network(module, module.config, source, dropped, [], settings)


def _generator(checkpoint: Mapping[str, Any], seed: int) -> _Network:
    settings = published.generator_settings(checkpoint)
    model = published.generator_from_checkpoint(checkpoint, settings)
    model.compute_mean_w(MEAN_W_SAMPLES, torch.Generator().manual_seed(seed))
    computed = [
        f"mean_w over {MEAN_W_SAMPLES} z of seed {seed}",
        f"noise maps of seed {NOISE_SEED}, as the published code draws them",
    ]
    dropped = _dropped(checkpoint, "state_dict", ("generator_ema.", "layout_net_ema."), ("hyper_parameters",))
    maps = sum(str(name).startswith("generator_ema.noises.") for name in checkpoint["state_dict"])
    dropped += [f"state_dict: generator_ema.noises.* ({maps} tensors)"] if maps else []
    source = "generator_ema and layout_net_ema under state_dict"
    return _Network(model, model.config(), source, dropped, computed, settings)


def _dropped(
    checkpoint: Mapping[str, Any], key: str | None, prefixes: tuple[str, ...], settings: Collection[str]
) -> list[str]:
    """List the content of a checkpoint that is not used, without settings: keys, other tensors, constant filters."""
    keys = [] if key is None else [str(name) for name in checkpoint if name != key and name not in settings]
    state = checkpoint if key is None else checkpoint[key]
    others = Counter(str(name).split(".")[0] for name in state if not str(name).startswith(prefixes))
    filters = sum(str(name).startswith(prefixes) and str(name).endswith(".kernel") for name in state)
    label = "" if key is None else f"{key}: "
    groups = [f"{label}{name}.* ({count} tensors)" for name, count in others.items()]
    return keys + groups + ([f"{label}*.kernel ({filters} fixed filters)"] if filters else [])


def _check(config: Mapping[str, Any], kind: str, setup: str, size: ImageSize, blobgan: Path) -> None:
    """Raise BlobexError unless the network fits the setup's image size and BlobGAN."""
    keys = ("height", "aspect_ratio")
    own = size if kind == "decision" else parse(ImageSize, {key: config[key] for key in keys}, kind)
    if own != size:
        sizes = f"images of {own.height}x{own.width} but setups.{setup} is {size.height}x{size.width}"
        setting = f"{{height: {own.height}, aspect_ratio: {own.aspect_ratio}}}"
        raise BlobexError(f"it is for {sizes}: set setups.{setup} to {setting}, or choose the other setup")
    if kind == "encoder" and (blobgan / weights.CONFIG).exists():
        w_size = from_config(weights.read_config(blobgan, "blobgan")).layout_network.w_size(config["mlp_idx"])
        if config["w_size"] != w_size:
            raise BlobexError(
                f"its w has {config['w_size']} numbers but that of the BlobGAN in {blobgan} has {w_size} at mlp_idx "
                f"{config['mlp_idx']}: give its mlp_idx by --mlp-idx, or import the generator that it was trained with"
            )


def _link_other_files(old: Path, new: Path) -> None:
    """Link the other files of `old` in `new`, so that no moment lacks them."""
    written = {path.name for path in new.iterdir()}

    def ignore(folder: str, _: list[str]) -> set[str]:
        return written if Path(folder) == old else set()

    if old.exists():
        shutil.copytree(old, new, symlinks=True, ignore=ignore, copy_function=_link, dirs_exist_ok=True)


def _link(source: str, target: str) -> None:
    """Link a file under another name, or copy it on a file system without links."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)
