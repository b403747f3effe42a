"""Counterfactual search: for each problem the nearest layout that is decided otherwise."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from blobex.config.explain import SearchParams
from blobex.counterfactual.compose import Composer
from blobex.counterfactual.flips import Shrinker, eliminate_blobs, find_flips
from blobex.counterfactual.gradient_search import BlobAssignment
from blobex.counterfactual.object_examples import ObjectExamples
from blobex.counterfactual.problems import Problems, SearchContext
from blobex.counterfactual.verify import Counterfactuals, verify
from blobex.counterfactual.whole_objects import ObjectSearch
from blobex.optim.batching import float32_batch_size
from blobex.optim.network_callables import NetworkPair

RETRY_FACTOR = 8  # a retry has this many times the learning rate of the search before


@dataclass(frozen=True)
class SearchOptions:
    """Kind of counterfactuals to search."""

    few: bool = False  # change as few blobs as possible
    count: int = 1  # counterfactuals of each problem; each blob changes in one of them alone
    over_query: bool = False  # compose the change into the query; else render the whole image
    seed: int = 0  # of the initial assignment of blobs to counterfactuals


def search(
    problems: Problems,
    networks: NetworkPair,
    params: SearchParams,
    batch_size: int,
    options: SearchOptions = SearchOptions(),
    skip: Tensor | None = None,
    examples: ObjectExamples | None = None,
) -> Counterfactuals:
    """Search counterfactuals of P problems; no result depends on the other problems.

    1. Where whole objects of `examples` solve a problem, they are the counterfactual (`ObjectSearch`). If they are
       fewer than `options.count`, the others are the start: what remains would need a texture.
    2. Else Adam minimises target loss + lambda_prox * distance (`find_flips`).
    3. If few blobs are wanted, as many as possible are restored (`eliminate_blobs`).
    4. The change is pruned and moved towards the start (`Shrinker`).
    5. The exact networks verify the result, and if it fails those of steps 3 and 2.
    6. Problems that do not flip are searched again, up to `retries` times, each at RETRY_FACTOR times the learning rate
       before: a rate low enough to end near the start may be too low to reach a flip.
    7. Where nothing believable flips, the answer is the start: no change is better than an adversarial texture.

    Args:
        networks: The quick networks search, the exact ones verify.
        batch_size: Number of problems searched at once.
        skip: Bool (P,): problems that stay at their start.
        examples: Objects of other images.

    Returns:
        `options.count` counterfactuals of each problem, in the order of the problems. Entries outside the problems'
        masks keep their bits.

    Raises:
        BlobexError: The decision model's outputs have no gradient.
    """
    run = _Search.of(problems, networks, params, batch_size, options)
    searched = torch.ones(len(problems), dtype=torch.bool) if skip is None else ~skip.cpu()
    wanted = searched * options.count  # flips of each problem
    candidates, index = _Candidates.same(run.repeated.start), searched.nonzero()[:, 0]
    if len(index) and examples is not None and params.examples:
        found, solved = run.exchange_objects(index, examples)
        candidates, wanted[index[solved]] = candidates.replaced(run.rows(index[solved]), found), 1
        index = index[~solved]
    if len(index):
        candidates = candidates.replaced(run.rows(index), run.follow_gradients(index))
    result = run.verify(candidates, run.repeated)
    for _ in range(params.retries):
        run = run.faster()
        result = run.retry(result, wanted)
    return run.without_unbelievable(result)


@dataclass(frozen=True)
class _Candidates:
    """Candidate layouts of R counterfactuals, nearest first: shrunk, with few blobs, as found."""

    vectors: Tensor  # 3,R,D
    step: Tensor  # R: iterations of the gradient search

    @classmethod
    def same(cls, vectors: Tensor) -> _Candidates:
        return cls(vectors.expand(3, -1, -1), torch.zeros_like(vectors[:, 0], dtype=torch.long))

    def replaced(self, rows: Tensor, others: _Candidates) -> _Candidates:
        vectors, step = self.vectors.index_copy(1, rows, others.vectors), self.step.index_copy(0, rows, others.step)
        return _Candidates(vectors, step)


@dataclass(frozen=True)
class _Search:
    """The steps of one search."""

    problems: Problems
    context: SearchContext  # of the quick networks
    exact: Composer
    assignment: BlobAssignment
    few: bool

    @classmethod
    def of(
        cls, problems: Problems, networks: NetworkPair, params: SearchParams, batch_size: int, options: SearchOptions
    ) -> _Search:
        form, queries = problems.form, problems.queries
        layout, exact_batch_size = form.unflatten(problems.layouts), float32_batch_size(batch_size, queries.device)
        if options.over_query:
            quick = Composer.over_queries(queries, layout, networks.quick, batch_size)
            if networks.exact is networks.quick:
                exact = quick
            else:
                exact = Composer.over_queries(queries, layout, networks.exact, exact_batch_size)
        else:
            quick, exact = Composer(networks.quick, form), Composer(networks.exact, form)
        assignment = BlobAssignment(options.count, form, options.seed)
        return cls(problems, SearchContext(quick, params, batch_size), exact, assignment, options.few)

    @cached_property
    def repeated(self) -> Problems:
        """The problem of each counterfactual."""
        return self.problems.repeated(self.assignment.count)

    def faster(self) -> _Search:
        factor = self.context.rate_factor * RETRY_FACTOR
        return dataclasses.replace(self, context=dataclasses.replace(self.context, rate_factor=factor))

    def exchange_objects(self, index: Tensor, examples: ObjectExamples) -> tuple[_Candidates, Tensor]:
        """Return the candidates of those problems `index` (n,) that whole objects solve; which they are, bool (n,)."""
        vectors, solved = ObjectSearch(self._take(index), self.context, examples).solve(self.assignment.count)
        return _Candidates.same(vectors[self.rows(solved.nonzero()[:, 0])]), solved

    def follow_gradients(self, index: Tensor) -> _Candidates:
        problems = self._take(index)
        found, repeated = find_flips(problems, self.assignment, self.context), self.repeated[self.rows(index)]
        few = eliminate_blobs(repeated, found, self.context) if self.few else found
        shrinker = Shrinker(repeated, self.context)
        shrunk = shrinker.line_search(shrinker.prune(few.vectors, few.gradient))
        return _Candidates(torch.stack([shrunk, few.vectors, found.vectors]), found.step)

    def verify(self, candidates: _Candidates, problems: Problems) -> Counterfactuals:
        """Verify for each problem the first candidate that flips with the exact networks, or else the first."""
        batch_size = self.context.batch_size
        limits = self.context.params
        result = verify(candidates.vectors[0], problems, candidates.step, self.exact, batch_size, limits)
        for vectors in candidates.vectors[1:]:
            missed = (~result.flipped).nonzero()[:, 0]
            if len(missed):
                some, step = problems[missed], candidates.step[missed]
                other = verify(vectors[missed], some, step, self.exact, batch_size, limits)
                result = result.replaced(missed, other, other.flipped)
        return result

    def retry(self, result: Counterfactuals, wanted: Tensor) -> Counterfactuals:
        """Search problems with fewer than `wanted` (P,) flips again; keep results with more flips."""
        count = self.assignment.count
        flips = result.flipped.unflatten(0, (-1, count)).sum(1).cpu()
        index = (flips < wanted).nonzero()[:, 0]
        if not len(index):
            return result
        rows = self.rows(index)
        retried = self.verify(self.follow_gradients(index), self.repeated[rows])
        better = retried.flipped.unflatten(0, (-1, count)).sum(1).cpu() > flips[index]
        return result.replaced(rows, retried, better.repeat_interleave(count).to(rows.device))

    def without_unbelievable(self, result: Counterfactuals) -> Counterfactuals:
        """Put the start in the place of counterfactuals that are not believable."""
        index = (~result.believable & ~result.failed).nonzero()[:, 0]
        if not len(index):
            return result
        problems = self.repeated[index]
        start = verify(problems.start, problems, result.step[index], self.exact, self.context.batch_size)
        start = dataclasses.replace(start, believable=torch.zeros_like(start.believable))
        return result.replaced(index, start, torch.ones_like(start.believable))

    def rows(self, index: Tensor) -> Tensor:
        """Return the rows of the counterfactuals of problems `index` (n,)."""
        count = self.assignment.count
        return (index[:, None] * count + torch.arange(count)).flatten().to(self.problems.layouts.device)

    def _take(self, index: Tensor) -> Problems:
        return self.problems[index.to(self.problems.layouts.device)]
