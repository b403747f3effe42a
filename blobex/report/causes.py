"""Causes of a model's decisions with example images, as cards of the audit's page and of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from blobex.core.errors import BlobexError
from blobex.core.files import read_json
from blobex.metrics.effects import Effect
from blobex.metrics.interval import Interval
from blobex.report.elements import Bar, share_bar
from blobex.report.gallery import PageImage, page_image

SHOWN = 3  # causes of a model with a card
FOLDER = "causes"  # of the truth benchmark's results of a setup: <rule>.json and images


@dataclass(frozen=True)
class Cause:
    """A factor or change on which an output depends, with an example whose two decisions are `decisions`."""

    output: str
    factor: str
    effect: Effect
    images: int
    example: str  # name of the image
    phrase: str  # the intervention
    off: np.ndarray  # uint8 (H,W,3)
    on: np.ndarray
    decisions: tuple[bool, bool]
    proven: bool = True  # otherwise it is likely only
    excess: Interval | None = None  # of the effect over that on the plain rules' decisions


@dataclass(frozen=True)
class CauseCard:
    """A cause as a page shows it."""

    cause: Cause
    bars: Mapping[str, Bar | None]  # by measure
    images: Sequence[PageImage]  # two


@dataclass(frozen=True)
class ModelCauses:
    """What interventions on fresh scenes have shown about one of the truth benchmark's models."""

    rule: str
    meaning: str  # of the planted shortcut
    tried: int  # changes that explanations often name
    cards: Sequence[CauseCard]  # of the first verified ones
    others: Sequence[tuple[str, str]]  # further verified ones, and their excess

    @property
    def sentence(self) -> str:
        """What was found, such as "trained with: no left at night. 3 of 30 changes have too large an effect"."""
        found = len(self.cards) + len(self.others)
        trained = f"Trained with the shortcut: {self.meaning}" if self.meaning else "Trained without a shortcut"
        verb = "has" if found == 1 else "have"
        return f"{trained}. Of {self.tried} changes, {found or 'none'} {verb} too large an effect."


def cause_card(cause: Cause) -> CauseCard:
    """Encode the images of a cause and scale its effects as bars."""
    bars: dict[str, Bar | None] = {"average effect": _signed(cause.effect.effect)}
    bars |= {} if cause.excess is None else {"beyond the plain rules": _signed(cause.excess)}
    shares = {"necessary": cause.effect.necessity, "sufficient": cause.effect.sufficiency}
    bars |= {name: None if share is None else share_bar(share) for name, share in shares.items()}
    return CauseCard(cause, bars, [page_image(cause.off), page_image(cause.on)])


def verified_causes(folder: Path) -> list[ModelCauses]:
    """Read what the truth benchmark of a setup has verified; [] if it has not run. BlobexError: a file is damaged."""
    return [_model(path) for path in sorted((folder / FOLDER).glob("*.json"))]


def _model(path: Path) -> ModelCauses:
    try:
        content = read_json(path)
        rows = [row for row in content["phrases"] if row["verified"]]
        cards = [cause_card(_cause(row, path.parent)) for row in rows[:SHOWN]]
        others = [(row["phrase"], _signed(Interval(**row["excess"])).text) for row in rows[SHOWN:]]
        return ModelCauses(path.stem, content["meaning"], len(content["phrases"]), cards, others)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BlobexError(f"{path} is damaged: run `dvc repro truth` again") from error


def _cause(row: Mapping[str, Any], folder: Path) -> Cause:
    before, after = (np.asarray(Image.open(folder / name).convert("RGB")) for name in row["images"])
    effect, action = row["effect"], row["phrase"].partition(": ")[0].removeprefix("not ")
    shares = [None if effect[name] is None else Interval(**effect[name]) for name in ("necessity", "sufficiency")]
    return Cause(
        output=action,
        factor=row["phrase"],
        effect=Effect(Interval(**effect["effect"]), *shares),
        images=row["scenes"],
        example=f"scene {row['scene']}",
        phrase=row["phrase"].partition(": ")[2],
        off=before,
        on=after,
        decisions=(row["decisions"][0], row["decisions"][1]),
        excess=Interval(**row["excess"]),
    )


def _signed(value: Interval) -> Bar:
    low, high = sorted((abs(value.low), abs(value.high)))
    low = low if value.low * value.high > 0 else 0.0
    mean, low, high = (min(number, 1.0) for number in (abs(value.mean), low, high))
    return Bar(mean, low, high, f"{value.mean:+.2f} [{value.low:+.2f}, {value.high:+.2f}]")
