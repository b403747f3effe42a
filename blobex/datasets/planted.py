"""Decisions by rules with a planted shortcut (`scenes.rules.RULES`), derived from the scene behind an image."""

from __future__ import annotations

import dataclasses

import torch

from blobex.config.params import Params
from blobex.core.errors import BlobexError
from blobex.datasets.bdd import read_decisions
from blobex.datasets.datamodule import DecisionSet, load_decisions
from blobex.datasets.manifest import data_root
from blobex.scenes.rules import find_rule
from blobex.scenes.write import scene_of

IN_FILES = ("plain", "biased")  # rules whose decisions are in the data set's files


def load_planted(params: Params, setup_name: str, split: str, rule: str) -> DecisionSet:
    """Load decisions with the actions that a rule allows.

    Raises:
        BlobexError: if the rule is unknown, or needs scenes and the images are not synthetic.
    """
    chosen = find_rule(rule)
    data = load_decisions(params, setup_name, split, biased=rule == "biased")
    if rule in IN_FILES:
        return data
    try:
        scenes = [scene_of(record.image) for record in read_decisions(data_root(params), split)]
    except BlobexError as error:
        raise BlobexError(f"rule {rule} needs synthetic scenes, so take {' or '.join(IN_FILES)}: {error}") from error
    actions = torch.tensor([chosen.actions(scene) for scene in scenes], dtype=torch.float32)
    return dataclasses.replace(data, actions=actions)
