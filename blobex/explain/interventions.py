"""Interventions on images by the generator, named by the parser: one changed image for each phrase that it can make.

The choice among changes that make a phrase depends on images and parser only, never on what a model decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from blobex.config.explain import SearchParams
from blobex.core.errors import BlobexError
from blobex.counterfactual.object_edits import ObjectEdits, object_edits
from blobex.datasets.images import to_array
from blobex.explain.explainer import Explainer
from blobex.perception.reading import SceneReading, scene_of_reading
from blobex.perception.sentences import general_name, general_phrases

COMES, GOES = " added", " removed"


@dataclass(frozen=True)
class Intervention:
    """An image in which a phrase has come true."""

    phrase: str
    image: np.ndarray = field(repr=False)  # uint8 (H,W,3)


def interventions(explainer: Explainer, queries: Tensor) -> Iterator[list[Intervention]]:
    """Yield the interventions on each of N images (N,3,H,W) in [-1,1], ordered by phrase.

    An object comes only where there was none of its kind, and goes only if it leaves none. A change makes its phrase
    and no other; light may change everything.

    Raises:
        BlobexError: There is no parser, or no examples of objects.
    """
    if explainer.examples is None or explainer.published:
        raise BlobexError("interventions take objects from examples: set invert.start to blobgan_pretrain")
    params: SearchParams = getattr(explainer.params.explain, explainer.setup)
    for part in queries.split(explainer.batch_size):
        part = part.to(explainer.device)
        layout, size = explainer.invert(part).layout, explainer.batch_size
        for edits in object_edits(part, layout, explainer.exact, explainer.examples, params, size):
            yield named_edits(explainer, edits)


def named_edits(explainer: Explainer, edits: ObjectEdits) -> list[Intervention]:
    """Choose one edit for each phrase."""
    images = [to_array(image) for image in edits.images]
    readings = explainer.readings(images)
    scenes = [scene_of_reading(reading, image) for reading, image in zip(readings, images, strict=True)]
    phrases = [
        general_phrases(readings[0], reading, (scenes[0], scene))
        for reading, scene in zip(readings, scenes, strict=True)
    ]
    chosen = choose(phrases, edits.amount.tolist(), edits.relit.tolist())
    return [
        Intervention(phrase, images[number])
        for phrase, number in sorted(chosen.items())
        if _is_whole(phrase, readings[0], readings[number])
    ]


def choose(phrases: Sequence[Sequence[str]], amount: Sequence[float], relit: Sequence[bool]) -> dict[str, int]:
    """Return the number of the best edit for each phrase that edits make, given what each changes (C lists).

    Objects that come or go are as large as can be; all else changes as few pixels as can be. Only edits of the light
    change the time, those with the fewest side effects.

    >>> choose([[], ["car added"], ["car added"], ["car added", "sky grew"]], [0.0, 0.1, 0.2, 0.9], [False] * 4)
    {'car added': 2}
    """
    best = dict[str, tuple[tuple[float, ...], int]]()
    for number, own in enumerate(phrases):
        for phrase in own:
            if relit[number] if phrase.startswith("time ") else len(own) == 1 and not relit[number]:
                large = phrase.endswith((COMES, GOES))
                rank = (len(own), -amount[number] if large else amount[number])
                best[phrase] = min(best.get(phrase, (rank, number)), (rank, number))
    return {phrase: number for phrase, (_, number) in best.items()}


def _is_whole(phrase: str, before: SceneReading, after: SceneReading) -> bool:
    """Return whether an object that comes is the only one of its name, and one that goes leaves none."""
    if phrase.endswith(COMES):
        return phrase.removesuffix(COMES) not in map(general_name, before.objects)
    return not phrase.endswith(GOES) or phrase.removesuffix(GOES) not in map(general_name, after.objects)
