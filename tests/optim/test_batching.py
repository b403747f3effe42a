"""Batching of independent problems: order, batch size, and independence to the bit."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor
from worlds.tiny_models import WIDER, save_models, smooth_images

from blobex.counterfactual.masks import build_masks
from blobex.counterfactual.problems import Problems
from blobex.counterfactual.questions import build_questions
from blobex.counterfactual.search import search
from blobex.counterfactual.verify import Counterfactuals
from blobex.decisions.decision import frozen_eval
from blobex.explain.explainer import Explainer
from blobex.inversion.inversion import Inversion
from blobex.inversion.invert import invert
from blobex.layout.blobs import KEYS
from blobex.optim.batching import ROW_MULTIPLE, State, finite_rows, in_batches, solve_in_batches, take_rows, where_rows
from blobex.optim.network_callables import NetworkPair


class Countdown:
    """Problems that take `lengths[n]` steps and add n + 1 in each; records the calls."""

    def __init__(self, lengths: list[int]) -> None:
        self.lengths = torch.tensor(lengths)
        self.loaded: list[int] = []
        self.rows: list[int] = []
        self.active: list[set[int]] = []

    def load(self, numbers: Tensor) -> State:
        assert len(numbers) % ROW_MULTIPLE == 0
        assert ((numbers >= 0) & (numbers < len(self.lengths))).all()
        self.loaded += numbers.unique().tolist()
        return {"left": self.lengths[numbers], "steps": torch.zeros_like(numbers), "sum": torch.zeros(len(numbers), 2)}

    def advance(self, state: State) -> tuple[State, Tensor]:
        number = state["number"]
        self.rows.append(len(number))
        self.active.append(set(number.tolist()))
        moved = {"left": state["left"] - 1, "steps": state["steps"] + 1}
        moved |= {"sum": state["sum"] + (number[:, None] + 1)}
        return state | moved, moved["left"] <= 0


def solved(lengths: list[int], batch_size: int) -> tuple[State, Countdown]:
    work = Countdown(lengths)
    return solve_in_batches(len(lengths), batch_size, work.load, work.advance, "countdown"), work


RANDOM = torch.Generator().manual_seed(0)
CASES = [([5], 8), ([1], 1), ([3, 3, 3], 2), ([1] * 9, 4), ([9] + [1] * 20, 5), (list(range(1, 24)), 7), ([2] * 16, 16)]
CASES += [
    (torch.randint(1, 12, (count,), generator=RANDOM).tolist(), batch_size)
    for count in (2, 4, 5, 13, 31)
    for batch_size in (1, 4, 5, 7, 40)
]


@pytest.mark.parametrize(("lengths", "batch_size"), CASES, ids=range(len(CASES)))
def test_every_problem_takes_exactly_its_steps(lengths: list[int], batch_size: int) -> None:
    rows, work = solved(lengths, batch_size)
    count = len(lengths)
    assert rows["number"].tolist() == list(range(count))
    assert rows["steps"].tolist() == lengths
    expected = torch.tensor([[length * (number + 1.0)] * 2 for number, length in enumerate(lengths)])
    assert torch.equal(rows["sum"], expected)
    assert sorted(work.loaded) == list(range(count))  # each once
    batch_size = max(batch_size // ROW_MULTIPLE, 1) * ROW_MULTIPLE
    assert all(ROW_MULTIPLE <= rows <= batch_size and rows % ROW_MULTIPLE == 0 for rows in work.rows)
    assert max(len(numbers) for numbers in work.active) <= batch_size


@pytest.mark.parametrize("batch_size", [4, 8, 12])
def test_free_rows_are_filled(batch_size: int) -> None:
    """One long problem does not delay many short ones."""
    _, work = solved([40] + [1] * 60, batch_size)
    assert len(work.rows) == 40
    busy = sum(len(numbers) for numbers in work.active[: 60 // batch_size])
    assert busy > 0.6 * batch_size * (60 // batch_size)


def test_padding_rows_are_ignored() -> None:
    """Also where they finish earlier."""
    seen: list[Tensor] = []

    def load(numbers: Tensor) -> State:
        return {"value": numbers.double()}

    def advance(state: State) -> tuple[State, Tensor]:
        seen.append(state["number"])
        place = torch.arange(len(state["value"]))
        return state | {"value": state["value"] + (place > 0) * 100}, (place > 0) | (len(seen) > 3)

    rows = solve_in_batches(1, 1, load, advance, "one")
    assert rows["value"].tolist() == [0.0] and len(rows["number"]) == 1
    assert all(numbers.tolist() == [0] * ROW_MULTIPLE for numbers in seen)


@pytest.mark.parametrize("count", [1, 3, 4, 9, 12, 13])
@pytest.mark.parametrize("batch_size", [1, 4, 5, 6, 20])
def test_in_batches_equals_a_direct_call(count: int, batch_size: int) -> None:
    random = torch.Generator().manual_seed(count)
    first, second = torch.rand(count, 3, generator=random), torch.rand(count, 2, 2, generator=random)
    sizes: list[int] = []

    def function(one: Tensor, other: Tensor) -> State:
        sizes.append(len(one))
        return {"scaled": one * 3, "both": one[:, :2] + other[:, 0], "whole": other}

    parts, direct = in_batches(function, batch_size, first, second), function(first, second)
    assert list(parts) == list(direct)
    assert all(torch.equal(parts[name], direct[name]) for name in direct)
    assert all(ROW_MULTIPLE <= size <= max(batch_size, ROW_MULTIPLE) for size in sizes[:-1])


def test_rows_are_selected() -> None:
    new, old = {"a": torch.ones(3, 2), "b": torch.ones(3)}, {"a": torch.zeros(3, 2), "b": torch.zeros(3)}
    picked = where_rows(torch.tensor([True, False, True]), new, old)
    assert picked["a"].tolist() == [[1, 1], [0, 0], [1, 1]] and picked["b"].tolist() == [1, 0, 1]
    assert take_rows(picked, torch.tensor([2, 1]))["b"].tolist() == [1, 0]
    deep = where_rows(torch.tensor([True, False]), {"a": torch.ones(2, 2, 2)}, {"a": torch.zeros(2, 2, 2)})
    assert deep["a"].sum((1, 2)).tolist() == [4, 0]


def test_finite_rows() -> None:
    assert finite_rows(torch.tensor([1.0, float("inf")]), torch.ones(2, 3)).tolist() == [True, False]
    maps = torch.zeros(3, 2, 2)
    maps[1, 0, 1] = float("nan")
    assert finite_rows(maps).tolist() == [True, False, True]


# Real networks. On one thread, 1x1 convolutions in float32 round differently from 16 rows.
BATCH_SIZES = {"float32": [4, 5, 7, 15], "bfloat16": [4, 5, 7, 15, 16, 32]}


Result = Inversion | Counterfactuals


def load_explainer(folder: Path, precision: str, architecture: str) -> Explainer:
    save_models(folder, WIDER, precision, architecture=architecture)
    return Explainer.load("rect", folder / "models", folder / "params.yaml", device="cpu")


def run_inversion(explainer: Explainer, queries: Tensor, batch_size: int) -> Inversion:
    params = dataclasses.replace(explainer.params.invert.rect, steps=4, decision_steps=2)
    with frozen_eval(explainer.decision):
        return invert(queries, NetworkPair(explainer.quick, explainer.exact), params, batch_size)


def run_search(
    explainer: Explainer, queries: Tensor, inversion: Inversion, columns: list[int], batch_size: int
) -> Counterfactuals:
    params = dataclasses.replace(explainer.params.explain.rect, steps=8, learning_rate=0.2, margin=0.02, patience=1)
    decision, networks = explainer.decision, NetworkPair(explainer.quick, explainer.exact)
    questions = build_questions("attributes", decision.outputs, explainer.outputs(queries), columns)
    allowed = build_masks(WIDER.blobs, KEYS, None, background=True)
    problems = Problems.of(
        queries, inversion.layout, questions.image_index, questions.target, allowed, params.lambda_key
    )
    with frozen_eval(decision):
        return search(problems, networks, params, batch_size)


def differing_fields(
    first: Inversion | Counterfactuals, second: Inversion | Counterfactuals, index: list[int]
) -> list[str]:
    """Return the fields in which the rows `index` of the first differ from the second."""
    fields = {item.name: (getattr(first, item.name), getattr(second, item.name)) for item in dataclasses.fields(first)}
    layouts = {key: (tensor, getattr(second.layout, key)) for key, tensor in first.layout.items()}
    tensors = {name: both for name, both in (fields | layouts).items() if isinstance(both[0], Tensor)}
    names = [name for name, (one, other) in tensors.items() if not torch.equal(one[index], other)]
    return [name for name in names if name != "image_index"]


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_an_inversion_does_not_depend_on_its_batch(tmp_path: Path, precision: str) -> None:
    explainer, queries = load_explainer(tmp_path, precision, "densenet_small"), smooth_images(9)
    assert (explainer.quick is explainer.exact) == (precision == "float32")
    whole = run_inversion(explainer, queries, 12)
    for batch_size in BATCH_SIZES[precision]:
        assert differing_fields(whole, run_inversion(explainer, queries, batch_size), list(range(9))) == [], batch_size
    for few in ([0], [7], [8, 2, 5]):
        assert differing_fields(whole, run_inversion(explainer, queries[few], 12), few) == [], few
    assert (whole.loss < whole.encoder_loss).any()


@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=pytest.mark.slow)])
def test_a_search_does_not_depend_on_its_batch(tmp_path: Path, precision: str) -> None:
    explainer, queries = load_explainer(tmp_path, precision, "densenet_small"), smooth_images(3)
    start = run_inversion(explainer, queries, 12)
    whole = run_search(explainer, queries, start, [1, 3], 12)
    for batch_size in BATCH_SIZES[precision]:
        other = run_search(explainer, queries, start, [1, 3], batch_size)
        assert differing_fields(whole, other, list(range(6))) == [], batch_size
    alone = run_search(explainer, queries, start, [3], 12)
    assert differing_fields(whole, alone, [1, 3, 5]) == []
    one = run_search(explainer, queries[[2]], start[torch.tensor([2])], [1, 3], 12)
    assert differing_fields(whole, one, [4, 5]) == []
    assert len(whole.step.unique()) > 1  # the problems have different lengths
