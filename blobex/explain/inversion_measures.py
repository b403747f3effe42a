"""Measures of inversions: distances, agreement of decisions, and objects that survive."""

from __future__ import annotations

from torch import Tensor

from blobex.datasets.images import to_array
from blobex.explain.explainer import Explainer
from blobex.explain.measures import with_intervals
from blobex.inversion.inversion import Inversion
from blobex.metrics.agreement import decision_agreement
from blobex.metrics.alignment import alignment, object_recall
from blobex.networks.perceptual import perceptual_name
from blobex.perception.reading import SceneReading

MEANS = ("loss", "encoder_loss", "perceptual", "l2", "failed")
BATCH = 16


def inversion_measures(explainer: Explainer, queries: Tensor, inversion: Inversion) -> dict[str, float]:
    """Return means over the inversions of queries (N,3,H,W), and object measures with intervals."""
    before, after = explainer.outputs(queries), explainer.outputs(inversion.image)
    distance = perceptual_name(explainer.params.data.perceptual)
    measures = {
        distance if name == "perceptual" else name: getattr(inversion, name).double().mean().item() for name in MEANS
    }
    measures |= decision_agreement(explainer.decision.kind, before, after, explainer.decision.outputs)
    return measures | with_intervals(_object_values(explainer, queries, inversion), explainer.params.run.seed)


def _object_values(explainer: Explainer, queries: Tensor, inversion: Inversion) -> dict[str, list[float]]:
    """Return which objects of the queries are seen in the reconstructions, and which vanish with their blob."""
    if explainer.parser is None:
        return {}

    def read(images: Tensor) -> list[SceneReading]:
        return explainer.readings([to_array(image) for image in images])

    before, after = read(queries), read(inversion.image)
    networks, layout = explainer.exact, inversion.layout.to(explainer.device)
    return {
        "object_recall": object_recall(before, after),
        "vehicle_recall": object_recall(before, after, "vehicle"),
        **alignment(layout, inversion.image, networks.scores, networks.render, read, BATCH),
    }
