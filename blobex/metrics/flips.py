"""How decisions change between two versions of the same pictures."""

from __future__ import annotations

import torch
from torch import Tensor


def flipped(before: Tensor, after: Tensor) -> Tensor:
    """Whether the decision at logit 0 (probability 1/2) differs, elementwise; a NaN on either side is no flip.

    >>> flipped(torch.tensor([-1.0, 2.0]), torch.tensor([1.0, 3.0]))
    tensor([ True, False])
    """
    changed = (before > 0) != (after > 0)
    return changed & ~before.isnan() & ~after.isnan()


def flip_rate(before: Tensor, after: Tensor) -> float:
    """The share of all decisions that flip; a NaN is a failure and stays in the count. NaN if there are none.

    >>> flip_rate(torch.tensor([-1.0, 2.0]), torch.tensor([1.0, 3.0]))
    0.5
    """
    return flipped(before, after).double().mean().item()


def agreement(before: Tensor, after: Tensor) -> Tensor:
    """Per attribute (A,), the share of pictures (N,A) whose decision stays; a NaN is a disagreement.

    >>> agreement(torch.tensor([[1.0, -1.0], [1.0, 1.0]]), torch.tensor([[1.0, 1.0], [2.0, 1.0]])).tolist()
    [1.0, 0.5]
    """
    same = ((before > 0) == (after > 0)) & ~before.isnan() & ~after.isnan()
    return same.double().mean(0)


def kept(kind: str, before: Tensor, after: Tensor, names: tuple[str, ...]) -> dict[str, float]:
    """How much of what a model of this kind says (see `decisions.decision`) stays: `agreement`, from 0 to 1.

    Attributes: see `agreement_measures`. Classes and segmentation: the share of pictures, or of pixels, whose likeliest
    class stays; a NaN is a disagreement.

    >>> before, after = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[0.0, 9.0], [0.0, 1.0]])
    >>> kept("classes", before, after, ("day", "night"))
    {'agreement': 0.5}
    """
    if kind == "attributes":
        return agreement_measures(before, after, names)
    sound = ~(before.isnan().any(1) | after.isnan().any(1))
    return {"agreement": ((before.argmax(1) == after.argmax(1)) & sound).double().mean().item()}


def agreement_measures(before: Tensor, after: Tensor, attributes: tuple[str, ...]) -> dict[str, float]:
    """`agreement` by name, and `agreement`: the mean over attributes.

    >>> agreement_measures(torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, 1.0]]), ("forward", "stop"))
    {'agreement': 0.5, 'agreement_forward': 1.0, 'agreement_stop': 0.0}
    """
    shares = agreement(before, after)
    named = {f"agreement_{name}": share for name, share in zip(attributes, shares.tolist(), strict=True)}
    return {"agreement": torch.mean(shares).item(), **named}
