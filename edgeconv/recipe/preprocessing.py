"""An image file -> the input of a classifier, exactly as the recipe declares it."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from edgeconv.core import Array
from edgeconv.errors import RecipeError
from edgeconv.recipe.schema import Preprocessing

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def preprocess(path: Path, preprocessing: Preprocessing, *, where: str = "") -> Array:
    """Reads an image and turns it into the module's input.

    In this order: EXIF orientation, colour, resize, centre crop, ``(pixel * rescale - mean) / std`` in float64.

    Returns:
        float32, (1, C, H, W).

    Raises:
        RecipeError: not an image, more than 8 bits per channel, or smaller than the crop.
    """
    image = _open(path, where)
    image = image.convert("L" if preprocessing.colour == "gray" else "RGB")
    image = _resized(image, preprocessing)
    if preprocessing.center_crop is not None:
        image = _cropped(image, _pair(preprocessing.center_crop), path, where)
    pixels = np.asarray(image, dtype=np.float64)
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if preprocessing.colour == "bgr":
        pixels = pixels[..., ::-1]
    values = (pixels * preprocessing.rescale - np.asarray(preprocessing.mean)) / np.asarray(preprocessing.std)
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None], dtype=np.float32)


def _open(path: Path, where: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as file:
                mode = file.mode
                image = ImageOps.exif_transpose(file)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise RecipeError(f"{path.name}: {error}", where=where, mend="use a smaller image") from error
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:  # Pillow: SyntaxError is a broken PNG
        raise RecipeError(
            f"{path.name} is no readable image: {error}", where=where, mend="use a file that Pillow can open"
        ) from error
    if mode in _DEEP_MODES:
        raise RecipeError(
            f"{path.name} has more than 8 bits per channel (mode {mode})", where=where, mend="save it with 8 bits"
        )
    return image


def _resized(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    if preprocessing.resize is None:
        return image
    if isinstance(preprocessing.resize, tuple):
        height, width = preprocessing.resize
    else:
        # The shorter side becomes exactly this; the longer one is rounded down, as torchvision does it.
        short, (w, h) = preprocessing.resize, image.size
        width, height = (short, short * h // w) if w <= h else (short * w // h, short)
    return image.resize((width, height), _FILTERS[preprocessing.interpolation])


def _cropped(image: Image.Image, size: tuple[int, int], path: Path, where: str) -> Image.Image:
    height, width = size
    if image.height < height or image.width < width:
        raise RecipeError(
            f"{path.name} is {image.height}x{image.width} before a crop of {height}x{width}",
            where=where,
            mend="set preprocessing.resize to at least the crop",
        )
    top, left = (image.height - height) // 2, (image.width - width) // 2
    return image.crop((left, top, left + width, top + height))


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)
