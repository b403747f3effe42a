"""Whole-object changes, tried before any gradient: an object taken out, put in, moved, or made to look otherwise.

A gradient stops at the border of a decision, where often nothing has changed that anyone could name. How an object of
another picture looks, and where it stands, is always something. So objects are exchanged for those of example pictures,
first one at a time; where none is enough, from the scene without objects all come back that the flip can bear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from blobex.counterfactual.compose import Composer
from blobex.counterfactual.problems import Problems
from blobex.layout.blobs import ABSENT, BlobLayout
from blobex.optim.batching import State, in_batches

GROUND = ("road", "verge", "side_lane", "lane")  # groups whose blobs are one object: lanes make no sense without a road
SCENERY = (*GROUND, "building", "vegetation")  # what the hour and the weather colour, with the background
APPEARANCE_KEYS = {"features": 1.0, "spatial_style": 1.0}
SURE = 0.9  # of the surest decision that some change leads to: only changes that lead to one as sure count
AS_BEFORE = 0.5  # of how sure the model was of the query: the least that counts
LEAST = 1e-3  # of any margin
ALIKE = 24  # examples in the same light, among which each blob finds one in its place


@dataclass(frozen=True)
class ObjectExamples:
    """E real pictures as layouts of K blobs, and the U objects that the blobs make up, the background first."""

    layout: BlobLayout
    present: Tensor  # E,K+1 bool: what shows in a picture; the background always
    objects: Tensor  # U,K+1 bool: whose the blobs are; each is of one object
    surfaces: Tensor  # V,K+1 bool: what gets another look together; they may overlap

    def to(self, device: torch.device) -> ObjectExamples:
        """The same on a device."""
        rest = (tensor.to(device) for tensor in (self.present, self.objects, self.surfaces))
        return ObjectExamples(self.layout.to(device), *rest)


def objects_of(slots: Mapping[str, int]) -> Tensor:
    """(U,K+1) bool: the background, the ground, and every other blob by itself; `slots` are the blobs of each group.

    >>> objects_of({"road": 1, "lane": 1, "vehicle": 1}).int().tolist()
    [[1, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 1]]
    """
    groups = [group for group, count in slots.items() for _ in range(count)]
    ground = [group in GROUND for group in groups]
    alone = torch.eye(len(groups) + 1, dtype=torch.bool)[1:][~torch.tensor(ground)]
    first = torch.tensor([[True, *[False] * len(groups)], [False, *ground]])
    return torch.cat([first[: 1 + any(ground)], alone])


def surfaces_of(slots: Mapping[str, int]) -> Tensor:
    """(V,K+1) bool: the background, each group of the ground, and all the scenery with the background.

    >>> surfaces_of({"road": 2, "lane": 1, "vehicle": 1}).int().tolist()
    [[1, 0, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 1, 0], [1, 1, 1, 1, 0]]
    """
    groups = ["background", *(group for group, count in slots.items() for _ in range(count))]
    sets = [("background",), *((group,) for group in GROUND if slots.get(group)), ("background", *SCENERY)]
    return torch.tensor([[group in some for group in groups] for some in sets])


@dataclass(frozen=True)
class ObjectSearch:
    """The search for whole-object changes that solve problems."""

    problems: Problems
    composer: Composer
    examples: ObjectExamples
    tried: int  # examples of each object
    batch_size: int

    def solve(self, count: int) -> tuple[Tensor, Tensor]:
        """Vectors (P*count,D), `count` for each problem, and bool (P,): for which problems all of them flip for sure.

        Of all changes of one object those that change the picture's pixels least; if there are several, each is of
        another object. For `count` 1, changes of several objects where no single one is enough.
        """
        form, vectors = self.problems.form, self.problems.start.repeat_interleave(count, 0)
        solved = torch.zeros(len(self.problems), dtype=torch.bool)
        for picture in self.problems.image_index.unique():
            rows = (self.problems.image_index == picture).nonzero()[:, 0]
            start, mask = self.problems.start[rows[0]], self.problems.mask[rows[0]]
            changed = self._changes(start, mask)
            image, outputs = self._seen(changed, start, picture)
            amount = (image - image[0]).abs().flatten(1).mean(1)
            moved = (form.changed(changed, start.expand_as(changed)).float() @ self.examples.objects.T.float()) > 0
            for row in rows.tolist():
                margin = self.problems.target[torch.full((len(changed),), row)].margin(outputs)
                chosen = _smallest(margin, amount, moved, count)
                found = changed[chosen] if len(chosen) or count > 1 else self._emptied(row, start, mask)
                if len(found) == count:
                    vectors[row * count : (row + 1) * count], solved[row] = found, True
        return vectors, solved

    def _changes(self, start: Tensor, mask: Tensor) -> Tensor:
        """(C,D): the layout `start` (D,), then all changes of one of its objects within `mask` (D,) bool."""
        form = self.problems.form
        owners, (sizes, appearance) = form.owners().to(start.device), self._parts()
        near, found = self._nearest(start), [start[None]]
        for one in self.examples.objects[1:]:
            own = one[owners]
            with_it = near[(self.examples.present[near] & one).any(1)][: self.tried]
            others = form.flatten(self.examples.layout[with_it])
            if one.sum() == 1 and start[own & sizes] > ABSENT / 2:  # it is there
                found.append(torch.where(own & appearance & mask, others, start))
                found.append(torch.where(own & sizes & mask, ABSENT, start)[None])
            found.append(torch.where(own & mask, others, start))
        for some in self.examples.surfaces:
            changed = self._relit(start, near) if some[0] else form.flatten(self.examples.layout[near])
            shown = (some if some[0] else self.examples.present[near] & some).expand(len(changed), -1)
            with_it = shown.any(1)
            changed, shown = changed[with_it][: self.tried], shown[with_it][: self.tried]
            found.append(torch.where(shown[:, owners] & appearance & mask, changed, start))
        every = torch.cat(found)
        kept = (every != start).any(1)
        return torch.cat([start[None], every[kept]])

    def _relit(self, start: Tensor, near: Tensor) -> Tensor:
        """(T,D): the layout `start` (D,) in T different lights; `near` (E,) by light.

        The background is that of an example. All else looks as the blob nearest in place and shape among the ALIKE
        examples whose background is most like that one; what none of them has stays as it is.
        """
        form, (_, appearance) = self.problems.form, self._parts()
        owners, others = form.owners().to(start.device), form.flatten(self.examples.layout)
        sky, found = (owners == 0) & appearance, []
        for number in near[torch.linspace(0, len(near) - 1, min(self.tried, len(near))).round().long()]:
            alike = (others[:, sky] - others[number, sky]).square().sum(1).argsort(stable=True)[:ALIKE]
            apart = form.by_blob(torch.where(appearance, 0, (others[alike] - start).abs() * self.problems.price))
            apart = torch.where(self.examples.present[alike], apart, torch.inf)
            chosen = torch.where(apart.amin(0) < torch.inf, alike[apart.argmin(0)], -1)[owners]
            lit = others.gather(0, chosen.clamp(min=0)[None])[0]
            found.append(torch.where(appearance & (chosen >= 0), lit, start))
        return torch.stack(found)

    def _emptied(self, row: int, start: Tensor, mask: Tensor) -> Tensor:
        """(1,D): the change of the fewest blobs that flips problem `row` for sure; (0,D) if none does.

        All objects are gone, on the ground as it is or as examples have it; one by one they return.
        """
        form, (sizes, _) = self.problems.form, self._parts()
        owners, objects = form.owners().to(start.device), self.examples.objects
        things = objects[objects.sum(1) == 1].any(0)
        things[0] = False
        empty = torch.where(things[owners] & sizes & mask, start.clamp(max=ABSENT), start)[None]
        others = form.flatten(self.examples.layout[self._nearest(start)[: self.tried]])
        grounds = [torch.where(one[owners] & mask, others, empty) for one in objects if one.sum() > 1]
        vectors = torch.cat([empty, *grounds])
        number = torch.full((len(vectors),), row)
        same = start.expand_as(vectors)
        before, reached = self._margins(same[:1], number[:1]), self._margins(vectors, number)
        least = torch.maximum(SURE * reached, -AS_BEFORE * before).clamp(min=LEAST)
        flips = reached >= least
        amount = form.by_blob((vectors - same).abs() * self.problems.price) @ objects.T.float()
        amount[:, 0] = torch.inf
        for rank in amount.argsort(dim=1, descending=True, stable=True).T:  # what changed most returns first
            back = torch.where(objects[rank][:, owners], same, vectors)
            bears = flips & (self._margins(back, number) >= least)
            vectors = torch.where(bears[:, None], back, vectors)
        cost = form.changed(vectors, same).sum(1) + self._price(vectors, start)
        return vectors[torch.where(flips, cost, torch.inf).argmin()][None][: int(flips.any())]

    def _price(self, vectors: Tensor, start: Tensor) -> Tensor:
        """(V,) from 0 to 1, the farther the higher: what breaks ties between as many objects."""
        distance = ((vectors - start).abs() * self.problems.price).sum(1)
        return distance / (1 + distance)

    def _parts(self) -> tuple[Tensor, Tensor]:
        """(D,) bool each: the entries that are sizes, and those of appearance."""
        form, device = self.problems.form, self.problems.start.device
        return form.spread({"sizes": 1.0}).to(device) > 0, form.spread(APPEARANCE_KEYS).to(device) > 0

    def _nearest(self, start: Tensor) -> Tensor:
        """(E,): numbers of the examples, first those in a light as that of `start` (D,): with a background like its."""
        form = self.problems.form
        sky = (form.owners().to(start.device) == 0) & self._parts()[1]
        return (form.flatten(self.examples.layout)[:, sky] - start[sky]).square().sum(1).argsort(stable=True)

    @torch.no_grad()
    def _seen(self, vectors: Tensor, start: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
        """What vectors (V,D) of one picture show, and what the model says of it."""

        def seen(part: Tensor) -> State:
            changed = self.problems.form.changed(part, start.expand_as(part))
            image = self.composer.compose(part, picture.expand(len(part)), changed)
            return {"image": image, "outputs": self.composer.networks.decide(image)}

        state = in_batches(seen, self.batch_size, vectors)
        return state["image"], state["outputs"]

    def _margins(self, vectors: Tensor, rows: Tensor) -> Tensor:
        """(V,): how far past the border of problems `rows` (V,), all of one picture, vectors (V,D) are."""
        some = self.problems[rows]
        return some.target.margin(self._seen(vectors, some.start[0], some.image_index[0])[1])


def _smallest(margin: Tensor, amount: Tensor, moved: Tensor, count: int) -> Tensor:
    """Numbers of at most `count` changes that flip for sure, the smallest first, each of other objects.

    `margin` (C,), `amount` (C,) of change and the objects `moved` (C,U) bool of changes; the first is none.
    """
    chosen = list[Tensor]()
    left = amount > 0
    while len(chosen) < count:
        surest = margin[left].amax() if left.any() else margin.new_tensor(-torch.inf)
        least = torch.maximum(SURE * surest, -AS_BEFORE * margin[0]).clamp(min=LEAST)
        flips = left & (margin >= least)
        if not flips.any():
            break
        chosen.append(torch.where(flips, amount, torch.inf).argmin())
        left = left & ~(moved & moved[chosen[-1]]).any(1)
    return torch.stack(chosen) if chosen else torch.zeros(0, dtype=torch.long)
