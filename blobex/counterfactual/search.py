"""Counterfactual search: for each picture and question, the nearest layout that is decided otherwise.

Every problem (one picture and one question) is solved by itself, for as many steps as it needs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blobex.config import ExplainSetup
from blobex.counterfactual.objective import price_vector
from blobex.counterfactual.space import check_listed
from blobex.counterfactual.target import Target
from blobex.descent import adam
from blobex.descent.slots import State, choose, exact_rows, finite, in_slots, solve
from blobex.errors import BlobexError
from blobex.inversion.networks import Networks
from blobex.layout.layout import BlobLayout
from blobex.layout.vector import VectorForm

BETAS = (0.8, 0.9)  # of Adam: a search is over after a few steps
PROGRESS = 0.99  # of the distance so far: what is nearer than that counts as a step forward


@dataclass(frozen=True)
class Counterfactuals:
    """The answer to each of P problems. `image`, `scores_after` and all measures are those of `layout`.

    A problem is flipped if its goal, which the query misses, is reached. The answer is the nearest flipped iterate, or
    else the one that came closest to the goal.
    """

    image_index: Tensor  # P: which picture
    target: Target  # P goals
    layout: BlobLayout
    image: Tensor  # P,3,H,W
    scores_before: Tensor  # P,A: of the query; what a score is, the target's kind says
    scores_start: Tensor  # P,A: of its reconstruction
    scores_after: Tensor  # P,A
    flipped: Tensor  # P, bool
    failed: Tensor  # P, bool: nothing finite was found; never flipped
    reconstruction_agrees: Tensor  # P, bool: the reconstruction misses the goal as the query does
    proximity: Tensor  # P: weighted distance to the reconstruction's blobs
    perceptual: Tensor  # P: distance to the query
    l2: Tensor  # P: mean squared error to the query, pixels in [-1,1]
    step: Tensor  # P: the step after which the answer was found

    def __len__(self) -> int:
        return len(self.layout)


def search(
    queries: Tensor,
    start: BlobLayout,
    image_index: Tensor,
    target: Target,
    masks: Mapping[str, Tensor],
    *,
    quick: Networks,
    exact: Networks,
    setup: ExplainSetup,
    slots: int,
) -> Counterfactuals:
    """Solve P problems, `slots` of them at a time; the results are in their order.

    `queries` (N,3,H,W) in [-1,1] and their N inverted layouts `start`; `image_index` (P,) says which of them a problem
    is about and `target` (P) what is wanted. Entries outside `masks`, from `space.masks`, keep their bits. `quick`
    networks find the way and `exact` ones judge where it ends. BlobexError: masks of other pictures, outputs without a
    gradient.

    Adam goes down the target's loss + lambda_prox * distance until the goal is reached by `margin` and nothing nearer
    was found for `patience` steps. Then what the flip does not need is undone, and the rest moved back towards the
    start as far as the flip bears.
    """
    form = VectorForm.of(start)
    vector = form.flatten(start.detach())[image_index]
    mask = problem_masks(masks, form, len(queries), image_index)
    price = price_vector(form, setup.lambda_key).to(vector.device)
    rate = form.rates(setup.learning_rate, setup.size_lr_multiplier).to(vector.device)
    work = _Work(vector, mask, target, price, rate, form, quick, setup)
    found = solve(len(vector), slots, work.load, work.advance, "counterfactuals")
    way = Way(vector, target, price, form, quick, setup, slots)
    nearest = way.back(way.pruned(found["best"], found["slope"]))
    arguments = (queries, image_index, target, vector, found["step"], price, form, exact, slots)
    return fallen_back(judged(nearest, *arguments), lambda: judged(found["best"], *arguments))


@dataclass(frozen=True)
class _Work:
    """The steps of the search, for `descent.slots.solve`."""

    start: Tensor  # P,D
    mask: Tensor  # P,D bool
    target: Target
    price: Tensor  # D: of a unit of change
    rate: Tensor  # D: learning rates
    form: VectorForm
    networks: Networks
    setup: ExplainSetup

    def load(self, numbers: Tensor) -> State:
        numbers = numbers.to(self.start.device)
        start = self.start[numbers]
        nothing = torch.zeros_like(start[:, 0])
        state = {"start": start, "mask": self.mask[numbers], "best": start}
        state["slope"] = torch.zeros_like(start)
        state |= {"reached": nothing - torch.inf, "distance": nothing, "step": nothing.long(), "waited": nothing.long()}
        return adam.begin(start) | state

    def advance(self, state: State) -> tuple[State, Tensor]:
        target, price = self.target[state["number"]], self.price
        with torch.enable_grad():
            leaf = state["vector"].detach().requires_grad_()
            outputs = self.networks.decide(self.networks.render(self.form.unflatten(leaf)))
            if not outputs.requires_grad:
                raise BlobexError("the decision's scores carry no gradient: give a differentiable decision model")
            (slope,) = torch.autograd.grad(target.loss(outputs).sum(), leaf)
        outputs, moved = outputs.detach(), state["vector"] - state["start"]
        sound = finite(outputs, state["vector"])
        new = {"best": state["vector"], "slope": slope, "step": state["age"]}
        new |= {"reached": target.margin(outputs), "distance": (moved.abs() * price).sum(1)}
        state = self._keep_best(state, new, sound)
        satisfied = (state["reached"] > self.setup.margin) & (state["waited"] >= self.setup.patience)
        begun_flipped = (state["reached"] > 0) & (state["distance"] == 0)
        finished = satisfied | begun_flipped | ~sound | (state["age"] >= self.setup.steps)
        gradient = slope + self.setup.lambda_prox * price * moved.sign()
        stepped = adam.step(state, torch.where(state["mask"], gradient, 0), self.rate, BETAS)
        stepped["vector"] = torch.where(state["mask"], stepped["vector"], state["start"])
        return state | stepped, finished

    def _keep_best(self, state: State, new: State, sound: Tensor) -> State:
        """The state with the new iterate as the best where it is."""
        margin = self.setup.margin
        flipped, was_flipped = new["reached"] > margin, state["reached"] > margin
        nearer = flipped & (~was_flipped | (new["distance"] < state["distance"]))
        further = ~was_flipped & (new["reached"] > state["reached"])
        better = sound & (nearer | further)
        forward = better & (~was_flipped | (new["distance"] < PROGRESS * state["distance"]))
        return state | choose(better, new, state) | {"waited": torch.where(forward, 0, state["waited"] + 1)}


@dataclass(frozen=True)
class Way:
    """The way from P starting points to flipped layouts, along which nearer ones are looked for without gradients."""

    start: Tensor  # P,D
    target: Target
    price: Tensor  # D: of a unit of change
    form: VectorForm
    networks: Networks
    setup: ExplainSetup
    slots: int

    def pruned(self, found: Tensor, slope: Tensor) -> Tensor:
        """`found` (P,D) with as many changes undone as the flip bears.

        To first order a change is worth its `slope` (the loss's gradient at `found`) per unit of price. Bisection finds
        how many of the worthiest are enough; the changes that work against the flip are undone first. Where the flip
        bears nothing, or there is none, `found` stays.
        """
        helps = (slope * (found - self.start) < 0) & (self.price > 0)
        worth = torch.where(helps, slope.abs() / self.price.clamp(min=torch.finfo(slope.dtype).tiny), 0)
        rank = worth.argsort(dim=1, descending=True, stable=True).argsort(1)
        low, high = torch.zeros_like(found[:, 0]), helps.sum(1).clamp(min=1).log2()
        best = found
        for _ in range(self.setup.bisections):
            middle = (low + high) / 2
            some = torch.where(helps & (rank < middle.exp2()[:, None]), found, self.start)
            enough = self.flipped(some)
            best = torch.where(enough[:, None], some, best)
            low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
        return best

    def back(self, found: Tensor) -> Tensor:
        """The point nearest to `start` on the straight way to `found` (P,D) that is still flipped, by bisection."""
        low, high = torch.zeros_like(found[:, 0]), torch.ones_like(found[:, 0])
        for _ in range(self.setup.bisections // 2):
            middle = (low + high) / 2
            there = self.flipped(torch.lerp(self.start, found, middle[:, None]))
            low, high = torch.where(there, low, middle), torch.where(there, middle, high)
        return torch.where(high[:, None] < 1, torch.lerp(self.start, found, high[:, None]), found)

    @torch.no_grad()
    def flipped(self, vector: Tensor) -> Tensor:
        """Bool (P,): which of the vectors (P,D) reach their goal by the margin."""

        def reached(part: Tensor, numbers: Tensor) -> State:
            outputs = self.networks.decide(self.networks.render(self.form.unflatten(part)))
            return {"reached": self.target[numbers].margin(outputs)}

        numbers = torch.arange(len(vector), device=vector.device)
        return in_slots(reached, self.slots, vector, numbers)["reached"] > self.setup.margin


def fallen_back(found: Counterfactuals, other: Callable[[], Counterfactuals]) -> Counterfactuals:
    """`found`, but the `other` answer where only that is flipped; it is asked for if any is not."""
    if found.flipped.all():
        return found
    instead = other()
    worse = ~found.flipped & instead.flipped
    values = {item.name: getattr(found, item.name) for item in dataclasses.fields(found)}
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    chosen: dict[str, Any] = choose(worse, {name: getattr(instead, name) for name in tensors}, tensors)
    form = VectorForm.of(found.layout)
    vectors = torch.where(worse[:, None], form.flatten(instead.layout), form.flatten(found.layout))
    return dataclasses.replace(found, layout=form.unflatten(vectors), **chosen)


@torch.no_grad()
def judged(
    found: Tensor,
    queries: Tensor,
    image_index: Tensor,
    target: Target,
    start: Tensor,
    step: Tensor,
    price: Tensor,
    form: VectorForm,
    networks: Networks,
    slots: int,
) -> Counterfactuals:
    """The record of the vectors `found` (P,D), each measured by itself."""

    def before(images: Tensor) -> State:
        return {"outputs": networks.decide(images)}

    def after(vector: Tensor) -> State:
        image = networks.render(form.unflatten(vector))
        return {"image": image, "outputs": networks.decide(image)}

    def distances(image: Tensor, number: Tensor) -> State:
        wanted = queries[number]
        embedded = networks.perceptual.embed(wanted)
        distance = networks.perceptual.distance_to(embedded, image)
        return {"perceptual": distance, "l2": (image - wanted).square().flatten(1).mean(1)}

    rows = exact_rows(slots, found.device)
    pictures, inverse = image_index.unique(return_inverse=True)
    first = torch.stack([(image_index == picture).nonzero()[0, 0] for picture in pictures])
    asked = in_slots(before, rows, queries[pictures])["outputs"][inverse]
    begun = in_slots(after, rows, start[first])["outputs"][inverse]
    ended = in_slots(after, rows, found)
    sound = finite(asked, ended["outputs"], ended["image"], found)
    open_before, open_start = target.margin(asked) <= 0, target.margin(begun) <= 0
    return Counterfactuals(
        image_index=image_index,
        target=target,
        layout=form.unflatten(found),
        image=ended["image"],
        scores_before=target.scores(asked),
        scores_start=target.scores(begun),
        scores_after=target.scores(ended["outputs"]),
        flipped=sound & open_before & (target.margin(ended["outputs"]) > 0),
        failed=~sound,
        reconstruction_agrees=open_before & open_start & finite(asked),
        proximity=((found - start).abs() * price).sum(1),
        step=step,
        **in_slots(distances, rows, ended["image"], image_index.to(found.device)),
    )


def problem_masks(masks: Mapping[str, Tensor], form: VectorForm, pictures: int, image_index: Tensor) -> Tensor:
    """(P,D) bool: which numbers of each problem's vector may change."""
    check_listed(masks, pictures)
    mask = form.mask(masks)
    return mask[image_index.cpu() if len(mask) > 1 else torch.zeros_like(image_index.cpu())].to(image_index.device)
