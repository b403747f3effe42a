"""Trained networks, checkpoints, weights from elsewhere, and decision models of anybody's."""

import argparse
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import yaml
from worlds.published_form import checkpoint_of
from worlds.tiny_networks import random_blobgan, tiny_network

from bad_input.config import LAUGHS, MERGES
from bad_input.world import EXPLAIN, Case, Harm, at, cut, folder_at, gone, link_at, put, saved, setting, tensors, whole

BLOBGAN, ENCODER, PARSER = (f"models/{kind}/rect" for kind in ("blobgan", "encoder", "parser"))
PLAIN = "models/decision/rect/plain"
IMPORT = "blobex import file.ckpt --as generator --setup rect"
CHECKPOINT = f"{PLAIN}/checkpoints/step-00000001.ckpt"


class Payload:
    """Runs a command where it is unpickled without care."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch executed",)


def network(name: str, harm: Harm, *words: str, command: str = EXPLAIN) -> Case:
    return Case(f"networks: {name}", harm, command, words)


def config(folder: str, key: str, value: object) -> Harm:
    """Another value in a network's config."""
    return at(f"{folder}/config.yaml", key, value, yaml.safe_load, yaml.safe_dump)


def flow_of(z_dim: int) -> Harm:
    """A BlobGAN whose layouts are sampled by a flow of so many numbers."""
    harms = config(BLOBGAN, "network.layout", "flow"), config(BLOBGAN, "network.z_dim", z_dim)
    return lambda folder: [harm(folder) for harm in harms]


def weights(folder: str, change: Callable[[dict[str, torch.Tensor]], object]) -> Harm:
    return tensors(f"{folder}/weights.safetensors", change)


def first(content: dict[str, torch.Tensor]) -> str:
    return next(name for name in sorted(content) if content[name].is_floating_point())


def spoilt(number: float) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda content: content[first(content)].view(-1)[:1].fill_(number)


def only(state: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name: tensor for name, tensor in state.items() if name.startswith(prefix)}


def imported(name: str, harm: Harm, *words: str) -> Case:
    return Case(f"import: {name}", harm, IMPORT, words or ("file.ckpt",))


@cache
def generator() -> dict[str, Any]:
    """A published checkpoint for the world's pictures."""
    return checkpoint_of(random_blobgan(tiny_network(rectangle="legacy", channels={8: 8, 16: 4, 32: 4}), 32, 2))


def checkpoint(key: str, change: Callable[[Any], Any]) -> Harm:
    """The published file with something else under a key."""
    return lambda folder: saved("file.ckpt", {**generator(), key: change(generator()[key])})(folder)


@cache
def squeezed() -> bytes:
    """A PyTorch file of 64 megabytes of zeros, squeezed to a thousandth."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/version", "3\n", zipfile.ZIP_STORED)
        archive.writestr("archive/data.pkl", bytes(2**26))
    return stream.getvalue()


def bomb(name: str) -> Harm:
    return lambda folder: put(name, squeezed())(folder)


def laughing() -> list[Any]:
    """Lists that hold each other twice, forty deep: 2^40 if they are written out."""
    content: list[Any] = []
    for _ in range(40):
        content = [content, content]
    return content


def smiling() -> argparse.Namespace:
    """The same of settings."""
    content = argparse.Namespace()
    for _ in range(40):
        content = argparse.Namespace(one=content, other=content)
    return content


def training(name: str, harm: Harm, *words: str) -> Case:
    """A checkpoint of a training that was stopped."""
    return Case(f"training: {name}", harm, "stage decision rect plain", words or ("step-00000001.ckpt",))


def card(name: str, text: str, *words: str) -> Case:
    return Case(f"card: {name}", put("card.yaml", text), f"{EXPLAIN.replace('stop', '0')} --decision card.yaml", words)


def code(name: str, text: str, *words: str) -> Case:
    """A model that is a function of the user's module."""
    module = f"users_{abs(hash(name))}"
    return Case(
        f"code: {name}",
        put(f"{module}.py", text),
        f"{EXPLAIN.replace('stop', '0')} --decision {module}:score",
        words,
    )


SAVED = [
    network("no generator", gone(BLOBGAN), "no blobgan weights in models/blobgan/rect"),
    network("no encoder", gone(ENCODER), "no encoder weights in models/encoder/rect"),
    network("no decision model", gone(PLAIN), "no decision weights in models/decision/rect/plain"),
    network("no models at all", gone("models"), "no blobgan weights in models/blobgan/rect"),
    network("a file in the place of models", put("models", b""), "no blobgan weights in models/blobgan/rect"),
    network("no weights beside the config", gone(f"{BLOBGAN}/weights.safetensors"), "cannot read the blobgan weights"),
    network("weights that are cut off", cut(f"{BLOBGAN}/weights.safetensors"), "cannot read the blobgan weights"),
    network("weights that are empty", put(f"{ENCODER}/weights.safetensors", b""), "cannot read the encoder weights"),
    network("weights that are a folder", folder_at(f"{PARSER}/weights.safetensors"), "cannot read the parser weights"),
    network("weights that are a link to nothing", link_at(f"{PLAIN}/weights.safetensors", "no"), "cannot read"),
    network("a header of 16 exabytes", put(f"{BLOBGAN}/weights.safetensors", b"\xff" * 8 + b"{}"), "cannot read"),
    network("a pickle in the place of weights", saved(f"{BLOBGAN}/weights.safetensors", Payload()), "cannot read"),
    network("a tensor too few", weights(BLOBGAN, lambda content: content.pop("mean_w")), "do not fit their config"),
    network("a tensor too many", weights(PARSER, lambda content: content.update(extra=torch.ones(1))), "do not fit"),
    network(
        "a tensor of another shape",
        weights(BLOBGAN, lambda content: content.update(mean_w=torch.ones(3))),
        "do not fit their config",
    ),
    network("NaN in the generator", weights(BLOBGAN, spoilt(float("nan"))), BLOBGAN, "not finite"),
    network("infinity in the encoder", weights(ENCODER, spoilt(float("inf"))), ENCODER, "not finite"),
    network("NaN in the parser", weights(PARSER, spoilt(float("nan"))), PARSER, "not finite"),
    network("NaN in the decision model", weights(PLAIN, spoilt(float("nan"))), PLAIN, "not finite"),
    network("a config of another kind", put(f"{BLOBGAN}/config.yaml", "kind: encoder\n"), "holds a encoder network"),
    network("a config that is empty", put(f"{BLOBGAN}/config.yaml", ""), "holds a damaged network"),
    network("a config that is too deep", put(f"{BLOBGAN}/config.yaml", "[" * 1200), BLOBGAN),
    network("a config of a billion laughs", put(f"{BLOBGAN}/config.yaml", f"{LAUGHS}kind: *m\n"), BLOBGAN),
    network("a config of a billion merges", put(f"{BLOBGAN}/config.yaml", f"{MERGES}kind: blobgan\n"), BLOBGAN),
    network("a config with code", put(f"{PLAIN}/config.yaml", "!!python/object/apply:os.getcwd []"), PLAIN),
    network("a config without its network", config(BLOBGAN, "network", None), "network is None"),
    network("a config with a huge network", config(BLOBGAN, "network.blobs", 10**9), "network.blobs is 1000000000"),
    network("a height that is a text", config(BLOBGAN, "height", "32"), "blobgan"),
    network("a height that is null", config(PARSER, "height", None), "parser"),
    network("an aspect ratio that is a list", config(BLOBGAN, "aspect_ratio", [2]), "blobgan"),
    network("other pictures", config(BLOBGAN, "height", 64), "is for 64x128 images but rect has 32x64"),
    network("another setup", config(BLOBGAN, "setup", "square"), "give the models and parameters of one run"),
    network("a layout of no known kind", config(BLOBGAN, "network.layout", "spiral"), "network.layout is 'spiral'"),
    network("a flow of more numbers than a layout", flow_of(500), "z_dim is 500 but a layout has"),
    network("an encoder of no numbers", config(ENCODER, "w_size", -1), "w_size is -1"),
    network("an encoder of a trillion numbers", config(ENCODER, "w_size", 10**12), "w_size is 1000000000000"),
    network("an encoder without levels", config(ENCODER, "channels", {}), "channels"),
    network("an encoder of widths below 0", config(ENCODER, "channels", {4: -8, 8: 8, 16: 8, 32: 8}), "channels.4"),
    network("a parser without levels", config(PARSER, "channels", []), "parser.channels has 0 levels"),
    network("a parser of widths below 0", config(PARSER, "channels", [-8, 8]), "channels[0] is -8"),
    network("a parser of a trillion channels", config(PARSER, "channels", [10**12, 8]), "channels[0] is 1000000000000"),
    network("a parser of widths that are texts", config(PARSER, "channels", ["8", "8"]), "channels[0] is '8'"),
    network("a decision model of 7 outputs", config(PLAIN, "outputs", 7), "cannot have 7 outputs"),
    network("a start at segments without its network", setting("invert.start", "blobgan_pretrain"), "invert.start is"),
    network("no LPIPS", setting("data.perceptual", "vgg"), "vgg16-397923af.pth is missing"),
    network(
        "a damaged LPIPS",
        lambda folder: (
            setting("data.perceptual", "vgg")(folder),
            put("models/external/vgg16-397923af.pth", b"damaged")(folder),
        ),
        "vgg16-397923af.pth is damaged",
    ),
    network(
        "LPIPS with code",
        lambda folder: (
            setting("data.perceptual", "vgg")(folder),
            saved("models/external/vgg16-397923af.pth", Payload())(folder),
        ),
        "vgg16-397923af.pth is damaged",
    ),
    network(
        "an Inception that is none",
        lambda folder: (
            setting("data.frechet", "inception")(folder),
            put("models/external/inception-2015-12-05.pt", b"no network")(folder),
        ),
        "inception-2015-12-05.pt is damaged",
        command="stage fid_stats rect",
    ),
]
PUBLISHED = [
    imported("code", saved("file.ckpt", {"state_dict": Payload()}), "not a safe PyTorch checkpoint", "system"),
    imported("a bare pickle with code", put("file.ckpt", pickle.dumps(Payload())), "not a safe PyTorch checkpoint"),
    imported("a ZIP bomb", bomb("file.ckpt"), "not a safe PyTorch checkpoint"),
    imported("lists of a billion laughs", saved("file.ckpt", {"epoch": laughing()}), "no published generator"),
    imported("settings of a billion laughs", saved("file.ckpt", {"args": smiling()}), "no published generator"),
    imported("a folder", folder_at("file.ckpt"), "not a safe PyTorch checkpoint"),
    imported(
        "no layout network", checkpoint("state_dict", lambda state: only(state, "generator_ema.")), "no generator"
    ),
    imported("pictures of 2^28 rows", checkpoint("hyper_parameters", lambda known: known | {"resolution": 2**28})),
    imported("pictures of 2^14 rows", checkpoint("hyper_parameters", lambda known: known | {"resolution": 2**14})),
    imported("pictures of no rows", checkpoint("hyper_parameters", lambda known: known | {"resolution": 0})),
    imported("an aspect ratio of 0", checkpoint("hyper_parameters", lambda known: known | {"aspect_ratio": 0})),
    imported("no settings", checkpoint("hyper_parameters", lambda _: None), "name no resolution"),
    imported("tensors that are texts", checkpoint("state_dict", lambda state: dict.fromkeys(state, "text"))),
    imported("tensors without numbers", checkpoint("state_dict", lambda state: {k: v[:0] for k, v in state.items()})),
    imported(
        "a tensor larger than its file",
        checkpoint(
            "state_dict", lambda state: state | {"layout_net_ema.mlp.1.weight": torch.zeros(1).expand(2**20, 2**20)}
        ),
    ),
]


TRAINING = [
    training("an empty checkpoint", put(CHECKPOINT, b"")),
    training("no checkpoint at all", put(CHECKPOINT, "hello\n" * 99)),
    training("a checkpoint that is a folder", folder_at(CHECKPOINT)),
    training("a checkpoint with code", saved(CHECKPOINT, Payload())),
    training("a bare pickle with code", put(CHECKPOINT, pickle.dumps(Payload()))),
    training("a list", saved(CHECKPOINT, [1, 2])),
    training("a checkpoint of another program", saved(CHECKPOINT, {"state_dict": {}})),
    training("an entry that is a number", saved(CHECKPOINT, {"blobex": 5})),
    training("an entry without its run", saved(CHECKPOINT, {"blobex": {}})),
    training("a ZIP bomb", bomb(CHECKPOINT)),
    training(
        "a step that is not there",
        setting("decision.training.resume", {"source": "step", "run_id": None, "step": 7}),
        "no checkpoint of step 7",
    ),
    training(
        "no best step",
        setting("decision.training.resume", {"source": "best", "run_id": None, "step": None}),
        "no best checkpoint",
    ),
    training("batches for no device", setting("run.devices", 3), "does not divide among 3 devices"),
]
SCORE = "def score(x):\n    return "
CARDS = [
    card("too deep", "[" * 1200, "card.yaml"),
    card("a billion laughs", f"{LAUGHS}model: *m\n", "card.yaml"),
    card("a billion merges", f"{MERGES}model: plain\n", "card.yaml"),
    card("code", "model: !!python/object/apply:os.system ['touch executed']\n", "cannot read the card card.yaml"),
    card("a name too few", "model: plain\noutputs: [a, b, c]\n", "has 4 outputs but 3 names"),
    card("no names", "model: plain\noutputs: []\n", "card.outputs"),
    card("names that are numbers", "model: plain\noutputs: [1, 2, 3, 4]\n", "card.outputs[0] is 1"),
    card("pictures of a kilometre", "model: plain\nheight: 100000\n", "card.height is 100000"),
    card("a mean that is no number", "model: plain\nmean: [.nan, 0, 0]\n", "card.mean[0] is nan"),
    card("classes of one output", "model: plain\nkind: segmentation\n", "segmentation needs"),
    card("a model that is a list", "model: [plain]\n", "card.model is ['plain']"),
    card("a key twice", "model: plain\nmodel: biased\n", "card.yaml", "twice"),
    card("a model that leads nowhere", "model: nowhere.pt2\n", "there is no model nowhere.pt2"),
    card("an unknown network", "model: torchvision:resnet19:a.pth\n", "names no model"),
    Case("card: a folder", folder_at("card.yaml"), f"{EXPLAIN} --decision card.yaml", ("cannot read the card",)),
    Case("card: none", whole, f"{EXPLAIN} --decision card.yaml", ("cannot read the card card.yaml",)),
    Case("card: no such form", whole, f"{EXPLAIN} --decision 'model?'", ("model? is no decision model",)),
    Case("model: a program that is none", put("a.pt2", b"x"), f"{EXPLAIN} --decision a.pt2", ("no", "a.pt2")),
    Case("model: a script that is none", put("a.pt", b"x"), f"{EXPLAIN} --decision a.pt", ("a.pt is not",)),
    Case(
        "model: a script with code",
        saved("a.pt", Payload()),
        f"{EXPLAIN} --decision a.pt",
        ("a.pt is not a TorchScript file",),
    ),
    Case(
        "model: a state dict with code",
        saved("a.pth", Payload()),
        f"{EXPLAIN} --decision torchvision:resnet18:a.pth",
        ("a.pth is not a safe PyTorch checkpoint",),
    ),
    Case(
        "model: a state dict of nothing",
        saved("a.pth", {}),
        f"{EXPLAIN} --decision torchvision:resnet18:a.pth",
        ("a.pth holds no state dict",),
    ),
    Case("model: of MLflow, which is off", whole, f"{EXPLAIN} --decision models:/a/1", ("run.tracking_uri",)),
    code("that cannot be read", "def score(x:\n", "SyntaxError"),
    code("that raises", "raise RuntimeError('two\\nlines')\n", "RuntimeError: two lines"),
    code("that ends the program", "import sys; sys.exit(0)\n", "SystemExit"),
    code("without the name", "scores = 1\n", "has no score"),
    code("whose name fails", "def __getattr__(name):\n    raise ValueError(name)\n", "score"),
    code("a number", "score = 5\n", "is a int"),
    code("a class", "class score: ...\n", "is a class"),
    code("a function of no pictures", "def score(): ...\n", "fails on two grey images"),
    code("a function that raises", "def score(x):\n    raise OSError('a\\nb')\n", "fails on two grey images", "a b"),
    code("a function that ends the program", "def score(x):\n    raise SystemExit(0)\n", "two grey images"),
    code("a function of nothing", f"{SCORE}None\n", "gives a NoneType"),
    code("a function of texts", f"{SCORE}'yes'\n", "gives a str"),
    code("a function of one row", f"{SCORE}x.mean((2, 3))[:1]\n", "gives"),
    code("a function of NaN", f"{SCORE}x.mean((2, 3)) * float('nan')\n", "not finite"),
    code("a function of whole numbers", f"{SCORE}x.mean((2, 3)).long()\n", "no gradient"),
    code("a function without a gradient", f"{SCORE}x.mean((2, 3)).detach()\n", "no gradient"),
]
CASES = [*SAVED, *PUBLISHED, *TRAINING, *CARDS]
