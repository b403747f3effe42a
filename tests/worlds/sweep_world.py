"""Sweeps in the painted world, whose networks are formulas and whose cause of decisions is known."""

import dataclasses

from worlds.tiny_world import render, scenes, tiny_explainer, tiny_params

from blobex.config.sweeps import Range
from blobex.sweeps.sweep_images import ImageSplit
from blobex.sweeps.tune_counterfactual import CounterfactualTask

COUNT = 4
SPACE = {
    "travel": Range(0.2, 5, True, False),
    "steps": Range(5, 60, True, True),
    "lambda_prox": Range(0.001, 1, True, False),
}


def world_params(**options):
    """Return parameters without tracking; `options` replace values of `sweep_cf`."""
    params = tiny_params()
    options = {"variants": ["basic"], "images": COUNT, "held_out": COUNT, "chunk": 2, "sampler": "random", **options}
    explain = dataclasses.replace(params.explain, attributes=["stop"])
    run = dataclasses.replace(params.run, tracking_uri="none")
    swept = dataclasses.replace(params.sweep_cf, **{"space": SPACE, **options})
    inverted = dataclasses.replace(params.sweep_invert, images=COUNT, held_out=COUNT, chunk=2, sampler="random")
    return dataclasses.replace(params, explain=explain, run=run, sweep_cf=swept, sweep_invert=inverted)


def world_images():
    images = render(scenes(3 * COUNT))
    names = [f"{number}.png" for number in range(3 * COUNT)]
    parts = [slice(first, first + COUNT) for first in (0, COUNT, 2 * COUNT)]
    return ImageSplit(*((names[part], images[part]) for part in parts))


def search_task(folder, **options):
    return CounterfactualTask(tiny_explainer(world_params(**options)), world_images(), folder)
