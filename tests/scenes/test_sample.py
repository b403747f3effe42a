"""Random scenes: distribution of their contents."""

import subprocess
import sys

import numpy as np

from blobex.scenes.rules import ACTIONS, NEAR, REASONS, actions, reasons
from blobex.scenes.sample import sample


def test_things_are_clearly_near_or_far():
    for seed in range(600):
        distances = [thing.distance for thing in sample(seed).things if thing.place in ("left", "ego", "right")]
        assert all(distance < NEAR - 3 or distance > NEAR + 4 for distance in distances)


def test_actions_are_balanced_and_all_possible_reasons_occur():
    scenes = [sample(seed) for seed in range(1500)]
    rates = np.array([actions(scene) for scene in scenes]).mean(axis=0)
    assert all(0.25 < rate < 0.75 for rate in rates), dict(zip(ACTIONS, rates, strict=True))
    shares = np.array([reasons(scene) for scene in scenes]).mean(axis=0)
    never = {name for name, rate in zip(REASONS, shares, strict=True) if rate == 0}
    assert never == {name for name in REASONS if "front car" in name or "turn lane" in name or "-turn" in name}
    assert min(rate for rate in shares if rate) > 0.02


def test_scenes_load_neither_torch_nor_scipy():
    code = "import sys, blobex.scenes, blobex.scenes.write; print({'torch', 'scipy', 'lightning'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
