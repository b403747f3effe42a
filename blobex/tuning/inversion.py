"""The inversion, tuned: the nearest reconstruction, decided as the photo is."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.utils import make_grid

from blobex import config
from blobex.config import InvertSetup, Range
from blobex.datasets.images import to_array
from blobex.errors import BlobexError
from blobex.explainer import Explainer
from blobex.inversion import published
from blobex.inversion.invert import Inversion
from blobex.sweeps.task import Number, Outcome, Report, Settings, Values
from blobex.tuning.compare import comparison
from blobex.tuning.pictures import Parts, chunks, digest, speed_settings

PUBLISHED: dict[str, Number] = {
    "learning_rate": published.RATE,
    "steps": published.STEPS,
    "decision_steps": published.STEPS,
    "size_lr_multiplier": published.SIZE_RATE / published.RATE,
    **published.WEIGHTS,
}


@dataclasses.dataclass(frozen=True)
class Remade:
    """Reconstructions of N pictures."""

    distance: np.ndarray  # N: perceptual distance to the picture
    agrees: np.ndarray  # N: the share of decisions that stay, or 0 and 1 where one class wins
    failed: np.ndarray  # N, bool
    seconds: float
    image: Tensor  # N,3,H,W

    def joined(self, other: Remade) -> Remade:
        names = ("distance", "agrees", "failed")
        arrays = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in names}
        return Remade(**arrays, seconds=self.seconds + other.seconds, image=torch.cat([self.image, other.image]))

    def measures(self) -> dict[str, float]:
        return {
            "perceptual": float(self.distance.mean()),
            "agreement": float(self.agrees.mean()),
            "failed": float(self.failed.mean()),
            "seconds": self.seconds / len(self.distance),
        }


class InversionTask:
    """Trials of `invert.<setup>`."""

    section = "sweep_invert"
    directions: Mapping[str, Literal["minimize", "maximize"]] = {
        "perceptual": "minimize",
        "agreement": "maximize",
        "seconds": "minimize",
    }

    def __init__(self, explainer: Explainer, pictures: Parts) -> None:
        self.explainer, self.pictures = explainer, pictures
        self.setup, self.options = explainer.setup, explainer.params.sweep_invert
        self.space: dict[str, Range] = {str(name): each for name, each in self.options.space.items()}
        self.present: InvertSetup = getattr(explainer.params.invert, self.setup)
        if explainer.params.search.mode == "published":
            raise BlobexError("the published inversion has no knobs: set search.mode to fast")

    def identity(self) -> dict[str, Any]:
        params, options = self.explainer.params, self.options
        tuned = set(self.settings(dict.fromkeys(self.space, 1)))
        return {
            "pictures": digest(self.pictures.seen[1]),
            "weights": self.explainer.weights,
            "decision": [self.explainer.decision.name, *self.explainer.decision.outputs],
            "fixed": {key: value for key, value in dataclasses.asdict(self.present).items() if key not in tuned},
            "perceptual": params.data.perceptual,
            "limits": [options.agreement, options.seconds, options.chunk],
        }

    def starts(self) -> dict[str, dict[str, Number]]:
        present = dataclasses.asdict(self.present)
        return {"present": self._values(present), "published": self._values(present | PUBLISHED)}

    def _values(self, settings: Mapping[str, Any]) -> dict[str, Number]:
        known = {**settings, "travel": settings["learning_rate"] * settings["steps"]}
        return {name: known[name] for name in self.space}

    def settings(self, values: Values) -> Settings:
        steps = {} if "steps" in values else {"steps": self.present.steps}
        return {name: value for name, value in speed_settings({**steps, **values}).items() if name not in steps}

    def keys(self, settings: Settings) -> dict[str, Number]:
        return {f"invert.{self.setup}.{name}": value for name, value in settings.items()}

    @cached_property
    def warm(self) -> bool:
        """The first inversion pays for what is set up once."""
        self._remade(self.explainer, self.pictures.seen[1][:2])
        return True

    def prepare(self) -> None:
        """Every trial inverts anew."""

    def measure(self, settings: Settings, report: Report) -> Outcome:
        explainer, queries = self._with(settings), self.pictures.seen[1]
        found, stopped = None, None
        assert self.warm
        for index in chunks(len(queries), self.options.chunk):
            some = self._remade(explainer, queries[index])
            found = some if found is None else found.joined(some)
            if report(dict(zip(index.tolist(), some.distance.tolist(), strict=True))) and index[-1] + 1 < len(queries):
                stopped = len(found.distance)
                break
        assert found is not None
        return self._outcome(found, queries, stopped)

    def compare(self, candidates: Mapping[str, Settings]) -> dict[str, Any]:
        queries = self.pictures.held_out[1]
        assert self.warm
        measures, samples = {}, {}
        for name, settings in candidates.items():
            found = self._remade(self._with(settings), queries)
            measures[name] = found.measures()
            samples[name] = {"perceptual": found.distance, "agreement": found.agrees}
        return comparison(len(queries), measures, samples, self.options.seed)

    def _with(self, settings: Settings) -> Explainer:
        tree = dataclasses.asdict(self.present) | settings
        setup = config.parse(InvertSetup, tree, f"invert.{self.setup}")
        params = self.explainer.params
        invert = params.invert
        square, rect = (setup, invert.rect) if self.setup == "square" else (invert.square, setup)
        invert = dataclasses.replace(invert, square=square, rect=rect)
        return dataclasses.replace(self.explainer, params=dataclasses.replace(params, invert=invert))

    def _remade(self, explainer: Explainer, queries: Tensor) -> Remade:
        begun = time.perf_counter()
        inversion: Inversion = explainer.invert(queries).to("cpu")
        seconds = time.perf_counter() - begun
        before, after = explainer.outputs(queries).cpu(), explainer.outputs(inversion.image).cpu()
        if explainer.decision.kind == "attributes":
            same = ((before > 0) == (after > 0)) & ~before.isnan() & ~after.isnan()
        else:
            same = before.argmax(1) == after.argmax(1)
        return Remade(
            distance=inversion.perceptual.double().numpy(),
            agrees=same.double().flatten(1).mean(1).numpy() if same.ndim > 1 else same.double().numpy(),
            failed=inversion.failed.numpy(),
            seconds=seconds,
            image=inversion.image,
        )

    def _outcome(self, found: Remade, queries: Tensor, stopped: int | None) -> Outcome:
        if found.failed.any():
            raise BlobexError(f"{int(found.failed.sum())} of {len(found.failed)} inversions came to nothing finite")
        options, measures = self.options, found.measures()
        limits = {"agreement": (options.agreement - measures["agreement"]) / max(options.agreement, 1e-9)}
        if options.seconds is not None:
            limits["seconds"] = measures["seconds"] / max(options.seconds, 1e-9) - 1
        ends = [int(found.distance.argmin()), int(found.distance.argmax())]
        pairs = torch.stack([queries[ends], found.image[ends].clamp(-1, 1)], dim=1).flatten(0, 1)
        return Outcome(
            loss=measures["perceptual"],
            measures=measures,
            limits=limits,
            objectives={name: measures[name] for name in self.directions},
            stopped_after=stopped,
            picture=to_array(make_grid(pairs, nrow=2)),
        )
