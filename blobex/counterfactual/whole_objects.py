"""Whole-object changes, tried before gradients: an object removed, added, exchanged, or changed in appearance.

Gradients stop at the decision boundary, often after changes that nobody can name. So objects are exchanged for those of
example images, one at a time; where no single one is enough, all objects are removed, and all but those that the flip
needs removed come back.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property, partial

import torch
from torch import Tensor

from blobex.counterfactual.believability import believable
from blobex.counterfactual.object_examples import ObjectExamples
from blobex.counterfactual.problems import Problems, SearchContext
from blobex.layout.blobs import ABSENT
from blobex.optim.batching import State, in_batches

APPEARANCE = {"features": 1.0, "spatial_style": 1.0}
CONFIDENT = 0.9  # of the highest margin among the candidates: least margin of an accepted change
SIMPLE = 0.7  # the same for a single object that disappears or looks different, which is easy to see
AS_CONFIDENT = 0.5  # of the query's own margin: least margin of an accepted change
LEAST_MARGIN = 1e-3
EXTENTS = OBJECT, SURFACE, LIGHT = range(3)  # of a change
REFUSED = 8  # changes that are not believable before the next extent is tried
SIMILAR_LIGHT = 24  # examples with the most similar light, among which new objects and appearances are looked up
SIMILAR_GROUND = 12  # the same for the ground, which is large, so that its light must fit better


@dataclass(frozen=True)
class Candidates:
    """Changes of one extent of a query's layout; the first is none."""

    vectors: Tensor  # C,D
    outputs: Tensor  # C,...: of the model
    images: Tensor  # C,3,H,W
    amount: Tensor  # C: mean change of pixels, times 2 for exchanged objects
    share: Tensor  # C: SIMPLE if an object disappears or looks different, else CONFIDENT
    objects: Tensor  # C,U bool: changed objects


@dataclass(frozen=True)
class ObjectSearch:
    """Search for whole-object changes that solve P problems."""

    problems: Problems
    context: SearchContext  # `params.examples` examples of each object are tried
    examples: ObjectExamples

    def solve(self, count: int) -> tuple[Tensor, Tensor]:
        """Search `count` counterfactuals of each problem.

        They are the confident changes of one object that change the fewest pixels, each of another object; if there
        are too few, changes of one surface, and last of the light of the whole scene. For a count of 1, several
        objects change before the light does. Returns layout vectors (P*count,D), and bool (P,): true where one of a
        problem's vectors or more flip confidently; those beyond are the start.
        """
        vectors = self.problems.start.repeat_interleave(count, 0)
        solved = torch.zeros(len(self.problems), dtype=torch.bool)
        for image in self.problems.image_index.unique():
            rows = (self.problems.image_index == image).nonzero()[:, 0]
            start, mask = self.problems.start[rows[0]], self.problems.mask[rows[0]]
            candidates = cache(partial(self.candidates, start, mask, image))  # of an extent, if a problem needs it
            emptied = cache(partial(self._emptied, start, mask, image))
            for row in rows.tolist():
                found = self._choose(row, candidates, count, emptied)
                vectors[row * count : row * count + len(found)], solved[row] = found, len(found) > 0
        return vectors, solved

    def candidates(self, start: Tensor, mask: Tensor, image: Tensor, extent: int) -> Candidates:
        """Evaluate the changes of an extent, of the layout `start` (D,) of query `image` within `mask` (D,) bool."""
        changes = (self._object_changes, self._surface_changes, self._light_changes)[extent](start, mask)
        changes = torch.cat([start[None], changes[(changes != start).any(1)]])
        images, outputs = self._evaluate(changes, start, image)
        blobs, exchanged = (
            self.problems.form.changed(changes, start.expand_as(changes)),
            self._exchanged(changes, start),
        )
        simple = ~exchanged & ~self._adds(changes, start) if extent == OBJECT else torch.zeros_like(exchanged)
        return Candidates(
            vectors=changes,
            outputs=outputs,
            images=images,
            amount=(images - images[0]).abs().flatten(1).mean(1) * (1 + exchanged.float()),
            share=torch.where(simple, SIMPLE, CONFIDENT),
            objects=(blobs.float() @ self.examples.objects.T.float()) > 0,
        )

    def _exchanged(self, changes: Tensor, start: Tensor) -> Tensor:
        """Return bool (C,): true for changes (C,D) of `start` (D,) that put an object in the place of another.

        Such a change is a removal and an insertion; a simple one is easier to see.
        """
        place = ~self._appearance & ~self._sizes
        moved = self.problems.form.by_blob(((changes != start) & place).float()) > 0
        return (moved & self._present(start)).any(1)

    def _adds(self, changes: Tensor, start: Tensor) -> Tensor:
        """Return bool (C,): true for changes (C,D) of `start` (D,) that show a blob which is absent there."""
        sizes = self.problems.form.unflatten(changes).sizes > ABSENT / 2
        return (sizes & ~self._present(start))[:, 1:].any(1)

    def _choose(
        self,
        row: int,
        candidates: Callable[[int], Candidates],
        count: int,
        emptied: Callable[[], tuple[Tensor, Tensor]],
    ) -> Tensor:
        """Return at most `count` layout vectors that solve problem `row`, those of the least extent first."""
        found, taken = list[Tensor](), torch.zeros_like(self.examples.objects[:, 0])
        for extent in EXTENTS:
            if extent == LIGHT and count == 1 and not found:
                found += list(self._eliminate(row, *emptied()))
            if len(found) == count:
                break
            changes, refused = candidates(extent), 0
            margin = self.problems.target[torch.full((len(changes.vectors),), row)].margin(changes.outputs)
            eligible = (changes.amount > 0) & ~(changes.objects & taken).any(1)
            while len(found) < count and refused < REFUSED:
                number = _smallest(margin, changes, eligible)
                if number is None:
                    break
                if self._sound(row, changes.vectors[number], changes.images[number]):
                    found.append(changes.vectors[number])
                    taken = taken | changes.objects[number]
                    eligible = eligible & ~(changes.objects & taken).any(1)
                else:
                    refused += 1
                    eligible[number] = False
        return torch.stack(found) if found else self.problems.start[:0]

    def _sound(self, row: int, vector: Tensor, image: Tensor) -> bool:
        """Return whether a layout vector (D,) with its image (3,H,W) is a believable answer to problem `row`."""
        problems, networks = self.problems[torch.tensor([row])], self.context.composer.networks
        params, batch_size = self.context.params, self.context.batch_size
        return bool(believable(vector[None], image[None], problems, networks, params, batch_size))

    def _object_changes(self, start: Tensor, mask: Tensor) -> Tensor:
        """Return (C,D): the layout `start` (D,) with an object removed, added, exchanged or in another appearance."""
        changes = [start[None][:0]]
        nearest, present = self._nearest_light(start), self._present(start)
        for blobs in self.examples.objects[1:]:
            if (blobs & self._ground).any():
                continue
            own = blobs[self._owners]
            if (present & blobs).any():
                parts = torch.diag(blobs)[blobs] if blobs.sum() > 1 else blobs[None][:0]  # a light without its pole
                changes += [self._repainted(start, mask, nearest, part) for part in (*parts, blobs)]
                changes.append(torch.where(own & self._sizes & mask, start.clamp(max=ABSENT), start)[None])
            others = self.problems.form.flatten(self.examples.layout[self._different(nearest, blobs)])
            changes.append(torch.where(own & mask, others, start))
            changes.append(self._added(start, mask, blobs, others))
        return torch.cat(changes)

    def _added(self, start: Tensor, mask: Tensor, blobs: Tensor, others: Tensor) -> Tensor:
        """Return (C,D): the layout `start` (D,) with the object `blobs` (K+1,) bool of layouts `others` (C,D) as well.

        If its blob is taken, the nearest free one of the group shows it; there is no change without one.
        """
        groups, present = self.examples.groups, self._present(start)
        free = ((groups == groups[blobs][0]) & ~present).nonzero()[:, 0]
        if blobs.sum() > 1 or not (present & blobs).any() or not len(free):
            return others[:0]
        blob = blobs.nonzero()[0, 0]
        into = self._owners == free[(free - blob).abs().argmin()]
        changes = start.repeat(len(others), 1)
        changes[:, into] = torch.where(mask[into], others[:, self._owners == blob], start[into])
        return changes

    def _repainted(self, start: Tensor, mask: Tensor, nearest: Tensor, blobs: Tensor) -> Tensor:
        """Return (C,D): the layout `start` (D,) with the appearance that `blobs` (K+1,) bool have in examples."""
        having = self._different(nearest, blobs)
        both = (self.examples.present[having] & self._present(start) & blobs)[:, self._owners]
        others = self.problems.form.flatten(self.examples.layout[having])
        return torch.where(both & self._appearance & mask, others, start)

    def _surface_changes(self, start: Tensor, mask: Tensor) -> Tensor:
        """Return (C,D): the layout `start` (D,) with a surface, or the whole ground, of an example."""
        nearest, changes = self._nearest_light(start), [start[None][:0]]
        changes += [self._repainted(start, mask, nearest, surface) for surface in self._grounds]
        for blobs in self.examples.objects[1:][(self.examples.objects[1:] & self._ground).any(1)]:
            others = self.problems.form.flatten(self.examples.layout[self._different(nearest, blobs)])
            changes.append(torch.where(blobs[self._owners] & mask, others, start))
        return torch.cat(changes)

    def _light_changes(self, start: Tensor, mask: Tensor) -> Tensor:
        """Return (C,D): the layout `start` (D,) with the sky, or the whole scene, in the light of an example.

        There are none if the background must keep its appearance: a street at noon under a night sky is none.
        """
        background = (self._owners == 0) & self._appearance
        if not mask[background].any():
            return start[None][:0]
        lights = self._relight(start, self._nearest_light(start))
        surfaces = self.examples.surfaces[self.examples.surfaces[:, 0]]
        changes = [torch.where(surface[self._owners] & self._appearance & mask, lights, start) for surface in surfaces]
        return torch.cat([start[None][:0], *changes])

    def _different(self, nearest: Tensor, blobs: Tensor) -> Tensor:
        """Return at most `params.examples` numbers of examples that have one of `blobs` (K+1,) bool.

        Of those with the most similar light, the first is the nearest; each next differs most in the appearance of the
        blobs from those before it, so that a red and a green light are both among them.
        """
        pool = SIMILAR_GROUND if (blobs & self._ground).any() else SIMILAR_LIGHT
        having = nearest[(self.examples.present[nearest] & blobs).any(1)][:pool]
        if not len(having):
            return having
        own = blobs[self._owners] & self._appearance
        others = self.problems.form.flatten(self.examples.layout[having])[:, own]
        shown = (self.examples.present[having] & blobs)[:, self._owners[own]]
        others = torch.where(shown, others, 0)
        chosen, distance = [0], torch.full((len(having),), torch.inf, device=others.device)
        while len(chosen) < min(self.context.params.examples, len(having)):
            distance = torch.minimum(distance, (others - others[chosen[-1]]).square().sum(1))
            chosen.append(int(distance.argmax()))
        return having[chosen]

    def _present(self, start: Tensor) -> Tensor:
        """Return which of the background and the blobs are visible in the layout `start` (D,), bool (K+1,)."""
        sizes = self.problems.form.unflatten(start[None]).sizes[0] > ABSENT / 2
        return torch.cat([torch.ones_like(sizes[:1]), sizes[1:]])

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

    def _emptied(self, start: Tensor, mask: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return layouts (V,D) of query `image` without its objects, and the model's outputs.

        All objects but the scenery are removed, with the ground as it is, with one or all of its surfaces in the
        appearance of an example, or as in an example; signals may stay and look different.
        """
        objects, nearest = self.examples.objects, self._nearest_light(start)

        def emptied(layouts: Tensor, blobs: Tensor) -> Tensor:
            return torch.where(blobs[self._owners] & self._sizes & mask, layouts.clamp(max=ABSENT), layouts)

        empty = emptied(start[None], self._removable)
        painted = [self._repainted(empty[0], mask, nearest, surface) for surface in (*self._grounds, self._ground)]
        others = self.problems.form.flatten(self.examples.layout[self._different(nearest, self._ground)])
        painted.append(torch.where(self._ground[self._owners] & mask, others, empty))
        for blobs in objects[(objects & self._removable).sum(1) > 1]:  # a light turns green instead of being removed
            for part in torch.diag(blobs & self._present(start))[blobs]:
                painted.append(emptied(self._repainted(start, mask, nearest, part), self._removable & ~blobs))
        vectors = torch.cat([empty, *painted])
        return vectors, self._evaluate(vectors, start, image)[1]

    def _eliminate(self, row: int, vectors: Tensor, outputs: Tensor) -> Tensor:
        """Return (1,D): the confident flip of problem `row` with the fewest changed blobs; (0,D) if there is none.

        From layouts (V,D) without objects and with the model's `outputs`, objects are restored one by one, those that
        changed most first, as long as the flip stays confident.
        """
        objects, start = self.examples.objects, self.problems.start[row]
        margin = self.problems.target[torch.full((len(vectors),), row)].margin(outputs)
        least = _least_margin(margin, self._margins(start[None], row))
        flips = margin >= least
        if not flips.any():
            return vectors[:0]
        vectors, least = vectors[flips], least[flips]
        amount = self.problems.form.by_blob((vectors - start).abs() * self.problems.price) @ objects.T.float()
        amount[:, 0] = torch.inf
        for blobs in amount.argsort(dim=1, descending=True, stable=True).T:
            restored = torch.where(objects[blobs][:, self._owners], start, vectors)
            differing = (restored != vectors).any(1).nonzero()[:, 0]
            if len(differing):
                restorable = self._margins(restored[differing], row) >= least[differing]
                vectors = vectors.index_copy(0, differing[restorable], restored[differing[restorable]])
        distance = ((vectors - start).abs() * self.problems.price).sum(1)
        changed = self.problems.form.changed(vectors, start.expand_as(vectors)).sum(1)
        ordered = (changed + distance / (1 + distance)).argsort(stable=True)[:REFUSED]  # distance breaks ties
        images, _ = self._evaluate(vectors[ordered], start, self.problems.image_index[row])
        for vector, image in zip(vectors[ordered], images, strict=True):
            if self._sound(row, vector, image):
                return vector[None]
        return vectors[:0]

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

        state = in_batches(evaluate, self.context.batch_size, vectors, title="whole objects")
        return state["images"], state["outputs"]

    def _margins(self, vectors: Tensor, row: int) -> Tensor:
        """Return the margins (V,) of layout vectors (V,D) for problem `row`."""
        problems = self.problems[torch.full((len(vectors),), row)]
        outputs = self._evaluate(vectors, self.problems.start[row], self.problems.image_index[row])[1]
        return problems.target.margin(outputs)

    @cached_property
    def _owners(self) -> Tensor:
        return self.problems.form.owners().to(self.problems.layouts.device)

    @property
    def _grounds(self) -> Tensor:
        """(G,K+1) bool: surfaces of the ground."""
        return self.examples.surfaces[~self.examples.surfaces[:, 0]]

    @property
    def _removable(self) -> Tensor:
        """(K+1,) bool: blobs of objects, but not of the scenery."""
        return self.examples.objects.any(0) & ~self.examples.surfaces.any(0)

    @property
    def _ground(self) -> Tensor:
        """(K+1,) bool: blobs of the ground."""
        return self._grounds.any(0)

    @cached_property
    def _sizes(self) -> Tensor:
        """(D,) bool: entries that are sizes."""
        return self.problems.form.spread({"sizes": 1.0}).to(self.problems.layouts.device) > 0

    @cached_property
    def _appearance(self) -> Tensor:
        """(D,) bool: entries that are features or styles."""
        return self.problems.form.spread(APPEARANCE).to(self.problems.layouts.device) > 0


def _least_margin(margin: Tensor, margin_before: Tensor, share: Tensor | float = CONFIDENT) -> Tensor:
    """Return the least margin that is confident, given those of the candidates and of the query."""
    return torch.maximum(share * margin, -AS_CONFIDENT * margin_before).clamp(min=LEAST_MARGIN)


def _smallest(margin: Tensor, candidates: Candidates, eligible: Tensor) -> int | None:
    """Return the number of the `eligible`, bool (C,), confident change of the fewest pixels; None if there is none.

    The first margin (C,) is that of the unchanged layout.
    """
    if not eligible.any():
        return None
    flips = eligible & (margin >= _least_margin(margin[eligible].amax(), margin[0], candidates.share))
    return int(torch.where(flips, candidates.amount, torch.inf).argmin()) if flips.any() else None
