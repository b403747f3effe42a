"""Searches that can be watched and stopped: the networks tell what they are asked to render."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from torch import Tensor

from blobex.explain.explainer import Explainer
from blobex.layout.blobs import BlobLayout
from blobex.optim.networks import Networks

Watch = Callable[[BlobLayout, Tensor], None]  # told each layout and its rendering; what it raises ends the search


def watched(explainer: Explainer, watch: Watch) -> Explainer:
    """The explainer with `watch` told of every rendering: of each step of inversions and searches, and of the end's."""
    return dataclasses.replace(
        explainer, quick=_telling(explainer.quick, watch), exact=_telling(explainer.exact, watch)
    )


def _telling(networks: Networks, watch: Watch) -> Networks:
    def render(layout: BlobLayout) -> Tensor:
        picture = networks.render(layout)
        watch(layout.detach(), picture.detach())
        return picture

    return dataclasses.replace(networks, render=render)
