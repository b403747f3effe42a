"""An explainer that copies one explanation to every image: for tests of all that happens around the search."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from worlds.tiny_world import road_images, tiny_explainer, tiny_params

from blobex.datasets.images import to_array
from blobex.explain.explainer import Explainer
from blobex.explain.explanation import Explanation
from blobex.explain.input_images import InvertedImages
from blobex.explain.request import Request

REQUEST = Request(["stop"], steps=1)


@dataclass(frozen=True)
class Copying(Explainer):
    """Explainer of images whose explanations differ in name, query and score only."""

    template: tuple[Explanation, ...] = ()

    def inverter(self, *_: Any) -> Any:
        """Return an inversion that returns nothing: no one looks at it."""
        return lambda _: None

    def explain_batch(self, images: InvertedImages, *_: Any) -> tuple[list[Explanation], list[list[np.ndarray]]]:
        """Copy the template."""
        named = zip(images.names, map(to_array, images.queries), strict=True)
        return [
            dataclasses.replace(record, image=name, query=query, score_before=float(query.mean()))
            for name, query in named
            for record in self.template
        ], []


@functools.cache
def copying_explainer() -> Explainer:
    """Return an explainer that copies what it once explained of one image."""
    explainer = tiny_explainer(tiny_params(steps=1))
    return Copying(**vars(explainer), template=tuple(explainer.explain(road_images(1), REQUEST)))
