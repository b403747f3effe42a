"""What a witness says about explanations: a second network that nothing was trained or searched against.

A decision witness tells flips from adversarial examples (the non-adversarial flip rate of PEAL, 2023), a reading
witness whether the objects that a sentence names can be seen.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from blobex.metrics.alignment import counted_objects
from blobex.perception.boxes import iou
from blobex.perception.reading import FAMILIES, SceneReading
from blobex.perception.sentences import ObjectChange

OVERLAP = 0.3  # intersection over union from which two boxes are at one place
STOP_SIGN, LIGHT = "stop sign", "light"  # in sentences; a light's name ends so: "red light"


def shared_flips(before: Tensor, after: Tensor, columns: Tensor, wanted: Tensor) -> Tensor:
    """Return bool (N,): the witness decides the query otherwise than wanted, and the counterfactual as wanted.

    `before` and `after` (N,A) are its logits for the queries and the counterfactuals, `columns` (N,) the outputs in
    question, `wanted` (N,) is True where the output should hold.

    >>> import torch
    >>> logits = torch.tensor([[-1.0, 2.0], [-1.0, 2.0]])
    >>> shared_flips(logits, -logits, torch.tensor([0, 1]), torch.tensor([True, True])).tolist()
    [True, False]
    """
    decided = [logits.gather(1, columns[:, None])[:, 0] > 0 for logits in (before, after)]
    return (decided[0] != wanted.bool()) & (decided[1] == wanted.bool())


def legible_added(changes: Iterable[ObjectChange], after: SceneReading) -> list[bool]:
    """Return for each object that is said to be added whether the witness's reading of the counterfactual shows it.

    It shows an object of that category at that place; a replaced object counts as one of the new category. A light must
    be of the colour that is said, and a stop sign may be anywhere.
    """
    shown = []
    for change in changes:
        if change.what == "added":
            shown.append(_shows(change, change.thing, after, exact=True))
        elif change.what == "replaced":
            shown.append(_shows(change, change.after, after, exact=True))
    return shown


def legible_removed(changes: Iterable[ObjectChange], before: SceneReading, after: SceneReading) -> list[bool]:
    """Return for each object that is said to be removed whether the witness sees it no longer.

    Only objects that its reading of the image before shows count. An object of the same family at that place is enough
    to be seen: what is left of a removed car and looks like a truck is not gone.
    """
    gone = []
    for change in changes:
        if change.what == "removed" and _shows(change, change.thing, before, exact=False):
            gone.append(not _shows(change, change.thing, after, exact=False))
    return gone


def legible_objects(parsed: SceneReading, seen: SceneReading) -> list[bool]:
    """Return for each object that a parser is sure of whether the witness's reading of the same image shows it, too.

    For real images it is the most that `legible_added` can be expected to reach: two parsers do not always agree.
    """
    return [
        any(item.category == other.category and iou(item.box, other.box) >= OVERLAP for other in seen.objects)
        for item in counted_objects(parsed)
    ]


def _shows(change: ObjectChange, thing: str, reading: SceneReading, exact: bool) -> bool:
    """Return whether a reading shows a thing at the place of a change, of its category or (not `exact`) its family."""
    if thing == STOP_SIGN:
        return reading.stop_sign
    colour, _, last = thing.rpartition(" ")
    light = last == LIGHT and colour != "traffic"
    category = "traffic light" if light else thing
    if light and exact and colour.replace("dark", "none") != reading.light:
        return False
    assert change.box is not None
    here = [item for item in reading.objects if iou(item.box, change.box) >= OVERLAP]
    if exact:
        return any(item.category == category for item in here)
    return any(item.family == FAMILIES.get(category, category) for item in here)
