"""An image file -> the input of a classifier, exactly as the recipe declares it."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from edgeconv.core import Array
from edgeconv.errors import RecipeError, is_own_fault
from edgeconv.recipe.foreign import foreign_line
from edgeconv.recipe.inputs import Preprocessing

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
# What cameras and data sets hold. Pillow knows more, and hands some of them (EPS) to other programs.
_FORMATS = ("BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
MAX_PIXELS = 2**26
"""The most pixels of a decoded or resized image (8192 x 8192); a tiny file may declare more than memory holds."""
# Without a handler, what Pillow logs of a damaged file lands on stderr beside our one line.
logging.getLogger("PIL").addHandler(logging.NullHandler())
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def preprocess(path: Path, preprocessing: Preprocessing, *, where: str = "") -> Array:
    """Reads an image and turns it into the module's input.

    In this order: EXIF orientation, colour, resize, center crop, ``(pixel * rescale - mean) / std`` in float64.

    Returns:
        float32, (1, C, H, W).

    Raises:
        RecipeError: not an image, more than 8 bits per channel, more than `MAX_PIXELS`, smaller than the crop, or
            the values are beyond float32.
    """
    image = _in_colour(_open(path, where), preprocessing)
    image = _resized(image, preprocessing, path, where)
    if preprocessing.center_crop is not None:
        image = _cropped(image, _pair(preprocessing.center_crop), path, where)
    return _values(image, preprocessing, path, where)


def random_crops(
    path: Path,
    preprocessing: Preprocessing,
    size: tuple[int, int],
    count: int,
    generator: np.random.Generator,
    *,
    where: str = "",
) -> Iterator[Array]:
    """Random crops of an image, resized to the module's input: many calibration inputs from few photographs.

    Each covers 20 to 100 % of the image's area, with sides of 3:4 to 4:3, at a uniform place, mirrored or not, as
    networks see images in training (Szegedy et al. 2015, Going Deeper with Convolutions, section 6).

    Args:
        path: an image file.
        preprocessing: its ``resize`` and ``center_crop`` are not used.
        size: height and width of what comes out.
        count: how many.
        generator: of all that is drawn.
        where: how an error names the file.

    Yields:
        float32, (1, C, H, W).

    Raises:
        RecipeError: as `preprocess`.
    """
    image = _in_colour(_open(path, where), preprocessing)
    for _ in range(count):
        area = generator.uniform(0.2, 1.0) * image.width * image.height
        # Uniform in the logarithm, so that 3:4 is as likely as 4:3.
        aspect = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
        width = max(1, min(image.width, round(float(np.sqrt(area * aspect)))))
        height = max(1, min(image.height, round(float(np.sqrt(area / aspect)))))
        left, top = (int(generator.integers(0, rest + 1)) for rest in (image.width - width, image.height - height))
        box = (left, top, left + width, top + height)
        part = image.resize(size[::-1], _FILTERS[preprocessing.interpolation], box=box)
        if generator.integers(2):
            part = ImageOps.mirror(part)
        yield _values(part, preprocessing, path, where)


def _in_colour(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    return image.convert("L" if preprocessing.colour == "gray" else "RGB")


def _values(image: Image.Image, preprocessing: Preprocessing, path: Path, where: str) -> Array:
    """The image as the module's input, (1, C, H, W) float32; finite, else it is refused."""
    values = _normalized(np.atleast_3d(np.asarray(image)), preprocessing)
    if not np.isfinite(values).all():
        what = f"{path.name} becomes NaN or Inf in float32"
        raise RecipeError(what, where=where, hint="correct preprocessing.rescale, mean and std")
    return values


def _normalized(pixels: Array, preprocessing: Preprocessing) -> Array:
    """(H, W, C) uint8 -> (1, C, H, W) float32; each of the 256 values that a pixel can have is computed once."""
    if preprocessing.colour == "bgr":
        pixels = pixels[..., ::-1]
    height, width, channels = pixels.shape
    means, stds = (np.broadcast_to(value, channels) for value in (preprocessing.mean, preprocessing.std))
    values = np.empty((1, channels, height, width), np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # the caller looks for what they leave
        for channel in range(channels):
            scaled = np.arange(256) * preprocessing.rescale
            values[0, channel] = ((scaled - means[channel]) / stds[channel]).astype(np.float32)[pixels[..., channel]]
    return values


def _open(path: Path, where: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the size, which is judged here, and of damaged metadata
            with Image.open(path, formats=_FORMATS) as file:
                _check_pixels(*file.size, f"{path.name} has", where, "use a smaller image")
                mode, deep = file.mode, file.mode in _DEEP_MODES or any(map(_is_deep, getattr(file, "tile", ())))
                image = ImageOps.exif_transpose(file)
    except RecipeError:
        raise
    except Image.DecompressionBombError as error:
        what = f"{path.name} has more than {MAX_PIXELS} pixels"
        raise RecipeError(what, where=where, hint="use a smaller image") from error
    except UnidentifiedImageError as error:
        what = f"{path.name} is no readable image"
        raise RecipeError(what, where=where, hint=f"use one of {', '.join(_FORMATS)}") from error
    except Exception as error:  # of a damaged file Pillow raises OSError, SyntaxError, ValueError, struct.error, …
        if is_own_fault(error):
            raise
        what = f"{path.name} is no readable image: {foreign_line(str(error))}"
        raise RecipeError(what, where=where, hint="save it again") from error
    if deep:
        what = f"{path.name} has more than 8 bits per channel (mode {mode})"
        raise RecipeError(what, where=where, hint="save it with 8 bits")
    return image


def _is_deep(tile: Any) -> bool:
    """Whether the file has 16 bits per channel, of which Pillow silently drops half in colour images."""
    decoder, arguments = tile[0], tile[3] if isinstance(tile[3], tuple) else (tile[3],)
    raw_mode = any(isinstance(word, str) and ";16" in word for word in arguments)
    return raw_mode or (decoder.startswith("ppm") and any(isinstance(most, int) and most > 255 for most in arguments))


def _check_pixels(width: int, height: int, says: str, where: str, hint: str) -> None:
    if width * height > MAX_PIXELS:
        raise RecipeError(f"{says} {height}x{width} pixels, more than {MAX_PIXELS}", where=where, hint=hint)


def _resized(image: Image.Image, preprocessing: Preprocessing, path: Path, where: str) -> Image.Image:
    if preprocessing.resize is None:
        return image
    if isinstance(preprocessing.resize, tuple):
        height, width = preprocessing.resize
    else:
        # The shorter side becomes exactly this; the longer one is rounded down, as torchvision does it.
        short, (w, h) = preprocessing.resize, image.size
        width, height = (short, short * h // w) if w <= h else (short * w // h, short)
    _check_pixels(width, height, f"{path.name} would be resized to", where, "lower preprocessing.resize")
    return image.resize((width, height), _FILTERS[preprocessing.interpolation])


def _cropped(image: Image.Image, size: tuple[int, int], path: Path, where: str) -> Image.Image:
    height, width = size
    if image.height < height or image.width < width:
        what = f"{path.name} is {image.height}x{image.width} before a crop of {height}x{width}"
        raise RecipeError(what, where=where, hint="set preprocessing.resize to at least the crop")
    top, left = (image.height - height) // 2, (image.width - width) // 2
    return image.crop((left, top, left + width, top + height))


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return value if isinstance(value, tuple) else (value, value)
