"""Published weights into the models folder, as if a stage of blobex had trained them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from blobex import __version__
from blobex.config.data import ImageSize
from blobex.config.params import Params
from blobex.core.errors import BlobexError
from blobex.core.files import whole_folder
from blobex.networks import published_checkpoints as published
from blobex.networks import weights
from blobex.networks.blobgan import from_config, load_blobgan
from blobex.networks.checkpoint_file import form, read_checkpoint
from blobex.networks.decision import load_decision
from blobex.networks.encoder import load_encoder

KINDS = ("generator", "encoder", "decision")
MEAN_W_SAMPLES = 10_000  # z whose mean w is taken (BlobGAN, ECCV 2022, section 4)
PROVENANCE = "provenance.yaml"
METRICS = "metrics.json"  # an output of every stage; empty here, where nothing is measured


@dataclass(frozen=True)
class _Network:
    """An imported network, where it belongs, and what has become of the file's content."""

    module: nn.Module
    stage: str  # the stage that would have trained it
    config: dict[str, Any]
    picture: ImageSize | None  # size of its pictures; None: any
    source: str  # where the file holds it
    dropped: list[str]
    computed: list[str]


def import_file(
    file: Path,
    kind: str,
    setup: str,
    params: Params,
    models: Path = Path("models"),
    variant: str = "plain",
    seed: int | None = None,
) -> tuple[Path, dict[str, Any]]:
    """Write a published file's network to its place under `models`; the folder, and what provenance.yaml says.

    `kind` is generator, encoder or decision, `variant` the name of a decision model. The mean of w is taken over z
    drawn with `seed` (None: run.seed). The folder is replaced only when all is ready; what else is in it, such as
    checkpoints, stays; its measures, which were of other weights, are emptied. BlobexError: the file is unsafe, damaged
    or of another kind, or does not fit the setup's pictures or its BlobGAN.
    """
    if kind not in KINDS:
        raise BlobexError(f"unknown kind {kind!r}: choose {', '.join(KINDS)}")
    if not re.fullmatch(r"\w[\w-]*", variant):
        raise BlobexError(f"the variant {variant!r} cannot name a folder: use letters, digits, _ and -")
    size, seed = params.setup(setup), params.run.seed if seed is None else seed
    checkpoint = read_checkpoint(file)
    held = published.kinds(checkpoint)
    if kind not in held:
        raise BlobexError(f"{file} holds no published {kind} but {' and '.join(held) or 'none of ours'}: check --as")
    try:
        network = _network(checkpoint, kind, size, seed)
        _check(network, setup, size, models)
    except BlobexError as error:
        raise BlobexError(f"{file}: {error}") from error
    folder = models / network.stage / setup / (variant if kind == "decision" else "")
    named = {"setup": setup, "variant": variant} if kind == "decision" else {"setup": setup}
    provenance = {
        "file": file.name,
        "sha256": sha256(file),
        "bytes": file.stat().st_size,
        "form": f"{form(file)}, {network.source}",
        "blobex": __version__,
        "dropped": network.dropped,
        "computed": network.computed,
    }
    try:
        with whole_folder(folder) as new:
            weights.save(new, network.stage, named | network.config, network.module)
            _load(network.stage, new)  # what cannot be loaded again does not take the place of what can
            (new / PROVENANCE).write_text(yaml.safe_dump(provenance, sort_keys=False), encoding="utf-8")
            (new / METRICS).write_text("{}\n", encoding="utf-8")
            _keep_others(folder, new)
    except OSError as error:
        raise BlobexError(f"cannot write {folder}: {error}") from error
    return folder, provenance


def sha256(file: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _network(checkpoint: Mapping[str, Any], kind: str, size: ImageSize, seed: int) -> _Network:
    if kind == "generator":
        return _generator(checkpoint, seed)
    found = published.find(checkpoint, kind)
    rest = _dropped(checkpoint, found.place, (found.prefix,))
    source = f"{kind} under {found.place or 'no key'}" + (f", names after {found.prefix}" if found.prefix else "")
    if kind == "encoder":
        encoder = published.encoder_from_checkpoint(checkpoint)
        picture = ImageSize(encoder.config["height"], encoder.config["aspect_ratio"])
        return _Network(encoder, "encoder", encoder.config, picture, source, rest, [])
    decision = published.decision_from_checkpoint(checkpoint, size.height, size.width)
    return _Network(decision, "decision", decision.config, None, source, rest, [])


def _generator(checkpoint: Mapping[str, Any], seed: int) -> _Network:
    model = published.generator_from_checkpoint(checkpoint)
    model.compute_mean_w(MEAN_W_SAMPLES, torch.Generator().manual_seed(seed))
    computed = [f"mean_w over {MEAN_W_SAMPLES} z of seed {seed}"]
    dropped = _dropped(checkpoint, "state_dict", ("generator_ema.", "layout_net_ema."))
    if not published.noise_maps(checkpoint, model):
        computed.append("fixed noise maps of blobex's seed")
        if any(str(name).startswith("generator_ema.noises.") for name in checkpoint["state_dict"]):
            dropped.append("state_dict: generator_ema.noises.* (they fit no layer)")
    source = "generator_ema and layout_net_ema under state_dict"
    return _Network(
        model, "blobgan", model.config(), ImageSize(model.height, model.aspect_ratio), source, dropped, computed
    )


def _dropped(checkpoint: Mapping[str, Any], place: str | None, kept: tuple[str, ...]) -> list[str]:
    """What of a checkpoint is not in the network: other keys, other networks' tensors, filters that never change."""
    keys = [] if place is None else [str(key) for key in checkpoint if key not in (place, "hyper_parameters")]
    state = checkpoint if place is None else checkpoint[place]
    others = Counter(str(name).split(".")[0] for name in state if not str(name).startswith(kept))
    filters = sum(str(name).startswith(kept) and str(name).endswith(".kernel") for name in state)
    label = "" if place is None else f"{place}: "
    groups = [f"{label}{name}.* ({count} tensors)" for name, count in others.items()]
    return keys + groups + ([f"{label}*.kernel ({filters} fixed filters)"] if filters else [])


def _check(network: _Network, setup: str, size: ImageSize, models: Path) -> None:
    """BlobexError unless the network fits the setup's pictures and BlobGAN."""
    picture = network.picture
    if picture is not None and picture != size:
        raise BlobexError(
            f"it is for pictures of {picture.height}x{picture.width} but setups.{setup} is {size.height}x{size.width}: "
            f"set setups.{setup} to {{height: {picture.height}, aspect_ratio: {picture.aspect_ratio}}}, "
            "or choose the other setup"
        )
    blobgan = models / "blobgan" / setup
    if network.stage == "encoder" and (blobgan / weights.CONFIG).exists():
        config = network.config
        wanted = from_config(weights.read_config(blobgan, "blobgan")).layout_network.w_size(config["mlp_idx"])
        if config["w_size"] != wanted:
            raise BlobexError(
                f"its w has {config['w_size']} numbers but that of the BlobGAN in {blobgan} has {wanted}: "
                "import the generator that it was trained with first"
            )


def _load(stage: str, folder: Path) -> nn.Module:
    if stage == "blobgan":
        return load_blobgan(folder)
    return load_encoder(folder) if stage == "encoder" else load_decision(folder)


def _keep_others(old: Path, new: Path) -> None:
    """What else stands in the folder `old`, under other names, also in `new`: it is always in one of them."""
    for entry in old.iterdir() if old.exists() else ():
        if not (new / entry.name).exists():
            _link(entry, new / entry.name)


def _link(source: Path, target: Path) -> None:
    """The same file or folder under another name; a copy where the file system has no links."""
    if source.is_dir() and not source.is_symlink():
        shutil.copytree(source, target, symlinks=True, copy_function=_link_file)
    else:
        _link_file(source, target)


def _link_file(source: Any, target: Any) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:
        shutil.copy2(source, target, follow_symlinks=False)
