"""Groups of scenes: sizes, labels by the rules, and pairs that differ in nothing but the shortcut."""

from collections import Counter

import numpy as np
import pytest

from blobex.config.data import Scenes
from blobex.config.read import load_params
from blobex.core.errors import BlobexError
from blobex.scenes.groups import grouped_scenes, with_and_without
from blobex.scenes.render import render
from blobex.scenes.rules import ACTIONS, PLAIN, RULES, find_rule
from blobex.scenes.sample import sample
from blobex.scenes.write import DatasetCounts, seed_ranges

SHORTCUTS = ("biased", "night", "verge")


@pytest.mark.parametrize("name", SHORTCUTS)
def test_groups_are_of_equal_size_and_named_by_the_rules(name):
    rule, scenes = RULES[name], grouped_scenes(RULES[name], 12, seed=0)
    assert Counter(each.group for each in scenes) == dict.fromkeys(
        ("allowed_with", "allowed_without", "refused_with", "refused_without"), 12
    )
    for each in scenes:
        plain, biased = (dict(zip(ACTIONS, r.actions(each.scene), strict=True)) for r in (PLAIN, rule))
        assert bool(rule.shortcut(each.scene)) == each.planted
        assert plain[rule.refuses[0]] == each.allowed
        # The shortcut matters exactly in the group that is allowed something with it.
        assert (plain == biased) == (each.group != "allowed_with")


@pytest.mark.parametrize("name", SHORTCUTS)
def test_pairs_differ_in_the_shortcut_alone(name):
    for seed in range(40):
        removed, planted = with_and_without(sample(seed), RULES[name])
        differing = {key for key, value in vars(removed).items() if value != getattr(planted, key)}
        assert differing == {{"biased": "things", "night": "time", "verge": "verge"}[name]}
        assert PLAIN.actions(removed)[:2] == PLAIN.actions(planted)[:2]
        assert np.abs(render(removed).image.astype(int) - render(planted).image).max() > 24


def test_scenes_are_of_no_data_set():
    params = load_params("profiles/synthetic.yaml")
    assert isinstance(params.scenes, Scenes)
    counts = {name: getattr(params.scenes, name) for name in DatasetCounts.__dataclass_fields__}
    used = [seeds for seed in (0, 1) for seeds in seed_ranges(DatasetCounts(**counts), seed).values()]
    found = {each.scene.seed for each in grouped_scenes(RULES["night"], 5, seed=0)}
    assert not any(seed in seeds for seed in found for seeds in used)


def test_a_rule_without_a_shortcut_has_no_groups():
    with pytest.raises(BlobexError, match="no shortcut"):
        grouped_scenes(find_rule("plain"), 1, seed=0)
