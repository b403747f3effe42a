"""The control model: training lowers its error, and the saved one is a regression to explain."""

import dataclasses
from pathlib import Path

import pytest
import torch
from worlds.decision_models import assert_same, noise, opened

from blobex.config.data import ImageSize
from blobex.config.read import load_params
from blobex.datasets.controls import ControlSet
from blobex.networks import weights
from blobex.networks.control import ControlModel, load_control
from blobex.tracking.tracker import NullTracker
from blobex.training.control import ControlModule, control_measures
from blobex.training.fit import fit
from blobex.training.step_module import sample_batches

PROFILE = Path(__file__).parents[2] / "profiles" / "synthetic.yaml"


def test_training_learns_brightness(tmp_path: Path) -> None:
    """Steering and brake are the brightness of two channels."""
    images = torch.randint(0, 256, (32, 3, 1, 1), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    images = images.expand(-1, -1, 32, 64).contiguous()
    data = ControlSet(images, images[:, :2].float().mean((2, 3)) / 255)
    params = load_params(PROFILE)
    training = dataclasses.replace(params.control.training, steps=40, batch_size=16, learning_rate=0.004)
    control = dataclasses.replace(params.control, training=training)
    module = ControlModule(control, ImageSize(32, 2), data, 0)
    before = control_measures(module.model.eval(), data, 8)
    batches = sample_batches((data.images, data.controls), 32, training, 0)
    fit(module, batches, training, params.run, tmp_path / "checkpoints", NullTracker())
    after = control_measures(module.model.eval(), data, 32)
    for name in ("error_steering", "error_brake"):
        assert after[name] < 0.6 * before[name]
    by_hand = (module.model(images.float() / 127.5 - 1) - data.controls).abs().mean(0)
    assert after["error_brake"] == pytest.approx(by_hand[1].item(), rel=1e-5)


def test_measures_of_exact_controls() -> None:
    class Exact(ControlModel):
        def forward(self, x):
            return x[:, :2, 0, 0]

    images = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8)
    exact = (images[:, :2, 0, 0].float() / 127.5) - 1
    found = control_measures(Exact(32, 32), ControlSet(images, exact), 4)
    assert found["error_steering"] < 1e-6 and found["brake_accuracy"] == 1
    flipped = ControlSet(images, torch.stack([exact[:, 0], 1 - exact[:, 1]], 1))
    assert control_measures(Exact(32, 32), flipped, 4)["brake_accuracy"] < 1


def test_saved_model_is_a_regression_to_explain(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = ControlModel(32, 64).eval()
    weights.save(tmp_path / "control", "control", {"setup": "rect", **model.config}, model)
    loaded = load_control(tmp_path / "control")
    assert torch.equal(loaded(noise(2, 32, 64)), model(noise(2, 32, 64)))
    decision = opened(tmp_path / "control", 32, 64)
    assert (decision.kind, decision.outputs) == ("regression", ("steering", "brake"))
    assert_same(decision.logits, model, noise(2, 32, 64))
    assert_same(decision.features, model.features, noise(2, 32, 64))
