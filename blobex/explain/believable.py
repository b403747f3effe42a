"""Measures of how believable explanations are: by witnesses, and by the true counterfactuals of synthetic scenes.

Witnesses are given as callables: no module that searches may load them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blobex.core.errors import BlobexError
from blobex.datasets.images import to_float, to_tensor
from blobex.explain.explanation import Explanation, Read
from blobex.explain.measures import flip_rate
from blobex.metrics.interval import ValuesOfImages, flat_intervals
from blobex.metrics.true_counterfactual import TrueCounterfactual, nearest, true_counterfactuals, true_distance
from blobex.metrics.witness import legible_added, legible_objects, legible_removed, shared_flips
from blobex.perception.sentences import ObjectChange, differences
from blobex.scenes.rules import ACTIONS, Rule
from blobex.scenes.scene import Scene
from blobex.scenes.write import scene_of

Decide = Callable[[Tensor], Tensor]  # images (N,3,H,W) in [-1,1] to logits (N,4) of `rules.ACTIONS`
BATCH = 16


@dataclass(frozen=True)
class Views:
    """What looks at explanations: the parser that made their sentences, and two witnesses."""

    parse: Read
    witness: Read
    decide: Decide | None  # a witness of the explained model's rule; None if no rule is known


def believable_measures(
    records: Sequence[Explanation], views: Views, rule: Rule, height: int, seed: int
) -> dict[str, float]:
    """Return all measures, and `flip_rate`, with intervals; scenes are rendered at `height` rows."""
    values = {"flip_rate": flip_rate(records)}
    values |= {} if views.decide is None else flip_values(records, views.decide)
    values |= legible_values(records, views.parse, views.witness) | true_values(records, rule, height)
    return flat_intervals(values, seed)


def flip_values(records: Sequence[Explanation], decide: Decide) -> dict[str, ValuesOfImages]:
    """Return `witness_flip`: which flips a decision witness shares, of those about one of `rules.ACTIONS`."""
    flipped = [record for record in records if record.flipped and record.attribute in ACTIONS]
    if not flipped:
        return {}
    columns = torch.tensor([ACTIONS.index(record.attribute) for record in flipped])
    wanted = torch.tensor([record.to_class == record.attribute for record in flipped])
    before, after = (_logits(decide, flipped, name) for name in ("query", "counterfactual"))
    shared = shared_flips(before, after, columns, wanted).double().tolist()
    return {"witness_flip": ValuesOfImages(True, shared, [record.image for record in flipped])}


def legible_values(records: Sequence[Explanation], parse: Read, witness: Read) -> dict[str, ValuesOfImages]:
    """Return `legible_added` and `legible_removed`: which objects of the sentences a reading witness sees come and go.

    `legible_before` is which objects of the images before it sees at all, each image once.
    `parse` is the parser that made the sentences; its readings give the boxes, which records do not hold.
    """
    told = [record for record in records if record.sentence and not record.failed]
    if not told:
        return {}
    before = [record.query if record.compose == "photo" else record.reconstruction for record in told]
    after = [record.counterfactual for record in told]
    parsed, seen = ((read(before), read(after)) for read in (parse, witness))
    values = {name: ValuesOfImages(True) for name in ("legible_added", "legible_removed", "legible_before")}
    rows = {record.image: row for row, record in enumerate(told)}
    for row, record in enumerate(told):
        changes = _told(record, differences(parsed[0][row], parsed[1][row]))
        added = legible_added(changes, seen[1][row])
        removed = legible_removed(changes, seen[0][row], seen[1][row])
        known = legible_objects(parsed[0][row], seen[0][row]) if rows[record.image] == row else []
        for measure, each in zip(values.values(), (added, removed, known), strict=True):
            measure.extend(record.image, [float(value) for value in each])
    return values


def true_values(records: Sequence[Explanation], rule: Rule, height: int) -> dict[str, ValuesOfImages]:
    """Return `ghost`, `ghost_grey` and `collateral` of the explanations whose true counterfactual can be rendered.

    These are the sound ones of synthetic scenes, rendered at `height` rows, that ask to allow what the rule refuses.
    `ghost` is the distance to the truth as a share of the query's own.
    """
    truths = dict[tuple[str, str], list[TrueCounterfactual]]()
    distances, images = [], []
    for record in records:
        key, scene = (record.image, record.attribute), _scene(record.image)
        refused = (record.to_class == record.attribute) != (record.attribute == "stop")
        if scene is None or record.failed or record.attribute not in ACTIONS or not refused:
            continue
        if key not in truths:
            causes = rule.causes(scene, record.attribute)
            truths[key] = true_counterfactuals(scene, causes, record.query, height)
        if truths[key]:
            truth = nearest(truths[key], record.counterfactual)
            distances.append(true_distance(record.query, record.counterfactual, truth))
            images.append(record.image)
    ghosts = [distance.ghost for distance in distances]
    return {
        "ghost": ValuesOfImages(False, ghosts, images, [distance.query for distance in distances]),
        "ghost_grey": ValuesOfImages(False, ghosts, images),
        "collateral": ValuesOfImages(False, [distance.collateral for distance in distances], images),
    }


def _told(record: Explanation, changes: Sequence[ObjectChange]) -> list[ObjectChange]:
    """Return the changes that the record's sentence names; another processor may round a reading differently."""
    phrases = {item["phrase"] for item in record.objects}
    return [change for change in changes if change.phrase in phrases]


def _scene(image: str) -> Scene | None:
    """Return the scene of an image file, or None if it is not a synthetic one."""
    try:
        return scene_of(image)
    except BlobexError:
        return None


def _logits(decide: Decide, records: Sequence[Explanation], name: str) -> Tensor:
    images = to_float(torch.stack([to_tensor(getattr(record, name)) for record in records]))
    with torch.no_grad():
        return torch.cat([decide(part).cpu() for part in images.split(BATCH)])
