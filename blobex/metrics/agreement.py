"""Agreement of a model's decisions about two versions of the same images."""

from __future__ import annotations

import torch
from torch import Tensor


def decision_agreement(kind: str, before: Tensor, after: Tensor, names: tuple[str, ...]) -> dict[str, float]:
    """Compute `agreement`, the share of decisions, 0 to 1, that are the same before and after; a NaN is a disagreement.

    Logits are (N,A), or (N,A,H,W) for the kind segmentation, where each pixel is a decision. For the kind attributes
    the result is that of `attribute_agreement`, for regression that of `number_agreement`. `names` are those of the A
    outputs.

    >>> before, after = torch.tensor([[0.0, 1.0], [1.0, 0.0]]), torch.tensor([[0.0, 9.0], [0.0, 1.0]])
    >>> decision_agreement("classes", before, after, ("day", "night"))
    {'agreement': 0.5}
    """
    if kind == "attributes":
        return attribute_agreement(before, after, names)
    if kind == "regression":
        return number_agreement(before, after, names)
    valid = ~(before.isnan().any(1) | after.isnan().any(1))
    return {"agreement": ((before.argmax(1) == after.argmax(1)) & valid).double().mean().item()}


def attribute_agreement(before: Tensor, after: Tensor, names: tuple[str, ...]) -> dict[str, float]:
    """Compute the share of images, 0 to 1, whose decision at logit 0 is the same; a NaN is a disagreement.

    Logits are (N,A). Returns `agreement_<name>` for each attribute, and their mean, `agreement`.

    >>> attribute_agreement(torch.tensor([[1.0, -1.0]]), torch.tensor([[1.0, 1.0]]), ("forward", "stop"))
    {'agreement': 0.5, 'agreement_forward': 1.0, 'agreement_stop': 0.0}
    """
    same = ((before > 0) == (after > 0)) & ~before.isnan() & ~after.isnan()
    shares = same.double().mean(0)
    by_name = {f"agreement_{name}": share for name, share in zip(names, shares.tolist(), strict=True)}
    return {"agreement": torch.mean(shares).item(), **by_name}


def number_agreement(before: Tensor, after: Tensor, names: tuple[str, ...]) -> dict[str, float]:
    """Compute the share of images, 0 to 1, whose number differs by at most half of the numbers' standard deviation.

    Numbers are (N,A); a NaN differs. Returns `agreement_<name>` for each, and their mean, `agreement`.

    >>> number_agreement(torch.tensor([[0.0], [2.0]]), torch.tensor([[0.4], [3.0]]), ("speed",))
    {'agreement': 0.5, 'agreement_speed': 0.5}
    """
    shares = same_numbers(before, after, before).double().mean(0)
    by_name = {f"agreement_{name}": share for name, share in zip(names, shares.tolist(), strict=True)}
    return {"agreement": torch.mean(shares).item(), **by_name}


def same_numbers(before: Tensor, after: Tensor, sample: Tensor) -> Tensor:
    """Test which numbers (N,A) differ by at most half the standard deviation of those of a sample (M,A); NaN differs.

    >>> same_numbers(torch.tensor([[5.0]]), torch.tensor([[5.4]]), sample=torch.tensor([[0.0], [2.0]]))
    tensor([[True]])
    """
    return (before - after).abs() <= 0.5 * sample.std(0, correction=0)
