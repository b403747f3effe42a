"""Whole-object changes, tried before gradients: an object removed, added, exchanged, or changed in appearance.

Gradients stop at the decision boundary, often after changes that nobody can name. So objects are exchanged for those of
example images, one at a time; where no single one is enough, all objects are removed, and all but those that the flip
needs removed come back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from blobex.counterfactual.problems import Problems, SearchContext
from blobex.layout.blobs import ABSENT, BlobLayout
from blobex.optim.batching import State, in_batches

GROUND = ("road", "verge", "side_lane", "lane")  # groups that form one object: lanes make no sense without a road
SCENERY = (*GROUND, "building", "vegetation")  # groups whose colours change with daylight and weather
APPEARANCE = {"features": 1.0, "spatial_style": 1.0}
CONFIDENT = 0.9  # of the highest margin among the candidates: least margin of an accepted change
AS_CONFIDENT = 0.5  # of the query's own margin: least margin of an accepted change
LEAST_MARGIN = 1e-3
SIMILAR_LIGHT = 24  # examples among which a blob's new appearance is looked up


@dataclass(frozen=True)
class ObjectExamples:
    """E real images as layouts of K blobs, and the objects and surfaces that the blobs form."""

    layout: BlobLayout
    present: Tensor  # E,K+1 bool: visible blobs of each image; the background always is
    objects: Tensor  # U,K+1 bool: blobs of each object, the background first; a blob belongs to one object
    surfaces: Tensor  # V,K+1 bool: blobs that change their appearance together; surfaces may overlap

    def to(self, device: torch.device) -> ObjectExamples:
        masks = (mask.to(device) for mask in (self.present, self.objects, self.surfaces))
        return ObjectExamples(self.layout.to(device), *masks)


def objects_of(slots: Mapping[str, int]) -> Tensor:
    """Return the objects (U,K+1) bool of blobs in groups: the background, the ground, and every other blob alone.

    >>> objects_of({"road": 1, "lane": 1, "vehicle": 1}).int().tolist()
    [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    """
    groups = [group for group, count in slots.items() for _ in range(count)]
    ground = [group in GROUND for group in groups]
    single = torch.eye(len(groups) + 1, dtype=torch.bool)[1:][~torch.tensor(ground)]
    first = torch.tensor([[True, *[False] * len(groups)], [False, *ground]])
    return torch.cat([first[: 1 + any(ground)], single])


def surfaces_of(slots: Mapping[str, int]) -> Tensor:
    """Return the surfaces (V,K+1) bool: the background, each ground group, and all scenery with the background.

    >>> surfaces_of({"road": 2, "lane": 1, "vehicle": 1}).int().tolist()
    [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [1, 1, 1, 1, 0]]
    """
    groups = ["background", *(group for group, count in slots.items() for _ in range(count))]
    present_ground = [(group,) for group in GROUND if slots.get(group)]
    surfaces = [("background",), *present_ground, ("background", *SCENERY)]
    return torch.tensor([[group in surface for group in groups] for surface in surfaces])


@dataclass(frozen=True)
class ObjectSearch:
    """Search for whole-object changes that solve P problems."""

    problems: Problems
    context: SearchContext  # `params.examples` examples of each object are tried
    examples: ObjectExamples

    def solve(self, count: int) -> tuple[Tensor, Tensor]:
        """Search `count` counterfactuals of each problem.

        They are the confident changes of one object that change the fewest pixels, each of another object. For a count
        of 1 several objects may change where no single one is enough. Returns layout vectors (P*count,D), and bool
        (P,): true where all vectors of a problem flip confidently.
        """
        form, vectors = self.problems.form, self.problems.start.repeat_interleave(count, 0)
        solved = torch.zeros(len(self.problems), dtype=torch.bool)
        for image in self.problems.image_index.unique():
            rows = (self.problems.image_index == image).nonzero()[:, 0]
            start, mask = self.problems.start[rows[0]], self.problems.mask[rows[0]]
            changes = self._single_changes(start, mask)
            images, outputs = self._evaluate(changes, start, image)
            amount = (images - images[0]).abs().flatten(1).mean(1)
            changed = form.changed(changes, start.expand_as(changes)).float()
            objects = (changed @ self.examples.objects.T.float()) > 0
            for row in rows.tolist():
                margin = self.problems.target[torch.full((len(changes),), row)].margin(outputs)
                chosen = _smallest(margin, amount, objects, count)
                found = changes[chosen] if len(chosen) or count > 1 else self._eliminate(row, start, mask)
                if len(found) == count:
                    vectors[row * count : (row + 1) * count], solved[row] = found, True
        return vectors, solved

    def _single_changes(self, start: Tensor, mask: Tensor) -> Tensor:
        """Return (C,D): the layout `start` (D,), then every change of one of its objects within `mask` (D,) bool."""
        form, examples, tried = self.problems.form, self.examples, self.context.params.examples
        nearest, changes = self._nearest_light(start), [start[None]]
        for blobs in examples.objects[1:]:
            own = blobs[self._owners]
            having = nearest[(examples.present[nearest] & blobs).any(1)][:tried]
            others = form.flatten(examples.layout[having])
            if blobs.sum() == 1 and start[own & self._sizes] > ABSENT / 2:  # the object is present
                changes.append(torch.where(own & self._appearance & mask, others, start))
                changes.append(torch.where(own & self._sizes & mask, ABSENT, start)[None])
            changes.append(torch.where(own & mask, others, start))
        for surface in examples.surfaces:
            others = self._relight(start, nearest) if surface[0] else form.flatten(examples.layout[nearest])
            visible = surface if surface[0] else examples.present[nearest] & surface  # entry 0: the background
            visible = visible.expand(len(others), -1)
            having = visible.any(1)
            others, visible = others[having][:tried], visible[having][:tried]
            changes.append(torch.where(visible[:, self._owners] & self._appearance & mask, others, start))
        candidates = torch.cat(changes)
        return torch.cat([start[None], candidates[(candidates != start).any(1)]])

    def _relight(self, start: Tensor, nearest: Tensor) -> Tensor:
        """Return (T,D): the layout `start` (D,) in T different lights.

        The background is that of an example of `nearest` (E,). Every blob has the appearance of the blob nearest in
        position and shape among the examples with the most similar backgrounds; a blob that none has keeps its own.
        """
        others, lights = self.problems.form.flatten(self.examples.layout), []
        background = (self._owners == 0) & self._appearance
        picks = torch.linspace(0, len(nearest) - 1, min(self.context.params.examples, len(nearest)))
        for number in nearest[picks.round().long()]:
            difference = (others[:, background] - others[number, background]).square().sum(1)
            similar = difference.argsort(stable=True)[:SIMILAR_LIGHT]
            distance = (others[similar] - start).abs() * self.problems.price
            distance = self.problems.form.by_blob(torch.where(self._appearance, 0, distance))
            distance = torch.where(self.examples.present[similar], distance, torch.inf)
            source = torch.where(distance.amin(0) < torch.inf, similar[distance.argmin(0)], -1)[self._owners]
            relit = others.gather(0, source.clamp(min=0)[None])[0]
            lights.append(torch.where(self._appearance & (source >= 0), relit, start))
        return torch.stack(lights)

    def _eliminate(self, row: int, start: Tensor, mask: Tensor) -> Tensor:
        """Return (1,D): the confident flip of problem `row` with the fewest changed blobs; (0,D) if there is none.

        All objects are removed, with the ground as it is or as in an example. Then they are restored one by one, those
        that changed most first, as long as the flip stays confident.
        """
        objects = self.examples.objects
        removable = objects[objects.sum(1) == 1].any(0)
        removable[0] = False
        empty = torch.where(removable[self._owners] & self._sizes & mask, start.clamp(max=ABSENT), start)[None]
        nearest = self._nearest_light(start)[: self.context.params.examples]
        others = self.problems.form.flatten(self.examples.layout[nearest])
        grounds = [torch.where(ground[self._owners] & mask, others, empty) for ground in objects if ground.sum() > 1]
        vectors = torch.cat([empty, *grounds])
        rows, same = torch.full((len(vectors),), row), start.expand_as(vectors)
        margin = self._margins(vectors, rows)
        least = _least_margin(margin, self._margins(same[:1], rows[:1]))
        flips = margin >= least
        amount = self.problems.form.by_blob((vectors - same).abs() * self.problems.price) @ objects.T.float()
        amount[:, 0] = torch.inf
        for blobs in amount.argsort(dim=1, descending=True, stable=True).T:
            restored = torch.where(objects[blobs][:, self._owners], same, vectors)
            restorable = flips & (self._margins(restored, rows) >= least)
            vectors = torch.where(restorable[:, None], restored, vectors)
        distance = ((vectors - start).abs() * self.problems.price).sum(1)
        cost = self.problems.form.changed(vectors, same).sum(1) + distance / (1 + distance)  # distance breaks ties
        return vectors[torch.where(flips, cost, torch.inf).argmin()][None][: int(flips.any())]

    def _nearest_light(self, start: Tensor) -> Tensor:
        """Return the numbers of the examples (E,), those with a background like that of `start` (D,) first."""
        background = (self._owners == 0) & self._appearance
        others = self.problems.form.flatten(self.examples.layout)[:, background]
        return (others - start[background]).square().sum(1).argsort(stable=True)

    @torch.no_grad()
    def _evaluate(self, vectors: Tensor, start: Tensor, image_index: Tensor) -> tuple[Tensor, Tensor]:
        """Return images and model outputs of layout vectors (V,D) of one query."""
        composer = self.context.composer

        def evaluate(part: Tensor) -> State:
            changed = self.problems.form.changed(part, start.expand_as(part))
            images = composer.compose(part, image_index.expand(len(part)), changed)
            return {"images": images, "outputs": composer.networks.decide(images)}

        state = in_batches(evaluate, self.context.batch_size, vectors)
        return state["images"], state["outputs"]

    def _margins(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """Return the margins (V,) of layout vectors (V,D) for problems `rows` (V,), all of one query."""
        problems = self.problems[rows]
        return problems.target.margin(self._evaluate(vectors, problems.start[0], problems.image_index[0])[1])

    @cached_property
    def _owners(self) -> Tensor:
        return self.problems.form.owners().to(self.problems.layouts.device)

    @cached_property
    def _sizes(self) -> Tensor:
        """(D,) bool: entries that are sizes."""
        return self.problems.form.spread({"sizes": 1.0}).to(self.problems.layouts.device) > 0

    @cached_property
    def _appearance(self) -> Tensor:
        """(D,) bool: entries that are features or styles."""
        return self.problems.form.spread(APPEARANCE).to(self.problems.layouts.device) > 0


def _least_margin(margin: Tensor, margin_before: Tensor) -> Tensor:
    """Return the least margin that is confident, given those of the candidates and of the query."""
    return torch.maximum(CONFIDENT * margin, -AS_CONFIDENT * margin_before).clamp(min=LEAST_MARGIN)


def _smallest(margin: Tensor, amount: Tensor, objects: Tensor, count: int) -> Tensor:
    """Return the numbers of at most `count` confident changes of different objects, the smallest first.

    The first margin (C,) is that of the unchanged layout. `amount` (C,) is the change of pixels, `objects` (C,U) bool.
    """
    chosen = list[Tensor]()
    remaining = amount > 0
    while len(chosen) < count:
        highest = margin[remaining].amax() if remaining.any() else margin.new_tensor(-torch.inf)
        flips = remaining & (margin >= _least_margin(highest, margin[0]))
        if not flips.any():
            break
        chosen.append(torch.where(flips, amount, torch.inf).argmin())
        remaining = remaining & ~(objects & objects[chosen[-1]]).any(1)
    return torch.stack(chosen) if chosen else torch.zeros(0, dtype=torch.long)
