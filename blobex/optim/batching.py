"""Many independent problems, a bounded number of them at a time.

A problem that is finished makes room for one that waits, so that none pays for another's steps. Every row of the work
is a problem of its own: on a processor, whatever shares its batch leaves its result alone to the last bit, because
pictures lie in memory with channels last and batches have a multiple of four rows (other numbers round otherwise in
some kernels; measured in bfloat16, and in float32 for all sizes on two threads and for up to 12 rows on one).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from tqdm import tqdm

State = dict[str, Tensor]  # one row per problem

ROW_MULTIPLE = 4  # of rows
FLOAT32_BATCH_SIZE = 8  # on a processor, of what is computed in float32


def solve_in_batches(
    count: int,
    batch_size: int,
    load: Callable[[Tensor], State],
    advance: Callable[[State], tuple[State, Tensor]],
    title: str,
) -> State:
    """The last rows of `count` problems, in their order, at most `batch_size` (a multiple of 4) at work at once.

    `load(numbers)` gives the first rows of problems; `advance(rows)` gives their next rows and, as bool (rows,), which
    of them are finished. Rows keep their problem's number as `number`. Both must treat every row on its own.
    """
    batch_size = _whole(batch_size)
    waiting, work, done = torch.arange(count), dict[str, Tensor](), list[State]()
    with tqdm(total=count, desc=title, disable=None, leave=False) as bar:
        while len(waiting) or _rows(work):
            free = batch_size - _rows(work)
            if len(waiting) and 4 * free >= batch_size:  # a quarter at least: few rows at a time are slow to load
                new, waiting = waiting[:free], waiting[free:]
                work = _join([work, _numbered(load(_fill(new)), new)])
            rows = _rows(work)
            work, finished = advance(_filled(work))
            work, finished = _cut(work, rows), finished[:rows].cpu()
            if finished.any():
                done.append(take_rows(work, finished.nonzero()[:, 0]))
                work = take_rows(work, (~finished).nonzero()[:, 0])
                bar.update(int(finished.sum()))
    whole = _join(done)
    return take_rows(whole, whole["number"].argsort())


def in_batches(function: Callable[..., State], batch_size: int, *tensors: Tensor) -> State:
    """`function` of tensors (P,...), at most `batch_size` rows at a time; it gives a State with as many rows."""
    parts = []
    for numbers in torch.arange(len(tensors[0])).split(_whole(batch_size)):
        filled = _fill(numbers)
        parts.append(_cut(function(*(tensor[filled.to(tensor.device)] for tensor in tensors)), len(numbers)))
    return _join(parts)


def float32_batch_size(batch_size: int, device: torch.device) -> int:
    """How many rows float32 networks should take at once where `batch_size` suit the others."""
    return batch_size if device.type == "cuda" else min(batch_size, FLOAT32_BATCH_SIZE)


def take_rows(rows: Mapping[str, Tensor], index: Tensor) -> State:
    """Some of the rows."""
    return {name: tensor[index.to(tensor.device)] for name, tensor in rows.items()}


def where_rows(which: Tensor, new: Mapping[str, Tensor], old: Mapping[str, Tensor]) -> State:
    """`new` where `which` (rows,) is True, `old` elsewhere."""
    return {
        name: torch.where(which.view(-1, *[1] * (tensor.ndim - 1)), tensor, old[name]) for name, tensor in new.items()
    }


def finite_rows(*tensors: Tensor) -> Tensor:
    """Bool (rows,): where every number of each tensor (rows,...) is finite."""
    return torch.stack([tensor.isfinite().reshape(len(tensor), -1).all(1) for tensor in tensors]).all(0)


def _numbered(state: State, numbers: Tensor) -> State:
    """The first rows with the numbers of their problems, on the device of the others."""
    return _cut(state, len(numbers)) | {"number": numbers.to(next(iter(state.values())).device)}


def _join(states: Sequence[State]) -> State:
    """The rows of several states as one; a state may have none."""
    some = [state for state in states if _rows(state)] or states[:1]
    return {name: torch.cat([state[name] for state in some]) for name in some[0]}


def _rows(state: Mapping[str, Tensor]) -> int:
    return len(next(iter(state.values()))) if state else 0


def _whole(batch_size: int) -> int:
    return max(batch_size // ROW_MULTIPLE, 1) * ROW_MULTIPLE


def _fill(numbers: Tensor) -> Tensor:
    """The last one repeated, up to a multiple of rows."""
    rows = -(-len(numbers) // ROW_MULTIPLE) * ROW_MULTIPLE
    return numbers[torch.arange(rows).clamp(max=len(numbers) - 1)]


def _filled(state: State) -> State:
    rows = _rows(state)
    return take_rows(state, _fill(torch.arange(rows))) if rows % ROW_MULTIPLE else state


def _cut(state: Mapping[str, Tensor], rows: int) -> State:
    return {name: tensor[:rows] for name, tensor in state.items()}
