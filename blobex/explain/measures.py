"""Measures of a set of explanations that need their pictures, and a network to look at them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.datasets.images import to_float, to_tensor
from blobex.decisions.decision import Decision, frozen_eval
from blobex.explain.explanation import Explanation
from blobex.metrics.cout import attribute_scores, cout
from blobex.metrics.diversity import mean_pairwise_distance, mean_pairwise_jaccard
from blobex.metrics.halves import split_frechet
from blobex.metrics.interval import flat, interval
from blobex.metrics.similarity import similarity

Features = Callable[[Tensor], Tensor]  # pictures (N,3,H,W) in [-1,1] to features (N,D)
Distance = Callable[[Tensor, Tensor], Tensor]  # pictures (N,3,H,W), twice, to distances (N,)
BATCH = 16


def with_intervals(values: Mapping[str, Sequence[float]], seed: int) -> dict[str, float]:
    """The mean of each set of values, the ends of its bootstrap interval (`_low`, `_high`) and their `_count`."""
    return flat({name: interval(each, seed) for name, each in values.items() if len(each)})


def answer_values(
    records: Sequence[Explanation], distance: str, decision: Decision, features: Features, similar: str
) -> dict[str, list[float]]:
    """One value per explanation, by measure: flips count for all, the rest where nothing failed.

    `distance` is what the perceptual distance is called, and `similar` the similarity by `features`. COUT is measured
    of yes-or-no attributes only.
    """
    if not records:
        raise BlobexError("there are no explanations to measure: run `dvc repro explain` first")
    sound = [record for record in records if not record.failed]
    values = {
        "flip_rate": [float(record.flipped) for record in records],
        "flipped_by_change": [float(record.verdict == "flipped" and not record.gate) for record in records],
        distance: [record.perceptual for record in sound],
        "changed_blobs": [float(len(record.blobs)) for record in sound],
    }
    if sound:
        queries, answers = (_pictures(sound, name) for name in ("query", "counterfactual"))
        values[similar] = similarity(queries, answers, features, BATCH).tolist()
        if decision.kind == "attributes":
            values["cout"] = _couts(sound, queries, answers, decision)
    return values


def split_distance(records: Sequence[Explanation], features: Features, seed: int) -> float:
    """`halves.split_frechet` of queries and counterfactuals, a mean over attributes; NaN where pictures are too few."""
    found = []
    for attribute in sorted({record.attribute for record in records}):
        some = [each for each in records if each.attribute == attribute and not each.number and not each.failed]
        if len(some) >= 4:
            with torch.no_grad():
                queries, answers = (_in_parts(features, _pictures(some, name)) for name in ("query", "counterfactual"))
            found.append(split_frechet(queries, answers, seed))
    return sum(found) / len(found) if found else float("nan")


def diversity(records: Sequence[Explanation], distance: Distance) -> dict[str, list[float]]:
    """One value per question that has several answers: how far apart they are, and how few blobs they share."""
    groups: dict[tuple[str, str], list[Explanation]] = {}
    for record in records:
        groups.setdefault((record.image, record.attribute), []).append(record)
    several = [group for group in groups.values() if len(group) > 1 and not any(each.failed for each in group)]
    return {
        "diversity": [mean_pairwise_distance(_pictures(group, "counterfactual"), distance) for group in several],
        "diversity_of_blobs": [mean_pairwise_jaccard(_changed(group)) for group in several],
    }


def _couts(records: Sequence[Explanation], queries: Tensor, answers: Tensor, decision: Decision) -> list[float]:
    columns = torch.tensor([record.column for record in records])
    wanted = torch.tensor([record.to_class == record.attribute for record in records])

    def scores(pictures: Tensor, numbers: Tensor) -> Tensor:
        logits = decision.logits(pictures).gather(1, columns[numbers][:, None])[:, 0]
        return attribute_scores(logits, wanted[numbers])

    with frozen_eval(decision):
        return cout(queries, answers, scores, batch_size=BATCH).tolist()


def _pictures(records: Sequence[Explanation], name: str) -> Tensor:
    """(N,3,H,W) in [-1,1]."""
    return to_float(torch.stack([to_tensor(getattr(record, name)) for record in records]))


def _in_parts(function: Features, pictures: Tensor) -> Tensor:
    return torch.cat([function(part).cpu() for part in pictures.split(BATCH)])


def _changed(records: Sequence[Explanation]) -> Tensor:
    """(k,K+1) bool."""
    changed = torch.zeros(len(records), records[0].blobs_before.blobs + 1, dtype=torch.bool)
    for row, record in enumerate(records):
        for change in record.blobs:
            changed[row, 0 if change.blob is None else change.blob + 1] = True
    return changed
