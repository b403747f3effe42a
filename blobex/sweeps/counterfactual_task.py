"""The counterfactual search, tuned: the smallest change that flips the decision, under limits."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from blobex.config.params import Params
from blobex.core.errors import BlobexError
from blobex.counterfactual import published
from blobex.explain.batch import InvertedImages
from blobex.explain.explainer import Explainer
from blobex.explain.explanation import Explanation
from blobex.explain.request import Request
from blobex.explain.snapshot import snapshot
from blobex.sweeps.clock import one_core, seconds
from blobex.sweeps.compare import Samples, comparison
from blobex.sweeps.images import Inverted, Parts, chunks
from blobex.sweeps.search_task import SearchTask
from blobex.sweeps.task import Number, Outcome, Report, Settings

PUBLISHED: dict[str, Number] = {
    "learning_rate": published.LEARNING_RATE,
    "steps": published.STEPS,
    "size_lr_multiplier": published.SIZE_LEARNING_RATE / published.LEARNING_RATE,
    "lambda_prox": published.LAMBDA_PROX,
}


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a search found: arrays (N,Q) of N pictures with Q questions each."""

    asked: np.ndarray  # bool: False where the decision was as wanted from the beginning
    flipped: np.ndarray  # bool
    failed: np.ndarray  # bool
    perceptual: np.ndarray  # distance to the query
    blobs: np.ndarray  # that changed
    seconds: float
    records: list[Explanation]

    @classmethod
    def of(cls, records: Sequence[Explanation], pictures: int, seconds: float) -> Answers:
        def grid(values: list[Any]) -> np.ndarray:
            return np.array(values).reshape(pictures, -1)

        return cls(
            asked=grid([record.from_class != record.to_class for record in records]),
            flipped=grid([record.flipped for record in records]),
            failed=grid([record.failed for record in records]),
            perceptual=grid([record.perceptual for record in records]),
            blobs=grid([float(len(record.blobs)) for record in records]),
            seconds=seconds,
            records=list(records),
        )

    def joined(self, other: Answers) -> Answers:
        """These and those of other pictures."""
        names = ("asked", "flipped", "failed", "perceptual", "blobs")
        grids = {name: np.concatenate([getattr(self, name), getattr(other, name)]) for name in names}
        return Answers(**grids, seconds=self.seconds + other.seconds, records=self.records + other.records)

    def per_picture(self, values: np.ndarray, among: np.ndarray) -> np.ndarray:
        """Means (N,) over each picture's questions that are `among`, NaN where there are none."""
        count = among.sum(1)
        return np.where(count > 0, np.where(among, values, 0).sum(1) / np.maximum(count, 1), np.nan)

    def losses(self, price: float, foreign: float) -> np.ndarray:
        """What the answers about each picture (N,) cost.

        A flip costs its distance and a price per changed blob. What is not flipped costs as much as showing another
        photo altogether, `foreign`, and never less than a flip would: giving up on the hard pictures must not pay.
        """
        cost = self.perceptual + price * self.blobs
        return self.per_picture(np.where(self.flipped, cost, np.maximum(foreign, np.nan_to_num(cost))), self.asked)

    def measures(self) -> dict[str, float]:
        """The share of questions that flip, means over those that do, and seconds per picture."""
        flips = self.flipped & self.asked
        return {
            "flip_rate": float(flips.sum() / self.asked.sum()),
            "perceptual": float(self.perceptual[flips].mean()) if flips.any() else float("inf"),
            "changed_blobs": float(self.blobs[flips].mean()) if flips.any() else float("inf"),
            "failed": float(self.failed.mean()),
            "seconds": self.seconds / len(self.asked),
        }


class CounterfactualTask(SearchTask):
    """Trials of `explain.<setup>`. Pictures are inverted once, as the parameters say, for all trials."""

    section, tuned, published = "sweep_cf", "explain", PUBLISHED
    directions: Mapping[str, Literal["minimize", "maximize"]] = {
        "flip_rate": "maximize",
        "perceptual": "minimize",
        "seconds": "minimize",
    }

    def __init__(self, explainer: Explainer, pictures: Parts, folder: Path, compose: str | None = None) -> None:
        """`pictures` are those to tune on, and those held out; inversions are kept in `folder`."""
        self.options, self.folder = explainer.params.sweep_cf, folder
        # The knobs are those of the search by gradients; the parser describes what was found, which no trial needs.
        super().__init__(dataclasses.replace(explainer, parser=None, examples=None), self.options, pictures)
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
    def seen(self) -> Inverted:
        return Inverted(self.explainer, self.pictures.seen, self.folder)

    @cached_property
    def foreign(self) -> float:
        """The mean distance between a picture and the next: how far off an answer is that shows another photo."""
        network, queries = self.explainer.exact.perceptual, self.pictures.seen[1].to(self.explainer.device)
        with torch.no_grad():
            pairs = zip(queries.split(8), queries.roll(1, 0).split(8), strict=True)
            return torch.cat([network.distance_to(network.embed(one), other) for one, other in pairs]).mean().item()

    def search_two(self) -> None:
        self._answers(self.explainer, self.seen, torch.arange(min(2, len(self.seen.names))))

    def prepare(self) -> None:
        _ = self.seen.inversion, self.foreign

    @one_core()
    def measure(self, settings: Settings, report: Report) -> Outcome:
        explainer, price = self.with_settings(settings), self.options.blob_price
        found, stopped = self.in_chunks(
            lambda index: self._answers(explainer, self.seen, index),
            lambda some: some.losses(price, self.foreign),
            report,
        )
        return self._outcome(found, stopped)

    @cached_property
    def finals(self) -> Inverted:
        return Inverted(self.explainer, self.pictures.finals, self.folder)

    @one_core()
    def again(self, settings: Settings) -> float:
        found = self._all_answers(settings, self.finals)
        return float(np.nanmean(found.losses(self.options.blob_price, self.foreign)))

    @one_core()
    def compare(self, candidates: Mapping[str, Settings]) -> dict[str, Any]:
        held_out = Inverted(self.explainer, self.pictures.held_out, self.folder)
        self.warm_up()

        def measure(settings: Settings) -> tuple[dict[str, float], Samples]:
            found = self._all_answers(settings, held_out)
            losses, flips = found.losses(self.options.blob_price, self.foreign), found.flipped & found.asked
            samples = {
                "loss": losses,
                "flip_rate": found.per_picture(found.flipped, found.asked),
                "perceptual": found.per_picture(found.perceptual, flips),
                "changed_blobs": found.per_picture(found.blobs, flips),
            }
            return {"loss": float(np.nanmean(losses)), **found.measures(), **self._by_variant(found)}, samples

        return comparison(len(held_out.names), candidates, measure, self.options.seed)

    def _by_variant(self, found: Answers) -> dict[str, float]:
        """The share of questions that flip, asked as each of several variants."""
        names, of = self.options.variants, self._variants(torch.arange(len(found.asked))).numpy()
        asked = {name: found.asked & (of == place)[:, None] for place, name in enumerate(names)}
        some = {name: each for name, each in asked.items() if len(names) > 1 and each.any()}
        return {f"flip_rate_{name}": float((found.flipped & each).sum() / each.sum()) for name, each in some.items()}

    def _all_answers(self, settings: Settings, inverted: Inverted) -> Answers:
        explainer, parts = self.with_settings(settings), chunks(len(inverted.names), self.options.chunk)
        found = self._answers(explainer, inverted, parts[0])
        for index in parts[1:]:
            found = found.joined(self._answers(explainer, inverted, index))
        return found

    def _answers(self, explainer: Explainer, inverted: Inverted, index: Tensor) -> Answers:
        begun, records = seconds(explainer.device), dict[int, list[Explanation]]()
        for place, request in enumerate(self.requests):
            mine = index[self._variants(index) == place]
            if len(mine):
                found = self._records(explainer, inverted, mine, request)
                each = len(found) // len(mine)
                records |= {n: found[row * each : (row + 1) * each] for row, n in enumerate(mine.tolist())}
        ordered = [record for number in index.tolist() for record in records[number]]
        return Answers.of(ordered, len(index), seconds(explainer.device) - begun)

    def _variants(self, index: Tensor) -> Tensor:
        """By their places in `variants`, which one the pictures (N,) of these numbers are asked as.

        It depends on the number alone, and changes when all attributes had their turn.
        """
        return index // len(self.explainer.params.explain.attributes) % len(self.requests)

    def _records(self, explainer: Explainer, inverted: Inverted, index: Tensor, request: Request) -> list[Explanation]:
        names = [inverted.names[number] for number in index.tolist()]
        queries, inversion = inverted.queries[index], inverted.inversion[index]
        plan = explainer.plan(request)
        questions = explainer.questions(queries, plan)
        if self.options.questions == "one":
            questions = questions[in_turn(index, len(questions) // len(index))]
        return explainer.explain_batch(InvertedImages(names, queries, inversion), plan, questions=questions)[0]

    def _outcome(self, found: Answers, stopped: int | None) -> Outcome:
        if not found.asked.any():
            raise BlobexError("every picture is decided as wanted already: there is nothing to tune on")
        if found.failed.all():
            raise BlobexError("nothing finite was found for any picture")
        options, measures = self.options, found.measures()
        losses = found.losses(options.blob_price, self.foreign)
        limits = self.limits(measures, "flip_rate", options.flip_rate)
        if not np.isfinite(measures["perceptual"]):  # nothing flipped: as far off as another photo
            measures |= {"perceptual": self.foreign, "changed_blobs": 0.0}
        each = found.asked.shape[1]
        ends = [int(np.nanargmin(losses)), int(np.nanargmax(losses))]
        shown = [record for row in ends for record in found.records[row * each : (row + 1) * each]]
        return Outcome(
            loss=float(np.nanmean(losses)),
            measures=measures,
            limits=limits,
            objectives={name: measures[name] for name in self.directions},
            stopped_after=stopped,
            picture=snapshot(shown, each),
        )


def _requests(params: Params, compose: str | None) -> list[Request]:
    """One for each of `sweep_cf.variants`; BlobexError if there is none, or their answers differ in number."""
    names, explain = params.sweep_cf.variants, params.explain
    counts = {explain.variant(name).count: name for name in names}
    if not counts:
        raise BlobexError("sweep_cf.variants is empty: name at least one variant of explain")
    if len(counts) > 1:
        told = " and ".join(f"{name} {count}" for count, name in counts.items())
        raise BlobexError(f"variants of explain have different numbers of answers ({told}): sweep them one at a time")
    return [Request(explain.attributes, variant=name, compose=compose, gate="report") for name in names]


def in_turn(pictures: Tensor, each: int) -> Tensor:
    """Of `each` questions about each of the pictures (N,) of these numbers, one: its place (N,) among them all.

    Which one depends on the number alone, so a picture is asked the same in any chunk.
    """
    return torch.arange(len(pictures)) * each + pictures % each
