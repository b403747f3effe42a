"""The inversion, tuned: the nearest reconstruction, decided as the photo is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.utils import make_grid

from blobex.core.errors import BlobexError
from blobex.datasets.images import to_array
from blobex.explain.explainer import Explainer
from blobex.inversion import published
from blobex.inversion.inversion import Inversion
from blobex.sweeps.clock import one_core, seconds
from blobex.sweeps.compare import Samples, comparison
from blobex.sweeps.images import Parts
from blobex.sweeps.search_task import SearchTask
from blobex.sweeps.task import Number, Outcome, Report, Settings

PUBLISHED: dict[str, Number] = {
    "learning_rate": published.LEARNING_RATE,
    "steps": published.STEPS,
    "decision_steps": published.STEPS,
    "size_lr_multiplier": published.SIZE_LEARNING_RATE / published.LEARNING_RATE,
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


class InversionTask(SearchTask):
    """Trials of `invert.<setup>`."""

    section, tuned, published = "sweep_invert", "invert", PUBLISHED
    directions: Mapping[str, Literal["minimize", "maximize"]] = {
        "perceptual": "minimize",
        "agreement": "maximize",
        "seconds": "minimize",
    }

    def __init__(self, explainer: Explainer, pictures: Parts) -> None:
        self.options = explainer.params.sweep_invert
        super().__init__(explainer, self.options, pictures)
        if explainer.params.search.mode == "published":
            raise BlobexError("the published inversion has no knobs: set search.mode to fast")

    def identity(self) -> dict[str, Any]:
        options = self.options
        return self.shared_identity() | {"limits": [options.agreement, self.budget, options.chunk]}

    def search_two(self) -> None:
        self._remade(self.explainer, self.pictures.seen[1][:2])

    def prepare(self) -> None:
        """Every trial inverts anew."""

    @one_core()
    def measure(self, settings: Settings, report: Report) -> Outcome:
        explainer, queries = self.with_settings(settings), self.pictures.seen[1]
        found, stopped = self.in_chunks(
            lambda index: self._remade(explainer, queries[index]), lambda some: some.distance, report
        )
        return self._outcome(found, queries, stopped)

    @one_core()
    def again(self, settings: Settings) -> float:
        return self._remade(self.with_settings(settings), self.pictures.finals[1]).measures()["perceptual"]

    @one_core()
    def compare(self, candidates: Mapping[str, Settings]) -> dict[str, Any]:
        queries = self.pictures.held_out[1]
        self.warm_up()

        def measure(settings: Settings) -> tuple[dict[str, float], Samples]:
            found = self._remade(self.with_settings(settings), queries)
            return found.measures(), {"perceptual": found.distance, "agreement": found.agrees}

        return comparison(len(queries), candidates, measure, self.options.seed)

    def _remade(self, explainer: Explainer, queries: Tensor) -> Remade:
        begun = seconds(explainer.device)
        inversion: Inversion = explainer.invert(queries).to("cpu")
        spent = seconds(explainer.device) - begun
        before, after = explainer.outputs(queries).cpu(), explainer.outputs(inversion.image).cpu()
        if explainer.decision.kind == "attributes":
            same = ((before > 0) == (after > 0)) & ~before.isnan() & ~after.isnan()
        else:
            same = before.argmax(1) == after.argmax(1)
        return Remade(
            distance=inversion.perceptual.double().numpy(),
            agrees=same.double().flatten(1).mean(1).numpy() if same.ndim > 1 else same.double().numpy(),
            failed=inversion.failed.numpy(),
            seconds=spent,
            image=inversion.image,
        )

    def _outcome(self, found: Remade, queries: Tensor, stopped: int | None) -> Outcome:
        if found.failed.any():
            raise BlobexError(f"{int(found.failed.sum())} of {len(found.failed)} inversions came to nothing finite")
        measures = found.measures()
        limits = self.limits(measures, "agreement", self.options.agreement)
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
