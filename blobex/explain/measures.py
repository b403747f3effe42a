"""Measures of a set of explanations that need images and networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.datasets.images import to_float, to_tensor
from blobex.decisions.decision import Decision, frozen_eval
from blobex.explain.explanation import Explanation
from blobex.metrics import counterfactuals as metrics
from blobex.metrics.feature_sets import split_frechet
from blobex.metrics.interval import ValuesOfImages

Features = Callable[[Tensor], Tensor]  # images (N,3,H,W) in [-1,1] to features (N,D)
Distance = Callable[[Tensor, Tensor], Tensor]  # two batches of images (N,3,H,W) to distances (N,)
BATCH = 16


def explanation_values(
    records: Sequence[Explanation], distance: str, decision: Decision, features: Features, similarity: str
) -> dict[str, ValuesOfImages]:
    """Compute one value per explanation and measure: flips of all, the others of those that did not fail.

    Args:
        distance: Name of the perceptual distance.
        features: Features that the measure `similarity` compares.
    """
    if not records:
        raise BlobexError("there are no explanations to measure: run `dvc repro explain` first")
    sound = [record for record in records if not record.failed]
    by_change = [float(record.verdict == "flipped" and not record.gate) for record in records]
    values = {
        distance: [record.perceptual for record in sound],
        "changed_blobs": [float(len(record.blobs)) for record in sound],
    }
    if sound:
        values[similarity] = similarities(sound, features)
        if decision.kind == "attributes":
            values["cout"] = _couts(sound, _images(sound, "query"), _images(sound, "counterfactual"), decision)
    names = [record.image for record in sound]
    return {
        "flip_rate": flip_rate(records),
        "flipped_by_change": ValuesOfImages(True, by_change, [record.image for record in records]),
        **{name: ValuesOfImages(False, numbers, names) for name, numbers in values.items()},
    }


def flip_rate(records: Sequence[Explanation]) -> ValuesOfImages:
    """Return which explanations flip the decision."""
    return ValuesOfImages(True, [float(record.flipped) for record in records], [record.image for record in records])


def similarity_name(network: str) -> str:
    """Return the name of the similarity by a network's features; only SimSiam's is S3.

    >>> similarity_name("simsiam"), similarity_name("parser")
    ('s3', 'cosine_parser')
    """
    return "s3" if network == "simsiam" else f"cosine_{network}"


def similarities(records: Sequence[Explanation], features: Features) -> list[float]:
    """Compute the cosine similarity of the features of query and counterfactual of each record; none may have failed.

    Raises BlobexError if there are no records.
    """
    if not records:
        raise BlobexError("all explanations failed: there is nothing to compare")
    queries, counterfactuals = _images(records, "query"), _images(records, "counterfactual")
    return metrics.similarity(queries, counterfactuals, features, BATCH).tolist()


def split_distance(records: Sequence[Explanation], features: Features, seed: int) -> float:
    """Compute `split_frechet` of queries and counterfactuals, averaged over attributes; NaN with too few images."""
    distances = []
    for attribute in sorted({record.attribute for record in records}):
        chosen = [each for each in records if each.attribute == attribute and not each.number and not each.failed]
        if len(chosen) >= 4:
            with torch.no_grad():
                before, after = (_in_batches(features, _images(chosen, name)) for name in ("query", "counterfactual"))
            distances.append(split_frechet(before, after, seed))
    return sum(distances) / len(distances) if distances else float("nan")


def diversity(records: Sequence[Explanation], distance: Distance) -> dict[str, ValuesOfImages]:
    """Compute per question with several counterfactuals their mean pairwise distance, of images and of blobs."""
    groups: dict[tuple[str, str], list[Explanation]] = {}
    for record in records:
        groups.setdefault((record.image, record.attribute), []).append(record)
    several = [group for group in groups.values() if len(group) > 1 and not any(record.failed for record in group)]
    values = {
        "diversity": [metrics.mean_pairwise_distance(_images(group, "counterfactual"), distance) for group in several],
        "diversity_of_blobs": [metrics.mean_pairwise_jaccard(_changed(group)) for group in several],
    }
    names = [group[0].image for group in several]
    return {name: ValuesOfImages(False, numbers, names) for name, numbers in values.items()}


def _couts(records: Sequence[Explanation], queries: Tensor, counterfactuals: Tensor, decision: Decision) -> list[float]:
    columns = torch.tensor([record.column for record in records])
    wanted = torch.tensor([record.to_class == record.attribute for record in records])

    def scores(images: Tensor, numbers: Tensor) -> Tensor:
        logits = decision.logits(images).gather(1, columns[numbers][:, None])[:, 0]
        return metrics.attribute_scores(logits, wanted[numbers])

    with frozen_eval(decision):
        return metrics.cout(queries, counterfactuals, scores, batch_size=BATCH).tolist()


def _images(records: Sequence[Explanation], name: str) -> Tensor:
    """Return one of the records' images as (N,3,H,W) in [-1,1]."""
    return to_float(torch.stack([to_tensor(getattr(record, name)) for record in records]))


def _in_batches(function: Features, images: Tensor) -> Tensor:
    return torch.cat([function(part).cpu() for part in images.split(BATCH)])


def _changed(records: Sequence[Explanation]) -> Tensor:
    """Mark the changed blobs of each record, (N,K+1) bool, background first."""
    changed = torch.zeros(len(records), records[0].blobs_before.blobs + 1, dtype=torch.bool)
    for row, record in enumerate(records):
        changed[row, [0 if change.blob is None else change.blob + 1 for change in record.blobs]] = True
    return changed
