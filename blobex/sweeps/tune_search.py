"""Base of the tasks that tune a search by gradients: that of an inversion or of a counterfactual."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar

import numpy as np
import torch
from torch import Tensor

from blobex.config.explain import InversionParams, SearchParams
from blobex.config.read import parse
from blobex.config.sweeps import Range, SweepCf, SweepInvert
from blobex.core.errors import BlobexError
from blobex.explain.explainer import Explainer
from blobex.sweeps.sweep_images import ImageSplit, digest
from blobex.sweeps.task import Number, Report, Settings, Values, rounded

SLOW = 1.5  # times the budget: a trial that is so slow on its first images cannot keep the budget on all of them


@dataclasses.dataclass(frozen=True)
class Results:
    """Results of a search on N images; each array, tensor or list of a subclass is ordered by image."""

    seconds: float  # duration for all these images

    def joined(self, other: Self) -> Self:
        """Append the results on other images."""
        fields = [field.name for field in dataclasses.fields(self)]
        return type(self)(**{name: _joined(getattr(self, name), getattr(other, name)) for name in fields})


def _joined(first: Any, second: Any) -> Any:
    if isinstance(first, np.ndarray):
        return np.concatenate([first, second])
    return torch.cat([first, second]) if isinstance(first, Tensor) else first + second


R = TypeVar("R", bound=Results)


class SearchTask:
    """Base of tasks that tune `<tuned>.<setup>`, a section of the parameters, on fixed images."""

    tuned: str  # invert or explain
    published: Mapping[str, Number]  # settings of the published scripts

    def __init__(self, explainer: Explainer, options: SweepCf | SweepInvert, images: ImageSplit) -> None:
        if explainer.published:
            raise BlobexError("the published searches have no settings to tune: set search.mode to fast")
        self.explainer, self.setup, self.images = explainer, explainer.setup, images
        self.space: dict[str, Range] = {str(name): entry for name, entry in options.space.items()}
        self.present: InversionParams | SearchParams = getattr(getattr(explainer.params, self.tuned), self.setup)
        self.chunk, self.warm = options.chunk, False
        ratio = explainer.params.setup(self.setup).aspect_ratio  # with which the number of pixels grows
        self.budget = None if options.seconds is None else options.seconds * ratio  # seconds per image

    def shared_identity(self) -> dict[str, Any]:
        """Return what the outcome of a trial of either search depends on, beside the settings."""
        tuned = set(self.settings(dict.fromkeys(self.space, 1)))
        return {
            "pictures": digest(self.images.seen[1]),
            "finals": digest(self.images.finals[1]),
            "weights": self.explainer.weights,
            "device": self.explainer.device.type,  # on which the seconds depend
            "decision": [self.explainer.decision.name, *self.explainer.decision.outputs],
            "fixed": {name: value for name, value in dataclasses.asdict(self.present).items() if name not in tuned},
            "perceptual": self.explainer.params.data.perceptual,
        }

    def starts(self) -> dict[str, dict[str, Number]]:
        present = dataclasses.asdict(self.present)
        return {"present": self._values(present), "published": self._values({**present, **self.published})}

    def _values(self, settings: Mapping[str, Any]) -> dict[str, Number]:
        values = {**settings, "travel": settings["learning_rate"] * settings["steps"]}
        return {name: values[name] for name in self.space}

    def settings(self, values: Values) -> Settings:
        """Convert values to settings; `travel` = learning_rate * steps may stand for the learning rate.

        Learning rate and steps decide together how far an entry of the layout can move: with half the learning rate,
        a search needs twice the steps.
        """
        settings = dict(values)
        if "travel" in settings:
            settings["learning_rate"] = settings.pop("travel") / settings.get("steps", self.present.steps)
        return {name: rounded(value) for name, value in settings.items()}

    def keys(self, settings: Settings) -> dict[str, Number]:
        return {f"{self.tuned}.{self.setup}.{name}": value for name, value in settings.items()}

    def in_chunks(
        self, run: Callable[[Tensor], R], losses: Callable[[R], np.ndarray], report: Report
    ) -> tuple[R, int | None]:
        """Run the search on the images, `chunk` at a time, and report the finite ones of their losses (N,).

        Returns the results, and the number of images after which the trial was stopped, if it was.
        """
        self.warm_up()
        results: R | None = None
        count, stop = 0, False
        for index in torch.arange(len(self.images.seen[1])).split(self.chunk):
            if results is not None and stop:
                return results, count
            part = run(index)
            results, count = results.joined(part) if results is not None else part, int(index[-1]) + 1
            pairs = zip(index.tolist(), losses(part).tolist(), strict=True)
            finite = {image: loss for image, loss in pairs if math.isfinite(loss)}
            stop = report(finite, self.budget is not None and results.seconds > SLOW * self.budget * count)
        assert results is not None  # a sweep has images
        return results, None

    def warm_up(self) -> None:
        """Run a first search without timing it, as it pays for what is set up once."""
        if not self.warm:
            self.search_two()
            self.warm = True

    def search_two(self) -> None:
        """Search on two images and discard the result."""
        raise NotImplementedError

    def limits(self, measures: Mapping[str, float], rate: str, least: float) -> dict[str, float]:
        """Return the relative excesses over the limits: `least` for the measure `rate`, and the time budget."""
        limits = {rate: (least - measures[rate]) / max(least, 1e-9)}
        if self.budget is not None:
            limits["seconds"] = measures["seconds"] / max(self.budget, 1e-9) - 1
        return limits

    def with_settings(self, settings: Settings) -> Explainer:
        """Return the explainer with other settings, which are checked like those of a parameter file."""
        tree = dataclasses.asdict(self.present) | settings
        setup = parse(type(self.present), tree, f"{self.tuned}.{self.setup}")
        params = self.explainer.params
        section = dataclasses.replace(getattr(params, self.tuned), **{self.setup: setup})
        return dataclasses.replace(self.explainer, params=dataclasses.replace(params, **{self.tuned: section}))
