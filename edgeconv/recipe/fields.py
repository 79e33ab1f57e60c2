"""The types of a recipe's fields: which values each accepts, and the hint where one is refused.

The upper limits are far above anything that an edge model needs. They are there so that a slip of the keyboard is a
message and not a machine that runs out of memory.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated, Any

from pydantic import AfterValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from edgeconv.core.defaults import LONGEST_TIMEOUT_S, MAX_DIMENSION
from edgeconv.core.values import close_to
from edgeconv.core.variants import VARIANTS

MAX_NAME = 128
MAX_TENSOR_NAME = 1024  # of an input or output: files of other tools give them names of whole paths
MAX_RANK = 8  # of the TFLite runtime's kernels
MAX_SIDE_PIXELS = 16384
MAX_CLASS_INDEX = 2**31 - 1


def refusal(what: str, hint: str) -> PydanticCustomError:
    """What a validator raises; `edgeconv.recipe.wording` makes it an error that names the field."""
    # The sentence comes last: pydantic fills in the context in order, and it may hold braces of the user's own.
    return PydanticCustomError("refused", "{what}", {"hint": hint, "what": what})


def nearest(name: str, choices: Collection[str]) -> str:
    """A hint: the nearest choice where one is close (``"did you mean 'x'? "``), then all choices."""
    close = close_to(name, choices)
    suggestion = f"did you mean {close[0]!r}? " if close else ""
    return f"{suggestion}known: {', '.join(choices)}"


def shown(value: str, limit: int = 60) -> str:
    """A value for a message: quoted, escaped, and cut where it is long."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def one_of(choices: Collection[str], what: str) -> AfterValidator:
    """A validator that accepts only the choices."""

    def check(value: str) -> str:
        if value not in choices:
            raise refusal(f"unknown {what} {shown(value)}", nearest(value, choices))
        return value

    return AfterValidator(check)


def written_as(pattern: str, hint: str, *, most: int) -> AfterValidator:
    """A validator that accepts printable text matching a pattern, of at most ``most`` characters."""

    def check(value: str) -> str:
        if len(value) > most:
            raise refusal(f"has {len(value)} characters", f"use at most {most}")
        if not value.isprintable() or not re.fullmatch(pattern, value):
            raise refusal(f"{shown(value)} cannot be used", hint)
        return value

    return AfterValidator(check)


def unique(values: tuple[str, ...]) -> tuple[str, ...]:
    """Refuses duplicates."""
    seen: set[str] = set()
    for value in values:
        if value in seen:
            raise refusal(f"{shown(value)} stands twice", "name each once")
        seen.add(value)
    return values


# Discriminators: which member of a union is meant, so that a mistake is explained by that member alone. The tags are no
# identifiers, which keeps them out of the place that a message names.
def _number_or_text(value: Any) -> str:
    return "<text>" if isinstance(value, str) else "<number>"


def _flag_or_number(value: Any) -> str:
    return "<flag>" if isinstance(value, bool) else "<integer>" if isinstance(value, int) else "<number>"


def _number_or_list(value: Any) -> str:
    return "<list>" if isinstance(value, tuple) else "<number>"


VariantNames = Annotated[tuple[Annotated[str, one_of(VARIANTS, "variant")], ...], AfterValidator(unique)]

Count = Annotated[int, Field(ge=1, le=10_000)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
ClassIndex = Annotated[int, Field(ge=0, le=MAX_CLASS_INDEX)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=LONGEST_TIMEOUT_S)]

# Whatever `edgeconv.core.values.tensor_names` takes: spaces, too, since .onnx files have such names.
TensorName = Annotated[
    str, written_as(r".*\S.*", "give a name of characters that can be printed", most=MAX_TENSOR_NAME)
]
CallableName = Annotated[
    str, written_as(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*", "write package.module:callable", most=2 * MAX_NAME)
]
FileName = Annotated[str, written_as(r".+", "give the name of a file", most=4096)]

Size = Annotated[int, Field(ge=1, le=MAX_DIMENSION)]
DimensionName = Annotated[str, written_as(r"[A-Za-z_]\w*", "give a number, or the name of a dimension", most=MAX_NAME)]
Dimension = Annotated[
    Annotated[Size, Tag("<number>")] | Annotated[DimensionName, Tag("<text>")], Discriminator(_number_or_text)
]
FlagOrNumber = Annotated[
    Annotated[bool, Tag("<flag>")] | Annotated[int, Tag("<integer>")] | Annotated[float, Tag("<number>")],
    Discriminator(_flag_or_number),
]
Side = Annotated[int, Field(ge=1, le=MAX_SIDE_PIXELS)]
Sides = Annotated[
    Annotated[Side, Tag("<number>")] | Annotated[tuple[Side, Side], Tag("<list>")], Discriminator(_number_or_list)
]
PerChannel = Annotated[
    Annotated[Finite, Tag("<number>")] | Annotated[tuple[Finite, ...], Tag("<list>")], Discriminator(_number_or_list)
]
PositivePerChannel = Annotated[
    Annotated[Positive, Tag("<number>")] | Annotated[tuple[Positive, ...], Tag("<list>")],
    Discriminator(_number_or_list),
]
