"""Changes of counterfactuals in words, as the scene parser sees them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from blobex.explain.explanation import Explanation
from blobex.perception.differences import differences, sentence
from blobex.perception.reading import SceneReading

Read = Callable[[Sequence[np.ndarray]], list[SceneReading]]  # images, uint8 (H,W,3)


def add_sentences(records: Sequence[Explanation], read: Read) -> list[Explanation]:
    """Add `sentence` and `objects` to the records: what `read` sees changed.

    Rendered counterfactuals are compared with the reconstruction, so that reconstruction errors are no change.
    """
    before = read([record.query if record.compose == "photo" else record.reconstruction for record in records])
    after = read([record.counterfactual for record in records])
    described = []
    for record, *pair in zip(records, before, after, strict=True):
        changes = differences(*pair)
        objects = tuple(change.as_dict() for change in changes)
        described.append(dataclasses.replace(record, sentence=sentence(changes), objects=objects))
    return described
