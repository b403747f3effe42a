"""Counterfactual search: for each picture and question, the nearest layout that is decided otherwise.

Every problem (one picture and one question) is solved by itself, for as many steps as it needs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from blobex.config.explain import SearchParams
from blobex.core.errors import BlobexError
from blobex.counterfactual.assignment import ENTROPY, BlobAssignment
from blobex.counterfactual.compose import Composer
from blobex.counterfactual.objective import price_vector
from blobex.counterfactual.problems import Problems
from blobex.counterfactual.shrink import Shrinker
from blobex.counterfactual.target import Target
from blobex.counterfactual.verify import Counterfactuals, verify
from blobex.counterfactual.whole_objects import ObjectExamples, ObjectSearch
from blobex.layout.blobs import BlobLayout
from blobex.layout.vector import VectorForm
from blobex.optim import adam
from blobex.optim.batching import State, finite_rows, float32_batch_size, solve_in_batches, where_rows
from blobex.optim.networks import Networks

BETAS = (0.8, 0.9)  # of Adam: a search is over after a few steps
PROGRESS = 0.99  # of the distance so far: what is nearer than that counts as a step forward
APPEARANCE_KEYS = ("features", "spatial_style")
AGAIN = 3  # a search among fewer blobs gets this part of the steps
FASTER = 8  # what does not flip is searched again with so many times the learning rate


@dataclass(frozen=True)
class SearchOptions:
    """How counterfactuals are looked for."""

    few: bool = False  # among as few blobs as the flip bears
    count: int = 1  # counterfactuals of each question, which share the blobs out among themselves
    photo: bool = False  # the change is laid over the photo; if not, the whole picture is rendered anew
    seed: int = 0  # of how the blobs are shared out at first


@dataclass(frozen=True)
class _Tools:
    """What all parts of one search use."""

    queries: Tensor  # N,3,H,W: the pictures
    quick: Composer
    exact: Composer
    setup: SearchParams
    batch_size: int

    def faster(self) -> _Tools:
        """The same with a higher learning rate."""
        rate = self.setup.learning_rate * FASTER
        return dataclasses.replace(self, setup=dataclasses.replace(self.setup, learning_rate=rate))

    def verify(self, ways: tuple[Tensor, ...], step: Tensor, problems: Problems) -> Counterfactuals:
        """Answers to P problems: of the `ways`, vectors (P,D) each, the first that is flipped."""
        answer = verify(ways[0], self.queries, problems, step, self.exact, self.batch_size)
        for way in ways[1:]:  # what the quick networks take for flipped may not be for the exact ones
            missed = (~answer.flipped).nonzero()[:, 0]
            if len(missed):
                other = verify(way[missed], self.queries, problems[missed], step[missed], self.exact, self.batch_size)
                answer = answer.improved(missed, other, other.flipped)
        return answer

    def shrinker(self, problems: Problems) -> Shrinker:
        return Shrinker(problems, self.quick, self.setup, self.batch_size)


def search(
    queries: Tensor,
    start: BlobLayout,
    image_index: Tensor,
    target: Target,
    masks: Mapping[str, Tensor],
    *,
    quick: Networks,
    exact: Networks,
    setup: SearchParams,
    batch_size: int,
    options: SearchOptions = SearchOptions(),
    skip: Tensor | None = None,
    examples: ObjectExamples | None = None,
) -> Counterfactuals:
    """Solve P problems, `batch_size` of them at a time; the results are in their order, `options.count` of each.

    `queries` (N,3,H,W) in [-1,1] and their N inverted layouts `start`; `image_index` (P,) says which of them a problem
    is about and `target` (P) what is wanted. Entries outside `masks`, from `space.masks`, keep their bits. `quick`
    networks find the way and `exact` ones judge where it ends. Problems in `skip` (P,) bool stay where they start.
    BlobexError: masks of other pictures, outputs without a gradient.

    Where whole objects of `examples` solve a problem, that is the answer (`objects.ObjectSearch`). For the others,
    Adam goes down the target's loss + lambda_prox * distance until the goal is reached by `margin` and nothing nearer
    was found for `patience` steps. Then what the flip does not need is undone, blob by blob if few are wanted, and the
    rest moved back towards the start as far as the flip bears. What does not flip, by the exact networks, is searched
    again up to `retries` times, each at FASTER times the learning rate of the one before: a rate that is low enough to
    end near by may be too low to get there.
    """
    form = VectorForm.of(start)
    problems = Problems.of(start, image_index, target, masks, price_vector(form, setup.lambda_key))
    quick_composer, exact_composer = (
        Composer.over_queries(queries, start, networks, rows) if options.photo else Composer(networks, form, None)
        for networks, rows in ((quick, batch_size), (exact, float32_batch_size(batch_size, problems.start.device)))
    )
    tools = _Tools(queries, quick_composer, exact_composer, setup, batch_size)
    shares = BlobAssignment(options.count, form, options.seed)
    asked = torch.ones(len(problems), dtype=torch.bool) if skip is None else ~skip.cpu()
    open_, every = asked.nonzero()[:, 0], problems.repeated(options.count)
    ways = tuple(every.start.clone() for _ in range(3))
    step = torch.zeros_like(every.image_index)
    if len(open_) and examples is not None and setup.examples:
        some = problems[open_.to(problems.start.device)]
        whole = ObjectSearch(some, quick_composer, examples, setup.examples, batch_size)
        vectors, solved = whole.solve(options.count)
        rows = _rows(open_[solved], options.count)
        for way in ways:
            way[rows] = vectors[_rows(solved.nonzero()[:, 0], options.count)]
        open_ = open_[~solved]
    if len(open_):
        rows = _rows(open_, options.count).to(step.device)
        found, step[rows] = _ways(problems[open_.to(problems.start.device)], shares, tools, options.few)
        for way, vectors in zip(ways, found, strict=True):
            way[rows] = vectors
    answer = tools.verify(ways, step, every)
    for _ in range(setup.retries):
        tools = tools.faster()
        answer = _again(answer, problems, asked, shares, tools, options.few)
    return answer


def _again(
    answer: Counterfactuals, problems: Problems, asked: Tensor, shares: BlobAssignment, tools: _Tools, few: bool
) -> Counterfactuals:
    """The answers, those to a problem searched again if not all are flipped, and replaced if then more of them are."""
    flips = answer.flipped.unflatten(0, (-1, shares.count)).sum(1).cpu()
    open_ = (asked & (flips < shares.count)).nonzero()[:, 0]
    if not len(open_):
        return answer
    some = problems[open_.to(problems.start.device)]
    other = tools.verify(*_ways(some, shares, tools, few), some.repeated(shares.count))
    better = other.flipped.unflatten(0, (-1, shares.count)).sum(1).cpu() > flips[open_]
    rows = _rows(open_, shares.count).to(answer.flipped.device)
    return answer.improved(rows, other, better.repeat_interleave(shares.count).to(rows.device))


def _ways(
    problems: Problems, shares: BlobAssignment, tools: _Tools, few: bool
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """What gradients find: vectors (P*count,D) from the nearest to what was found first, and the steps it took."""
    found, slope, step = _first(problems, shares, tools)
    each = problems.repeated(shares.count)
    less, slope = _fewest(each, found, slope, tools) if few else (found, slope)
    nearest = tools.shrinker(each).line_search(tools.shrinker(each).prune(less, slope))
    return (nearest, less, found), step


def _rows(numbers: Tensor, count: int) -> Tensor:
    """The rows of problems `numbers` where each has `count` rows."""
    return (numbers[:, None] * count + torch.arange(count)).flatten()


def _first(problems: Problems, shares: BlobAssignment, tools: _Tools) -> tuple[Tensor, Tensor, Tensor]:
    """Vectors (P*count,D) that flip, the loss's gradient there, and the steps (P*count,) that it took."""
    work = _Work(problems, tools.quick, tools.setup, shares, problems.start)
    state = solve_in_batches(len(problems), tools.batch_size, work.load, work.advance, "counterfactuals")
    missed = (state["reached"] <= tools.setup.margin).nonzero()[:, 0]
    if len(missed):
        state = _second(work, missed, state, tools)
    step, slope = state["step"].repeat_interleave(shares.count), state["slope"].reshape(-1, problems.start.shape[1])
    found = shares.layouts(state["best"], problems.start)
    if shares.assigned:
        found, slope = _parted(problems, found, slope, state["best"], shares, tools)
    return found, slope, step


def _parted(
    problems: Problems, found: Tensor, slope: Tensor, free: Tensor, shares: BlobAssignment, tools: _Tools
) -> tuple[Tensor, Tensor]:
    """`found` (P*count,D) with each blob changed in one of a problem's counterfactuals alone, where that bears a flip.

    Each goes on from what it keeps, among the blobs that are its own.
    """
    each, mine = problems.repeated(shares.count), shares.owned(free)
    begin = torch.where(mine, shares.vectors(free), each.start)
    own = dataclasses.replace(each, mask=each.mask & mine)
    work = _Work(own, tools.quick, tools.setup, BlobAssignment(1, problems.form, 0), begin)
    state = solve_in_batches(len(own), tools.batch_size, work.load, work.advance, "parting")
    flips = tools.shrinker(own).flipped(state["best"])[:, None]
    return torch.where(flips, state["best"], found), torch.where(flips, state["slope"], slope)


def _second(work: _Work, missed: Tensor, state: State, tools: _Tools) -> State:
    """The state with the problems `missed` searched again, in appearance alone.

    A blob that has moved away, or shrunk to nothing, has no gradient that would bring it back to flip by its colour.
    """
    problems = work.problems[missed]
    every = {key: torch.ones(1, 1, 1, dtype=torch.bool) for key in APPEARANCE_KEYS}
    appearance = problems.form.mask(every).to(problems.mask.device)
    narrow = dataclasses.replace(problems, mask=problems.mask & appearance)
    some = dataclasses.replace(work, problems=narrow, begin=problems.start)
    again = solve_in_batches(len(missed), tools.batch_size, some.load, some.advance, "second chances")
    better = again["reached"] > state["reached"][missed]
    rows = {name: value[missed] for name, value in state.items()}
    chosen = where_rows(better, again, rows)
    return {name: value.index_copy(0, missed, chosen[name]) for name, value in state.items()}


def _fewest(problems: Problems, found: Tensor, slope: Tensor, tools: _Tools) -> tuple[Tensor, Tensor]:
    """`found` (P,D) with changes to as few blobs as the flip bears, and the loss's gradient there.

    Greedy elimination: blobs go back to how they were while the flip lasts; then, one blob fewer at a time, the others
    are searched again for a change that makes up for it.
    """
    found = tools.shrinker(problems).restore_blobs(found, slope)
    open_ = tools.shrinker(problems).flipped(found)
    setup = dataclasses.replace(tools.setup, steps=max(1, tools.setup.steps // AGAIN))
    while True:
        changed = problems.form.changed(found, problems.start)
        open_ = open_ & (changed.sum(1) > 1)
        if not open_.any():
            return found, slope
        index = open_.nonzero()[:, 0]
        worth = tools.shrinker(problems).gain_per_blob(found, slope).masked_fill(~changed, torch.inf)
        least = torch.zeros_like(changed).scatter(1, worth.argmin(1, keepdim=True), True)
        allowed = (changed & ~least)[:, problems.form.owners().to(changed.device)]
        fewer = dataclasses.replace(problems, mask=problems.mask & allowed)[index]
        begin = problems.reverted(found, least)[index]
        work = _Work(fewer, tools.quick, setup, BlobAssignment(1, problems.form, 0), begin)
        state = solve_in_batches(len(fewer), tools.batch_size, work.load, work.advance, "fewer blobs")
        flips = tools.shrinker(fewer).flipped(state["best"])
        better = tools.shrinker(fewer).restore_blobs(state["best"], state["slope"])
        found, slope, open_ = found.clone(), slope.clone(), open_.clone()
        found[index] = torch.where(flips[:, None], better, found[index])
        slope[index] = torch.where(flips[:, None], state["slope"], slope[index])
        open_[index] = flips


@dataclass(frozen=True)
class _Work:
    """The steps of the search, for `descent.batch_size.solve`."""

    problems: Problems
    composer: Composer
    setup: SearchParams
    shares: BlobAssignment
    begin: Tensor  # P,D: where the first step is taken from

    def load(self, numbers: Tensor) -> State:
        numbers = numbers.to(self.begin.device)
        free, start = self.shares.begin(self.begin[numbers]), self.problems.start[numbers]
        nothing = torch.zeros_like(start[:, 0])
        state = {"best": free, "slope": torch.zeros_like(start).repeat(1, self.shares.count)}
        state |= {"reached": nothing - torch.inf, "distance": nothing, "step": nothing.long(), "waited": nothing.long()}
        return adam.begin(free) | state

    def advance(self, state: State) -> tuple[State, Tensor]:
        some, free, count = self.problems[state["number"]], state["vector"], self.shares.count
        each = some.repeated(count)
        with torch.enable_grad():
            leaf = free.detach().requires_grad_()
            vectors, entropy = self.shares.layouts(leaf, some.start), self.shares.entropy(leaf)
            outputs = self.composer.networks.decide(self.composer.compose(vectors, each.image_index, each.allowed))
            if not outputs.requires_grad:
                raise BlobexError("the decision's scores carry no gradient: give a differentiable decision model")
            retain = self.shares.assigned
            (slope,) = torch.autograd.grad(each.target.loss(outputs).sum(), vectors, retain_graph=retain)
            moved = vectors.detach() - each.start
            gradient = slope + self.setup.lambda_prox * some.price * moved.sign()
            outputs = outputs.detach()
            reached = each.target.margin(outputs).unflatten(0, (-1, count)).amin(1)
            if self.shares.assigned:  # first all flip, then they part: shares that part first leave some without means
                weighted = (torch.where(reached > 0, ENTROPY, 0) * entropy).sum()
                (gradient,) = torch.autograd.grad((vectors, weighted), leaf, (gradient, None))
        entropy = entropy.detach()
        sound = finite_rows(outputs, vectors.detach()).unflatten(0, (-1, count)).all(1)
        distance = (moved.abs() * some.price).sum(1).unflatten(0, (-1, count)).mean(1)
        new = {"best": free, "slope": slope.reshape(len(free), -1), "step": state["age"]}
        new |= {"reached": reached, "distance": distance + ENTROPY * entropy}
        state = self._keep_best(state, new, sound)
        satisfied = (state["reached"] > self.setup.margin) & (state["waited"] >= self.setup.patience)
        satisfied = satisfied & self.shares.sure(free, some.allowed)
        begun_flipped = (state["reached"] > self.setup.margin) & (distance == 0)
        finished = satisfied | begun_flipped | ~sound | (state["age"] >= self.setup.steps)
        mask = torch.cat([some.mask.repeat(1, count), torch.ones_like(free[:, some.mask.shape[1] * count :]).bool()], 1)
        stepped = adam.step(state, torch.where(mask, gradient, 0), self._rate(), BETAS)
        stepped["vector"] = torch.where(mask, stepped["vector"], self.shares.begin(some.start))
        return state | stepped, finished

    def _rate(self) -> Tensor:
        rates = self.problems.form.rates(self.setup.learning_rate, self.setup.size_lr_multiplier)
        return self.shares.spread(rates.to(self.begin.device), self.setup.learning_rate)

    def _keep_best(self, state: State, new: State, sound: Tensor) -> State:
        """The state with the new iterate as the best where it is."""
        margin = self.setup.margin
        flipped, was_flipped = new["reached"] > margin, state["reached"] > margin
        nearer = flipped & (~was_flipped | (new["distance"] < state["distance"]))
        further = ~was_flipped & (new["reached"] > state["reached"])
        better = sound & (nearer | further)
        forward = better & (~was_flipped | (new["distance"] < PROGRESS * state["distance"]))
        return state | where_rows(better, new, state) | {"waited": torch.where(forward, 0, state["waited"] + 1)}
