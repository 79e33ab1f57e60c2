"""Error maps as tiny PNG images, in a palette that orders by lightness.

Lightness rises linearly in OKLab (Ottosson 2020, a perceptually uniform color space), from dark blue through teal to
pale yellow: equal steps of the error look equally large, also to color-blind eyes and on gray paper.
"""

from __future__ import annotations

import base64
import io
import math
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

NOT_FINITE = (213, 0, 132)  # magenta: nowhere near the palette
_STEPS = 256
_STOPS = 9  # of the CSS gradient
_LIGHTNESS = (0.22, 0.95)
_HUE_DEGREES = (270.0, 100.0)
_CHROMA = 0.11
# OKLab -> cube roots of LMS, and LMS -> linear sRGB: the two matrices of the definition.
_TO_LMS = np.array(
    [[1, 0.3963377774, 0.2158037573], [1, -0.1055613458, -0.0638541728], [1, -0.0894841775, -1.2914855480]]
)
_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def _palette() -> npt.NDArray[np.uint8]:
    at = np.linspace(0, 1, _STEPS)
    lightness = np.interp(at, (0, 1), _LIGHTNESS)
    hue = np.radians(np.interp(at, (0, 1), _HUE_DEGREES))
    linear = np.empty((_STEPS, 3))
    missing = np.ones(_STEPS, bool)
    for chroma in np.linspace(_CHROMA, 0, 56):  # the most colorful that sRGB can show at this lightness
        lab = np.stack([lightness, chroma * np.cos(hue), chroma * np.sin(hue)], axis=1)
        shown = (lab @ _TO_LMS.T) ** 3 @ _TO_RGB.T
        fits = missing & np.all((shown >= 0) & (shown <= 1), axis=1)
        linear[fits] = shown[fits]
        missing &= ~fits
    # The transfer function of sRGB (IEC 61966-2-1).
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    palette: npt.NDArray[np.uint8] = np.round(255 * encoded).astype(np.uint8)
    return palette


PALETTE = _palette()


def css_gradient() -> str:
    """The palette as a CSS gradient, left (no error) to right (largest)."""
    colors = [PALETTE[round(index * (_STEPS - 1) / (_STOPS - 1))] for index in range(_STOPS)]
    return f"linear-gradient(to right,{','.join('#' + bytes(color).hex() for color in colors)})"


def png_uri(grid: npt.NDArray[Any], top: float) -> str:
    """A grid of errors, shape (rows, columns), as a ``data:`` URI of a PNG with one pixel per cell.

    Args:
        grid: errors, not negative; cells that are not finite become `NOT_FINITE`.
        top: the error that gets the palette's last color.
    """
    finite = np.isfinite(grid)
    part = np.where(finite, grid, 0.0) / top if top > 0 and math.isfinite(top) else np.zeros_like(grid)
    pixels = PALETTE[np.clip(part * (_STEPS - 1), 0, _STEPS - 1).astype(np.intp)]
    pixels[~finite] = NOT_FINITE
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode("ascii")
