"""The decision model: torchvision's DenseNet behind it, and training that learns a rule."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from blobex.config.data import ImageSize, Run
from blobex.config.training import Checkpoints, DecisionParams, Resume, Training
from blobex.core.errors import BlobexError
from blobex.datasets.datamodule import DecisionSet
from blobex.datasets.images import to_float
from blobex.networks import weights
from blobex.networks.decision import DecisionModel, load_decision
from blobex.tracking.tracker import NullTracker
from blobex.training.decision import DecisionModule, decision_measures
from blobex.training.fit import fit
from blobex.training.step_module import sample_batches

SETUP = ImageSize(height=32, aspect_ratio=1)
RUN = Run(0, "cpu", 1, "float32", "pictures", tracking_uri="none", artifacts=None, s3_endpoint=None)
PARAMS = DecisionParams(
    variants=["plain"],
    architecture="densenet_small",
    training=Training(
        steps=25,
        batch_size=16,
        accumulate=1,
        learning_rate=0.01,
        halve_every=10,
        checkpoint=Checkpoints(100, 1, "step", "max"),
        resume=Resume("last", None, None),
    ),
)


def coloured(count: int, seed: int) -> DecisionSet:
    """Noise whose mean colour decides: red stops, the rest follows from it."""
    random = torch.Generator().manual_seed(seed)
    red = torch.rand(count, generator=random) < 0.5
    images = torch.randint(0, 128, (count, 3, 32, 32), dtype=torch.uint8, generator=random)
    images[red, 0] += 100
    stop = red.float()
    return DecisionSet(images, torch.stack([1 - stop, stop, stop, 1 - stop], 1))


def test_densenet121_is_torchvisions() -> None:
    torch.manual_seed(0)
    theirs = torchvision.models.densenet121(weights=None, num_classes=4).eval()
    torch.manual_seed(0)
    ours = DecisionModel("densenet121", 32, 64).eval()
    initial = {name.replace("features.", "body."): tensor for name, tensor in theirs.state_dict().items()}
    assert list(initial) == list(ours.state_dict())  # weights as drawn by torchvision from the same random numbers
    assert all(torch.equal(tensor, initial[name]) for name, tensor in ours.state_dict().items())
    ours.body.load_state_dict(theirs.features.state_dict())
    ours.classifier.load_state_dict(theirs.classifier.state_dict())
    x = torch.rand(2, 3, 32, 64) * 2 - 1
    torch.testing.assert_close(ours(x), theirs(x))
    assert ours.features(x).shape == (2, 1024)
    torch.testing.assert_close(ours.classifier(ours.features(x)), ours(x))
    prefixes = {name.split(".")[0] for name in ours.state_dict()}
    assert prefixes == {"body", "classifier"}


def test_saved_model_is_the_same_and_frozen(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = DecisionModel("densenet_small", 32, 64).eval()
    weights.save(tmp_path, "decision", {"setup": "rect", **model.config}, model)
    loaded = load_decision(tmp_path)
    x = torch.rand(2, 3, 32, 64, requires_grad=True)
    assert torch.equal(loaded(x), model(x)) and not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    loaded(x).sum().backward()
    assert x.grad is not None and (x.grad != 0).any()
    assert loaded.config == {"architecture": "densenet_small", "height": 32, "width": 64, "outputs": 4}
    with pytest.raises(BlobexError, match="no decision weights"):
        load_decision(tmp_path / "none")


def test_invalid_arguments_are_refused() -> None:
    with pytest.raises(BlobexError, match="32 pixels"):
        DecisionModel("densenet_small", 16, 32)
    with pytest.raises(BlobexError, match="unknown decision architecture"):
        DecisionModel("resnet", 32, 32)


def test_training_learns_the_rule_and_resumes_to_the_bit(tmp_path: Path) -> None:
    data, unseen = coloured(96, seed=1), coloured(64, seed=2)
    batches = sample_batches((data.images, data.actions), len(data.images), PARAMS.training, seed=0)
    whole = DecisionModule(PARAMS, SETUP, data, seed=0)
    before = decision_measures(whole.model.eval(), unseen, 16)
    fit(whole, batches, PARAMS.training, RUN, tmp_path / "whole", NullTracker())
    after = decision_measures(whole.model.eval(), unseen, 16)
    assert before["accuracy"] < 0.8 < 0.95 < after["accuracy"]

    training = dataclasses.replace(PARAMS.training, checkpoint=Checkpoints(10, 1, "step", "max"))

    def killed(step: int):
        if step == 17:
            raise InterruptedError
        return batches(step)

    with pytest.raises(InterruptedError):
        fit(DecisionModule(PARAMS, SETUP, data, 0), killed, training, RUN, tmp_path / "broken", NullTracker())
    resumed = DecisionModule(PARAMS, SETUP, data, seed=0)
    fit(resumed, batches, training, RUN, tmp_path / "broken", NullTracker())
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name


def test_other_data_changes_the_configuration() -> None:
    first, second = (DecisionModule(PARAMS, SETUP, coloured(8, seed), 0).config for seed in (1, 2))
    assert first != second


def test_measures_by_hand() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.zero = nn.Parameter(torch.zeros(1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[1.0, -1.0, 1.0, 1.0]]).expand(len(x), 4) + self.zero

    images = torch.zeros(4, 3, 32, 32, dtype=torch.uint8)
    assert to_float(images).min() == -1
    actions = torch.tensor([[1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 1, 0], [0, 1, 0, 0]]).float()
    measures = decision_measures(Fixed(), DecisionSet(images, actions), 3)
    expected = {"accuracy_forward": 0.75, "accuracy_stop": 0.5, "accuracy_left": 0.25, "accuracy_right": 0.5}
    assert {name: measures[name] for name in expected} == expected
    assert measures["accuracy"] == 0.5
    # F1 = 2 hits / (said + true): 6/7, 0, 2/5, 4/6
    assert measures["f1"] == pytest.approx((6 / 7 + 0 + 2 / 5 + 4 / 6) / 4)
