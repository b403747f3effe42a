"""Effects of phrases on models that decide as a rule does, without error: the causes and their effects are known."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from blobex.datasets.images import to_array
from blobex.scenes.render import render
from blobex.scenes.rules import ACTIONS, PLAIN, RULES, Rule
from blobex.scenes.scene import Scene
from blobex.truth.causes import effect_lines, effect_metrics
from blobex.truth.effects import ImagePair, effect_rank, fresh_scenes, phrase_effects
from blobex.truth.scene_changes import scene_pair

SCENES = fresh_scenes(48, seed=0)
CHANGES = ("time turned day", "vehicle on the left removed", "verge turned sidewalk", "light turned green", "sky grew")
PHRASES = [f"{wanted}: {change}" for wanted in ("left", "right", "forward", "not stop") for change in CHANGES]


class World:
    """Images of known scenes, and what a rule decides about them."""

    def __init__(self) -> None:
        self.scenes = dict[bytes, Scene]()
        self.pairs = {change: self.pairs_of(change) for change in CHANGES if change != "sky grew"}

    def pairs_of(self, change: str) -> list[ImagePair]:
        return [
            ImagePair(str(scene.seed), (self.show(pair[0]), self.show(pair[1])), (allowed(pair[0]), allowed(pair[1])))
            for scene in SCENES
            if (pair := scene_pair(change, scene))
        ]

    def show(self, scene: Scene) -> np.ndarray:
        image = render(scene, 32).image
        self.scenes[image.tobytes()] = scene
        return image

    def outputs(self, rule: Rule):
        def decide(images: Tensor) -> Tensor:
            scenes = [self.scenes[to_array(image).tobytes()] for image in images]
            return torch.tensor([[2.0 * value - 1 for value in rule.actions(scene)] for scene in scenes])

        return decide


def allowed(scene: Scene) -> dict[str, bool]:
    return dict(zip(ACTIONS, PLAIN.actions(scene), strict=True))


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.mark.parametrize(
    ("rule", "phrase"),
    [
        ("night", "left: time turned day"),
        ("biased", "right: vehicle on the left removed"),
        ("verge", "forward: verge turned sidewalk"),
    ],
)
def test_planted_shortcut_is_first_and_alone(world: World, rule: str, phrase: str) -> None:
    effects = phrase_effects(rule, PHRASES, world.pairs, world.outputs(RULES[rule]))
    verified = [each.phrase for each in effects if each.verified]
    assert verified[0] == phrase and effect_rank(effects, rule) == 1
    assert set(verified) <= {phrase, phrase.replace("forward", "not stop")}
    assert not any("sky" in each.phrase for each in effects)  # there were no images of it
    metrics = effect_metrics({rule: effects})
    assert metrics[f"{rule}_ours_effect_rank"] == 1 and metrics[f"{rule}_ours_verified"] == len(verified)
    assert json.dumps(metrics) and f"  {phrase}: " in "\n".join(effect_lines(rule, effects))


def test_effect_of_night_is_the_share_that_the_other_causes_allow(world: World) -> None:
    """The rule refuses left at night, so that day allows what the plain rules do: ACE = PS = P(allowed), PN = 1."""
    effects = phrase_effects("night", PHRASES, world.pairs, world.outputs(RULES["night"]))
    share = np.mean([PLAIN.actions(scene)[ACTIONS.index("left")] for scene in SCENES])
    found = effects[0]
    assert found.scenes == len(SCENES) and found.renderer and found.frequency_rank == 1
    assert found.effect.necessity is not None and found.effect.sufficiency is not None
    assert found.effect.effect.mean == found.excess.mean == found.effect.sufficiency.mean == pytest.approx(share)
    assert found.effect.necessity.mean == 1


def test_honest_model_has_effects_but_no_shortcut(world: World) -> None:
    effects = phrase_effects("plain", PHRASES, world.pairs, world.outputs(PLAIN))
    assert max(each.effect.effect.mean for each in effects) > 0.3
    assert not any(each.verified for each in effects) and all(each.excess.mean == 0 for each in effects)
    assert effect_lines("plain", effects)[1:] == ["  none"]


def test_scenes_whose_reading_is_wrong_from_the_start_do_not_count(world: World) -> None:
    pairs = [ImagePair(p.scene, p.images, p.allowed, {"left": n < 20}) for n, p in enumerate(world.pairs[CHANGES[0]])]
    outputs = world.outputs(RULES["night"])
    (found,) = phrase_effects("night", [f"left: {CHANGES[0]}"], {CHANGES[0]: pairs}, outputs)
    assert found.scenes == 20
