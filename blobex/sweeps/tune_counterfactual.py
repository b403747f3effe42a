"""Tuning of the counterfactual search: the smallest change that flips the decision, within limits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property, reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from blobex.config.params import Params
from blobex.core.errors import BlobexError
from blobex.counterfactual import published
from blobex.explain.explainer import Explainer
from blobex.explain.explanation import Explanation
from blobex.explain.input_images import InvertedImages
from blobex.explain.overviews import snapshot
from blobex.explain.request import Request
from blobex.sweeps.best import Samples, comparison
from blobex.sweeps.sweep_images import CachedInversion, ImageSplit
from blobex.sweeps.task import Directions, Number, Outcome, Report, Settings, one_thread, seconds
from blobex.sweeps.tune_search import Results, SearchTask

PUBLISHED: dict[str, Number] = {
    "learning_rate": published.LEARNING_RATE,
    "steps": published.STEPS,
    "size_lr_multiplier": published.SIZE_LEARNING_RATE / published.LEARNING_RATE,
    "lambda_prox": published.LAMBDA_PROX,
}


@dataclasses.dataclass(frozen=True)
class Answers(Results):
    """Results of a counterfactual search: arrays (N,Q) for N images with Q questions each."""

    valid: np.ndarray  # bool: False if the query is decided as wanted already
    flipped: np.ndarray  # bool
    failed: np.ndarray  # bool
    perceptual: np.ndarray  # perceptual distance to the query
    blobs: np.ndarray  # number of changed blobs
    records: list[Explanation]

    @classmethod
    def of(cls, records: Sequence[Explanation], images: int, seconds: float) -> Answers:
        """Collect the explanations of `images` images, which are ordered by image."""

        def grid(values: list[Any]) -> np.ndarray:
            return np.array(values).reshape(images, -1)

        return cls(
            valid=grid([record.from_class != record.to_class for record in records]),
            flipped=grid([record.flipped for record in records]),
            failed=grid([record.failed for record in records]),
            perceptual=grid([record.perceptual for record in records]),
            blobs=grid([float(len(record.blobs)) for record in records]),
            seconds=seconds,
            records=list(records),
        )

    def image_means(self, values: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Return means (N,) over the questions of each image in `mask`, NaN for an image without any."""
        count = mask.sum(1)
        return np.where(count > 0, np.where(mask, values, 0).sum(1) / np.maximum(count, 1), np.nan)

    def losses(self, price: float, foreign: float) -> np.ndarray:
        """Return the loss of each image (N,).

        A flip costs its distance, and `price` for each changed blob. A failure costs `foreign`, the distance to another
        photo, and never less than a flip would: giving up on hard images must not pay.
        """
        cost = self.perceptual + price * self.blobs
        return self.image_means(np.where(self.flipped, cost, np.maximum(foreign, np.nan_to_num(cost))), self.valid)

    def measures(self) -> dict[str, float]:
        """Return the flip rate, means over the flips, and the seconds per image."""
        flips = self.flipped & self.valid
        return {
            "flip_rate": float(flips.sum() / self.valid.sum()),
            "perceptual": float(self.perceptual[flips].mean()) if flips.any() else float("inf"),
            "changed_blobs": float(self.blobs[flips].mean()) if flips.any() else float("inf"),
            "failed": float(self.failed.mean()),
            "seconds": self.seconds / len(self.valid),
        }


class CounterfactualTask(SearchTask):
    """Task that tunes `explain.<setup>`; the images are inverted once for all trials, with the present parameters."""

    section, tuned, published = "sweep_cf", "explain", PUBLISHED
    directions: Directions = {"flip_rate": "maximize", "perceptual": "minimize", "seconds": "minimize"}

    def __init__(self, explainer: Explainer, images: ImageSplit, folder: Path, compose: str | None = None) -> None:
        """Tune on `images`; their inversions are stored in `folder`."""
        self.options, self.folder = explainer.params.sweep_cf, folder
        # Trials need no sentences, so no parser; and only the search by gradients has settings to tune, so no examples.
        super().__init__(dataclasses.replace(explainer, parser=None, examples=None), self.options, images)
        self.seen = CachedInversion(self.explainer, images.seen, folder)
        self.finals = CachedInversion(self.explainer, images.finals, folder)
        self.requests = _requests(explainer.params, compose)
        for request in self.requests:
            self.explainer.plan(request)

    def identity(self) -> dict[str, Any]:
        params, options = self.explainer.params, self.options
        return self.shared_identity() | {
            "variants": [dataclasses.asdict(params.explain.variant(name)) for name in options.variants],
            "attributes": list(params.explain.attributes),
            "compose": self.requests[0].compose or params.explain.compose,
            "inversion": dataclasses.asdict(getattr(params.invert, self.setup)),
            "search": params.search.mode,
            "questions": options.questions,
            "limits": [options.flip_rate, self.budget, options.blob_price, options.chunk],
        }

    @cached_property
    def foreign(self) -> float:
        """Mean perceptual distance between an image and the next one."""
        network, queries = self.explainer.exact.perceptual, self.images.seen[1].to(self.explainer.device)
        with torch.no_grad():
            pairs = zip(queries.split(8), queries.roll(1, 0).split(8), strict=True)
            return torch.cat([network.distance_to(network.embed(one), other) for one, other in pairs]).mean().item()

    def search_two(self) -> None:
        self.answers(self.explainer, self.seen, torch.arange(min(2, len(self.seen.names))))

    def prepare(self) -> None:
        _ = self.seen.inversion, self.foreign

    @one_thread()
    def measure(self, settings: Settings, report: Report) -> Outcome:
        explainer, price = self.with_settings(settings), self.options.blob_price
        answers, stopped = self.in_chunks(
            lambda index: self.answers(explainer, self.seen, index),
            lambda part: part.losses(price, self.foreign),
            report,
        )
        return self._outcome(answers, stopped)

    @one_thread()
    def again(self, settings: Settings) -> float:
        answers = self._all_answers(settings, self.finals)
        return float(np.nanmean(answers.losses(self.options.blob_price, self.foreign)))

    @one_thread()
    def compare(self, candidates: Mapping[str, Settings]) -> dict[str, Any]:
        held_out = CachedInversion(self.explainer, self.images.held_out, self.folder)
        self.warm_up()

        def measure(settings: Settings) -> tuple[dict[str, float], Samples]:
            answers = self._all_answers(settings, held_out)
            losses, flips = answers.losses(self.options.blob_price, self.foreign), answers.flipped & answers.valid
            samples = {
                "loss": losses,
                "flip_rate": answers.image_means(answers.flipped, answers.valid),
                "perceptual": answers.image_means(answers.perceptual, flips),
                "changed_blobs": answers.image_means(answers.blobs, flips),
            }
            rates = self._flip_rates(answers)
            return {"loss": float(np.nanmean(losses)), **answers.measures(), **rates}, samples

        return comparison(len(held_out.names), candidates, measure, self.options.seed)

    def _flip_rates(self, answers: Answers) -> dict[str, float]:
        """Return the flip rate of each variant, if there are several."""
        names, variants = self.options.variants, self._variant_of(torch.arange(len(answers.valid))).numpy()
        masks = {name: answers.valid & (variants == number)[:, None] for number, name in enumerate(names)}
        return {
            f"flip_rate_{name}": float((answers.flipped & mask).sum() / mask.sum())
            for name, mask in masks.items()
            if len(names) > 1 and mask.any()
        }

    def _all_answers(self, settings: Settings, images: CachedInversion) -> Answers:
        explainer = self.with_settings(settings)
        chunks = torch.arange(len(images.names)).split(self.options.chunk)
        return reduce(Answers.joined, (self.answers(explainer, images, index) for index in chunks))

    def answers(self, explainer: Explainer, images: CachedInversion, index: Tensor) -> Answers:
        """Search counterfactuals of the images with indices (N,), each as the variant whose turn it is."""
        start, records = seconds(explainer.device), dict[int, list[Explanation]]()
        for number, request in enumerate(self.requests):
            members = index[self._variant_of(index) == number]
            if len(members):
                explanations = self._explain(explainer, images, members, request)
                count = len(explanations) // len(members)
                for row, image in enumerate(members.tolist()):
                    records[image] = explanations[row * count : (row + 1) * count]
        ordered = [record for image in index.tolist() for record in records[image]]
        return Answers.of(ordered, len(index), seconds(explainer.device) - start)

    def _variant_of(self, index: Tensor) -> Tensor:
        """Return the number of the variant (N,) of the images with indices (N,).

        It depends on the index alone, and changes after all attributes had their turn.
        """
        return index // len(self.explainer.params.explain.attributes) % len(self.requests)

    def _explain(
        self, explainer: Explainer, images: CachedInversion, index: Tensor, request: Request
    ) -> list[Explanation]:
        names = [images.names[number] for number in index.tolist()]
        queries, inversion = images.queries[index], images.inversion[index]
        plan = explainer.plan(request)
        questions = explainer.questions(queries, plan)
        if self.options.questions == "one":
            questions = questions[question_in_turn(index, len(questions) // len(index))]
        return explainer.explain_batch(InvertedImages(names, queries, inversion), plan, questions=questions)[0]

    def _outcome(self, answers: Answers, stopped: int | None) -> Outcome:
        if not answers.valid.any():
            raise BlobexError("all images are decided as wanted already: use other images or explain.attributes")
        if answers.failed.all():
            raise BlobexError("the search failed for all images")
        options, measures = self.options, answers.measures()
        losses = answers.losses(options.blob_price, self.foreign)
        limits = self.limits(measures, "flip_rate", options.flip_rate)
        if not np.isfinite(measures["perceptual"]):  # nothing flipped: as far off as another photo
            measures |= {"perceptual": self.foreign, "changed_blobs": 0.0}
        count = answers.valid.shape[1]
        ends = [int(np.nanargmin(losses)), int(np.nanargmax(losses))]
        shown = [record for row in ends for record in answers.records[row * count : (row + 1) * count]]
        return Outcome(
            loss=float(np.nanmean(losses)),
            measures=measures,
            limits=limits,
            stopped_after=stopped,
            image=snapshot(shown, count),
        )


def _requests(params: Params, compose: str | None) -> list[Request]:
    """Return a request for each of `sweep_cf.variants`, which must have equal numbers of answers."""
    names, explain = params.sweep_cf.variants, params.explain
    counts = {explain.variant(name).count: name for name in names}
    if len(counts) > 1:
        listed = " and ".join(f"{name} {count}" for count, name in counts.items())
        raise BlobexError(f"variants of explain have different numbers of answers ({listed}): sweep them one at a time")
    return [Request(explain.attributes, variant=name, compose=compose, gate="report") for name in names]


def question_in_turn(images: Tensor, count: int) -> Tensor:
    """Select one of the `count` questions about each image, and return its index (N,) among all questions.

    The choice depends on the image's index (N,) alone, so that it is the same in any chunk.
    """
    return torch.arange(len(images)) * count + images % count
