"""Names of colours, and the colour that a traffic light shows."""

from __future__ import annotations

import colorsys

import numpy as np

HUES = (  # upper limit of each hue in degrees; red again beyond the last
    (15.0, "red"),
    (42.0, "orange"),
    (70.0, "yellow"),
    (165.0, "green"),
    (255.0, "blue"),
    (330.0, "purple"),
)
GREY = 0.22  # saturation below which a colour has no hue
BLACK, WHITE = 0.27, 0.75  # value below and above which a colour without hue is black or white

RED_HUES = (320.0, 20.0)  # degrees, from and to, through 0
GREEN_HUES, YELLOW_HUES = (80.0, 190.0), (30.0, 70.0)
LIT = 0.4  # least value times saturation, 0 to 1, of a lit pixel
YELLOW_LIT = 0.85  # least value of a lit yellow pixel: the housing of the lamps is yellow too, but darker


def colour_name(colour: tuple[int, int, int]) -> str:
    """Return the common name of an RGB colour: black, grey, white, red, orange, yellow, green, blue or purple.

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
    """Return the colour that a traffic light shows: red, yellow, green, or none if it is dark.

    Red or green, whichever shines more; yellow if neither shines. `pixels` (h,w,3) uint8 are those of its box.

    >>> light_colour(np.full((4, 4, 3), (20, 230, 60), np.uint8))
    'green'
    """
    hue, saturation, value = hsv(pixels)
    brightness = value * saturation
    lit = brightness > LIT
    red = brightness[lit & is_red(hue)].sum()
    green = brightness[lit & (hue > GREEN_HUES[0]) & (hue < GREEN_HUES[1])].sum()
    yellow = lit & (hue > YELLOW_HUES[0]) & (hue < YELLOW_HUES[1]) & (value > YELLOW_LIT)
    if max(red, green) > 0:
        return "red" if red > green else "green"
    return "yellow" if yellow.any() else "none"


def is_red(hue: np.ndarray) -> np.ndarray:
    """Return where a hue in degrees is red.

    >>> is_red(np.array([0.0, 90.0, 350.0])).tolist()
    [True, False, True]
    """
    return (hue > RED_HUES[0]) | (hue < RED_HUES[1])


def hsv(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Convert RGB pixels (...,3) uint8 to hue (degrees), saturation and value (0 to 1), each (...).

    >>> [float(channel) for channel in hsv(np.array([0, 255, 0], np.uint8))]
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
