"""What trials of a search's settings share, be it the inversion's or the counterfactuals'."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self, TypeVar

import numpy as np
from torch import Tensor

from blobex.config.explain import InversionParams, SearchParams
from blobex.config.read import parse
from blobex.config.sweeps import Range, SweepCf, SweepInvert
from blobex.explain.explainer import Explainer
from blobex.sweeps.images import Parts, chunks, digest, speed_settings
from blobex.sweeps.task import Number, Report, Settings, Values

SLOW = 1.5  # of the budget: a trial that takes so long on its first pictures will not keep it on all


class Found(Protocol):
    """What a search found about some pictures."""

    @property
    def seconds(self) -> float:
        """How long it took, all pictures together."""

    def joined(self, other: Self, /) -> Self:
        """This and what it found about others."""


F = TypeVar("F", bound=Found)


class SearchTask:
    """Trials of `<tuned>.<setup>`, a section of the parameters, on fixed pictures."""

    tuned: str  # invert or explain
    published: Mapping[str, Number]  # the settings of the published scripts

    def __init__(self, explainer: Explainer, options: SweepCf | SweepInvert, pictures: Parts) -> None:
        self.explainer, self.setup, self.pictures = explainer, explainer.setup, pictures
        self.space: dict[str, Range] = {str(name): each for name, each in options.space.items()}
        self.present: InversionParams | SearchParams = getattr(getattr(explainer.params, self.tuned), self.setup)
        self.budget, self.chunk, self.warm = self._budget(options.seconds), options.chunk, False

    def _budget(self, seconds: float | None) -> float | None:
        """Seconds per picture: wider ones get as many times more, as they have as many times the pixels."""
        return None if seconds is None else seconds * self.explainer.params.setup(self.setup).aspect_ratio

    def shared_identity(self) -> dict[str, Any]:
        """What a trial's outcome depends on in both searches, beside the settings tried."""
        tuned = set(self.settings(dict.fromkeys(self.space, 1)))
        return {
            "pictures": digest(self.pictures.seen[1]),
            "finals": digest(self.pictures.finals[1]),
            "weights": self.explainer.weights,
            "device": self.explainer.device.type,  # of which the seconds are
            "decision": [self.explainer.decision.name, *self.explainer.decision.outputs],
            "fixed": {name: value for name, value in dataclasses.asdict(self.present).items() if name not in tuned},
            "perceptual": self.explainer.params.data.perceptual,
        }

    def starts(self) -> dict[str, dict[str, Number]]:
        present = dataclasses.asdict(self.present)
        return {"present": self._values(present), "published": self._values({**present, **self.published})}

    def _values(self, settings: Mapping[str, Any]) -> dict[str, Number]:
        known = {**settings, "travel": settings["learning_rate"] * settings["steps"]}
        return {name: known[name] for name in self.space}

    def settings(self, values: Values) -> Settings:
        steps = {} if "steps" in values else {"steps": self.present.steps}
        return {name: value for name, value in speed_settings({**steps, **values}).items() if name not in steps}

    def keys(self, settings: Settings) -> dict[str, Number]:
        return {f"{self.tuned}.{self.setup}.{name}": value for name, value in settings.items()}

    def in_chunks(
        self, run: Callable[[Tensor], F], losses: Callable[[F], np.ndarray], report: Report
    ) -> tuple[F, int | None]:
        """What `run` finds about the pictures, `chunk` at a time, and after how many it was hopeless, if it was.

        `losses` (N,) are told to `report`, but for those that are not finite, and whether the trial is far too slow.
        """
        self.warm_up()
        parts = chunks(len(self.pictures.seen[1]), self.chunk)
        found, rest = run(parts[0]), parts[1:]
        hopeless = report(_finite(parts[0], losses(found)), self._slow(found, len(parts[0])))
        for count, index in enumerate(rest, 1):
            if hopeless:
                return found, sum(map(len, parts[:count]))
            some = run(index)
            found = found.joined(some)
            hopeless = report(_finite(index, losses(some)), self._slow(found, sum(map(len, parts[: count + 1]))))
        return found, None

    def _slow(self, found: Found, pictures: int) -> bool:
        """Whether what was found about so many pictures took so long that the trial will not keep its limit."""
        return self.budget is not None and found.seconds > SLOW * self.budget * pictures

    def warm_up(self) -> None:
        """The first search pays for what is set up once: nobody times it."""
        if not self.warm:
            self.search_two()
            self.warm = True

    def search_two(self) -> None:
        """Search on two pictures, whatever comes of it."""
        raise NotImplementedError

    def limits(self, measures: Mapping[str, float], rate: str, least: float) -> dict[str, float]:
        """By how much a rate that must reach `least`, and the time, miss their limits; above 0: missed."""
        limits = {rate: (least - measures[rate]) / max(least, 1e-9)}
        if self.budget is not None:
            limits["seconds"] = measures["seconds"] / max(self.budget, 1e-9) - 1
        return limits

    def with_settings(self, settings: Settings) -> Explainer:
        """The explainer with other settings, checked as if they stood in the file."""
        tree = dataclasses.asdict(self.present) | settings
        setup = parse(type(self.present), tree, f"{self.tuned}.{self.setup}")
        params = self.explainer.params
        section = dataclasses.replace(getattr(params, self.tuned), **{self.setup: setup})
        return dataclasses.replace(self.explainer, params=dataclasses.replace(params, **{self.tuned: section}))


def _finite(index: Tensor, losses: np.ndarray) -> dict[int, float]:
    pairs = zip(index.tolist(), losses.tolist(), strict=True)
    return {number: loss for number, loss in pairs if math.isfinite(loss)}
