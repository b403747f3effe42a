"""Verification of counterfactuals with the exact networks, and the record of the results."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blobex.config.explain import SearchParams
from blobex.counterfactual.believability import believable
from blobex.counterfactual.compose import Composer
from blobex.counterfactual.problems import Problems
from blobex.counterfactual.target import Target
from blobex.layout.blobs import BlobLayout
from blobex.optim.batching import State, finite_rows, float32_batch_size, in_batches, take_rows


@dataclass(frozen=True)
class Counterfactuals:
    """Counterfactuals of P problems. `image`, `scores_after` and all measures belong to `layout`.

    Each is the nearest believable layout found that flips, or else the start. `image` is the composed image of the
    layout (`compose.Composer`); fields that end in `_full` belong to its rendering.
    """

    image_index: Tensor  # P: the query of each
    target: Target  # P targets
    layout: BlobLayout
    image: Tensor  # P,3,H,W
    scores_before: Tensor  # P,A: scores (see `Target`) of the query
    scores_start: Tensor  # P,A: of the reconstruction
    scores_after: Tensor  # P,A
    scores_full: Tensor  # P,A
    flipped: Tensor  # P, bool: the target, which the query misses, is reached
    flipped_full: Tensor  # P, bool
    failed: Tensor  # P, bool: nothing finite was found; never flipped
    believable: Tensor  # P, bool: the change passes `believability.believable`; one that does not never flips
    reconstruction_agrees: Tensor  # P, bool: the reconstruction misses the target as the query does
    changed: Tensor  # P,K+1 bool: whether the background, and which blobs, differ from the reconstruction
    areas_start: Tensor  # P,K+1: share of the image that each of them paints in the reconstruction
    areas_after: Tensor  # P,K+1
    proximity: Tensor  # P: weighted distance from the reconstruction's layout
    perceptual: Tensor  # P: perceptual distance from the query
    l2: Tensor  # P: mean squared difference from the query, pixels in [-1,1]
    step: Tensor  # P: iterations of the gradient search before the layout was found

    def __len__(self) -> int:
        return len(self.layout)

    def replaced(self, index: Tensor, others: Counterfactuals, where: Tensor) -> Counterfactuals:
        """Return a copy in which `others` replace the rows `index` (n,) where `where`, bool (n,), is true."""
        chosen = where.nonzero()[:, 0]
        fields: dict[str, Any] = {
            field.name: getattr(self, field.name).index_copy(0, index[chosen], getattr(others, field.name)[chosen])
            for field in dataclasses.fields(self)
            if field.name != "target"
        }
        return dataclasses.replace(self, **fields)


@dataclass(frozen=True)
class SharedCounterfactuals(Counterfactuals):
    """Counterfactuals of a published search for several at once, which share out the change of each blob."""

    shares: Tensor  # P,K+1: share of the change of the background and of each blob; 1 in all over those of a question

    @classmethod
    def of(cls, found: Counterfactuals, shares: Tensor) -> SharedCounterfactuals:
        return cls(**vars(found), shares=shares)


@torch.no_grad()
def verify(
    vectors: Tensor,
    problems: Problems,
    step: Tensor,
    composer: Composer,
    batch_size: int,
    limits: SearchParams | None = None,
) -> Counterfactuals:
    """Evaluate layout vectors (P,D), found after `step` (P,) iterations, as counterfactuals, each independently.

    `limits` says what is believable; None: everything is.
    """
    form, networks, target, image_index = problems.form, composer.networks, problems.target, problems.image_index
    batch_size = float32_batch_size(batch_size, vectors.device)

    def evaluate_queries(queries: Tensor, vector: Tensor) -> State:
        rendered, scores = networks.draw(form.unflatten(vector))
        outputs = {"query": networks.decide(queries), "start": networks.decide(rendered)}
        return outputs | {"areas": scores.mean((2, 3))}

    def evaluate_vectors(vector: Tensor, index: Tensor, blobs: Tensor) -> State:
        image, rendered, scores = composer.draw(vector, index, blobs)
        outputs = networks.decide(image)
        full = outputs if rendered is image else networks.decide(rendered)
        return {"image": image, "outputs": outputs, "areas": scores.mean((2, 3)), "outputs_full": full}

    def distances(image: Tensor, index: Tensor) -> State:
        query = problems.queries[index]
        distance = networks.perceptual.distance_to(networks.perceptual.embed(query), image)
        return {"perceptual": distance, "l2": (image - query).square().flatten(1).mean(1)}

    used, inverse = image_index.unique(return_inverse=True)
    before = in_batches(evaluate_queries, batch_size, problems.queries[used], problems.layouts[used])
    before = take_rows(before, inverse)
    changed = form.changed(vectors, problems.start)
    after = in_batches(evaluate_vectors, batch_size, vectors, image_index, changed)
    full = after["outputs_full"]
    finite = finite_rows(before["query"], after["outputs"], after["image"], vectors)
    missed_before = target.margin(before["query"]) <= 0
    reached = target.margin(after["outputs"]) > 0
    sound = believable(vectors, after["image"], problems, composer.networks, limits, batch_size)
    return Counterfactuals(
        image_index=image_index,
        target=target,
        layout=form.unflatten(vectors),
        image=after["image"],
        scores_before=target.scores(before["query"]),
        scores_start=target.scores(before["start"]),
        scores_after=target.scores(after["outputs"]),
        scores_full=target.scores(full),
        flipped=finite & missed_before & reached & sound,
        flipped_full=finite & finite_rows(full) & missed_before & (target.margin(full) > 0),
        failed=~finite,
        believable=sound,
        reconstruction_agrees=missed_before & (target.margin(before["start"]) <= 0) & finite_rows(before["query"]),
        changed=changed,
        areas_start=before["areas"],
        areas_after=after["areas"],
        proximity=problems.distance(vectors),
        step=step,
        **in_batches(distances, batch_size, after["image"], image_index.to(vectors.device)),
    )
