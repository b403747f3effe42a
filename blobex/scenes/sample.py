"""Random scenes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np

from blobex.scenes.scene import Building, Colour, Kind, Light, Line, Place, Scene, Thing, Tree, View

T = TypeVar("T")

# Distances of things in lanes, metres. The gap around `rules.NEAR` keeps decisions unambiguous.
NEAR_EGO = (6.5, 11.0)
NEAR_SIDE = (9.0, 12.5)
FAR = (21.0, 42.0)

# fmt: off
VEHICLE_COLOURS: tuple[Colour, ...] = (
    (205, 32, 36), (28, 70, 165), (240, 240, 240), (32, 34, 40), (150, 155, 162), (236, 196, 40), (24, 120, 84),
    (214, 112, 28), (84, 150, 205),
)
CLOTHES: tuple[Colour, ...] = (
    (225, 60, 120), (40, 90, 200), (240, 220, 70), (60, 160, 90), (235, 235, 235), (120, 50, 150),
)
WALLS: tuple[Colour, ...] = (
    (150, 92, 74), (176, 160, 134), (120, 122, 130), (196, 178, 150), (104, 88, 92), (140, 150, 160),
)
LEAVES: tuple[Colour, ...] = ((44, 104, 44), (70, 124, 46), (36, 88, 60), (150, 116, 40))
# fmt: on


def sample(seed: int) -> Scene:
    """Return the scene of a seed, deterministically.

    >>> sample(3) == sample(3), sample(3) == sample(4)
    (True, False)
    """
    rng = np.random.default_rng(seed)
    line_left: Line = _pick(rng, ("dashed", "solid", "double_yellow", "edge"), (0.58, 0.12, 0.14, 0.16))
    line_right: Line = _pick(rng, ("dashed", "solid", "edge"), (0.62, 0.14, 0.24))
    light: Light = _pick(rng, ("none", "red", "green"), (0.5, 0.22, 0.28))
    return Scene(
        seed=seed,
        line_left=line_left,
        line_right=line_right,
        light=light,
        stop_sign=light == "none" and rng.random() < 0.2,
        things=_ego(rng) + _side(rng, "left", line_left) + _side(rng, "right", line_right) + _roadside(rng),
        time=_pick(rng, ("day", "dusk", "night"), (0.6, 0.2, 0.2)),
        weather=_pick(rng, ("clear", "overcast", "rain", "fog"), (0.5, 0.25, 0.15, 0.1)),
        verge=_pick(rng, ("sidewalk", "grass"), (0.65, 0.35)),
        buildings=_buildings(rng, -1) + _buildings(rng, 1),
        trees=_trees(rng, -1) + _trees(rng, 1),
        view=View(_uniform(rng, 0.40, 0.44), vanishing=_uniform(rng, -0.03, 0.03), offset=_uniform(rng, -0.25, 0.25)),
        light_x=_uniform(rng, -0.3, 0.3),
        dash_phase=_uniform(rng, 0, 4.5),
    )


def _ego(rng: np.random.Generator) -> tuple[Thing, ...]:
    """Sample at most one near obstacle, since it would hide a second one, or traffic far ahead."""
    kinds: tuple[Kind, ...] = ("car", "truck", "bus", "pedestrian", "bicycle", "motorcycle", "barrier")
    if rng.random() < 0.36:
        return (_thing(rng, _pick(rng, kinds, (0.32, 0.1, 0.08, 0.2, 0.1, 0.1, 0.1)), "ego", NEAR_EGO),)
    if rng.random() < 0.5:
        return (_vehicle(rng, "ego", FAR),)
    return ()


def _side(rng: np.random.Generator, place: Place, line: Line) -> tuple[Thing, ...]:
    """Sample a near vehicle and traffic far ahead in a lane beside the ego lane."""
    if line == "edge":
        return ()
    things: tuple[Thing, ...] = ()
    if rng.random() < 0.32:
        kinds: tuple[Kind, ...] = ("car", "truck", "bus", "motorcycle")
        things = (_thing(rng, _pick(rng, kinds, (0.66, 0.12, 0.1, 0.12)), place, NEAR_SIDE),)
    if rng.random() < 0.45:
        things += (_vehicle(rng, place, FAR),)
    return things


def _roadside(rng: np.random.Generator) -> tuple[Thing, ...]:
    """Sample parked cars and people on the verge, which affect no rule."""
    things: list[Thing] = []
    sides: tuple[tuple[Place, Place], ...] = (("left_kerb", "left_walk"), ("right_kerb", "right_walk"))
    for kerb, walk in sides:
        if rng.random() < 0.4:
            start = rng.uniform(9, 16)
            for index in range(int(rng.integers(1, 4))):
                distance = start + 6.5 * index
                things.append(_thing(rng, "car", kerb, (distance, distance + 0.5)))
        for _ in range(int(rng.choice((0, 1, 2), p=(0.6, 0.25, 0.15)))):
            things.append(_thing(rng, "pedestrian", walk, (9, 26)))
    return tuple(things)


def _vehicle(rng: np.random.Generator, place: Place, distances: tuple[float, float]) -> Thing:
    kinds: tuple[Kind, ...] = ("car", "truck", "bus")
    return _thing(rng, _pick(rng, kinds, (0.76, 0.14, 0.1)), place, distances)


def _thing(rng: np.random.Generator, kind: Kind, place: Place, distances: tuple[float, float]) -> Thing:
    colours = CLOTHES if kind in ("pedestrian", "bicycle", "motorcycle") else VEHICLE_COLOURS
    spread = {"pedestrian": 0.6, "bicycle": 0.4, "motorcycle": 0.4}.get(kind, 0.15)
    return Thing(kind, place, _uniform(rng, *distances), _vary(rng, colours), offset=_uniform(rng, -spread, spread))


def _buildings(rng: np.random.Generator, side: Literal[-1, 1]) -> tuple[Building, ...]:
    if rng.random() < 0.2:
        return ()
    buildings: list[Building] = []
    near = rng.uniform(5, 18)
    while near < 60 and len(buildings) < 3:
        far = near + rng.uniform(8, 20)
        height, setback, colour = _uniform(rng, 5, 16), _uniform(rng, 5, 8), _vary(rng, WALLS)
        phase = int(rng.integers(0, 1000))
        buildings.append(Building(side, float(near), float(far), height, setback, colour, phase))
        near = far + rng.uniform(0, 10)
    return tuple(buildings)


def _trees(rng: np.random.Generator, side: Literal[-1, 1]) -> tuple[Tree, ...]:
    count = int(rng.integers(0, 5))
    return tuple(
        Tree(side, _uniform(rng, 11, 45), _uniform(rng, 2.8, 5), height=_uniform(rng, 4, 7), colour=_vary(rng, LEAVES))
        for _ in range(count)
    )


def _uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(rng.uniform(low, high))


def _pick(rng: np.random.Generator, options: Sequence[T], weights: Sequence[float]) -> T:
    edges = np.cumsum(weights) / np.sum(weights)
    return options[min(int(np.searchsorted(edges, rng.random(), side="right")), len(options) - 1)]


def _vary(rng: np.random.Generator, colours: Sequence[Colour]) -> Colour:
    """Choose a colour and change each of its channels slightly."""
    base = colours[int(rng.integers(len(colours)))]
    red, green, blue = (min(255, max(0, value + int(rng.integers(-14, 15)))) for value in base)
    return red, green, blue
