"""What a recipe names, as finished values: paths are resolved and files are read, so that the flow gets values."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path

from edgeconv.core.named_files import read_named
from edgeconv.errors import RecipeError
from edgeconv.recipe.files import locate
from edgeconv.recipe.imports import importing_from
from edgeconv.recipe.schema import Recipe


def onnx_path(recipe: Recipe) -> Path | None:
    """The ``.onnx`` file that a recipe exports, or that stands in a recipe's place; None where it names a module.

    Raises:
        RecipeError: the file is not there.
    """
    if recipe.model.onnx is None:
        return None
    path = recipe.directory / recipe.model.onnx
    if path == recipe.path:
        return path
    return locate(recipe.model.onnx, recipe.directory, where=f"{recipe.path}: model.onnx")


def plan_text(recipe: Recipe) -> tuple[str, Path | None]:
    """The JSON of the quantization plan that a recipe names, and its path; ``""`` and None where it names none.

    Raises:
        RecipeError: the file is not there, or is no text.
    """
    name, where = recipe.quantize.plan, f"{recipe.path}: quantize.plan"
    if name is None:
        return "", None
    path = locate(name, recipe.directory, where=where)
    try:
        return read_named(path, kind="plan's .json", error=RecipeError).decode(), path
    except UnicodeDecodeError as error:
        what = f"is no JSON: it is not UTF-8 at byte {error.start}"
        raise RecipeError(what, where=str(path), hint="name a plan as an export wrote it") from error


def in_float32(recipe: Recipe) -> Recipe:
    """The recipe with float32 for every floating input: files take that, whatever the module takes."""
    inputs = tuple(
        item.model_copy(update={"dtype": "float32"}) if item.dtype.startswith("float") else item
        for item in recipe.inputs
    )
    return recipe.model_copy(update={"inputs": inputs})


def seeds_of(recipe: Recipe) -> dict[str, str]:
    """The seeds of the model and of the parity inputs, for the report."""
    model = {} if recipe.model.onnx is not None else {"model seed": str(recipe.model.seed)}
    return {**model, "input seeds": ", ".join(str(item.seed) for item in recipe.parity.random) or "none"}


def own_imports(recipe: Recipe) -> Callable[[], AbstractContextManager[None]]:
    """Makes the context that the module's code runs in: imports find files beside the recipe, even during forward."""
    return partial(importing_from, recipe.directory)
