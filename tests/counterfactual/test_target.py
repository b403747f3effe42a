"""Targets, against torch's losses and label maps computed by hand."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from blobex.counterfactual.target import AttributeTarget, ClassTarget, RangeTarget, RegionTarget, Target

PROBLEMS, OUTPUTS = 200, 4


def logits(*shape: int, seed: int = 0) -> Tensor:
    return 4 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def columns(seed: int = 1) -> Tensor:
    return torch.randint(OUTPUTS, (PROBLEMS,), generator=torch.Generator().manual_seed(seed))


def attributes() -> AttributeTarget:
    return AttributeTarget(columns(), columns(2) > 1)


def regions(height: int = 3, width: int = 5) -> RegionTarget:
    random = torch.Generator().manual_seed(3)
    region = torch.rand(PROBLEMS, height, width, generator=random) < 0.4
    region[:, 1, 2] = True  # never empty
    old = torch.randint(OUTPUTS, (PROBLEMS, height, width), generator=random)
    return RegionTarget(columns(), torch.where(region, columns()[:, None, None], old), region)


TARGETS = [
    (attributes(), logits(PROBLEMS, OUTPUTS)),
    (ClassTarget(columns()), logits(PROBLEMS, OUTPUTS)),
    (regions(), logits(PROBLEMS, OUTPUTS, 3, 5)),
    (RangeTarget.of(logits(PROBLEMS, OUTPUTS, seed=4), columns(), -1.0, 2.0), logits(PROBLEMS, OUTPUTS)),
]


def test_attribute_loss_is_binary_cross_entropy() -> None:
    target, outputs = TARGETS[0]
    assert isinstance(target, AttributeTarget)
    chosen = outputs[torch.arange(PROBLEMS), target.column]
    expected = F.binary_cross_entropy_with_logits(chosen, target.wanted.float(), reduction="none")
    torch.testing.assert_close(target.loss(outputs), expected)
    assert torch.equal(target.margin(outputs) > 0, (chosen > 0) == target.wanted)
    torch.testing.assert_close(target.scores(outputs), 1 / (1 + torch.exp(-outputs)))


def test_attribute_loss_computed_by_hand() -> None:
    outputs = torch.tensor([[0.0, 9.0], [9.0, -2.0], [200.0, 0.0], [-200.0, 0.0]])
    target = AttributeTarget(torch.tensor([0, 1, 0, 0]), torch.tensor([True, True, False, False]))
    expected = torch.tensor([math.log(2), math.log(1 + math.exp(2)), 200.0, 0.0])  # finite where p rounds to 1
    torch.testing.assert_close(target.loss(outputs), expected)
    assert target.margin(outputs).tolist() == [0, -2, -200, 200]


def test_class_margin_is_above_zero_where_the_class_wins() -> None:
    target, outputs = TARGETS[1]
    assert torch.equal(target.margin(outputs) > 0, outputs.argmax(1) == target.column)
    torch.testing.assert_close(target.loss(outputs), F.cross_entropy(outputs, target.column, reduction="none"))
    torch.testing.assert_close(target.scores(outputs), outputs.exp() / outputs.exp().sum(1, keepdim=True))
    first, second = outputs.sort(1, descending=True).values[:, :2].unbind(1)
    wins = outputs.argmax(1) == target.column
    torch.testing.assert_close(target.margin(outputs)[wins], (first - second)[wins])


def test_a_tie_is_no_flip() -> None:
    assert ClassTarget(torch.tensor([1])).margin(torch.tensor([[2.0, 2.0, 0.0]])).tolist() == [0]
    assert AttributeTarget(torch.tensor([0]), torch.tensor([False])).margin(torch.zeros(1, 2)).tolist() == [0]


def test_region_margin_is_above_zero_where_more_than_half_is_won() -> None:
    target, outputs = TARGETS[2]
    assert isinstance(target, RegionTarget)
    won = (outputs.argmax(1) == target.column[:, None, None]) & target.region
    share = won.sum((1, 2)) / target.region.sum((1, 2))
    assert torch.equal(target.margin(outputs) > 0, share > 0.5)
    assert {0.5} < set(share.tolist())  # exactly half is among them
    chosen = target.scores(outputs).gather(1, target.column[:, None])[:, 0]
    torch.testing.assert_close(chosen, share)
    torch.testing.assert_close(target.scores(outputs).sum(1), torch.ones(PROBLEMS))


def test_region_computed_by_hand() -> None:
    """Of four pixels the last three should become class 2, and the first stay class 0."""
    maps = torch.tensor([[[2.0, 0, 0, 1]], [[0.0, 1, 3, 0]], [[0.0, 0, 4, 3]]])[None]
    labels, region = torch.tensor([[[0, 2, 2, 2]]]), torch.tensor([[[False, True, True, True]]])
    target = RegionTarget(torch.tensor([2]), labels, region)
    assert target.margin(maps).tolist() == [1.0]  # the pixels' margins are -1, 1 and 2
    torch.testing.assert_close(target.scores(maps), torch.tensor([[0.0, 1 / 3, 2 / 3]]))
    inside = [
        -0.0 + math.log(1 + math.e + 1), -4.0 + math.log(1 + math.exp(3) + math.exp(4)),
        -3.0 + math.log(math.e + 1 + math.exp(3)),
    ]  # fmt: skip
    outside = -2.0 + math.log(math.exp(2) + 1 + 1)
    torch.testing.assert_close(target.loss(maps), torch.tensor([0.5 * sum(inside) / 3 + 0.5 * outside]))


def test_a_region_of_the_whole_image() -> None:
    maps = logits(1, 3, 2, 2)
    whole = RegionTarget(
        torch.tensor([1]), torch.ones(1, 2, 2, dtype=torch.long), torch.ones(1, 2, 2, dtype=torch.bool)
    )
    expected = 0.5 * F.cross_entropy(maps, whole.labels, reduction="mean")
    torch.testing.assert_close(whole.loss(maps), expected[None])


@pytest.mark.parametrize(("target", "outputs"), TARGETS)
def test_problems_are_independent(target: Target, outputs: Tensor) -> None:
    index = torch.tensor([17, 3, 3, 199])
    assert len(target) == PROBLEMS and len(target[index]) == 4
    for name in ("loss", "margin", "scores"):
        whole, part = getattr(target, name)(outputs), getattr(target[index], name)(outputs[index])
        assert torch.equal(part, whole[index]), name
    assert torch.equal(target[index].column, target.column[index])


@pytest.mark.parametrize(("target", "outputs"), TARGETS)
def test_descending_the_loss_raises_the_margin(target: Target, outputs: Tensor) -> None:
    leaf = outputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(target.loss(leaf).sum(), leaf)
    assert gradient.isfinite().all()
    better = target.margin(outputs - 1e-2 * gradient) - target.margin(outputs)
    assert (better > -1e-5).all() and better.mean() > 0


@pytest.mark.parametrize(("target", "outputs"), TARGETS)
def test_nan_is_no_flip(target: Target, outputs: Tensor) -> None:
    assert not (target.margin(outputs * math.nan) > 0).any()


LIMITS = [(0.5, math.inf), (-math.inf, 0.5), (0.4, 0.6)]


@pytest.mark.parametrize(("low", "high"), LIMITS)
@pytest.mark.parametrize("unit", [1.0, 1000.0])
def test_range_is_reached_in_any_unit(low: float, high: float, unit: float) -> None:
    """Loss and margin are those of the same question in another unit."""
    numbers = torch.linspace(-2, 3, 101)[:, None]
    query = torch.full_like(numbers, 2.0 if low == -math.inf else -1.0)
    column = torch.zeros(101, dtype=torch.long)
    target = RangeTarget.of(query, column, low, high)
    other = RangeTarget.of(query * unit, column, low * unit, high * unit)
    margin = target.margin(numbers)
    away = (numbers[:, 0] - 0.5).abs() > 1e-3  # exactly on the end of the range, rounding decides
    assert torch.equal((margin > 0)[away], ((numbers >= low) & (numbers <= high))[away, 0])
    torch.testing.assert_close(other.margin(numbers * unit), margin, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(other.loss(numbers * unit), target.loss(numbers), rtol=1e-4, atol=1e-4)
    assert torch.equal(target.scores(numbers), numbers)
    torch.testing.assert_close(target.margin(query), torch.full_like(margin, -0.8))


def test_range_computed_by_hand() -> None:
    """The query is 0.1, so the gap to 0.5 is 0.4; a depth of 0.04 is as good as any."""
    query = torch.tensor([[0.1]])
    column = torch.zeros(1, dtype=torch.long)
    target = RangeTarget.of(query, column, 0.5, math.inf)
    for number, margin in [(0.1, -0.8), (0.52, 0.5), (0.54, 1.0), (9.0, 1.0), (-9.9e9, -1.6)]:
        assert target.margin(torch.tensor([[number]])).item() == pytest.approx(margin, abs=1e-4)
    assert target.loss(query).item() == pytest.approx(math.log(1 + math.exp(4)), abs=1e-5)
    assert target.loss(torch.tensor([[0.5]])).item() == pytest.approx(math.log(2), abs=1e-5)
    narrow = RangeTarget.of(query, column, 0.5, 0.54)
    assert narrow.margin(torch.tensor([[0.52]])).item() == 1
    assert narrow.margin(torch.tensor([[0.535]])).item() == pytest.approx(0.5, abs=1e-3)
    assert RangeTarget.of(torch.tensor([[0.7]]), column, 0.5, math.inf).margin(torch.tensor([[0.7]])).item() == 1


def test_range_margin_grows_towards_the_range() -> None:
    numbers = torch.linspace(-50, 0.6, 500)[:, None]
    target = RangeTarget.of(torch.full_like(numbers, 0.1), torch.zeros(500, dtype=torch.long), 0.5, math.inf)
    margin = target.margin(numbers)
    assert (margin.diff()[:490] > 0).all() and margin.isfinite().all()
    leaf = numbers.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(target.loss(leaf).sum(), leaf)
    assert (gradient < 0).all()
