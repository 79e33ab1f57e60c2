"""The data that int8 variants are calibrated on, as the recipe names it or a caller's function gives it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgeconv.core import Array
from edgeconv.core.layouts import hint_to_move
from edgeconv.core.values import kind_of
from edgeconv.errors import EdgeconvError, QuantizeError, RecipeError, raise_if_ending
from edgeconv.recipe.factory import resolved
from edgeconv.recipe.files import locate
from edgeconv.recipe.foreign import clause_of, prints_to_stderr
from edgeconv.recipe.imports import importing_from
from edgeconv.recipe.inputs import ImageInputs, RandomInputs
from edgeconv.recipe.quantization import CalibrationImages
from edgeconv.recipe.samples import Domains, from_arrays, from_images, from_noise, image_input, nothing_known
from edgeconv.recipe.schema import Input, Recipe

_IMAGES = (".bmp", ".gif", ".jpeg", ".jpg", ".jp2", ".png", ".ppm", ".tif", ".tiff", ".webp")
_NOISE = RandomInputs(seed=0, count=16)  # where a recipe names no data
_END = object()  # what `next` gives behind the last batch; a batch itself may be None


def calibration_batches(recipe: Recipe, domains: Domains = nothing_known) -> Iterator[Mapping[str, Array]]:
    """Yields calibration data one inference at a time; only one batch is in memory.

    Args:
        recipe: whose ``[quantize]`` names the data; without any, 16 batches of noise. States every input.
        domains: what those of integers may hold, where they are noise.

    Yields:
        An array per input, by name, of the input's shape (1 for an open batch) and dtype.

    Raises:
        RecipeError: a file or the generator is missing, damaged, or does not fit the inputs.
    """
    data, where = recipe.quantize, f"{recipe.path}: quantize"
    for index, images in enumerate(data.images):
        yield from _from_images(recipe, images, f"{where}.images[{index}]")
    for index, arrays in enumerate(data.arrays):
        for sample in from_arrays(recipe, arrays, f"{where}.arrays[{index}]"):
            yield sample.inputs
    if data.generator is not None:
        yield from _generated(recipe, data.generator, f"{where}.generator")
    some = data.images or data.arrays or data.generator
    for index, noise in enumerate(data.random or (() if some else (_NOISE,))):
        for sample in from_noise(recipe.inputs, noise, f"{where}.random[{index}]", domains):
            yield sample.inputs


def names_data(recipe: Recipe) -> bool:
    """Whether the recipe names any calibration data; noise counts."""
    data = recipe.quantize
    return bool(data.images or data.arrays or data.generator or data.random)


def checked_batches(batches: Callable[[], Iterable[Mapping[str, Array]]]) -> Iterator[Mapping[str, Array]]:
    """The batches that the user's function gives, each checked to be NumPy arrays by input name.

    Raises:
        QuantizeError: it raises, or gives something other than arrays of numpy by name.
    """
    index = 0
    try:
        for index, batch in enumerate(batches(), 1):
            for value in batch.values():
                if not isinstance(value, np.ndarray) or not value.dtype.isnative:  # onnxruntime never swaps bytes
                    kind = f"a {value.dtype.str} array" if isinstance(value, np.ndarray) else kind_of(value)
                    what = f"batch {index} holds {kind}"
                    raise QuantizeError(what, where="calibration data", hint="give arrays of numpy of native bytes")
            yield batch
    except (EdgeconvError, GeneratorExit):  # the latter where the reader stops before the data end
        raise
    except BaseException as error:  # the user's own code may raise anything
        raise_if_ending(error)
        did, colon, text = clause_of(error).partition(":")
        what = f"it {did} after {index} batches{colon}{text}"
        raise QuantizeError(what, where="calibration data", hint="give mappings from input names to arrays") from error


def _from_images(recipe: Recipe, images: CalibrationImages, where: str) -> Iterator[Mapping[str, Array]]:
    files = [*images.files, *_in_folder(recipe, images, where)]
    if not images.crops:
        for sample in from_images(recipe, ImageInputs(files=tuple(files)), where):
            yield sample.inputs
        return
    from edgeconv.recipe.preprocessing import random_crops  # Pillow

    item = image_input(recipe, where)
    if recipe.preprocessing is None or len(item.static_shape) != 4 or item.dtype != "float32":
        what = f"crops of images do not fit the input {item.name!r}, {item.dtype} {item.static_shape}"
        raise RecipeError(what, where=where, hint="declare [preprocessing] and one float32 input of shape (1, C, H, W)")
    generator = np.random.default_rng(images.seed)
    for index, name in enumerate(files):
        place = f"{where}.files[{index}]"
        path = locate(name, recipe.directory, where=place)
        size = (item.static_shape[2], item.static_shape[3])
        for array in random_crops(path, recipe.preprocessing, size, images.crops, generator, where=place):
            yield {item.name: _checked_array(array, item, place)}


def _in_folder(recipe: Recipe, images: CalibrationImages, where: str) -> list[str]:
    """The images of the folder in the order of their names, as absolute paths."""
    if images.folder is None:
        return []
    folder = recipe.directory / Path(images.folder).expanduser()
    if not folder.is_dir():
        is_file = folder.is_file()
        what = f"{images.folder!r} is a file" if is_file else f"there is no folder {images.folder!r}"
        raise RecipeError(what, where=where, hint="name it under files" if is_file else "correct the name")
    paths = sorted(str(path.resolve()) for path in folder.iterdir() if path.suffix.lower() in _IMAGES)
    if not paths:
        what = f"the folder {images.folder!r} holds no images"
        raise RecipeError(what, where=where, hint=f"put {', '.join(_IMAGES)} files there")
    return paths


def _generated(recipe: Recipe, name: str, where: str) -> Iterator[Mapping[str, Array]]:
    """The batches that the user's generator yields, checked against names, shapes and dtypes of the inputs."""
    make = resolved(name, recipe.directory, where=where)
    # Both making the iterator and each step run the user's code.
    iterator = _guarded(lambda: iter(make()), recipe, where)
    index = 0
    while True:
        batch = _guarded(lambda: next(iterator, _END), recipe, where)
        if batch is _END:
            break
        yield _by_input(batch, recipe.inputs, f"{where}, batch {index}")
        index += 1
    if not index:
        raise RecipeError("it yields nothing", where=where, hint="yield arrays, or mappings from input names")


def _guarded(function: Any, recipe: Recipe, where: str) -> Any:
    try:
        with prints_to_stderr(), importing_from(recipe.directory):
            return function()
    except BaseException as error:  # the user's own code may raise anything
        raise_if_ending(error)
        raise RecipeError(f"it {clause_of(error)}", where=where, hint="correct the generator") from error


def _by_input(batch: Any, inputs: tuple[Input, ...], where: str) -> Mapping[str, Array]:
    if not isinstance(batch, Mapping):
        if len(inputs) != 1:
            raise RecipeError("it is one array for several inputs", where=where, hint="yield a mapping")
        batch = {inputs[0].name: batch}
    names = [item.name for item in inputs]
    if sorted(batch) != sorted(names):
        raise RecipeError(f"it names {sorted(batch)}", where=where, hint=f"name {', '.join(names)}")
    return {item.name: _checked_array(np.asarray(batch[item.name]), item, where) for item in inputs}


def _checked_array(array: Array, item: Input, where: str) -> Array:
    if array.shape != item.static_shape or array.dtype != np.dtype(item.dtype):
        what = f"it is {array.dtype} {array.shape}"
        moved = hint_to_move(array.shape, item.static_shape)
        raise RecipeError(what, where=where, hint=moved or f"give {item.dtype} {item.static_shape}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise RecipeError("it holds NaN or Inf", where=where, hint="give finite numbers")
    return array
