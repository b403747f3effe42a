"""Inversion and counterfactual search against the published way, on the same weights and pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from blobex.benchmark.machine import Counter, timed
from blobex.counterfactual.masks import build_masks
from blobex.counterfactual.verify import Counterfactuals
from blobex.explain.explainer import Explainer
from blobex.explain.request import Request
from blobex.inversion.inversion import Inversion


@dataclass(frozen=True)
class SearchCost:
    """What explaining pictures took, and how good the explanations are."""

    pictures: int
    invert_seconds: float
    explain_seconds: float
    invert_renderings: int  # pictures that the generator painted
    explain_renderings: int
    peak_bytes: int
    inversion: Inversion
    found: Counterfactuals

    @property
    def seconds_per_picture(self) -> float:
        return (self.invert_seconds + self.explain_seconds) / self.pictures

    def measures(self) -> dict[str, float]:
        """The numbers to report; distances are means over all problems."""
        return {
            "seconds_per_picture": self.seconds_per_picture,
            "invert_seconds_per_picture": self.invert_seconds / self.pictures,
            "explain_seconds_per_picture": self.explain_seconds / self.pictures,
            "invert_renderings_per_picture": self.invert_renderings / self.pictures,
            "explain_renderings_per_picture": self.explain_renderings / self.pictures,
            "peak_gigabytes": self.peak_bytes / 2**30,
            "reconstruction_perceptual": self.inversion.perceptual.double().mean().item(),
            "reconstruction_l2": self.inversion.l2.double().mean().item(),
            "reconstruction_agrees": self.found.reconstruction_agrees.double().mean().item(),
            "flip_rate": self.found.flipped.double().mean().item(),
            "flipped_by_change": (self.found.flipped & self.found.reconstruction_agrees).double().mean().item(),
            "perceptual": self.found.perceptual.double().mean().item(),
            "l2": self.found.l2.double().mean().item(),
            "proximity": self.found.proximity.double().mean().item(),
        }


def search_cost(explainer: Explainer, queries: Tensor, attributes: Sequence[str]) -> SearchCost:
    """Invert pictures (N,3,height,width) and explain every attribute of each, the whole picture rendered anew."""
    explainer, render = _counted(explainer)
    inversions, answers = list[Inversion](), list[Counterfactuals]()
    inverting = timed(lambda: inversions.append(explainer.invert(queries)), explainer.device)
    layout, first = inversions[0].layout, render.pictures
    plan = explainer.plan(Request(attributes=attributes, few=False, compose="full"))
    allowed = build_masks(layout.blobs, plan.variant.keys, plan.blobs, plan.variant.background)

    def explain() -> None:
        asked = explainer.questions(queries, plan)
        answers.append(explainer.search(queries.to(explainer.device), layout, asked, allowed, plan))

    explaining = timed(explain, explainer.device)
    return SearchCost(
        pictures=len(queries),
        invert_seconds=inverting.seconds,
        explain_seconds=explaining.seconds,
        invert_renderings=first,
        explain_renderings=render.pictures - first,
        peak_bytes=max(inverting.peak_bytes, explaining.peak_bytes),
        inversion=inversions[0],
        found=answers[0],
    )


def search_flops(explainer: Explainer, queries: Tensor, attributes: Sequence[str]) -> float:
    """Floating-point operations of explaining these pictures: the floor of what it costs.

    Convolutions and matrix products, forward and back, as PyTorch counts them; what else happens to every number is not
    counted.
    """
    with FlopCounterMode(display=False) as counter:
        search_cost(explainer, queries, attributes)
    return float(counter.get_total_flops())


def _counted(explainer: Explainer) -> tuple[Explainer, Counter]:
    """The explainer whose renderings are counted."""
    counter = Counter()
    exact, quick = (
        dataclasses.replace(networks, render=counter.of(networks.render))
        for networks in (explainer.exact, explainer.quick)
    )
    return dataclasses.replace(explainer, quick=quick, exact=exact), counter
