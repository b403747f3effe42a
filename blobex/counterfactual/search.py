"""Counterfactual search: for each picture and question, the nearest layout that is decided otherwise.

Every problem (one picture and one question) is solved by itself, for as many steps as it needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from blobex.config import ExplainSetup
from blobex.counterfactual.objective import price_vector
from blobex.counterfactual.target import Target
from blobex.descent import adam
from blobex.descent.slots import State, choose, finite, in_slots, solve
from blobex.errors import BlobexError
from blobex.inversion.networks import Networks
from blobex.layout.layout import KEYS, BlobLayout
from blobex.layout.vector import VectorForm

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
    networks lead the way; `exact` ones find where on the way the decision flips, and judge. BlobexError: masks of other
    pictures, outputs without a gradient.
    """
    form = VectorForm.of(start)
    vector = form.flatten(start.detach())[image_index]
    work = _Work(vector, problem_masks(masks, form, len(queries), image_index), target, form, quick, setup)
    found = solve(len(vector), slots, work.load, work.advance, "counterfactuals")
    nearest = first_flip(vector, found["best"], target, form, exact, setup.bisections, slots)
    return judged(queries, image_index, target, vector, nearest, found["step"], form, exact, setup, slots)


@dataclass(frozen=True)
class _Work:
    """The steps of the search, for `descent.slots.solve`."""

    start: Tensor  # P,D
    mask: Tensor  # P,D bool
    target: Target
    form: VectorForm
    networks: Networks
    setup: ExplainSetup

    def load(self, numbers: Tensor) -> State:
        numbers = numbers.to(self.start.device)
        start = self.start[numbers]
        nothing = torch.zeros_like(start[:, 0])
        state = {"number": numbers, "start": start, "mask": self.mask[numbers], "best": start}
        state |= {"reached": nothing - torch.inf, "distance": nothing, "step": nothing.long(), "waited": nothing.long()}
        return adam.begin(start) | state

    def advance(self, state: State) -> tuple[State, Tensor]:
        target, price = self.target[state["number"]], price_vector(self.form, self.setup.lambda_key)
        price = price.to(state["vector"].device)
        with torch.enable_grad():
            leaf = state["vector"].detach().requires_grad_()
            outputs = self.networks.decide(self.networks.render(self.form.unflatten(leaf)))
            if not outputs.requires_grad:
                raise BlobexError("the decision's scores carry no gradient: give a differentiable decision model")
            distance = ((leaf - state["start"]).abs() * price).sum(1)
            loss = target.loss(outputs) + self.setup.lambda_prox * distance
            (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        reached, distance = target.margin(outputs.detach()), distance.detach()
        state, sound = _keep_best(
            state, reached, distance, finite(outputs.detach(), state["vector"]), self.setup.margin
        )
        age = state["age"]
        satisfied = (state["reached"] > self.setup.margin) & (
            (state["waited"] >= self.setup.patience) | (state["distance"] == 0)
        )
        finished = satisfied | ~sound | (age >= self.setup.steps)
        gradient = torch.where(state["mask"], gradient, 0)
        moved = adam.step(state, gradient, self._rates(gradient.device))
        moved["vector"] = torch.where(state["mask"], moved["vector"], state["start"])
        return state | moved, finished

    def _rates(self, device: torch.device) -> Tensor:
        rates = dict.fromkeys(KEYS, self.setup.learning_rate)
        rates["sizes"] *= self.setup.size_lr_multiplier
        return self.form.spread(rates).to(device)


def _keep_best(state: State, reached: Tensor, distance: Tensor, sound: Tensor, margin: float) -> tuple[State, Tensor]:
    """The state with the present iterate as the best where it is, and whether it is finite."""
    flipped, was_flipped = reached > margin, state["reached"] > margin
    nearer = flipped & (~was_flipped | (distance < state["distance"]))
    further = ~was_flipped & (reached > state["reached"])
    better = sound & (nearer | further)
    forward = better & (~was_flipped | (distance < PROGRESS * state["distance"]))
    new = {"best": state["vector"], "reached": reached, "distance": distance, "step": state["age"]}
    waited = torch.where(forward, 0, state["waited"] + 1)
    return state | choose(better, new, state) | {"waited": waited}, sound


@torch.no_grad()
def first_flip(
    start: Tensor, found: Tensor, target: Target, form: VectorForm, networks: Networks, bisections: int, slots: int
) -> Tensor:
    """(P,D): the point nearest to `start` (P,D) on the line to `found` (P,D) whose decision is flipped, by bisection.

    Where `found` itself is not flipped, it is returned.
    """
    low, high = torch.zeros_like(start[:, 0]), torch.ones_like(start[:, 0])
    numbers = torch.arange(len(start), device=start.device)

    def flipped(vector: Tensor, number: Tensor) -> State:
        outputs = networks.decide(networks.render(form.unflatten(vector)))
        return {"flipped": target[number].margin(outputs) > 0}

    for _ in range(bisections):
        middle = (low + high) / 2
        there = in_slots(flipped, slots, torch.lerp(start, found, middle[:, None]), numbers)["flipped"]
        low, high = torch.where(there, low, middle), torch.where(there, middle, high)
    return torch.where(high[:, None] < 1, torch.lerp(start, found, high[:, None]), found)


@torch.no_grad()
def judged(
    queries: Tensor,
    image_index: Tensor,
    target: Target,
    start: Tensor,
    found: Tensor,
    step: Tensor,
    form: VectorForm,
    networks: Networks,
    setup: ExplainSetup,
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

    pictures, inverse = image_index.unique(return_inverse=True)
    first = torch.stack([(image_index == picture).nonzero()[0, 0] for picture in pictures])
    asked = in_slots(before, slots, queries[pictures])["outputs"][inverse]
    begun = in_slots(after, slots, start[first])["outputs"][inverse]
    ended = in_slots(after, slots, found)
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
        proximity=((found - start).abs() * price_vector(form, setup.lambda_key).to(found.device)).sum(1),
        step=step,
        **in_slots(distances, slots, ended["image"], image_index.to(found.device)),
    )


def problem_masks(masks: Mapping[str, Tensor], form: VectorForm, pictures: int, image_index: Tensor) -> Tensor:
    """(P,D) bool: which numbers of each problem's vector may change."""
    mask = form.mask(masks)
    if len(mask) not in (1, pictures):
        raise BlobexError(f"blobs are listed for {len(mask)} of {pictures} pictures: give one list, or one per picture")
    return mask[image_index.cpu() if len(mask) > 1 else torch.zeros_like(image_index.cpu())].to(image_index.device)
