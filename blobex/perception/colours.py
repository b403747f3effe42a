"""Names for colours, and what a traffic light shows."""

from __future__ import annotations

import colorsys

import numpy as np

HUES = (  # degrees up to which a hue has the name; red again from there on
    (15.0, "red"),
    (42.0, "orange"),
    (70.0, "yellow"),
    (165.0, "green"),
    (255.0, "blue"),
    (330.0, "purple"),
)
GREY = 0.22  # saturation below which a colour has no hue
BLACK, WHITE = 0.27, 0.75  # value below and above which such a colour is black or white

RED_HUES = (320.0, 20.0)  # degrees, from and to, over zero
GREEN_HUES, YELLOW_HUES = (80.0, 190.0), (30.0, 70.0)
LIT = 0.4  # value times saturation, 0 to 1, from which a pixel shines
GLOWING = 0.85  # value of a yellow lamp; the box around the lamps is yellow, too, but darker


def colour_name(colour: tuple[int, int, int]) -> str:
    """A plain word for a colour: black, grey, white, red, orange, yellow, green, blue or purple.

    >>> colour_name((205, 32, 36)), colour_name((150, 155, 162))
    ('red', 'grey')
    """
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in colour))
    if value < BLACK:
        return "black"
    if saturation < GREY:
        return "white" if value > WHITE else "grey"
    return next((name for limit, name in HUES if 360 * hue < limit), "red")


def light_colour(pixels: np.ndarray) -> str:
    """What a traffic light shows, from the pixels (h,w,3) uint8 of its box: red, yellow, green, or none if it is dark.

    Its shining pixels decide: red and green against each other, yellow where there is neither.

    >>> light_colour(np.full((4, 4, 3), (20, 230, 60), np.uint8))
    'green'
    """
    hue, saturation, value = hues(pixels)
    glow = value * saturation
    shines = glow > LIT
    red = glow[shines & ((hue > RED_HUES[0]) | (hue < RED_HUES[1]))].sum()
    green = glow[shines & (hue > GREEN_HUES[0]) & (hue < GREEN_HUES[1])].sum()
    yellow = shines & (hue > YELLOW_HUES[0]) & (hue < YELLOW_HUES[1]) & (value > GLOWING)
    if max(red, green) > 0:
        return "red" if red > green else "green"
    return "yellow" if yellow.any() else "none"


def hues(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hue (degrees), saturation and value (0 to 1) of pixels (...,3) uint8, each (...).

    >>> [float(each) for each in hues(np.array([0, 255, 0], np.uint8))]
    [120.0, 1.0, 1.0]
    """
    colours = pixels.astype(np.float64) / 255
    value, spread = colours.max(-1), np.ptp(colours, axis=-1)
    red, green, blue = np.moveaxis(colours, -1, 0)
    safe = np.where(spread > 0, spread, 1)
    sector = np.select(
        [value == red, value == green], [(green - blue) / safe, 2 + (blue - red) / safe], 4 + (red - green) / safe
    )
    hue = np.where(spread > 0, 60 * sector % 360, 0)
    return hue, np.where(value > 0, spread / np.where(value > 0, value, 1), 0), value
