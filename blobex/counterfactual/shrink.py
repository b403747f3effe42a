"""From a flip that was found to one that changes less, mostly without gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blobex.config.explain import SearchParams
from blobex.counterfactual.compose import Composer
from blobex.counterfactual.problems import Problems
from blobex.optim.batching import State, in_batches


@dataclass(frozen=True)
class Shrinker:
    """The way from the starts of P problems to flipped layouts."""

    problems: Problems
    composer: Composer
    setup: SearchParams
    batch_size: int

    def prune(self, found: Tensor, slope: Tensor) -> Tensor:
        """`found` (P,D) with as many changes undone as the flip bears.

        To first order a change is worth its `slope` (the loss's gradient at `found`) per unit of price. Bisection finds
        how many of the worthiest are enough; the changes that work against the flip are undone first. Where the flip
        bears nothing, or there is none, `found` stays.
        """
        start, price = self.problems.start, self.problems.price
        helps = (slope * (found - start) < 0) & (price > 0)
        worth = torch.where(helps, slope.abs() / price.clamp(min=torch.finfo(slope.dtype).tiny), 0)
        rank = worth.argsort(dim=1, descending=True, stable=True).argsort(1)
        low, high = torch.zeros_like(found[:, 0]), helps.sum(1).clamp(min=1).log2()
        best = found
        for _ in range(self.setup.bisections):
            middle = (low + high) / 2
            some = torch.where(helps & (rank < middle.exp2()[:, None]), found, start)
            enough = self.flipped(some)
            best = torch.where(enough[:, None], some, best)
            low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
        return best

    def line_search(self, found: Tensor) -> Tensor:
        """The point nearest to the start on the straight way to `found` (P,D) that is still flipped, by bisection."""
        start = self.problems.start
        low, high = torch.zeros_like(found[:, 0]), torch.ones_like(found[:, 0])
        for _ in range(self.setup.bisections // 2):
            middle = (low + high) / 2
            there = self.flipped(torch.lerp(start, found, middle[:, None]))
            low, high = torch.where(there, low, middle), torch.where(there, middle, high)
        return torch.where(high[:, None] < 1, torch.lerp(start, found, high[:, None]), found)

    def restore_blobs(self, found: Tensor, slope: Tensor) -> Tensor:
        """`found` (P,D) with blobs put back as they were, one after the other, as long as the flip bears it.

        The first to go back is the one of least `gain_per_blob`.
        """
        problems, worth = self.problems, self.gain_per_blob(found, slope)
        for place in range(worth.shape[1] if self.flipped(found).any() else 0):
            least = worth.argsort(dim=1, stable=True)[:, place]
            one = torch.zeros_like(worth, dtype=torch.bool).scatter(1, least[:, None], True)
            some = problems.reverted(found, one)
            found = torch.where(self.flipped(some)[:, None], some, found)
        return found

    def gain_per_blob(self, found: Tensor, slope: Tensor) -> Tensor:
        """(P,K+1): what the change of the background and of each blob gains, to first order.

        The background is worth nothing: it is no object, and it is everywhere.
        """
        gains = self.problems.form.by_blob(-slope * (found - self.problems.start))
        gains[:, 0] = -torch.inf
        return gains

    @torch.no_grad()
    def flipped(self, vector: Tensor) -> Tensor:
        """Bool (P,): which of the vectors (P,D) reach their goal by the margin."""

        def reached(part: Tensor, numbers: Tensor) -> State:
            some = self.problems[numbers]
            changed = some.form.changed(part, some.start)
            outputs = self.composer.networks.decide(self.composer.compose(part, some.image_index, changed))
            return {"reached": some.target.margin(outputs)}

        numbers = torch.arange(len(vector), device=vector.device)
        return in_batches(reached, self.batch_size, vector, numbers)["reached"] > self.setup.margin
