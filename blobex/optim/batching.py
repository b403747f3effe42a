"""Solving many independent problems with a bounded number of rows at once.

A finished problem makes room for a waiting one, so that no problem pays for the steps of another. On a CPU the result
of a row does not depend on the batch, to the last bit: images lie in memory with channels last, and batches have a
multiple of four rows, in float32 at most eight (with other numbers some kernels round differently: on one AVX2 core
convolutions of 1, and of 16 rows or more).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor

from blobex.core.progress import phase

State = dict[str, Tensor]  # tensors with one row per problem

ROW_MULTIPLE = 4  # batches have a multiple of this number of rows
FLOAT32_BATCH_SIZE = 8  # largest batch of float32 networks on a CPU


def solve_in_batches(
    count: int,
    batch_size: int,
    load: Callable[[Tensor], State],
    advance: Callable[[State], tuple[State, Tensor]],
    title: str,
    steps: int = 0,
) -> State:
    """Iterate `count` problems until each is finished; return their last rows in order.

    Args:
        batch_size: Number of problems iterated at once; rounded down to a multiple of 4, at least 4.
        load: Returns the first rows of the problems with the given numbers (n,).
        advance: Returns the next rows and, bool (rows,), which of them are finished. The state holds the number of
            each row's problem as `number`. Both functions must treat every row independently.
        title, steps: Name and most steps of a problem, for `core.progress`.
    """
    batch_size = _round_down(batch_size)
    waiting, active, finished = torch.arange(count), dict[str, Tensor](), list[State]()
    with phase(title, count, steps) as report:
        while len(waiting) or _row_count(active):
            free = batch_size - _row_count(active)
            if len(waiting) and 4 * free >= batch_size:  # loading fewer rows than a quarter is slow
                new, waiting = waiting[:free], waiting[free:]
                loaded = _first_rows(load(_pad(new)), len(new))
                loaded["number"] = new.to(next(iter(loaded.values())).device)
                active = _concatenate([active, loaded])
            rows = _row_count(active)
            active, done = advance(take_rows(active, _pad(torch.arange(rows))) if rows % ROW_MULTIPLE else active)
            active, done = _first_rows(active, rows), done[:rows].cpu()
            if done.any():
                finished.append(take_rows(active, done.nonzero()[:, 0]))
                active = take_rows(active, (~done).nonzero()[:, 0])
            report(int(done.sum()), active)
    results = _concatenate(finished)
    return take_rows(results, results["number"].argsort())


def in_batches(function: Callable[..., State], batch_size: int, *tensors: Tensor, title: str = "") -> State:
    """Apply `function` to tensors (P,...), `batch_size` rows at a time; it returns a State with as many rows.

    With a `title` it is a phase of `core.progress`.
    """
    parts = []
    with phase(title, len(tensors[0])) if title else nullcontext(lambda *_: None) as report:
        for numbers in torch.arange(len(tensors[0])).split(_round_down(batch_size)):
            padded = _pad(numbers)
            part = function(*(tensor[padded.to(tensor.device)] for tensor in tensors))
            parts.append(_first_rows(part, len(numbers)))
            report(len(numbers), {})
    return _concatenate(parts)


def float32_batch_size(batch_size: int, device: torch.device) -> int:
    """Return the batch size of float32 networks on `device` where other networks have `batch_size`."""
    return batch_size if device.type == "cuda" else min(batch_size, FLOAT32_BATCH_SIZE)


def take_rows(state: Mapping[str, Tensor], index: Tensor) -> State:
    """Return the rows `index` (n,)."""
    return {name: tensor[index.to(tensor.device)] for name, tensor in state.items()}


def where_rows(condition: Tensor, state: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> State:
    """Return the rows of `state` where `condition`, bool (rows,), is true, and those of `other` elsewhere."""
    return {
        name: torch.where(condition.view(-1, *[1] * (tensor.ndim - 1)), tensor, other[name])
        for name, tensor in state.items()
    }


def finite_rows(*tensors: Tensor) -> Tensor:
    """Return bool (rows,): true where all numbers of all tensors (rows,...) are finite."""
    return torch.stack([tensor.isfinite().reshape(len(tensor), -1).all(1) for tensor in tensors]).all(0)


def _concatenate(states: Sequence[State]) -> State:
    """Concatenate the rows of states; a state without rows may lack names."""
    nonempty = [state for state in states if _row_count(state)] or states[:1]
    return {name: torch.cat([state[name] for state in nonempty]) for name in nonempty[0]}


def _row_count(state: Mapping[str, Tensor]) -> int:
    return len(next(iter(state.values()))) if state else 0


def _round_down(batch_size: int) -> int:
    return max(batch_size // ROW_MULTIPLE, 1) * ROW_MULTIPLE


def _pad(numbers: Tensor) -> Tensor:
    """Repeat the last number up to a multiple of `ROW_MULTIPLE`."""
    rows = -(-len(numbers) // ROW_MULTIPLE) * ROW_MULTIPLE
    return numbers[torch.arange(rows).clamp(max=len(numbers) - 1)]


def _first_rows(state: Mapping[str, Tensor], rows: int) -> State:
    return {name: tensor[:rows] for name, tensor in state.items()}
