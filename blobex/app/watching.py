"""Searches with a callback per step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import Tensor

from blobex.explain.explainer import Explainer
from blobex.layout.blobs import BlobLayout
from blobex.optim.networks import Networks

Watch = Callable[[BlobLayout, Tensor], None]  # gets each layout and its rendering; an exception ends the search


def watched(explainer: Explainer, watch: Watch) -> Explainer:
    """Return an explainer that calls `watch` with every rendering of its inversions and searches."""
    return dataclasses.replace(
        explainer, quick=_watched(explainer.quick, watch), exact=_watched(explainer.exact, watch)
    )


def _watched(networks: Networks, watch: Watch) -> Networks:
    def render(layout: BlobLayout) -> Tensor:
        image = networks.render(layout)
        watch(layout.detach(), image.detach())
        return image

    return dataclasses.replace(networks, render=render)
