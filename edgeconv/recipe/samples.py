"""The inputs that parity is judged on: seeded noise, image files, rows of arrays."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import numpy as np

from edgeconv.core import Array, Sample
from edgeconv.core.domain import Domain, draw
from edgeconv.core.layouts import hint_to_move
from edgeconv.errors import RecipeError
from edgeconv.recipe.arrays import names_of, read_arrays
from edgeconv.recipe.fields import MAX_CLASS_INDEX
from edgeconv.recipe.files import locate
from edgeconv.recipe.inputs import ArrayInputs, ImageInputs, RandomInputs
from edgeconv.recipe.schema import Input, Recipe
from edgeconv.recipe.wording import place_of

_Inputs = TypeVar("_Inputs", ImageInputs, ArrayInputs, RandomInputs)
_USUAL_SCALE = 2  # a scale up to this is about floats; a larger one also bounds integers

Domains = Callable[[], Mapping[str, Domain]]
"""Tells what inputs of integers may hold, by name; called only where noise is drawn for one."""


def nothing_known() -> Mapping[str, Domain]:
    """No domain, of any input."""
    return MappingProxyType({})


def parity_samples(
    recipe: Recipe, variants: Collection[str] = (), domains: Domains = nothing_known
) -> tuple[Sample, ...]:
    """Makes every parity input that the recipe declares for one of `variants` (empty: all); names are unique.

    Symbolic dimensions become 1. A recipe that declares none gets one sample of noise, seed 0; see `from_noise`.

    Args:
        recipe: with its inputs stated.
        variants: that the inputs are for.
        domains: what those of integers may hold.

    Raises:
        RecipeError: a file is missing or damaged, or does not fit the inputs; values would be NaN, Inf or altered.
    """
    parity = recipe.parity
    samples: list[Sample] = []
    for index, images in _declared_for(parity.images, variants):
        samples += from_images(recipe, images, f"{recipe.path}: parity.images[{index}]")
    for index, arrays in _declared_for(parity.arrays, variants):
        samples += from_arrays(recipe, arrays, place_of(recipe.path, f"parity.arrays[{index}]"))
    stated = parity.images or parity.arrays or parity.random
    for index, item in _declared_for(parity.random if stated else (RandomInputs(),), variants):
        samples += from_noise(recipe.inputs, item, f"{recipe.path}: parity.random[{index}]", domains)
    return tuple(_uniquely_named(samples))


def _declared_for(items: Iterable[_Inputs], variants: Collection[str]) -> Iterator[tuple[int, _Inputs]]:
    """The declared inputs that are for these variants, each with its index in the recipe."""
    for index, item in enumerate(items):
        if not variants or not item.variants or set(variants).intersection(item.variants):
            yield index, item


def from_noise(
    inputs: tuple[Input, ...], noise: RandomInputs, where: str, domains: Domains = nothing_known
) -> Iterator[Sample]:
    """Samples of seeded noise: standard normal floats times the scale, and integers that their readers take.

    A scale beyond 2 says, too, that integers which nothing else bounds are from 0 to below it.

    Args:
        inputs: of the model.
        noise: what the recipe says of it.
        where: it says so, for errors.
        domains: what inputs of integers may hold.
    """
    generator = np.random.default_rng(noise.seed)
    name = f"random-{noise.seed}-scale-{noise.scale:g}"
    by_input = domains() if any(np.dtype(item.dtype).kind in "iu" for item in inputs) else {}
    below = int(min(noise.scale, 2**53)) if noise.scale > _USUAL_SCALE else None
    for index in range(noise.count):
        drawn: dict[str, Array] = {}
        for at, item in enumerate(inputs):
            if np.dtype(item.dtype).kind in "iu":
                domain, seed = by_input.get(item.name, Domain()), [noise.seed, index, at]
                drawn[item.name] = draw(domain, item.static_shape, item.dtype, seed, below=below)
            else:
                drawn[item.name] = _draw(item, noise.scale, generator, where)
        yield Sample(
            name=f"{name}[{index}]" if noise.count > 1 else name,
            inputs=drawn,
            scale=noise.scale,
            variants=noise.variants,
        )


def _draw(item: Input, scale: float, generator: np.random.Generator, where: str) -> Array:
    """Noise for an input of floats or booleans."""
    shape, dtype = item.static_shape, np.dtype(item.dtype)
    if dtype.kind == "b":
        return generator.integers(0, 2, shape).astype(dtype)
    with np.errstate(over="ignore"):  # what it leaves is refused
        values = np.asarray(generator.standard_normal(shape) * scale, dtype=dtype)
    if not np.isfinite(values).all():
        raise RecipeError(f"scale {scale:g} gives Inf in {item.dtype}", where=where, hint="lower scale")
    return values


def from_images(recipe: Recipe, images: ImageInputs, where: str) -> Iterator[Sample]:
    """One sample per image file, preprocessed as the recipe declares."""
    from edgeconv.recipe.preprocessing import preprocess  # Pillow

    if recipe.preprocessing is None:
        raise RecipeError("there is no [preprocessing] table", where=where, hint="declare how images are read")
    item = image_input(recipe, where)
    for index, name in enumerate(images.files):
        place = f"{where}.files[{index}]"
        path = locate(name, recipe.directory, where=place)
        array = preprocess(path, recipe.preprocessing, where=place)
        if array.shape != item.static_shape or item.dtype != "float32":
            raise RecipeError(
                f"{path.name} becomes float32 {array.shape} and the input {item.name!r} is {item.dtype} "
                f"{item.static_shape}",
                where=place,
                hint="correct [preprocessing] or the input's shape",
            )
        label = None if images.labels is None else images.labels[index]
        yield Sample(name=path.name, inputs={item.name: array}, label=label, variants=images.variants)


def image_input(recipe: Recipe, where: str) -> Input:
    """The input that images are given to.

    Raises:
        RecipeError: there are several.
    """
    if len(recipe.inputs) != 1:
        what = f"images are one input, and there are {len(recipe.inputs)} ({', '.join(i.name for i in recipe.inputs)})"
        raise RecipeError(what, where=where, hint="save an .npz with an array per input, and name it under arrays")
    return recipe.inputs[0]


def from_arrays(recipe: Recipe, arrays: ArrayInputs, where: str) -> Iterator[Sample]:
    """Samples from the rows of an array file, each with as many rows as the inputs' batch."""
    path = locate(arrays.file, recipe.directory, where=where)
    stored = read_arrays(path, where=where)
    columns = {
        item.name: _rows(_array_of(stored, item, arrays, recipe, path, where), item, path, where)
        for item in recipe.inputs
    }
    counts = {len(rows) for rows in columns.values()}
    if len(counts) != 1:
        what = f"{path.name} holds {sorted(counts)} samples for its inputs"
        raise RecipeError(what, where=where, hint="save as many of each")
    count = counts.pop()
    labels = _labels(stored, arrays, count, path, where)
    for index in range(count):
        yield Sample(
            name=f"{path.stem}[{index}]" if count > 1 else path.stem,
            inputs={name: rows[index] for name, rows in columns.items()},
            scale=arrays.scale,
            label=None if labels is None else int(labels[index]),
            variants=arrays.variants,
        )


def _array_of(
    stored: Mapping[str, Array], item: Input, arrays: ArrayInputs, recipe: Recipe, path: Path, where: str
) -> Array:
    key = "" if path.suffix == ".npy" else arrays.key or item.name
    if len(recipe.inputs) > 1 and (arrays.key or not key):
        what = f"{arrays.file} gives one array to {len(recipe.inputs)} inputs"
        hint = "save an .npz with an array per input, under the input's name, and give no key"
        raise RecipeError(what, where=where, hint=hint)
    if key not in stored:
        what = f"{path.name} has no array {key!r}, but: {names_of(stored)}"
        raise RecipeError(what, where=where, hint="correct the key" if arrays.key else "save each input under its name")
    return stored[key]


def _rows(array: Array, item: Input, path: Path, where: str) -> list[Array]:
    """Cuts an array of N rows into N / batch samples."""
    shape = item.static_shape
    batch = shape[0] if shape else 1
    if array.ndim != len(shape) or array.shape[1:] != shape[1:] or not len(array) or len(array) % batch:
        what = f"{path.name} holds {array.shape}, which does not fit the input {item.name!r} of {shape}"
        saved = f"save an array of shape {('N', *shape[1:])}".replace("'", "")
        raise RecipeError(what, where=where, hint=hint_to_move(array.shape, ("N", *shape[1:])) or saved)
    if not np.can_cast(array.dtype, item.dtype, "same_kind"):
        what = f"{path.name} holds {array.dtype} and the input {item.name!r} takes {item.dtype}"
        raise RecipeError(what, where=where, hint=f"save it as {item.dtype}")
    array = _cast(array, item, path, where)
    return [array[start : start + batch] for start in range(0, len(array), batch)]


def _cast(array: Array, item: Input, path: Path, where: str) -> Array:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise RecipeError(f"{path.name} holds NaN or Inf", where=where, hint="save finite values")
    with np.errstate(over="ignore"):  # what it leaves is refused
        cast = np.ascontiguousarray(array, dtype=item.dtype)
    # Rounding to a float type is fine, since every device gets the same values; a wrapped integer is another value.
    sound = np.isfinite(cast).all() if cast.dtype.kind == "f" else np.array_equal(cast, array)
    if not sound:
        what = f"{path.name} holds values of {array.dtype} that {item.dtype} cannot hold"
        raise RecipeError(what, where=where, hint=f"save it as {item.dtype}")
    return cast


def _labels(stored: Mapping[str, Array], arrays: ArrayInputs, count: int, path: Path, where: str) -> Array | None:
    """The class index of each of ``count`` samples; None where the recipe names no labels."""
    if arrays.labels is None:
        return None
    labels = stored.get(arrays.labels)
    if labels is None:
        what = f"{path.name} has no array {arrays.labels!r}, but: {names_of(stored)}"
        raise RecipeError(what, where=where, hint="correct labels")
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        what = f"{arrays.labels!r} in {path.name} is {labels.dtype} {labels.shape}"
        raise RecipeError(what, where=where, hint=f"save one integer class index per sample: ({count},)")
    wrong = labels[(labels < 0) | (labels > MAX_CLASS_INDEX)]
    if wrong.size:
        what = f"{arrays.labels!r} in {path.name} holds {wrong[0]}, which is no class index"
        hint = "save indices from 0, and give samples without one a file of their own without labels"
        raise RecipeError(what, where=where, hint=hint)
    return labels


def _uniquely_named(samples: list[Sample]) -> Iterator[Sample]:
    seen: dict[str, int] = {}
    for sample in samples:
        times = seen[sample.name] = seen.get(sample.name, 0) + 1
        if times == 1:
            yield sample
        else:
            yield replace(sample, name=f"{sample.name}#{times}")
