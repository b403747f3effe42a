"""A counterfactual in steps: its changes are undone one blob at a time, and the score after each.

The greedy path of CounterPlots (github.com/ADMAntwerp/CounterPlots), walked back from the counterfactual: what is
undone next is the blob that the decision needs least.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blobex.counterfactual.compose import Composer
from blobex.counterfactual.questions import Questions
from blobex.counterfactual.target import Target
from blobex.decisions.decision import Decision, frozen_eval
from blobex.explain.explanation import Explanation
from blobex.explain.input_images import InvertedImages
from blobex.explain.step import Step
from blobex.layout.vector import VectorForm
from blobex.optim.batching import State, in_batches
from blobex.optim.network_callables import Networks

MOST_BLOBS = 12  # changed blobs of an explanation that is walked back: the number of images grows with its square


@dataclass(frozen=True)
class Walker:
    """What walks the explanations of N images back."""

    images: InvertedImages
    networks: Networks  # float32
    decision: Decision
    batch_size: int


def add_steps(records: Sequence[Explanation], questions: Questions, walker: Walker) -> list[Explanation]:
    """Add `steps` to the explanations that flip by changes of 2 to MOST_BLOBS blobs, the same number of each question.

    Those of one question follow each other, in the order of `questions` (P).
    """
    several = [row for row, record in enumerate(records) if record.flipped and 2 <= len(record.blobs) <= MOST_BLOBS]
    if not several:
        return list(records)
    problems = torch.tensor(several) // (len(records) // len(questions))
    asked, images, walked = questions[problems], walker.images, list(records)
    used, index = asked.image_index.unique(return_inverse=True)
    layout = images.inversion.layout[used]
    composer = Composer(walker.networks, VectorForm.of(layout))
    if records[0].compose == "photo":
        composer = Composer.over_queries(images.queries[used], layout, walker.networks, walker.batch_size)
    with frozen_eval(walker.decision):
        for place, row in enumerate(several):
            walk = Walk(records[row], asked.target[torch.tensor([place])], index[place])
            walked[row] = dataclasses.replace(records[row], steps=_undo(walk, composer, walker.batch_size))
    return walked


@dataclass(frozen=True)
class Walk:
    """An explanation to walk back."""

    record: Explanation
    target: Target  # 1
    image: Tensor  # (): its number among those of the composer


@torch.no_grad()
def _undo(walk: Walk, composer: Composer, batch_size: int) -> tuple[Step, ...]:
    """Undo the change of one blob after the other; each time the one without which the margin stays largest."""
    form, record, device = composer.form, walk.record, walk.image.device
    start, vector = (form.flatten(layout).to(device) for layout in (record.blobs_before, record.blobs_after))
    owners = form.owners().to(device)

    def outputs(part: Tensor) -> State:
        changed = form.changed(part, start.expand_as(part))
        image = composer.compose(part, walk.image.expand(len(part)), changed)
        return {"outputs": composer.networks.decide(image)}

    left = [0 if blob.blob is None else blob.blob + 1 for blob in record.blobs]
    steps = []
    while left:
        tries = torch.stack([torch.where(owners == entry, start[0], vector[0]) for entry in left])
        seen = in_batches(outputs, batch_size, tries)["outputs"]
        rows = walk.target[torch.zeros(len(left), dtype=torch.long)]
        margin = rows.margin(seen)
        best = int(margin.argmax())
        score = float(rows.scores(seen)[best, record.column])
        entry, vector = left.pop(best), tries[best][None]
        steps.append(Step(entry - 1 if entry else None, score, bool(margin[best] > 0)))
    return tuple(steps)
