"""Comparison of the best settings with the present and the published ones on held-out data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from blobex.core.errors import brief
from blobex.metrics.interval import interval
from blobex.sweeps.task import Settings

Samples = Mapping[str, np.ndarray]  # by measure: one number per image, NaN where an image has none
BEST = "best"


def comparison(
    images: int,
    candidates: Mapping[str, Settings],
    measure: Callable[[Settings], tuple[Mapping[str, float], Samples]],
    seed: int,
) -> dict[str, Any]:
    """Measure each candidate, and the differences of the best to each other one, image by image.

    A candidate that fails is left out with a message, unless it is the best. Each difference has its mean over the
    images for which both have a number, and a bootstrap interval over images: questions about one image are not
    independent.
    """
    measures, samples = dict[str, dict[str, float]](), dict[str, Samples]()
    for name, settings in candidates.items():
        try:
            values, samples[name] = measure(settings)
            measures[name] = dict(values)
        except Exception as error:  # whatever the values do to the networks, the other candidates are compared
            if name == BEST:
                raise
            print(f"{name} settings fail on what is held out, and are not compared: {brief(error)}")
    differences = {
        f"{BEST} - {name}": _differences(samples[BEST], other, seed) for name, other in samples.items() if name != BEST
    }
    return {"pictures": images, "measures": measures, "differences": differences}


def _differences(best: Samples, other: Samples, seed: int) -> dict[str, dict[str, Any]]:
    pairs = {key: best[key] - other[key] for key in other}
    finite = {key: values[np.isfinite(values)] for key, values in pairs.items()}
    return {key: dataclasses.asdict(interval(values, seed)) for key, values in finite.items() if len(values)}


def table(compared: Mapping[str, Any]) -> str:
    """Format a comparison as lines of text."""
    measures, names = compared["measures"], list(compared["measures"])
    wide = max(16, *(len(name) + 2 for name in [*names, *compared["differences"]]))
    lines = [
        f"on {compared['pictures']} held-out images:",
        " " * 24 + "".join(f"{name:>{wide}}" for name in names),
    ]
    for key in measures[BEST]:
        lines.append(f"{key:<24}" + "".join(f"{measures[name][key]:>{wide}.5g}" for name in names))
    for name, differences in compared["differences"].items():
        lines.append(f"{name}, with 95% intervals over images:")
        lines += [
            f"  {key:<22}{value['mean']:>+12.5g}  from {value['low']:+.5g} to {value['high']:+.5g}"
            for key, value in differences.items()
        ]
    return "\n".join(lines)
