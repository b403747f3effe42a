"""Targets of counterfactuals: an attribute, a class, or part of a label map that should be decided otherwise."""

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


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Average over height and width where `mask` is true; 0 where it is false everywhere."""
    mask = mask.to(values.dtype)
    return (values * mask).sum((-2, -1)) / mask.sum((-2, -1)).clamp(min=1)
