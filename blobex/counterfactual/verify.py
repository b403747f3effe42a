"""What was found, measured: the record of a search's answers."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blobex.counterfactual.compose import Composer
from blobex.counterfactual.problems import Problems
from blobex.counterfactual.target import Target
from blobex.layout.blobs import BlobLayout
from blobex.optim.batching import State, finite_rows, float32_batch_size, in_batches, take_rows


@dataclass(frozen=True)
class Counterfactuals:
    """The answer to each of P problems. `image`, `scores_after` and all measures are those of `layout`.

    A problem is flipped if its goal, which the query misses, is reached. The answer is the nearest flipped iterate, or
    else the one that came closest to the goal. `image` is what `compose.Composer` makes of the layout; fields that end
    in `_full` are of the layout rendered anew.
    """

    image_index: Tensor  # P: which picture
    target: Target  # P goals
    layout: BlobLayout
    image: Tensor  # P,3,H,W
    scores_before: Tensor  # P,A: of the query; what a score is, the target's kind says
    scores_start: Tensor  # P,A: of its reconstruction
    scores_after: Tensor  # P,A
    scores_full: Tensor  # P,A
    flipped: Tensor  # P, bool
    flipped_full: Tensor  # P, bool
    failed: Tensor  # P, bool: nothing finite was found; never flipped
    reconstruction_agrees: Tensor  # P, bool: the reconstruction misses the goal as the query does
    changed: Tensor  # P,K+1 bool: whether the background, and which blobs, differ from the reconstruction's
    areas_start: Tensor  # P,K+1: the share of the picture that each paints in the reconstruction
    areas_after: Tensor  # P,K+1
    proximity: Tensor  # P: weighted distance to the reconstruction's blobs
    perceptual: Tensor  # P: distance to the query
    l2: Tensor  # P: mean squared error to the query, pixels in [-1,1]
    step: Tensor  # P: the step after which the answer was found

    def __len__(self) -> int:
        return len(self.layout)

    def improved(self, problems: Tensor, others: Counterfactuals, where: Tensor) -> Counterfactuals:
        """These answers, but `others`, which are to `problems` (some numbers), where `where` (their number) is true."""
        better = where.nonzero()[:, 0]
        rows = problems[better]

        def put(old: Tensor, new: Tensor) -> Tensor:
            return old.index_copy(0, rows, new[better])

        chosen: dict[str, Any] = {
            item.name: put(getattr(self, item.name), getattr(others, item.name))
            for item in dataclasses.fields(self)
            if item.name not in ("target", "layout")
        }
        layout = BlobLayout(**{key: put(old, getattr(others.layout, key)) for key, old in self.layout.items()})
        return dataclasses.replace(self, layout=layout, **chosen)


@torch.no_grad()
def verify(
    found: Tensor, queries: Tensor, problems: Problems, step: Tensor, composer: Composer, batch_size: int
) -> Counterfactuals:
    """The record of the vectors `found` (P,D), each measured by itself; `queries` are the pictures (N,3,H,W)."""
    form, networks, target, image_index = problems.form, composer.networks, problems.target, problems.image_index
    rows = float32_batch_size(batch_size, found.device)

    def asked(images: Tensor, vector: Tensor) -> State:
        layout = form.unflatten(vector)
        said = {"before": networks.decide(images), "start": networks.decide(networks.render(layout))}
        return said | {"areas": networks.scores(layout).mean((2, 3))}

    def after(vector: Tensor, index: Tensor, blobs: Tensor) -> State:
        image = composer.compose(vector, index, blobs)
        state = {"image": image, "outputs": networks.decide(image)}
        state["areas"] = networks.scores(form.unflatten(vector)).mean((2, 3))
        if composer.photos is None:
            return state | {"outputs_full": state["outputs"]}
        return state | {"outputs_full": networks.decide(networks.render(form.unflatten(vector)))}

    def distances(image: Tensor, index: Tensor) -> State:
        wanted = queries[index]
        distance = networks.perceptual.distance_to(networks.perceptual.embed(wanted), image)
        return {"perceptual": distance, "l2": (image - wanted).square().flatten(1).mean(1)}

    pictures, inverse = image_index.unique(return_inverse=True)
    first = torch.stack([(image_index == picture).nonzero()[0, 0] for picture in pictures])
    said = take_rows(in_batches(asked, rows, queries[pictures], problems.start[first]), inverse)
    changed = form.changed(found, problems.start)
    ended = in_batches(after, rows, found, image_index, changed)
    sound = finite_rows(said["before"], ended["outputs"], ended["image"], found)
    open_before = target.margin(said["before"]) <= 0
    return Counterfactuals(
        image_index=image_index,
        target=target,
        layout=form.unflatten(found),
        image=ended["image"],
        scores_before=target.scores(said["before"]),
        scores_start=target.scores(said["start"]),
        scores_after=target.scores(ended["outputs"]),
        scores_full=target.scores(ended["outputs_full"]),
        flipped=sound & open_before & (target.margin(ended["outputs"]) > 0),
        flipped_full=sound
        & finite_rows(ended["outputs_full"])
        & open_before
        & (target.margin(ended["outputs_full"]) > 0),
        failed=~sound,
        reconstruction_agrees=open_before & (target.margin(said["start"]) <= 0) & finite_rows(said["before"]),
        changed=changed,
        areas_start=said["areas"],
        areas_after=ended["areas"],
        proximity=problems.distance(found),
        step=step,
        **in_batches(distances, rows, ended["image"], image_index.to(found.device)),
    )
