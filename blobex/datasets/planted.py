"""Decisions by rules with a planted shortcut (`scenes.rules.RULES`), which follow from the scene behind a picture."""

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

WRITTEN = ("plain", "biased")  # the rules whose decisions the files tell, those of real pictures too


def load_planted(params: Params, setup_name: str, split: str, rule: str) -> DecisionSet:
    """`load_decisions` with the actions that a rule allows.

    Pictures that are no synthetic scenes have only the decisions that their files tell. BlobexError: another rule is
    asked for of them, or the rule is unknown.
    """
    chosen = find_rule(rule)
    data = load_decisions(params, setup_name, split, biased=rule == "biased")
    if rule in WRITTEN:
        return data
    try:
        scenes = [scene_of(record.image) for record in read_decisions(data_root(params), split)]
    except BlobexError as error:
        raise BlobexError(f"rule {rule} needs synthetic scenes, so take {' or '.join(WRITTEN)}: {error}") from error
    actions = torch.tensor([chosen.actions(scene) for scene in scenes], dtype=torch.float32)
    return dataclasses.replace(data, actions=actions)
