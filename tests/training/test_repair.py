"""Fine-tuning on corrections: it unlearns a shortcut, to the same bytes each time, and resumes."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from sklearn.metrics import log_loss
from torch import Tensor, nn
from worlds.toy_training import RUN, TRAINING, Recorder

from blobex.config.read import load_params
from blobex.core.errors import BlobexError
from blobex.datasets.datamodule import DecisionSet
from blobex.datasets.images import to_float
from blobex.metrics.groups import gain, group_accuracies, worst_group
from blobex.networks.decision import DecisionModel
from blobex.tracking.tracker import NullTracker
from blobex.training.repair import Corrections, fine_tune, known_loss, repair_batches

PROFILE = Path(__file__).parents[2] / "profiles" / "synthetic.yaml"
NAN = float("nan")


def options(steps: int = 8, replay: float = 0.5, rate: float = 0.02):
    training = dataclasses.replace(TRAINING, steps=steps, batch_size=16, learning_rate=rate, halve_every=0)
    return dataclasses.replace(load_params(PROFILE).repair, replay=replay, training=training)


class Brightness(nn.Module):
    """Decides by the brightness of two channels: the cause and, by its initial weights, a shortcut that forbids."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 1)
        self.linear.weight.data = torch.tensor([[4.0, -8.0]])
        self.linear.bias.data = torch.tensor([-4.0])

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(images[:, :2].mean((2, 3)))


def world(count: int, seed: int, planted: float) -> tuple[Tensor, Tensor, list[str]]:
    """Images whose first channel is bright where the label is 1, and the second one in the share `planted`."""
    random = torch.Generator().manual_seed(seed)
    label, shortcut = torch.rand(count, generator=random) < 0.5, torch.rand(count, generator=random) < planted
    levels = torch.stack([label, shortcut, label], 1).float() * 160 + 40
    images = levels[:, :, None, None] + 20 * torch.rand(count, 3, 4, 4, generator=random)
    return images.byte(), label.float()[:, None], [f"{a}{b}" for a, b in zip(label, shortcut, strict=True)]


def worst(model: nn.Module) -> float:
    images, labels, groups = world(200, 5, 0.5)
    right = ((model(to_float(images)) > 0) == (labels > 0.5))[:, 0]
    return worst_group(group_accuracies(right.numpy(), groups).values()).mean


def test_loss_is_that_of_sklearn_over_the_known_labels():
    logits = torch.randn(9, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.randint(0, 2, (9, 4), generator=torch.Generator().manual_seed(1)).float()
    labels[::2, 1] = NAN
    known = ~labels.isnan()
    expected = log_loss(labels[known].numpy(), logits[known].double().sigmoid().numpy())
    assert known_loss(logits, labels).item() == pytest.approx(expected, rel=1e-5)


def test_counterfactuals_with_right_labels_mend_a_shortcut(tmp_path):
    model = Brightness()
    before = worst(model)
    images, labels, _ = world(64, 1, 0.5)
    plain, own, _ = world(64, 2, 0.0)
    given = Corrections(images, labels), DecisionSet(plain, own), options(200, rate=0.1)
    fine_tune(model, *given, RUN, tmp_path, NullTracker())
    assert before < 0.1 and gain(before, worst(model)) > 0.9


def test_without_new_information_nothing_is_mended(tmp_path):
    """Images without the shortcut say nothing about it."""
    model = Brightness()
    before = worst(model)
    images, labels, _ = world(64, 1, 0.0)
    fine_tune(model, Corrections(images, labels), None, options(200), RUN, tmp_path, NullTracker())
    assert gain(before, worst(model)) < 0.1


def tuned(folder: Path, steps: int, seed: int = 0) -> dict[str, Tensor]:
    torch.manual_seed(seed)
    model = DecisionModel("densenet_small", 32, 32)
    random = torch.Generator().manual_seed(3)
    images = torch.randint(0, 256, (40, 3, 32, 32), generator=random, dtype=torch.uint8)
    labels = torch.randint(0, 2, (40, 4), generator=random).float()
    corrections = Corrections(images[:20], torch.where(torch.rand(20, 4, generator=random) < 0.3, NAN, labels[:20]))
    recorder = Recorder()
    fine_tune(model, corrections, DecisionSet(images, labels), options(steps), RUN, folder, recorder)
    assert recorder.metrics and not any(parameter.requires_grad for parameter in model.parameters())
    return model.state_dict()


def test_stopped_runs_end_with_the_same_bytes(tmp_path):
    whole = tuned(tmp_path / "whole", 8)
    tuned(tmp_path / "parts", 4)
    resumed = tuned(tmp_path / "parts", 8)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    start = DecisionModel("densenet_small", 32, 32).state_dict()
    changed = {name for name, tensor in whole.items() if "running" not in name and "num_batches" not in name}
    for name, tensor in start.items():  # statistics of batch normalisation are kept
        if name not in changed:
            assert torch.equal(tensor, whole[name])


def test_batches_hold_the_asked_share_of_training_images():
    images = torch.arange(30, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 1, 1)
    corrections = Corrections(images[:10], torch.zeros(10, 1))
    batch = repair_batches(corrections, DecisionSet(images[10:], torch.ones(20, 1)), options(replay=0.25), 0)
    for step in range(5):
        pixels, labels = batch(step)
        assert labels.sum() == 4 and len(labels) == 16
        assert ((pixels[:, 0, 0, 0] >= 10) == (labels[:, 0] == 1)).all()
    seen = torch.cat([batch(step)[0][:, 0, 0, 0] for step in range(5)])
    assert {*range(30)} == set(seen.tolist())


def test_nothing_to_learn_is_refused(tmp_path):
    images = torch.zeros(2, 3, 4, 4, dtype=torch.uint8)
    for corrections in (Corrections(images[:0], torch.zeros(0, 1)), Corrections(images, torch.full((2, 1), NAN))):
        with pytest.raises(BlobexError, match="a repair needs labels"):
            fine_tune(Brightness(), corrections, None, options(), RUN, tmp_path, NullTracker())
    with pytest.raises(BlobexError, match="give one for each"):
        Corrections(images, torch.zeros(3, 1))
