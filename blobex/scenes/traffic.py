"""Road users and obstacles, in simple shapes with their characteristic parts."""

from __future__ import annotations

from collections.abc import Sequence

from blobex.scenes.canvas import Canvas, Point
from blobex.scenes.scene import Colour, Scene, Thing

RIDER_OFFSET = 100  # instance of a rider minus that of the two-wheeler

DARK: Colour = (26, 27, 32)
GLASS: Colour = (54, 70, 92)
TAIL: Colour = (255, 34, 30)  # lights have no tone
HEAD: Colour = (255, 250, 214)
SKIN: Colour = (214, 164, 130)


def paint_thing(canvas: Canvas, scene: Scene, number: int) -> None:
    """Paint the thing at index `number` of the scene; its instance is number + 1."""
    thing = scene.things[number]
    x, instance = scene.lateral(thing), number + 1
    oncoming = thing.place == "left" and scene.line_left == "double_yellow"
    if thing.kind in ("car", "truck", "bus"):
        index = canvas.segment(thing.kind, instance)
        {"car": _car, "truck": _truck, "bus": _bus}[thing.kind](canvas, thing, x, oncoming, index)
    elif thing.kind == "pedestrian":
        index = canvas.segment("person", instance)
        _pedestrian(canvas, thing, x, index)
    elif thing.kind == "barrier":
        index = canvas.segment("fence", instance)
        _barrier(canvas, thing, x, index)
    else:
        index = canvas.segment(thing.kind, instance)
        rider = canvas.segment("rider", instance + RIDER_OFFSET)
        (_bicycle if thing.kind == "bicycle" else _motorcycle)(canvas, thing, x, index, rider)
        canvas.complete(rider)
    canvas.complete(index)


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, int(value * factor)) for value in colour)
    return red, green, blue


def _side(canvas: Canvas, x1: float, x2: float) -> float | None:
    """Return X of the visible side of a block from x1 to x2, or None if the camera is between them."""
    eye = canvas.view.offset
    return x1 if x1 > eye else x2 if x2 < eye else None


def _block(
    canvas: Canvas, x: tuple[float, float], y: tuple[float, float], z: tuple[float, float], colour: Colour, index: int
) -> None:
    """Paint the visible faces of a cuboid: its side, its top if it is below the camera, and its front."""
    tone, side = canvas.tone, _side(canvas, *x)
    if side is not None:
        canvas.wall(side, *y, *z, tone(_shade(colour, 0.7), z[0]), index)
    if y[1] < 2.3:
        corners = ((x[0], y[1], z[0]), (x[1], y[1], z[0]), (x[1], y[1], z[1]), (x[0], y[1], z[1]))
        canvas.surface(corners, tone(_shade(colour, 1.2), z[0]), index)
    canvas.face(*x, *y, z[0], tone(colour, z[0]), index)


def _pair(
    canvas: Canvas, x: float, inner: float, outer: float, low: float, high: float, z: float, colour: Colour
) -> None:
    """Paint a pair of lamps or wheels, left and right of the middle."""
    canvas.face(x - outer, x - inner, low, high, z, colour)
    canvas.face(x + inner, x + outer, low, high, z, colour)


def _footing(canvas: Canvas, x: float, half: float, z: float, length: float, index: int) -> None:
    """Paint shadow and wheels."""
    dark = canvas.tone(DARK, z)
    canvas.ground(x - half - 0.15, x + half + 0.15, z - 0.25, z + length, canvas.tone((44, 44, 48), z))
    for left, right in ((x - half + 0.05, x - half + 0.4), (x + half - 0.4, x + half - 0.05)):
        canvas.face(left, right, 0, 0.5, z, dark, index)


def _side_wheels(canvas: Canvas, x: float, half: float, axles: tuple[float, ...]) -> None:
    side = _side(canvas, x - half, x + half)
    if side is None:
        return
    for z in axles:
        (near, _), (far, _) = canvas.project(side, 0, z - 0.36), canvas.project(side, 0, z + 0.36)
        centre = canvas.project(side, 0.34, z)
        canvas.ellipse(centre, (abs(near - far) / 2, 0.34 / z * canvas.rows), canvas.tone(DARK, z))


def _car(canvas: Canvas, thing: Thing, x: float, oncoming: bool, index: int) -> None:
    z, half, tone = thing.distance, 0.95, canvas.tone
    _footing(canvas, x, half, z, 4.3, index)
    _block(canvas, (x - half, x + half), (0.28, 0.98), (z, z + 4.2), thing.colour, index)
    _side_wheels(canvas, x, half, (z + 0.8, z + 3.3))
    low, high, wide, narrow = 0.96, 1.68, 0.86, 0.66
    start = 1.1 if oncoming else 0.3  # the bonnet is longer than the boot
    base, roof, roof_end, base_end = z + start, z + start + 0.6, z + start + 1.9, z + start + 2.7
    side = _side(canvas, x - wide, x + wide)
    if side is not None:
        inner = x - narrow if side < x else x + narrow
        pane = ((side, low, base), (inner, high, roof), (inner, high, roof_end), (side, low, base_end))
        canvas.surface(pane, tone(_shade(GLASS, 0.8), z), index)
    left, right = x - narrow, x + narrow
    top = ((left, high, roof), (right, high, roof), (right, high, roof_end), (left, high, roof_end))
    canvas.surface(top, tone(_shade(thing.colour, 1.15), z), index)
    front = ((x - wide, low, base), (x + wide, low, base), (right, high, roof), (left, high, roof))
    canvas.surface(front, tone(thing.colour, z), index)
    windscreen = ((-0.68, 1.04, 0.05), (0.68, 1.04, 0.05), (0.55, 1.58, 0.52), (-0.55, 1.58, 0.52))
    canvas.surface([(x + across, up, base + deep) for across, up, deep in windscreen], tone(GLASS, z))
    _pair(canvas, x, 0.52, 0.9, 0.62, 0.88, z, HEAD if oncoming else TAIL)
    canvas.face(x - 0.9, x + 0.9, 0.28, 0.44, z, tone((58, 58, 62), z))
    canvas.face(x - 0.26, x + 0.26, 0.48, 0.66, z, tone(DARK if oncoming else (240, 240, 236), z))


def _truck(canvas: Canvas, thing: Thing, x: float, oncoming: bool, index: int) -> None:
    z, half, tone = thing.distance, 1.2, canvas.tone
    _footing(canvas, x, half, z, 7, index)
    cargo: Colour = (222, 222, 216)
    if oncoming:
        _block(canvas, (x - half, x + half), (0.6, 3.3), (z + 2.2, z + 8), cargo, index)
        _block(canvas, (x - 1.12, x + 1.12), (0.4, 2.7), (z, z + 2), thing.colour, index)
        canvas.face(x - 0.98, x + 0.98, 1.6, 2.5, z, tone(GLASS, z))
        _pair(canvas, x, 0.65, 1.05, 0.65, 0.95, z, HEAD)
        return
    _block(canvas, (x - half, x + half), (0.45, 0.85), (z, z + 7), (60, 60, 64), index)
    _side_wheels(canvas, x, half, (z + 1.2, z + 5.4))
    _block(canvas, (x - half, x + half), (0.85, 3.3), (z, z + 7), cargo, index)
    canvas.face(x - half, x + half, 2.75, 3.3, z, tone(thing.colour, z))
    canvas.face(x - half, x + half, 0.85, 1.15, z, tone(thing.colour, z))
    canvas.face(x - 0.04, x + 0.04, 1.15, 2.75, z, tone((96, 96, 98), z))
    _pair(canvas, x, 0.75, 1.12, 0.5, 0.78, z, TAIL)


def _bus(canvas: Canvas, thing: Thing, x: float, oncoming: bool, index: int) -> None:
    z, half, tone = thing.distance, 1.25, canvas.tone
    _footing(canvas, x, half, z, 9, index)
    _block(canvas, (x - half, x + half), (0.35, 3.15), (z, z + 9), thing.colour, index)
    side = _side(canvas, x - half, x + half)
    if side is not None:
        canvas.wall(side, 1.5, 2.6, z + 0.4, z + 8.6, tone(_shade(GLASS, 0.9), z))
        _side_wheels(canvas, x, half, (z + 1.8, z + 6.8))
    low = 1.2 if oncoming else 1.65
    canvas.face(x - 1.05, x + 1.05, low, 2.6, z, tone(GLASS, z))
    canvas.face(x - 0.8, x + 0.8, 2.7, 3.0, z, (255, 190, 60) if oncoming else tone(DARK, z))
    canvas.face(x - half, x + half, 0.35, 0.6, z, tone((58, 58, 62), z))
    _pair(canvas, x, 0.8, 1.15, 0.7, 1.05, z, HEAD if oncoming else TAIL)


def _pedestrian(canvas: Canvas, thing: Thing, x: float, index: int) -> None:
    z, tone, size = thing.distance, canvas.tone, 1.15
    clothes, trousers = tone(thing.colour, z), tone((44, 52, 84), z)
    canvas.ground(x - 0.5, x + 0.5, z - 0.1, z + 0.4, tone((44, 44, 48), z))
    for foot in (-0.3, 0.14):  # a stride
        points = [(foot, 0), (foot + 0.18, 0), (0.16, 0.9), (-0.16, 0.9)]
        _flat(canvas, points, (x, z), size, trousers, index)
    torso = [(-0.2, 0.82), (0.2, 0.82), (0.3, 1.42), (-0.3, 1.42)]
    _flat(canvas, torso, (x, z), size, clothes, index)
    for arm in (-1, 1):
        points = [(0.26 * arm, 1.42), (0.36 * arm, 1.36), (0.44 * arm, 0.86), (0.34 * arm, 0.84)]
        _flat(canvas, points, (x, z), size, clothes, index)
    _head(canvas, x, size * 1.62, size * 0.17, z, SKIN, index)


def _flat(
    canvas: Canvas, points: Sequence[Point], at: Point, size: float, colour: Colour, index: int | None = None
) -> None:
    """Paint an upright polygon that faces the camera; `points` are scaled by `size` and relative to X and Z in `at`."""
    x, z = at
    canvas.surface([(x + size * across, size * up, z) for across, up in points], colour, index)


def _head(canvas: Canvas, x: float, y: float, radius: float, z: float, colour: Colour, index: int) -> None:
    pixels = radius / z * canvas.rows
    canvas.ellipse(canvas.project(x, y, z), (pixels, 1.15 * pixels), canvas.tone(colour, z), index)


def _motorcycle(canvas: Canvas, thing: Thing, x: float, index: int, rider: int) -> None:
    """Paint a motorcycle, seen from behind."""
    z, tone, size = thing.distance, canvas.tone, 1.3
    canvas.ground(x - 0.5, x + 0.5, z - 0.1, z + 1.8, tone((44, 44, 48), z))
    canvas.face(x - 0.14 * size, x + 0.14 * size, 0, 0.66 * size, z, tone(DARK, z), index)
    canvas.face(x - 0.32 * size, x + 0.32 * size, 0.48 * size, 0.84 * size, z, tone((96, 98, 106), z), index)
    canvas.face(x - 0.5 * size, x + 0.5 * size, 1.08 * size, 1.16 * size, z, tone(DARK, z), index)
    torso = [(-0.24, 0.78), (0.24, 0.78), (0.36, 1.34), (-0.36, 1.34)]
    _flat(canvas, torso, (x, z), size, tone(thing.colour, z), rider)
    _head(canvas, x, size * 1.52, size * 0.2, z, (238, 238, 240), rider)
    canvas.face(x - 0.14 * size, x + 0.14 * size, 0.58 * size, 0.74 * size, z, TAIL)


def _bicycle(canvas: Canvas, thing: Thing, x: float, index: int, rider: int) -> None:
    """Paint a bicycle, seen from the side, as it crosses the road."""
    z, tone, size = thing.distance, canvas.tone, 1.25
    canvas.ground(x - 1.1, x + 1.1, z - 0.1, z + 0.4, tone((44, 44, 48), z))
    pixels = size * 0.36 / z * canvas.rows
    for wheel in (-0.55, 0.55):
        centre = canvas.project(x + size * wheel, size * 0.36, z)
        canvas.ellipse(centre, (pixels, pixels), tone(DARK, z), index)
        canvas.ellipse(centre, (0.5 * pixels, 0.5 * pixels), tone((150, 150, 150), z))
    frame, trousers, clothes = tone((210, 60, 40), z), tone((44, 52, 84), z), tone(thing.colour, z)
    for points, colour, part in (
        ([(-0.58, 0.34), (-0.5, 0.34), (-0.1, 0.86), (-0.2, 0.9)], frame, index),
        ([(0.5, 0.34), (0.6, 0.34), (0.46, 1.0), (0.38, 1.0)], frame, index),
        ([(-0.16, 0.8), (0.44, 0.84), (0.44, 0.94), (-0.16, 0.9)], frame, index),
        ([(-0.24, 0.92), (-0.02, 0.92), (0.12, 0.28), (0.0, 0.26)], trousers, rider),
        ([(-0.28, 0.88), (0.0, 0.88), (0.26, 1.44), (0.0, 1.5)], clothes, rider),
        ([(0.14, 1.4), (0.24, 1.3), (0.5, 0.98), (0.4, 0.98)], clothes, rider),
    ):
        _flat(canvas, points, (x, z), size, colour, part)
    _head(canvas, x + size * 0.2, size * 1.66, size * 0.18, z, SKIN, rider)


def _barrier(canvas: Canvas, thing: Thing, x: float, index: int) -> None:
    """Paint a construction barrier: two red and white boards with lamps."""
    z, tone = thing.distance, canvas.tone
    red, white = tone((226, 52, 30), z), tone((244, 244, 240), z)
    for foot in (-1.05, 0.9):
        canvas.face(x + foot, x + foot + 0.15, 0, 1.5, z, tone((110, 110, 112), z), index)
    for low, high in ((0.35, 0.8), (1.0, 1.45)):
        canvas.face(x - 1.25, x + 1.25, low, high, z, white, index)
        for stripe in range(4):
            left = x - 1.25 + 0.625 * stripe
            corners = ((left, low, z), (left + 0.32, low, z), (left + 0.5, high, z), (left + 0.18, high, z))
            canvas.surface(corners, red)
    for lamp in (-0.98, 0.98):
        pixels = 0.14 / z * canvas.rows
        canvas.ellipse(canvas.project(x + lamp, 1.6, z), (pixels, pixels), (255, 170, 40), index)
