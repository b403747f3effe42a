"""The final comparison of settings, on what no trial of the sweep saw."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from blobex.core.errors import brief
from blobex.metrics.interval import interval
from blobex.sweeps.task import Settings

Samples = Mapping[str, np.ndarray]  # by measure: one number per picture, NaN where a picture has none
BEST = "best"


def comparison(
    pictures: int,
    candidates: Mapping[str, Settings],
    measure: Callable[[Settings], tuple[Mapping[str, float], Samples]],
    seed: int,
) -> dict[str, Any]:
    """What is measured of each candidate, and the differences of the best to each other one, picture by picture.

    One that fails is left out, with a word, unless it is the best. A difference has the mean over the pictures that
    both have a number for, and its bootstrap interval: pictures are drawn, not questions, since the questions about one
    picture are answered alike.
    """
    measures, samples, differences = {}, {}, {}
    for name, settings in candidates.items():
        try:
            measures[name], samples[name] = measure(settings)
        except Exception as error:  # as in trials, whatever the values do to the networks
            if name == BEST:
                raise
            print(f"{name} settings fail on what is held out, and are not compared: {brief(error)}")
    for name in samples:
        if name != BEST:
            pairs = {key: samples[BEST][key] - samples[name][key] for key in samples[name]}
            found = {key: pair[np.isfinite(pair)] for key, pair in pairs.items()}
            differences[f"{BEST} - {name}"] = {
                key: dataclasses.asdict(interval(pair, seed)) for key, pair in found.items() if len(pair)
            }
    return {
        "pictures": pictures,
        "measures": {name: dict(each) for name, each in measures.items()},
        "differences": differences,
    }


def table(compared: Mapping[str, Any]) -> str:
    """The comparison in lines."""
    measures, names = compared["measures"], list(compared["measures"])
    wide = max(16, *(len(name) + 2 for name in [*names, *compared["differences"]]))
    lines = [
        f"on {compared['pictures']} pictures held out:",
        " " * 24 + "".join(f"{name:>{wide}}" for name in names),
    ]
    for key in measures[BEST]:
        lines.append(f"{key:<24}" + "".join(f"{measures[name][key]:>{wide}.5g}" for name in names))
    for name, each in compared["differences"].items():
        lines.append(f"{name}, with 95% intervals over pictures:")
        lines += [
            f"  {key:<22}{found['mean']:>+12.5g}  from {found['low']:+.5g} to {found['high']:+.5g}"
            for key, found in each.items()
        ]
    return "\n".join(lines)
