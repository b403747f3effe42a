"""Flipping layouts, found by gradients, and the reduction of their changes to few blobs and entries."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from blobex.counterfactual.gradient_search import BlobAssignment, GradientSearch
from blobex.counterfactual.problems import Problems, SearchContext
from blobex.optim.batching import State, in_batches, where_rows

APPEARANCE_KEYS = ("features", "spatial_style")
FEWER_STEPS = 3  # a search with one blob fewer has the steps of a whole search divided by this


@dataclass(frozen=True)
class Shrinker:
    """Shrinks changes of P problems as far as the decision stays flipped by the margin of the parameters."""

    problems: Problems
    context: SearchContext

    def prune(self, vectors: Tensor, gradient: Tensor) -> Tensor:
        """Reset as many entries of layout vectors (P,D) to the start as possible.

        To first order, the gain of a change is its gradient; entries with the least gain per unit of price are reset
        first, after those that work against the flip. Bisection finds how many can be. A vector that does not flip
        stays as it is. `gradient` (P,D) is that of the target's loss at `vectors`.
        """
        start, price = self.problems.start, self.problems.price
        helps = (gradient * (vectors - start) < 0) & (price > 0)
        gain = torch.where(helps, gradient.abs() / price.clamp(min=torch.finfo(gradient.dtype).tiny), 0)
        rank = gain.argsort(dim=1, descending=True, stable=True).argsort(1)
        low, high = torch.zeros_like(vectors[:, 0]), helps.sum(1).clamp(min=1).log2()
        best = vectors
        for _ in range(self.context.params.bisections):
            middle = (low + high) / 2
            pruned = torch.where(helps & (rank < middle.exp2()[:, None]), vectors, start)
            flipped = self.flipped(pruned)
            best = torch.where(flipped[:, None], pruned, best)
            low, high = torch.where(flipped, low, middle), torch.where(flipped, middle, high)
        return best

    def line_search(self, vectors: Tensor) -> Tensor:
        """Return the flipping point nearest to the start on the line to `vectors` (P,D), by bisection."""
        start = self.problems.start
        low, high = torch.zeros_like(vectors[:, 0]), torch.ones_like(vectors[:, 0])
        for _ in range(self.context.params.bisections // 2):
            middle = (low + high) / 2
            flipped = self.flipped(torch.lerp(start, vectors, middle[:, None]))
            low, high = torch.where(flipped, low, middle), torch.where(flipped, middle, high)
        return torch.where(high[:, None] < 1, torch.lerp(start, vectors, high[:, None]), vectors)

    def restore_blobs(self, vectors: Tensor, gradient: Tensor) -> Tensor:
        """Restore the blobs of layout vectors (P,D) one after the other, least gain first, where the flip lasts."""
        gain = self.gain_per_blob(vectors, gradient)
        order = gain.argsort(dim=1, stable=True)
        for place in range(gain.shape[1] if self.flipped(vectors).any() else 0):
            blob = torch.zeros_like(gain, dtype=torch.bool).scatter(1, order[:, place, None], True)
            restored = self.problems.restore(vectors, blob)
            vectors = torch.where(self.flipped(restored)[:, None], restored, vectors)
        return vectors

    def gain_per_blob(self, vectors: Tensor, gradient: Tensor) -> Tensor:
        """Compute the first-order gain (P,K+1) of the change of each blob; -inf for the background."""
        gain = self.problems.form.by_blob(-gradient * (vectors - self.problems.start))
        gain[:, 0] = -torch.inf
        return gain

    @torch.no_grad()
    def flipped(self, vectors: Tensor) -> Tensor:
        """Return bool (P,): true where layout vectors (P,D) reach the target by the margin."""
        composer = self.context.composer

        def margins(part: Tensor, numbers: Tensor) -> State:
            problems = self.problems[numbers]
            changed = problems.form.changed(part, problems.start)
            outputs = composer.networks.decide(composer.compose(part, problems.image_index, changed))
            return {"margin": problems.target.margin(outputs)}

        numbers = torch.arange(len(vectors), device=vectors.device)
        margin = in_batches(margins, self.context.batch_size, vectors, numbers)["margin"]
        return margin > self.context.params.margin


@dataclass(frozen=True)
class Flips:
    """Layouts that reach the target, or come closest to it, `count` for each of P problems."""

    vectors: Tensor  # P*count,D
    gradient: Tensor  # P*count,D: of the target's loss
    step: Tensor  # P*count: iterations of the gradient search


def find_flips(problems: Problems, assignment: BlobAssignment, context: SearchContext) -> Flips:
    """Search flipping layouts by gradients; with several counterfactuals, each blob changes in one of them alone."""
    search = GradientSearch(problems, context, assignment, problems.start)
    state = search.run("counterfactuals")
    missed = (state["margin"] <= context.params.margin).nonzero()[:, 0]
    if len(missed):
        state = _retry_appearance(search, missed, state)
    vectors = assignment.layouts(state["best"], problems.start)
    gradient = state["target_gradient"].reshape(-1, problems.start.shape[1])
    flips = Flips(vectors, gradient, state["step"].repeat_interleave(assignment.count))
    return _separate_blobs(problems, flips, state["best"], assignment, context) if assignment.assigned else flips


def _retry_appearance(search: GradientSearch, missed: Tensor, state: State) -> State:
    """Search the problems `missed` again, changing appearance only.

    A blob that has moved away or shrunk to nothing has no gradient that would bring it back to flip by its colour.
    """
    keys = {key: torch.ones(1, 1, 1, dtype=torch.bool) for key in APPEARANCE_KEYS}
    appearance = search.problems.form.mask(keys).to(search.problems.mask.device)
    missed = missed[(search.problems.mask[missed] & ~appearance).any(1)]  # the others' search would be the same again
    if not len(missed):
        return state
    problems = search.problems[missed]
    mask = problems.mask & appearance
    problems = dataclasses.replace(problems, mask=mask)
    again = dataclasses.replace(search, problems=problems, initial=problems.start).run("appearance only")
    better = again["margin"] > state["margin"][missed]
    chosen = where_rows(better, again, {name: value[missed] for name, value in state.items()})
    return {name: value.index_copy(0, missed, chosen[name]) for name, value in state.items()}


def _separate_blobs(
    problems: Problems, flips: Flips, variables: Tensor, assignment: BlobAssignment, context: SearchContext
) -> Flips:
    """Give each blob to the counterfactual with its largest share, and search on; what does not flip stays shared."""
    repeated, owned = problems.repeated(assignment.count), assignment.owned(variables)
    initial = torch.where(owned, assignment.proposals(variables), repeated.start)
    separate = dataclasses.replace(repeated, mask=repeated.mask & owned)
    state = GradientSearch(separate, context, BlobAssignment(1, problems.form), initial).run("separate blobs")
    flipped = Shrinker(separate, context).flipped(state["best"])[:, None]
    vectors = torch.where(flipped, state["best"], flips.vectors)
    return Flips(vectors, torch.where(flipped, state["target_gradient"], flips.gradient), flips.step)


def eliminate_blobs(problems: Problems, flips: Flips, context: SearchContext) -> Flips:
    """Reduce flips to changes of few blobs, by greedy elimination.

    Blobs are restored while the flip lasts. Then, one blob fewer at a time, a short search looks for a change of the
    others that makes up for it.
    """
    shrinker, single = Shrinker(problems, context), BlobAssignment(1, problems.form)
    vectors, gradient = shrinker.restore_blobs(flips.vectors, flips.gradient), flips.gradient
    params = dataclasses.replace(context.params, steps=max(1, context.params.steps // FEWER_STEPS))
    short = dataclasses.replace(context, params=params)
    reducible = shrinker.flipped(vectors)
    while True:
        changed = problems.form.changed(vectors, problems.start)
        reducible = reducible & (changed.sum(1) > 1)
        if not reducible.any():
            return Flips(vectors, gradient, flips.step)
        index = reducible.nonzero()[:, 0]
        gain = shrinker.gain_per_blob(vectors, gradient).masked_fill(~changed, torch.inf)
        least = torch.zeros_like(changed).scatter(1, gain.argmin(1, keepdim=True), True)
        allowed = (changed & ~least)[:, problems.form.owners().to(changed.device)]
        fewer = dataclasses.replace(problems, mask=problems.mask & allowed)[index]
        initial = problems.restore(vectors, least)[index]
        state = GradientSearch(fewer, short, single, initial).run("fewer blobs")
        flipped = Shrinker(fewer, context).flipped(state["best"])
        reduced = Shrinker(fewer, context).restore_blobs(state["best"], state["target_gradient"])
        vectors, gradient, reducible = vectors.clone(), gradient.clone(), reducible.clone()
        vectors[index] = torch.where(flipped[:, None], reduced, vectors[index])
        gradient[index] = torch.where(flipped[:, None], state["target_gradient"], gradient[index])
        reducible[index] = flipped
