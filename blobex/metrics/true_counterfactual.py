"""The true counterfactual of a synthetic scene, rendered without its causes, and the distance of an image to it.

It needs no network: where the causes were, a counterfactual should look as if they had never been there (a *ghost* is
what is left of them), and elsewhere as before (all else is *collateral*).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from blobex.core.errors import BlobexError
from blobex.datasets.images import decode_jpeg, fit, fit_mask
from blobex.scenes.render import render
from blobex.scenes.rules import Cause, remove
from blobex.scenes.scene import Scene
from blobex.scenes.write import encode_jpeg

VISIBLE = 24  # grey levels by which a pixel changes visibly, as in `scenes.render.cause_mask`

ROUNDED = 1.0  # grey levels, in the mean, by which two machines may render or decode one image differently


@dataclass(frozen=True)
class TrueCounterfactual:
    """The image of a scene without its causes. Outside `altered` it is the query itself."""

    image: np.ndarray = field(repr=False)  # uint8 (H,W,3)
    altered: np.ndarray = field(repr=False)  # bool (H,W): pixels that differ at all between the two renderings
    visible: np.ndarray = field(repr=False)  # bool (H,W): those that differ by more than VISIBLE in a channel


@dataclass(frozen=True)
class TrueDistance:
    """Mean absolute differences in grey levels."""

    ghost: float  # between counterfactual and truth, over the visible pixels
    query: float  # between query and truth, over the same pixels
    collateral: float  # between counterfactual and query, over the pixels that are not altered


def without(scene: Scene, causes: Iterable[Cause]) -> Scene:
    """Return the scene without several causes, whose numbers of things are those of the scene as given."""
    for cause in sorted(causes, key=lambda cause: -cause.thing):  # removing a thing renumbers those after it
        scene = remove(scene, cause)
    return scene


def true_counterfactuals(
    scene: Scene, causes: Iterable[Cause], query: np.ndarray, height: int
) -> list[TrueCounterfactual]:
    """Render what the query, uint8 (H,W,3), would be without the causes that refuse an action.

    A light is removed or, in a second image, turned green. Images are rendered at `height` rows, encoded and cropped as
    those of the data set. The list is empty without causes, or if these are hidden in the query. Raises BlobexError if
    the query is no image of the scene.
    """
    causes = frozenset(causes)
    if not causes:
        return []
    size, original = query.shape[:2], render(scene, height).image
    if _difference(_written(original, *size), query).mean() > ROUNDED:
        raise BlobexError(
            f"an explained image is not that of scene {scene.seed} at {height} rows: set scenes.height to that of the "
            "data set, and render it anew"
        )
    light = Cause("light")
    scenes = [without(scene, causes)]
    if light in causes:
        scenes.append(replace(without(scene, causes - {light}), light="green"))
    truths = []
    for each in scenes:
        image = render(each, height).image
        change = np.abs(image.astype(np.int16) - original.astype(np.int16)).max(axis=2)
        altered, visible = (fit_mask((change > least).astype(np.uint8), *size) > 0 for least in (0, VISIBLE))
        if visible.any() and not altered.all():
            pasted = np.where(altered[..., None], _written(image, *size), query)
            truths.append(TrueCounterfactual(pasted, altered, visible))
    return truths


def nearest(truths: Sequence[TrueCounterfactual], counterfactual: np.ndarray) -> TrueCounterfactual:
    """Return the truth with the least mean absolute difference to a counterfactual, uint8 (H,W,3); ties: the first."""
    return min(truths, key=lambda truth: _difference(truth.image, counterfactual).mean())


def true_distance(query: np.ndarray, counterfactual: np.ndarray, truth: TrueCounterfactual) -> TrueDistance:
    """Measure a counterfactual, uint8 (H,W,3), by its truth; 0 of the truth itself.

    >>> query, red = np.zeros((1, 2, 3), np.uint8), np.array([[[60, 0, 0], [0, 0, 0]]], np.uint8)
    >>> here = np.array([[True, False]])
    >>> true_distance(query, query, TrueCounterfactual(red, here, here))
    TrueDistance(ghost=20.0, query=20.0, collateral=0.0)
    """
    return TrueDistance(
        ghost=float(_difference(counterfactual, truth.image)[truth.visible].mean()),
        query=float(_difference(query, truth.image)[truth.visible].mean()),
        collateral=float(_difference(counterfactual, query)[~truth.altered].mean()),
    )


def _written(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a rendered image as it is read from the data set's file and cropped."""
    return fit(decode_jpeg(encode_jpeg(image)), height, width)


def _difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the mean absolute difference (H,W) over channels."""
    return np.abs(one.astype(np.float64) - other.astype(np.float64)).mean(axis=2)
