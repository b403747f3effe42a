"""Shrinking of a flipping change, without gradients."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from blobex.counterfactual.problems import Problems, SearchContext
from blobex.optim.batching import State, in_batches


@dataclass(frozen=True)
class Shrinker:
    """Shrinks changes of P problems as far as the decision stays flipped by the margin of the parameters."""

    problems: Problems
    context: SearchContext

    def prune(self, vectors: Tensor, gradient: Tensor) -> Tensor:
        """Reset as many entries of layout vectors (P,D) to the start as possible.

        To first order, the gain of a change is its gradient; entries with the least gain per unit of price are reset
        first, after those that work against the flip. Bisection finds how many can be. A vector that does not flip
        stays as it is.

        Args:
            gradient: Of the target's loss at `vectors`, (P,D).
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
        """Compute the first-order gain (P,K+1) of the change of the background and of each blob.

        The gain of the background is -inf: it is no object, and it is everywhere.
        """
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
