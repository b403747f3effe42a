"""Static parts of a scene: sky, buildings, trees, the road and its lines, the traffic light and the stop sign."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from blobex.scenes.canvas import Canvas
from blobex.scenes.scene import LANE_WIDTH, Building, Colour, Line, Scene

NEAREST, FARTHEST = 2.2, 300.0  # metres: below the bottom of the image, and close to the horizon
LINE = 0.13  # half the width of a line, metres
DASH, GAP = 2.0, 2.5  # metres
LIGHT_INSTANCE, SIGN_INSTANCE = 201, 202
LAMPS: dict[str, Colour] = {"red": (255, 36, 28), "green": (40, 255, 130)}


def paint_sky(canvas: Canvas, scene: Scene) -> None:
    """Paint a gradient, clouds and a skyline."""
    index, tone, rows = canvas.segment("sky"), canvas.tone, canvas.rows
    horizon = int(scene.view.horizon * rows) + 1
    fade = np.linspace(0, 1, horizon)[:, None, None] ** 1.5
    gradient = (1 - fade) * np.array(tone.sky) + fade * np.array(tone.haze)
    canvas.polygon(_rectangle(0, 0, 2 * rows, horizon), tone.haze, index)
    canvas.colours.paste(Image.fromarray(gradient.astype(np.uint8)).resize((2 * rows, horizon)), (0, 0))
    rng = np.random.default_rng(scene.seed)
    if scene.weather in ("clear", "overcast") and scene.time != "night":
        cloud: Colour = (tone.haze[0] // 2 + 120, tone.haze[1] // 2 + 120, tone.haze[2] // 2 + 120)
        for x, y, size in rng.uniform((0, 0.02, 0.05), (2, 0.3, 0.12), (3, 3)).tolist():
            canvas.ellipse((x * rows, y * rows), (2.4 * size * rows, 0.35 * size * rows), cloud)
    blocks = scene.verge == "sidewalk"
    skyline = canvas.segment("building" if blocks else "vegetation")
    heights = np.repeat(rng.uniform(0.01, 0.07, 13), 2 if blocks else 1) * rows
    columns = np.linspace(0, 2 * rows, 14).repeat(2)[1:-1] if blocks else np.linspace(0, 2 * rows, 13)
    roofs = zip(columns.tolist(), (horizon - heights).tolist(), strict=True)
    points = [(0.0, float(horizon)), *roofs, (2.0 * rows, float(horizon))]
    canvas.polygon(points, tone((110, 116, 128) if blocks else (60, 98, 66), 90), skyline)


def paint_road(canvas: Canvas, scene: Scene) -> None:
    """Paint the verge, the lanes and their lines."""
    tone, rows = canvas.tone, canvas.rows
    urban = scene.verge == "sidewalk"
    verge = canvas.segment("sidewalk" if urban else "terrain")
    horizon = scene.view.horizon * rows
    colour: Colour = (158, 152, 146) if urban else (88, 132, 58)
    canvas.polygon(_rectangle(0, horizon, 2 * rows, rows), tone(colour, 12), verge)
    wet = 0.8 if scene.weather == "rain" else 1.0
    asphalt = tone((int(92 * wet), int(93 * wet), int(98 * wet)), 12)
    other = canvas.segment("road")
    left, right = -scene.edge(-1), scene.edge(1)
    parking = 2.4
    canvas.ground(left - parking - 0.25, right + parking + 0.25, NEAREST, FARTHEST, tone((196, 192, 186), 12), verge)
    canvas.ground(left - parking, right + parking, NEAREST, FARTHEST, tone((116, 110, 106), 12), other)
    canvas.ground(left, right, NEAREST, FARTHEST, asphalt, other)
    half = LANE_WIDTH / 2
    for line, start, end in ((scene.line_left, left, -half), (scene.line_right, half, right)):
        if line in ("dashed", "solid"):
            canvas.ground(start, end, NEAREST, FARTHEST, asphalt, canvas.segment("road", drivable="alternative"))
    canvas.ground(-half, half, NEAREST, FARTHEST, asphalt, canvas.segment("road", drivable="direct"))
    if scene.time == "night":
        beam = ((-1.3, 0, NEAREST), (1.3, 0, NEAREST), (2.1, 0, 13), (-2.1, 0, 13))
        canvas.surface(beam, tone((140, 138, 128), 0))
    _line(canvas, -half, scene.line_left, scene.dash_phase)
    _line(canvas, half, scene.line_right, scene.dash_phase + 1.1)
    white, yellow = canvas.tone((236, 236, 230), 8), canvas.tone((238, 190, 44), 8)
    if scene.line_left != "edge":
        colour = white if scene.line_left == "double_yellow" else yellow
        canvas.ground(left - LINE, left + LINE, NEAREST, FARTHEST, colour)
    if scene.line_right != "edge":
        canvas.ground(right - LINE, right + LINE, NEAREST, FARTHEST, white)
    if scene.light != "none" or scene.stop_sign:
        start = -half if scene.line_left in ("double_yellow", "edge") else left
        canvas.ground(start + 0.2, right - 0.2, 5.4, 5.9, white)


def _line(canvas: Canvas, x: float, line: Line, phase: float) -> None:
    white, yellow = canvas.tone((240, 240, 234), 8), canvas.tone((240, 188, 40), 8)
    if line == "double_yellow":
        canvas.ground(x - 0.27, x - 0.07, NEAREST, FARTHEST, yellow)
        canvas.ground(x + 0.07, x + 0.27, NEAREST, FARTHEST, yellow)
    elif line == "dashed":
        start = NEAREST + phase % (DASH + GAP)
        while start < 45:
            canvas.ground(x - LINE, x + LINE, start, start + DASH, white)
            start += DASH + GAP
    else:
        canvas.ground(x - LINE, x + LINE, NEAREST, FARTHEST, white)


def paint_buildings(canvas: Canvas, scene: Scene) -> None:
    """Paint the buildings on both sides of the road."""
    index = canvas.segment("building")
    for building in sorted(scene.buildings, key=lambda item: -item.near):
        _building(canvas, scene, building, index)


def _building(canvas: Canvas, scene: Scene, building: Building, index: int) -> None:
    near, far, top = building.near, building.far, building.height
    wall = building.side * (scene.edge(building.side) + building.setback)
    tone, colour = canvas.tone, building.colour
    shaded: Colour = (colour[0] * 4 // 5, colour[1] * 4 // 5, colour[2] * 4 // 5)
    canvas.wall(wall, 0, top, near, far, tone(colour, near), index)
    canvas.face(wall, wall + building.side * 12, 0, top, near, tone(shaded, near), index)
    glass, lit = tone((66, 84, 108), near), (255, 214, 120)
    for row in range(min(4, int(top / 3))):
        low, high = 3 * row + 1.0, 3 * row + 2.3
        for column in range(min(5, int((far - near) / 3))):
            start, end = near + 3 * column + 0.8, near + 3 * column + 2.2
            shines = scene.time != "day" and (building.phase + 7 * row + 5 * column) % 3 == 0
            canvas.wall(wall, low, high, start, end, lit if shines else glass)
        for column in range(2):
            start = wall + building.side * (1.2 + 3 * column)
            shines = scene.time != "day" and (building.phase + 3 * row + column) % 3 == 0
            canvas.face(start, start + building.side * 1.4, low, high, near, lit if shines else glass)


def paint_trees(canvas: Canvas, scene: Scene) -> None:
    """Paint the trees on both sides of the road."""
    index, tone = canvas.segment("vegetation"), canvas.tone
    for tree in sorted(scene.trees, key=lambda item: -item.distance):
        x, z = tree.side * (scene.edge(tree.side) + tree.setback), tree.distance
        canvas.face(x - 0.2, x + 0.2, 0, 0.6 * tree.height, z, tone((92, 70, 50), z), index)
        radius = 0.26 * tree.height / z * canvas.rows
        light: Colour = (min(255, tree.colour[0] + 26), min(255, tree.colour[1] + 26), tree.colour[2] + 12)
        crowns = ((0.0, 0.66, 1.0, tree.colour), (-0.1, 0.74, 0.72, light), (0.08, 0.86, 0.55, light))
        for across, up, size, colour in crowns:
            centre = canvas.project(x + across * tree.height, up * tree.height, z)
            canvas.ellipse(centre, (size * radius, 0.9 * size * radius), tone(colour, z), index)


def paint_light(canvas: Canvas, scene: Scene) -> None:
    """Paint a traffic light on a mast over the road; its size in the image is constant, for legibility."""
    if scene.light == "none":
        return
    rows, tone = canvas.rows, canvas.tone
    pole, box = canvas.segment("pole"), canvas.segment("traffic light", LIGHT_INSTANCE)
    mast = canvas.project(scene.edge(1) + 0.7, 0, 18.0)
    x, arm, thin = (1 + scene.light_x) * rows, 0.045 * rows, 0.009 * rows
    steel = tone((96, 98, 104), 6)
    canvas.polygon(_rectangle(mast[0] - thin, arm - thin, mast[0] + thin, mast[1]), steel, pole)
    canvas.polygon(_rectangle(min(x, mast[0]), arm - thin, max(x, mast[0]), arm + thin), steel, pole)
    width, top, bottom = 0.048 * rows, 0.05 * rows, 0.275 * rows
    canvas.polygon(_rectangle(x - width, top, x + width, bottom), (196, 160, 40), box)
    inset = 0.009 * rows
    canvas.polygon(_rectangle(x - width + inset, top + inset, x + width - inset, bottom - inset), (22, 24, 28))
    radius = 0.030 * rows
    for lamp, y in (("red", 0.092), ("yellow", 0.1625), ("green", 0.233)):
        colour = LAMPS[lamp] if lamp == scene.light else (56, 54, 52)
        size = 1.08 * radius if lamp == scene.light else 0.8 * radius
        canvas.ellipse((x, y * rows), (size, size), colour)
    canvas.complete(box)


def paint_sign(canvas: Canvas, scene: Scene) -> None:
    """Paint a stop sign on the right of the road; its size in the image is constant."""
    if not scene.stop_sign:
        return
    rows, tone = canvas.rows, canvas.tone
    pole, box = canvas.segment("pole"), canvas.segment("traffic sign", SIGN_INSTANCE)
    across = scene.edge(1) + 0.8
    x, foot = canvas.project(across, 0, across / 0.35)
    y, radius, thin = 0.2 * rows, 0.078 * rows, 0.009 * rows
    canvas.polygon(_rectangle(x - thin, y, x + thin, foot), tone((150, 152, 156), 6), pole)
    canvas.polygon(_octagon(x, y, radius), tone((250, 250, 250), 2), box)
    canvas.polygon(_octagon(x, y, 0.86 * radius), (214, 24, 30))
    stripe = _rectangle(x - 0.62 * radius, y - 0.17 * radius, x + 0.62 * radius, y + 0.17 * radius)
    canvas.polygon(stripe, (250, 250, 250))
    canvas.complete(box)


def paint_rain(canvas: Canvas, scene: Scene) -> None:
    """Paint thin slanting streaks over the whole image."""
    if scene.weather != "rain":
        return
    rows, haze = canvas.rows, canvas.tone.haze
    streak: Colour = (min(255, haze[0] + 24), min(255, haze[1] + 24), min(255, haze[2] + 28))
    for x, y in np.random.default_rng(scene.seed + 1).uniform((0, 0), (2, 1), (36, 2)).tolist():
        left, top, thin = x * rows, y * rows, 0.003 * rows
        canvas.polygon(((left, top), (left + thin, top), (left + thin - 0.012 * rows, top + 0.07 * rows)), streak)


def _rectangle(left: float, top: float, right: float, bottom: float) -> tuple[tuple[float, float], ...]:
    return (left, top), (right, top), (right, bottom), (left, bottom)


def _octagon(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    angles = [math.pi / 8 + math.pi / 4 * corner for corner in range(8)]
    return [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]
