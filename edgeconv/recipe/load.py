"""Reads a TOML file into a Recipe; every mistake is one line with file, field and hint."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgeconv.core import values
from edgeconv.core.named_files import is_onnx, read_named
from edgeconv.errors import RecipeError
from edgeconv.recipe.fields import MAX_NAME
from edgeconv.recipe.schema import Recipe
from edgeconv.recipe.wording import dotted, first_error

MAX_RECIPE_BYTES = 2**20
MAX_DEPTH = 16

_TO_WEIGHTS = "write a recipe (.toml) that names it as weights: edgeconv init"
_OTHER_FILES: Mapping[str, str] = {
    ".tflite": "give a recipe (.toml) or an .onnx file",
    ".py": "write a recipe (.toml) that names its class or function: edgeconv init",
    **dict.fromkeys((".pt", ".pth", ".ckpt", ".bin", ".safetensors"), _TO_WEIGHTS),
}
"""What is given in place of a recipe by mistake, and what to do with it."""
_MOST_TABLES = 1000  # in one list; the schema tells what each of them lacks
_LONGEST_KEY = 1000  # parts of a dotted key, which the parser reads in the square of their number
# Strings, bare words, blanks, or any other character; possessive quantifiers, as nothing is ever matched differently.
_PARTS = re.compile(r""""(?:[^"\\\n]|\\.)*+"?|'[^'\n]*+'?|[A-Za-z0-9_-]++|[ \t]++|.""", re.DOTALL)
_INTEGERS = range(-(2**63), 2**63)  # TOML 1.0: 64 bits


def load_recipe(path: str | Path) -> Recipe:
    """Reads and checks a recipe; nothing that it names is opened yet.

    Args:
        path: the TOML file, in UTF-8 with or without a byte order mark; at most 1 MiB.

    Raises:
        RecipeError: the file is missing, is not TOML, or breaks the schema.
    """
    path = values.path(path, "path", RecipeError, hint="give the path of a .toml file")
    if is_onnx(path):
        what = "it is an .onnx file, and a recipe is wanted"
        hint = f'write a .toml file with name = "…" and model.onnx = "{path.name}"'
        raise RecipeError(what, where=str(path), hint=hint)
    if hint := _OTHER_FILES.get(path.suffix.lower(), ""):
        raise RecipeError(f"it is a {path.suffix} file by its name, and a recipe is wanted", where=str(path), hint=hint)
    return read_recipe(_read(path), path)


def read_recipe(text: str, path: Path) -> Recipe:
    """The recipe that a text states, as if it lay at `path`.

    Raises:
        RecipeError: it is not TOML, or breaks the schema.
    """
    data = _parse(text, path)
    if "path" in data:
        raise RecipeError("unknown key 'path'", where=str(path), hint="remove it")
    return _checked({**data, "path": path})


def onnx_recipe(
    path: Path, *, shapes: Mapping[str, tuple[int | str, ...]] | None = None, arrays: Path | None = None
) -> Recipe:
    """The recipe of an ``.onnx`` file that has none, with defaults for all else.

    Args:
        path: the file; the recipe is named after it. It is not opened yet.
        shapes: of the inputs that the file leaves open, by name; a str in front is a batch that stays open.
        arrays: an ``.npz`` (or ``.npy``) file with parity inputs in place of noise.

    Raises:
        RecipeError: the shapes or the name of the arrays' file cannot be used.
    """
    path = Path(path)
    inputs = tuple({"name": name, "shape": shape} for name, shape in (shapes or {}).items())
    parity = {"arrays": ({"file": str(arrays.resolve())},)} if arrays is not None else {}
    name = re.sub(r"[^A-Za-z0-9_.-]+", "_", path.stem).lstrip(".-")[:MAX_NAME] or "model"
    return _checked({"name": name, "path": path, "model": {"onnx": path.name}, "inputs": inputs, "parity": parity})


def with_fixed(recipe: Recipe, values: Mapping[str, float]) -> Recipe:
    """The recipe with some inputs fixed to numbers; these are no longer inputs of what is exported.

    Raises:
        RecipeError: a number cannot be used.
    """
    stated = {name: getattr(recipe, name) for name in recipe.model_fields_set - {"outputs_section"}}
    model = {name: getattr(recipe.model, name) for name in recipe.model.model_fields_set}
    inputs = tuple(item for item in recipe.inputs if item.name not in values)
    model["fixed"] = {**recipe.model.fixed, **values}
    return _checked({**stated, "model": model, "inputs": inputs, "outputs": recipe.outputs_section})


def with_inputs(recipe: Recipe, shapes: Mapping[str, tuple[int | str, ...]], dtypes: Mapping[str, str]) -> Recipe:
    """The recipe of an ``.onnx`` file with the shape and dtype of every input filled in.

    Raises:
        RecipeError: the recipe states another dtype than the file, or what it asks for does not fit these inputs.
    """
    for item in recipe.inputs:
        if "dtype" in item.model_fields_set and item.dtype != dtypes[item.name]:
            what = f"the input {item.name!r} is {dtypes[item.name]} in the file, not {item.dtype}"
            raise RecipeError(what, where=str(recipe.path), hint="remove dtype, which the file states")
    inputs = tuple({"name": name, "shape": shape, "dtype": dtypes[name]} for name, shape in shapes.items())
    stated = {name: getattr(recipe, name) for name in recipe.model_fields_set - {"outputs_section"}}
    # What the recipe states of them was checked before: what is refused now is of the file.
    file = recipe.directory / (recipe.model.onnx or "")
    places = {f"inputs[{at}]": f"{file}: the input {name!r}" for at, name in enumerate(shapes)}
    return _checked({**stated, "inputs": inputs}, places)


def _checked(data: Mapping[str, Any], places: Mapping[str, str] | None = None) -> Recipe:
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise first_error(error, data["path"], places) from error


def _read(path: Path) -> str:
    where = str(path)
    data = read_named(path, kind=".toml", error=RecipeError, most=MAX_RECIPE_BYTES)
    try:
        return data.decode("utf-8-sig")  # Windows' Notepad writes the mark
    except UnicodeDecodeError as error:
        what = f"is not UTF-8 at byte {error.start}"
        raise RecipeError(what, where=where, hint="give a text file that is saved as UTF-8") from error


def _parse(text: str, path: Path) -> dict[str, Any]:
    if _has_endless_key(text):
        raise _too_deep(path)
    try:
        data: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"is not TOML: {error}", where=str(path), hint="fix that line") from error
    except ValueError as error:  # Python refuses to parse it, and tells of a switch of its own
        what = "holds a value out of range: an integer of more than 4,300 digits"
        raise RecipeError(what, where=str(path), hint="correct it") from error
    except RecursionError as error:
        raise _too_deep(path) from error
    return {key: _frozen(value, path, (key,)) for key, value in data.items()}


def _has_endless_key(text: str) -> bool:
    """Whether a dotted key has too many parts (multi-line strings count, too): tomllib reads it in quadratic time."""
    parts, dotted = 0, False
    for match in _PARTS.finditer(text):
        first = match[0][0]
        if first == ".":
            dotted = True
        elif first not in " \t":
            is_part = first.isalnum() or first in "\"'_-"
            parts = parts + 1 if is_part and dotted else 0
            dotted = False
            if parts > _LONGEST_KEY:
                return True
    return False


def _frozen(value: Any, path: Path, loc: tuple[int | str, ...]) -> Any:
    """Turns TOML's lists into tuples, as the frozen, strict models need; refuses integers beyond 64 bits."""
    if isinstance(value, int) and value not in _INTEGERS:  # TOML's have 64 bits; hexadecimal ones may be endless
        raise RecipeError("is an integer of more than 64 bits", where=f"{path}: {dotted(loc)}", hint="correct it")
    if not isinstance(value, dict | list):
        return value
    if len(loc) > MAX_DEPTH:
        raise _too_deep(path)
    if isinstance(value, dict):
        return {key: _frozen(item, path, (*loc, key)) for key, item in value.items()}
    if sum(isinstance(item, dict) for item in value) > _MOST_TABLES:
        what = f"is a list of {len(value)} tables, more than {_MOST_TABLES}"
        raise RecipeError(what, where=f"{path}: {dotted(loc)}", hint="give fewer")
    return tuple(_frozen(item, path, (*loc, at)) for at, item in enumerate(value))


def _too_deep(path: Path) -> RecipeError:
    return RecipeError(f"tables and lists are nested more than {MAX_DEPTH} deep", where=str(path), hint="flatten them")
