"""The base class of every table of a recipe: frozen, strict, no unknown keys.

Types are strict (``"3"`` is no integer, ``1`` is no boolean) because TOML has them all. Arrays arrive as tuples.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from edgeconv.core.values import kind_of
from edgeconv.errors import RecipeError
from edgeconv.recipe.fields import nearest, refusal, shown
from edgeconv.recipe.wording import first_error

if TYPE_CHECKING:
    from pydantic._internal._model_construction import ModelMetaclass
else:
    ModelMetaclass = type(BaseModel)


class _MappedErrors(ModelMetaclass):
    """Maps pydantic's errors where a table is made from Python; `load` maps those of a file, with their place."""

    if not TYPE_CHECKING:

        def __call__(cls, *args: Any, **fields: Any) -> Any:  # noqa: N805  (a metaclass)
            if args:
                hint = f"write {cls.__name__}(name=…)"
                raise RecipeError(f"it takes named fields, and got {kind_of(args[0])}", where=cls.__name__, hint=hint)
            try:
                return super().__call__(**fields)
            except ValidationError as error:
                raise first_error(error, Path(cls.__name__)) from error


class Section(BaseModel, metaclass=_MappedErrors):
    """A table of the recipe.

    Raises:
        RecipeError: it is made by hand, and a field is unknown, missing or of another form.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            keys = [field.alias or name for name, field in cls.model_fields.items() if name != "path"]
            for key in data:
                if key not in keys and key not in cls.model_fields:
                    raise refusal(f"unknown key {shown(key)}", nearest(str(key), keys))
        return data
