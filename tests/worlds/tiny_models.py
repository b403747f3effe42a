"""Random networks for 32x64 images, saved as by the stages, with a parameter file."""

import dataclasses
from dataclasses import asdict
from pathlib import Path

import torch
import yaml
from worlds.tiny_networks import random_blobgan, randomise
from worlds.tiny_world import HEIGHT, WIDTH, tiny_params

from blobex.config.training import Network
from blobex.networks import weights
from blobex.networks.decision import DecisionModel
from blobex.networks.encoder import Encoder
from blobex.networks.parser import Parser
from blobex.networks.witness import DecisionWitness, ReadingWitness, Witness, save_witness
from blobex.scenes.rules import RULES

NETWORK = Network(
    blobs=3,
    blob_area=0.02,
    size_in=8,
    feature_dim=8,
    style_dim=8,
    layout="mlp",
    z_dim=8,
    layout_hidden=16,
    layout_layers=3,
    norm_features=True,
    channels={8: 8, 16: 8, 32: 8},
    discriminator_channels={4: 8, 8: 8, 16: 8, 32: 8},
    rectangle="native",
)
WIDER = dataclasses.replace(NETWORK, blobs=7, feature_dim=24, style_dim=16, channels={8: 40, 16: 32, 32: 16})


def small_encoder(w_size: int = 16) -> Encoder:
    return Encoder("stylegan", {4: 8, 8: 8, 16: 8, 32: 8}, HEIGHT, 2, w_size, mlp_idx=-1)


def save_models(
    folder: Path,
    network: Network = NETWORK,
    precision: str = "float32",
    steps: int = 1,
    architecture: str = "densenet_small",
) -> Path:
    """Write `models/` and `params.yaml` into a folder and return it."""
    torch.manual_seed(0)
    models = folder / "models"
    blobgan = random_blobgan(network, HEIGHT, 2)
    weights.save(models / "blobgan/rect", "blobgan", blobgan.config(), blobgan)
    for kind in ("encoder", "encoder_pretrain"):
        encoder = small_encoder()
        weights.save(models / kind / "rect", kind, encoder.config, encoder)
    parser = Parser([8, 8], HEIGHT, WIDTH)
    weights.save(models / "parser/rect", "parser", parser.config, parser)
    for seed, kind in enumerate(("plain", "biased")):
        decision = randomise(DecisionModel(architecture, HEIGHT, WIDTH), seed, spread=0.02)
        weights.save(models / "decision/rect" / kind, "decision", decision.config, decision)
    decision, reading = DecisionWitness([8, 8], len(RULES), HEIGHT, WIDTH), ReadingWitness(16, HEIGHT, WIDTH)
    save_witness(models / "witness/rect", "rect", Witness(decision, reading, tuple(RULES)))
    tree = asdict(tiny_params(steps))
    tree["run"] |= {"precision": precision, "tracking_uri": "none"}
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))
    return folder


def smooth_images(count: int, seed: int = 0) -> torch.Tensor:
    """Return different smooth images (N,3,HEIGHT,WIDTH) in [-1,1]."""
    coarse = torch.rand(count, 3, 4, 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return torch.nn.functional.interpolate(coarse, (HEIGHT, WIDTH), mode="bilinear", align_corners=False)
