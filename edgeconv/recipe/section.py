"""What every table of a recipe is: frozen, strict, and without unknown keys.

Types are strict (``"3"`` is no integer, ``1`` is no boolean) because TOML has them all. Arrays arrive as tuples.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, model_validator
from pydantic_core import PydanticCustomError

from edgeconv.recipe.fields import nearest, shown


class Section(BaseModel):
    """A table of the recipe."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            known = [field.alias or name for name, field in cls.model_fields.items() if name != "path"]
            for key in data:
                if key not in known and key not in cls.model_fields:
                    raise PydanticCustomError(
                        "unknown_key", "unknown key {key}", {"mend": nearest(str(key), known), "key": shown(key)}
                    )
        return data
