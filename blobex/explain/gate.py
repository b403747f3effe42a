"""Gate that refuses reconstructions which do not represent their query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blobex.counterfactual.questions import Questions


@dataclass(frozen=True)
class GateResult:
    """Outcome of the gate for each of P questions."""

    reasons: Sequence[str]  # why the reconstruction was refused; empty: it passed
    skip: bool = False  # whether refused questions are left out of the search

    @property
    def refused(self) -> Tensor:
        """Bool (P,)."""
        return torch.tensor([bool(reason) for reason in self.reasons])

    @property
    def skipped(self) -> Tensor:
        """Bool (P,): questions that are not searched."""
        return self.refused & self.skip


def gate_reasons(questions: Questions, outputs: Tensor, perceptual: Tensor, limit: float | None) -> list[str]:
    """Return for each question the reason why the reconstruction is refused, or an empty text.

    Args:
        outputs: Model outputs (N,A) or (N,A,H,W) of the reconstructions.
        perceptual: Distances (N,) from query to reconstruction.
        limit: Largest accepted distance; None: any.
    """
    reached = (questions.target.margin(outputs[questions.image_index]) > 0).tolist()
    far = [limit is not None and not distance <= limit for distance in perceptual.tolist()]
    reasons = []
    for problem, image in enumerate(questions.image_index.tolist()):
        if reached[problem] and questions.before[problem] != questions.after[problem]:
            reasons.append("already decided otherwise")
        else:
            reasons.append(f"further off than {limit}" if far[image] else "")
    return reasons
