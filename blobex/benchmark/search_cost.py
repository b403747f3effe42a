"""Time, memory and quality of inversion and counterfactual search."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from blobex.benchmark.machine import ImageCounter, timed
from blobex.counterfactual.masks import build_masks
from blobex.counterfactual.verify import Counterfactuals
from blobex.explain.explainer import Explainer
from blobex.explain.request import Request
from blobex.inversion.inversion import Inversion


@dataclass(frozen=True)
class SearchCost:
    """The cost of explaining images, and the explanations."""

    images: int
    invert_seconds: float
    explain_seconds: float
    invert_renderings: int  # images rendered by the generator
    explain_renderings: int
    peak_bytes: int
    inversion: Inversion
    counterfactuals: Counterfactuals

    @property
    def seconds_per_image(self) -> float:
        return (self.invert_seconds + self.explain_seconds) / self.images

    def measures(self) -> dict[str, float]:
        """Return the measures of a report; distances and rates are means over all problems."""
        found = self.counterfactuals
        means = {
            "reconstruction_perceptual": self.inversion.perceptual,
            "reconstruction_l2": self.inversion.l2,
            "reconstruction_agrees": found.reconstruction_agrees,
            "flip_rate": found.flipped,
            "flipped_by_change": found.flipped & found.reconstruction_agrees,
            "perceptual": found.perceptual,
            "l2": found.l2,
            "proximity": found.proximity,
        }
        return {
            "seconds_per_picture": self.seconds_per_image,
            "invert_seconds_per_picture": self.invert_seconds / self.images,
            "explain_seconds_per_picture": self.explain_seconds / self.images,
            "invert_renderings_per_picture": self.invert_renderings / self.images,
            "explain_renderings_per_picture": self.explain_renderings / self.images,
            "peak_gigabytes": self.peak_bytes / 2**30,
            **{name: values.double().mean().item() for name, values in means.items()},
        }


def search_cost(explainer: Explainer, queries: Tensor, attributes: Sequence[str]) -> SearchCost:
    """Invert images (N,3,height,width) and explain every attribute of each as a full rendering."""
    explainer, counter = _with_counter(explainer)
    inversions, counterfactuals = list[Inversion](), list[Counterfactuals]()
    inverting = timed(lambda: inversions.append(explainer.invert(queries)), explainer.device)
    layout, renderings = inversions[0].layout, counter.images
    plan = explainer.plan(Request(attributes=attributes, few=False, compose="full"))
    masks = build_masks(layout.blobs, plan.variant.keys, plan.blobs, plan.variant.background)

    def explain() -> None:
        questions = explainer.questions(queries, plan)
        counterfactuals.append(explainer.search(queries.to(explainer.device), layout, questions, masks, plan))

    explaining = timed(explain, explainer.device)
    return SearchCost(
        images=len(queries),
        invert_seconds=inverting.seconds,
        explain_seconds=explaining.seconds,
        invert_renderings=renderings,
        explain_renderings=counter.images - renderings,
        peak_bytes=max(inverting.peak_bytes, explaining.peak_bytes),
        inversion=inversions[0],
        counterfactuals=counterfactuals[0],
    )


def search_flops(explainer: Explainer, queries: Tensor, attributes: Sequence[str]) -> float:
    """Count the floating-point operations of explaining images: a lower bound of the cost.

    Counted are convolutions and matrix products, forward and backward, as by PyTorch's FlopCounterMode.
    """
    with FlopCounterMode(display=False) as counter:
        search_cost(explainer, queries, attributes)
    return float(counter.get_total_flops())


def _with_counter(explainer: Explainer) -> tuple[Explainer, ImageCounter]:
    """Return the explainer with a counter of the images that it renders."""
    counter = ImageCounter()
    exact, quick = (
        dataclasses.replace(networks, render=counter.wrap(networks.render))
        for networks in (explainer.exact, explainer.quick)
    )
    return dataclasses.replace(explainer, quick=quick, exact=exact), counter
