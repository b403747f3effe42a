"""Weights in half precision: how an error is measured, and a network that is two."""

import torch
from safetensors.torch import load_file
from tiny_models import NETWORK
from tiny_networks import random_blobgan, randomise
from torch import nn

from blobex.networks import weights
from blobex.networks.segment_encoder import build_segment_encoder
from blobex.release import half


def test_relative_error_is_of_each_outputs_largest_number():
    exact = [torch.tensor([4.0, -8.0]), torch.tensor([0.5])]
    assert half.relative_error(exact, exact) == 0
    assert half.relative_error(exact, [torch.tensor([5.0, -8.0]), torch.tensor([0.5])]) == 1 / 8
    assert half.relative_error(exact, [torch.tensor([5.0, -8.0]), torch.tensor([0.25])]) == 1 / 2
    assert half.relative_error(exact, [torch.tensor([5.0, float("nan")]), torch.tensor([0.5])]) == float("inf")


def test_a_segment_encoder_is_halved_too(tmp_path):
    blobgan = random_blobgan(NETWORK, 32, 2)
    encoder = randomise(build_segment_encoder(blobgan, 6), spread=0.1).eval()
    both = nn.ModuleDict({"blobgan": blobgan, "encoder": encoder})
    config = {**blobgan.config(), **encoder.config, "slots": {"road": 3}}
    for name in ("exact", "stored"):
        weights.save(tmp_path / name, "blobgan_pretrain", config, both)
    found = half.halve("blobgan_pretrain", tmp_path / "exact", tmp_path / "stored", half.pictures(blobgan))
    assert found.half and 0 < found.error < half.LIMIT
    stored = load_file(tmp_path / "stored/weights.safetensors")
    names = {"encoder.slot", "blobgan.layout_network.layers.0.weight"}
    assert {stored[name].dtype for name in names} == {torch.float16}
    assert stored["blobgan.mean_w"].dtype == stored["encoder.traits"].dtype == torch.float32
