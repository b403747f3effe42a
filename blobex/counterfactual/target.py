"""What a counterfactual should be decided as, for each of P problems: an attribute, a class, or a part of a label map.

Each kind reads a model's outputs for P pictures and says how far each problem is: `loss` (P,) to descend, `margin` (P,)
which is above 0 where the goal is reached, and `scores` (P,A) to report, of which entry `column` (P,) is in question.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F


class Target(Protocol):
    """The goals of P problems."""

    @property
    def column(self) -> Tensor:
        """(P,): the score in question."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: Tensor) -> Target: ...

    def loss(self, outputs: Tensor, /) -> Tensor: ...

    def margin(self, outputs: Tensor, /) -> Tensor: ...

    def scores(self, outputs: Tensor, /) -> Tensor: ...


@dataclass(frozen=True)
class AttributeTarget:
    """One of several independent yes-or-no attributes becomes what it is not; the others are free."""

    column: Tensor  # P
    wanted: Tensor  # P, bool

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, index: Tensor) -> AttributeTarget:
        return AttributeTarget(self.column[index], self.wanted[index])

    def loss(self, outputs: Tensor) -> Tensor:
        """Binary cross-entropy of logits (P,A).

        Taken on logits: on probabilities it is infinite or NaN where the model is sure. Unlike softplus and sigmoid,
        logsigmoid and exp round alike wherever in a batch a number stands.
        """
        return -F.logsigmoid(self.margin(outputs))

    def margin(self, outputs: Tensor) -> Tensor:
        chosen = outputs.gather(1, self.column[:, None])[:, 0]
        return torch.where(self.wanted, chosen, -chosen)

    def scores(self, outputs: Tensor) -> Tensor:
        """The attributes' probabilities (P,A)."""
        return F.logsigmoid(outputs).exp()


@dataclass(frozen=True)
class ClassTarget:
    """One class becomes the likeliest."""

    column: Tensor  # P: the class to reach

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, index: Tensor) -> ClassTarget:
        return ClassTarget(self.column[index])

    def loss(self, outputs: Tensor) -> Tensor:
        """Cross-entropy of logits (P,A)."""
        return F.cross_entropy(outputs, self.column, reduction="none")

    def margin(self, outputs: Tensor) -> Tensor:
        """The class's logit minus the highest of the others."""
        others = outputs.scatter(1, self.column[:, None], -torch.inf)
        return outputs.gather(1, self.column[:, None])[:, 0] - others.amax(1)

    def scores(self, outputs: Tensor) -> Tensor:
        """The classes' probabilities (P,A)."""
        return outputs.softmax(1)


@dataclass(frozen=True)
class RegionTarget:
    """Most of a region of the label map becomes another class; the rest of the map should stay what it was."""

    column: Tensor  # P: the class that the region should become
    labels: Tensor  # P,H,W long: the map to reach
    region: Tensor  # P,H,W bool: where it differs from the map of the query; never empty

    def __len__(self) -> int:
        return len(self.column)

    def __getitem__(self, index: Tensor) -> RegionTarget:
        return RegionTarget(self.column[index], self.labels[index], self.region[index])

    def loss(self, outputs: Tensor) -> Tensor:
        """Cross-entropy of logits (P,C,H,W) to the edited map: half for the region, half for the rest."""
        each = F.cross_entropy(outputs, self.labels, reduction="none")
        return 0.5 * (_mean_where(each, self.region) + _mean_where(each, ~self.region))

    def margin(self, outputs: Tensor) -> Tensor:
        """The share of the region that has the class, minus a half; smooth, and 0 where exactly half is won.

        The median of the pixels' margins tells the same, with a gradient.
        """
        column = self.column[:, None, None, None].expand(-1, 1, *outputs.shape[2:])
        chosen = outputs.gather(1, column)[:, 0]
        margins = chosen - outputs.scatter(1, column, -torch.inf).amax(1)
        return margins.masked_fill(~self.region, torch.nan).flatten(1).nanmedian(1).values

    def scores(self, outputs: Tensor) -> Tensor:
        """The share of the region (P,C) that each class has."""
        winners = F.one_hot(outputs.argmax(1), outputs.shape[1]).permute(0, 3, 1, 2)
        return _mean_where(winners.to(outputs.dtype), self.region[:, None])


def _mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """The mean over height and width, where the mask is True; 0 where it is nowhere."""
    mask = mask.to(values.dtype)
    return (values * mask).sum((-2, -1)) / mask.sum((-2, -1)).clamp(min=1)
