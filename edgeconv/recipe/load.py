"""TOML file -> Recipe; whatever is wrong becomes one line with the file, the field and the mend."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from edgeconv.errors import RecipeError
from edgeconv.recipe.schema import Recipe

_MENDS: Mapping[str, str] = {"missing": "add it", "too_short": "give at least one"}


def load_recipe(path: Path) -> Recipe:
    """Reads and checks a recipe; nothing that it names is opened yet.

    Args:
        path: the TOML file.

    Raises:
        RecipeError: the file is missing, is not TOML, or breaks the schema.
    """
    path = Path(path)
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RecipeError("there is no such recipe", where=str(path), mend="give the path of a .toml file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot be read: {error}", where=str(path), mend="give a readable text file") from error
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"is not TOML: {error}", where=str(path), mend="mend that line") from error
    if "path" in data:
        raise RecipeError("unknown key 'path'", where=str(path), mend="remove it")
    try:
        return Recipe.model_validate({**_tuples(data), "path": path})
    except ValidationError as error:
        raise _first_error(error, path) from error


def _tuples(value: Any) -> Any:
    """TOML's lists as tuples: the models are frozen and strict."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return value


def _first_error(error: ValidationError, path: Path) -> RecipeError:
    details = error.errors(include_url=False)
    # A list whose items are refused is reported as too short as well.
    details = [detail for detail in details if detail["type"] != "too_short"] or details
    detail = details[0]
    field = _dotted(detail["loc"])
    others = sorted({_dotted(item["loc"]) for item in details} - {field})
    what = _what(detail) + (f" (also wrong: {', '.join(others)})" if others else "")
    mend = str(detail.get("ctx", {}).get("mend", _MENDS.get(detail["type"], "correct it")))
    return RecipeError(what, where=f"{path}: {field}" if field else str(path), mend=mend)


def _what(detail: ErrorDetails) -> str:
    message = detail["msg"]
    if detail["type"] == "missing":
        return "is required"
    if "mend" in detail.get("ctx", {}):
        return message
    shown = repr(detail["input"])
    return f"{message[:1].lower()}{message[1:]}, not {shown if len(shown) <= 60 else shown[:57] + '...'}"


def _dotted(loc: tuple[int | str, ...]) -> str:
    """``("inputs", 0, "shape", 1)`` as ``inputs[0].shape[1]``; pydantic's union-member tags are left out."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.isidentifier() and part not in ("int", "float", "str"):
            text += f".{part}" if text else part
    return text
