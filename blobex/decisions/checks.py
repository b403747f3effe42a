"""Checks that a model gives one answer about an image, and that a search can follow it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from blobex.config.data import ImageSize
from blobex.core.errors import BlobexError, brief
from blobex.decisions.decision import Decision
from blobex.decisions.probe_images import probe_images

T = TypeVar("T")


RUNNING = "set its batch normalisation to running statistics, with eval() before it is called, saved or exported"


def attempt(name: str, what: str, function: Callable[[], T], cure: str = "check its input") -> T:
    """Call a function of the model `name`; a BlobexError says on `what` it fails, and the cure."""
    try:
        return function()
    except BlobexError:
        raise
    except (Exception, SystemExit) as error:  # the model's code may raise anything
        words = brief(f"{type(error).__name__}: {error}")
        raise BlobexError(f"the model {name} fails on {what} ({words}): {cure}") from error


def check_answers(decision: Decision, size: ImageSize, device: torch.device) -> None:
    """Try the logits of a model in eval mode on the probe images.

    Raises BlobexError if an image gets another answer the second time, or with other images in its batch, or if answers
    differ but no gradient leads from one to another.
    """
    name, images = decision.name, probe_images(size, device)
    repeated, batched = _tolerances(decision, device)
    with torch.no_grad():
        first, second = (_logits(decision, images, "four images") for _ in range(2))
        if not _agree(first, second, repeated):
            raise BlobexError(
                f"the model {name} gives two answers about one image: switch off what is random in it, such as "
                "dropout, with eval() before it is called, saved or exported"
            )
        for count, what in ((1, "one image alone"), (2, "two images")):
            parts = torch.cat([_logits(decision, part, what, RUNNING) for part in images.split(count)])
            if not _agree(first, parts, batched):
                raise BlobexError(
                    f"the model {name} answers about an image by the other images of its batch: {RUNNING}"
                )
    spread = (first.amax(0) - first.amin(0)).nan_to_num(0.0).max().item()
    if spread > repeated * _scale(first) and not _slope(decision, images).any():
        raise BlobexError(
            f"the logits of the model {name} differ between images, but their gradient to the image is 0: leave out "
            "rounding, thresholds and saturated outputs"
        )


def _logits(decision: Decision, images: Tensor, what: str, cure: str = "check its input") -> Tensor:
    return attempt(decision.name, what, lambda: decision.logits(images), cure)


def _tolerances(decision: Decision, device: torch.device) -> tuple[float, float]:
    """Return how far, at a scale of 1, the same answers may be apart: of equal batches, and of others."""
    kinds = {parameter.dtype for module in decision.modules for parameter in module.parameters()}
    if kinds & {torch.float16, torch.bfloat16}:
        return 1e-2, 5e-2
    return (1e-5, 1e-3) if device.type == "cpu" else (1e-3, 1e-2)  # GPUs choose algorithms by the size of the batch


def _agree(first: Tensor, second: Tensor, tolerance: float) -> bool:
    return torch.allclose(first, second, rtol=0.0, atol=tolerance * _scale(first), equal_nan=True)


def _scale(outputs: Tensor) -> float:
    return max(1.0, outputs.abs().nan_to_num(0.0, 0.0, 0.0).max().item())


def _slope(decision: Decision, images: Tensor) -> Tensor:
    """Return the gradient of a weighted sum of all finite logits to the images; a plain sum may be constant."""
    images = images.clone().requires_grad_()
    with torch.enable_grad():
        logits = decision.logits(images)
        weights = torch.linspace(1, 2, logits[0].numel(), device=logits.device).reshape(logits[0].shape)
        total = torch.where(logits.isfinite(), logits * weights, 0.0).sum()
        (gradient,) = torch.autograd.grad(total, images)
    return gradient
