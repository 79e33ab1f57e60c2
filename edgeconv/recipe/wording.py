"""Errors of a schema in terms of the recipe; pydantic's own messages speak of Python types."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from edgeconv.core.named_files import is_onnx
from edgeconv.core.values import listed
from edgeconv.core.wording import complaint
from edgeconv.errors import RecipeError

# By the type of pydantic's error.
_HINTS: Mapping[str, str] = {
    "missing": "add it",
    "too_short": "give at least one",
    "too_long": "give fewer",
}
# By the beginning of a field: the flag of the command line that states it where there is no recipe.
_FLAGS: Mapping[str, str] = {
    "inputs": "--shape",
    "parity.arrays": "--samples",
    "parity.devices": "--device",
    "model.fixed": "--set",
}


def place_of(path: Path, field: str) -> str:
    """Where a field is stated: in the recipe, or by a flag where an ``.onnx`` file stands in a recipe's place."""
    flag = next((flag for key, flag in _FLAGS.items() if field.startswith(key)), "")
    if not flag or not is_onnx(path):
        return f"{path}: {field}"
    inside = field.partition("].")[2]
    return f"{flag}: {inside}" if inside else flag


def first_error(error: ValidationError, path: Path, places: Mapping[str, str] | None = None) -> RecipeError:
    """One error: the first field that a schema refuses, then the names of others.

    Args:
        error: of the schema.
        path: the recipe.
        places: of values that neither the recipe nor a flag states, by the beginning of their fields (``inputs[0]``).
    """
    details = error.errors(include_url=False)
    # A list whose items are refused is reported as too short as well.
    details = [detail for detail in details if detail["type"] != "too_short"] or details
    detail = details[0]
    field = dotted(detail["loc"])
    others = sorted({dotted(item["loc"]) for item in details} - {field})
    beginning, _, inside = field.partition(".")
    if places and beginning in places:
        where = f"{places[beginning]}: {inside}" if inside else places[beginning]
        others = [other.removeprefix(f"{beginning}.") for other in others]
    else:
        where = place_of(path, field) if field else str(path)
    what = _complaint_of(detail) + (f" (also wrong: {listed(others, 4)})" if others else "")
    hint = str(detail.get("ctx", {}).get("hint", _HINTS.get(detail["type"], "correct it")))
    return RecipeError(what, where=where, hint=hint)


def _complaint_of(detail: ErrorDetails) -> str:
    if "hint" in detail.get("ctx", {}):
        return detail["msg"]
    says = complaint(detail, table="a table")
    return says if detail["type"].startswith(("too_", "missing")) else f"{says}, not {_as_toml(detail['input'])}"


def _as_toml(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= 60 else f"{text[:57]}..."


def dotted(loc: tuple[int | str, ...]) -> str:
    """``("inputs", 0, "shape", 1)`` as ``inputs[0].shape[1]``; the tags of unions' members are left out."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.isidentifier():
            text += f".{part}" if text else part
    return text
