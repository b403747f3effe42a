"""Identity of a model: a hash of all that its outputs are computed from, and its outputs for fixed images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from blobex.config.data import ImageSize
from blobex.decisions.content import Content
from blobex.decisions.decision import Decision, frozen_eval
from blobex.decisions.probe_images import probe_images

MAX_VALUES = 16  # of the outputs for one image


@dataclass(frozen=True)
class Identity:
    """What a model is. Two models with equal contents and equal answers give the same explanations."""

    content: str | None  # SHA-256 of weights, constants and code; None: it cannot be known
    unknown: str  # type of the object that hides its content; empty: none does
    answers: tuple[float | None, ...]  # outputs for the probe images, to 5 digits; None: not finite


def identify(decision: Decision, size: ImageSize, device: torch.device) -> Identity:
    """Identify the model of a Decision; its last images are the probe images afterwards."""
    with frozen_eval(decision), torch.no_grad():
        outputs = decision.logits(probe_images(size, device)).flatten(1).double().cpu()
    places = np.linspace(0, outputs.shape[1] - 1, min(MAX_VALUES, outputs.shape[1])).round().astype(int)
    values = outputs[:, places].flatten().tolist()
    answers = tuple(float(f"{value:.4e}") if np.isfinite(value) else None for value in values)
    content = Content()
    content.add((decision.logits, decision.features, decision.modules))
    return Identity(None if content.unknown else content.hexdigest(), content.unknown, answers)
