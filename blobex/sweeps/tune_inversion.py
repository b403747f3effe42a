"""Tuning of the inversion: the nearest reconstruction that keeps the decision."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.utils import make_grid

from blobex.core.errors import BlobexError
from blobex.datasets.images import to_array
from blobex.explain.explainer import Explainer
from blobex.inversion import published
from blobex.metrics.agreement import same_numbers
from blobex.sweeps.best import Samples, comparison
from blobex.sweeps.sweep_images import ImageSplit
from blobex.sweeps.task import Directions, Number, Outcome, Report, Settings, one_thread, seconds
from blobex.sweeps.tune_search import Results, SearchTask

PUBLISHED: dict[str, Number] = {
    "learning_rate": published.LEARNING_RATE,
    "steps": published.STEPS,
    "decision_steps": published.STEPS,
    "size_lr_multiplier": published.SIZE_LEARNING_RATE / published.LEARNING_RATE,
    **published.WEIGHTS,
}


@dataclasses.dataclass(frozen=True)
class Reconstructions(Results):
    """Reconstructions of N images."""

    distance: np.ndarray  # N: perceptual distance to the image
    agreement: np.ndarray  # N: share of equal decisions, or 0 and 1 for a classifier
    failed: np.ndarray  # N, bool
    image: Tensor  # N,3,H,W

    def measures(self) -> dict[str, float]:
        return {
            "perceptual": float(self.distance.mean()),
            "agreement": float(self.agreement.mean()),
            "failed": float(self.failed.mean()),
            "seconds": self.seconds / len(self.distance),
        }


class InversionTask(SearchTask):
    """Task that tunes `invert.<setup>`."""

    section, tuned, published = "sweep_invert", "invert", PUBLISHED
    directions: Directions = {"perceptual": "minimize", "agreement": "maximize", "seconds": "minimize"}

    def __init__(self, explainer: Explainer, images: ImageSplit) -> None:
        self.options = explainer.params.sweep_invert
        super().__init__(explainer, self.options, images)

    def identity(self) -> dict[str, Any]:
        options = self.options
        return self.shared_identity() | {"limits": [options.agreement, self.budget, options.chunk]}

    def search_two(self) -> None:
        self._reconstruct(self.explainer, self.images.seen[1][:2])

    def prepare(self) -> None:
        """Do nothing: trials share no results."""

    @one_thread()
    def measure(self, settings: Settings, report: Report) -> Outcome:
        explainer, queries = self.with_settings(settings), self.images.seen[1]
        results, stopped = self.in_chunks(
            lambda index: self._reconstruct(explainer, queries[index]), lambda part: part.distance, report
        )
        failed = results.failed
        if failed.any():
            raise BlobexError(f"{int(failed.sum())} of {len(failed)} inversions are not finite")
        measures = results.measures()
        ends = [int(results.distance.argmin()), int(results.distance.argmax())]
        pairs = torch.stack([queries[ends], results.image[ends].clamp(-1, 1)], dim=1).flatten(0, 1)
        return Outcome(
            loss=measures["perceptual"],
            measures=measures,
            limits=self.limits(measures, "agreement", self.options.agreement),
            stopped_after=stopped,
            image=to_array(make_grid(pairs, nrow=2)),
        )

    @one_thread()
    def again(self, settings: Settings) -> float:
        return self._reconstruct(self.with_settings(settings), self.images.finals[1]).measures()["perceptual"]

    @one_thread()
    def compare(self, candidates: Mapping[str, Settings]) -> dict[str, Any]:
        queries = self.images.held_out[1]
        self.warm_up()

        def measure(settings: Settings) -> tuple[dict[str, float], Samples]:
            results = self._reconstruct(self.with_settings(settings), queries)
            return results.measures(), {"perceptual": results.distance, "agreement": results.agreement}

        return comparison(len(queries), candidates, measure, self.options.seed)

    @cached_property
    def _numbers(self) -> Tensor:
        """Outputs (N,A) of a regression for the seen images, by which the numbers of a part of them are compared."""
        return self.explainer.outputs(self.images.seen[1]).cpu()

    def _reconstruct(self, explainer: Explainer, queries: Tensor) -> Reconstructions:
        start = seconds(explainer.device)
        inversion = explainer.invert(queries).to("cpu")
        duration = seconds(explainer.device) - start
        before, after = explainer.outputs(queries).cpu(), explainer.outputs(inversion.image).cpu()
        if explainer.decision.kind == "attributes":
            same = ((before > 0) == (after > 0)) & ~before.isnan() & ~after.isnan()
        elif explainer.decision.kind == "regression":
            same = same_numbers(before, after, self._numbers)
        else:
            same = before.argmax(1) == after.argmax(1)
        return Reconstructions(
            distance=inversion.perceptual.double().numpy(),
            agreement=same.double().flatten(1).mean(1).numpy() if same.ndim > 1 else same.double().numpy(),
            failed=inversion.failed.numpy(),
            seconds=duration,
            image=inversion.image,
        )
