"""Targets of counterfactuals: an attribute, a class, part of a label map, or a number that should become another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Target(ABC):
    """Targets of P problems, given the decision model's outputs (P,...). Every field has one row per problem."""

    column: Tensor  # P: number of the output that should change

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, index: Tensor) -> Self:
        return type(self)(*(getattr(self, field.name)[index] for field in fields(self)))

    @abstractmethod
    def loss(self, outputs: Tensor) -> Tensor:
        """Compute the loss (P,) to minimise."""

    @abstractmethod
    def margin(self, outputs: Tensor) -> Tensor:
        """Compute the margin (P,): above 0 where the target is reached."""

    @abstractmethod
    def scores(self, outputs: Tensor) -> Tensor:
        """Compute the scores (P,A) to report."""


@dataclass(frozen=True)
class AttributeTarget(Target):
    """One of several independent binary attributes is inverted; the others are free."""

    wanted: Tensor  # P, bool

    def loss(self, outputs: Tensor) -> Tensor:
        """Compute the binary cross-entropy of logits (P,A).

        On probabilities it would be infinite or NaN where the model is certain. Unlike softplus and sigmoid, logsigmoid
        and exp round a number alike wherever in a batch it stands.
        """
        return -F.logsigmoid(self.margin(outputs))

    def margin(self, outputs: Tensor) -> Tensor:
        chosen = outputs.gather(1, self.column[:, None])[:, 0]
        return torch.where(self.wanted, chosen, -chosen)

    def scores(self, outputs: Tensor) -> Tensor:
        """Compute the probabilities (P,A) of the attributes."""
        return F.logsigmoid(outputs).exp()


@dataclass(frozen=True)
class ClassTarget(Target):
    """One class becomes the most likely."""

    def loss(self, outputs: Tensor) -> Tensor:
        """Compute the cross-entropy of logits (P,A)."""
        return F.cross_entropy(outputs, self.column, reduction="none")

    def margin(self, outputs: Tensor) -> Tensor:
        """Compute the class's logit minus the highest other logit."""
        others = outputs.scatter(1, self.column[:, None], -torch.inf)
        return outputs.gather(1, self.column[:, None])[:, 0] - others.amax(1)

    def scores(self, outputs: Tensor) -> Tensor:
        """Compute the probabilities (P,A) of the classes."""
        return outputs.softmax(1)


@dataclass(frozen=True)
class RegionTarget(Target):
    """Most of a region of the label map becomes another class; the rest of the map should stay."""

    labels: Tensor  # P,H,W long: the label map to reach
    region: Tensor  # P,H,W bool: where it differs from the query's label map; never empty

    def loss(self, outputs: Tensor) -> Tensor:
        """Compute the cross-entropy of logits (P,C,H,W): half the mean over the region, half that over the rest."""
        loss = F.cross_entropy(outputs, self.labels, reduction="none")
        return 0.5 * (_masked_mean(loss, self.region) + _masked_mean(loss, ~self.region))

    def margin(self, outputs: Tensor) -> Tensor:
        """Compute the median over the region of the class's logit minus the highest other logit.

        It is above 0 where the class wins more than half of the region, and differentiable.
        """
        column = self.column[:, None, None, None].expand(-1, 1, *outputs.shape[2:])
        chosen = outputs.gather(1, column)[:, 0]
        margins = chosen - outputs.scatter(1, column, -torch.inf).amax(1)
        return margins.masked_fill(~self.region, torch.nan).flatten(1).nanmedian(1).values

    def scores(self, outputs: Tensor) -> Tensor:
        """Compute the share of the region (P,C) that each class wins."""
        winners = F.one_hot(outputs.argmax(1), outputs.shape[1]).permute(0, 3, 1, 2)
        return _masked_mean(winners.to(outputs.dtype), self.region[:, None])


STEEPNESS = 4.0  # of the loss: that of the query is as of an attribute with this logit
LEAST = 1.6  # lowest margin, infinitely far from the range, times -1
DEEP = 0.1  # of the query's distance from the range: depth inside it from which the margin is 1


@dataclass(frozen=True)
class RangeTarget(Target):
    """An output of a regression comes to lie in a range; the others are free.

    Outputs have any unit, so distances count in those of the query from the range.
    """

    low: Tensor  # P; may be -infinity
    high: Tensor  # P; may be infinity, but not both
    gap: Tensor  # P: distance of the query's output from the range, above 0

    @classmethod
    def of(cls, outputs: Tensor, column: Tensor, low: float, high: float) -> RangeTarget:
        """Build the targets of queries with `outputs` (P,A); the gap of a query inside its range is 1."""
        lows, highs = (torch.full_like(outputs[:, 0], limit) for limit in (low, high))
        depth = cls(column, lows, highs, torch.ones_like(lows)).depth(outputs)
        return cls(column, lows, highs, torch.where(depth < 0, -depth, 1.0))

    def depth(self, outputs: Tensor) -> Tensor:
        """Compute the distance (P,) to the nearer end of the range, below 0 outside."""
        chosen = outputs.gather(1, self.column[:, None])[:, 0]
        return torch.minimum(chosen - self.low, self.high - chosen)

    def loss(self, outputs: Tensor) -> Tensor:
        """Compute the negative log-sigmoid of the depth, in units of a quarter of the gap."""
        return -F.logsigmoid(STEEPNESS * self.depth(outputs) / self.gap)

    def margin(self, outputs: Tensor) -> Tensor:
        """Compute the margin (P,): -0.8 at the query, and 1 from a depth of a tenth of the gap.

        It is bounded: a number deeper in the range is no better, and the search asks for a share of the best margin.
        A narrow range has a margin of 1 in its middle half.
        """
        depth = self.depth(outputs)
        far = (-depth / self.gap).clamp(min=0)
        deep = torch.minimum(DEEP * self.gap, (self.high - self.low) / 4)
        return torch.where(depth < 0, -LEAST * far / (1 + far), (depth / deep).clamp(max=1))

    def scores(self, outputs: Tensor) -> Tensor:
        """Return the outputs (P,A), in their own units."""
        return outputs


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Average over height and width where `mask` is true; 0 where it is false everywhere."""
    mask = mask.to(values.dtype)
    return (values * mask).sum((-2, -1)) / mask.sum((-2, -1)).clamp(min=1)
