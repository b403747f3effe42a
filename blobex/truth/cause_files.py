"""Files of verified phrases: one table of each rule's model, and an example of each verified phrase as two images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from blobex.core.files import whole_folder, write_text
from blobex.datasets.images import write_png
from blobex.scenes.rules import PLAIN, RULES
from blobex.truth.effects import PhraseEffect


def write_causes(effects: Mapping[str, Sequence[PhraseEffect]], folder: Path) -> None:
    """Write <rule>.json with all phrases that were tried, and the images <rule>_<number>_{before,after}.png."""
    with whole_folder(folder) as new:
        for rule, own in effects.items():
            phrases = [_row(each, new, f"{rule}_{number}") for number, each in enumerate(own)]
            content = {"meaning": "" if rule == PLAIN.name else RULES[rule].meaning, "phrases": phrases}
            write_text(new / f"{rule}.json", json.dumps(content, indent=1) + "\n")


def _row(each: PhraseEffect, folder: Path, name: str) -> dict[str, Any]:
    names = [f"{name}_{state}.png" for state in ("before", "after")]
    if each.verified:
        for file, image in zip(names, each.example.images, strict=True):
            write_png(folder / file, image)
    return {
        "phrase": each.phrase,
        "frequency_rank": each.frequency_rank,
        "renderer": each.renderer,
        "scenes": each.scenes,
        "verified": each.verified,
        "effect": asdict(each.effect),
        "excess": asdict(each.excess),
        "scene": each.example.scene,
        "decisions": list(each.decisions),
        "images": names if each.verified else [],
    }
