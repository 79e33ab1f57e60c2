"""The types of the fields of ``parity.json``, for writing, and for reading files that anybody may have written.

Numbers that a verdict hangs on (bounds, scales, time limits) are finite and not negative; numbers that were measured
may be anything. Names of files are plain names: nothing outside of the folder can be spoken of.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Generic, Literal, TypeVar, cast

import numpy as np
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    PlainSerializer,
    WithJsonSchema,
)

from edgeconv.core import DTYPES
from edgeconv.core.defaults import LONGEST_TIMEOUT_S

TIMEOUT = "timeout, s"
GOLDEN_SHA256 = "golden sha256"
LEFT_OUT = "rewrites left out"
OWN_INTEGERS = "variants that the source quantized"
"""Keys of a report's environment that edgeconv reads again."""

_NON_FINITE = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}
_FILE_NAME = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}$"  # no folder, nothing hidden: see `edgeconv.flow.journal`, too
_SHA256 = r"^[0-9a-f]{64}$"
_SCALES = (float(np.finfo(np.float32).smallest_subnormal), float(np.finfo(np.float32).max))
"""Files hold scales in float32, where smaller ones are 0 and larger ones infinite."""
_MOST_CELLS = 64  # of a side of an error map
MOST_LAYERS = 1 << 15  # of a file; more would make a page that no browser draws


class Node(BaseModel):
    """A part of a report: frozen, read of values of the same names; keys of a later version are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", from_attributes=True)


_Core = TypeVar("_Core")


class CoreNode(Node, Generic[_Core]):
    """A part that stands for a value of `edgeconv.core`, whose class is stated as ``CoreNode[Class]``."""

    def to_core(self) -> _Core:
        """The value: its fields have the names of the part's."""
        return cast(_Core, self._core_class()(**self.core_fields()))

    def core_fields(self) -> dict[str, Any]:
        """The fields of the value, by their names."""
        return {name: _to_core(value) for name, value in self}

    @classmethod
    def _core_class(cls) -> type[Any]:
        stated = (base.__pydantic_generic_metadata__["args"] for base in cls.__mro__ if issubclass(base, CoreNode))
        return cast(type[Any], next(arguments for arguments in stated if arguments)[0])


def _to_core(value: Any) -> Any:
    """A field as the value has it, whose parts are values themselves."""
    if isinstance(value, CoreNode):
        return value.to_core()
    if isinstance(value, tuple) and value and isinstance(value[0], CoreNode):
        return tuple(part.to_core() for part in value)
    return value


def _check_choice(choices: Sequence[str], name: str) -> str:
    if name not in choices:
        raise ValueError(f"should be one of {', '.join(choices)}")
    return name


def _read_number(value: object) -> object:
    """Strings of the three non-finite numbers become floats; the tokens NaN and Infinity are no JSON."""
    if isinstance(value, str):
        if value not in _NON_FINITE:
            raise ValueError("should be a number, 'inf', '-inf' or 'nan'")
        return _NON_FINITE[value]
    return value


def write_number(value: float) -> float | str:
    """A float as JSON holds it: non-finite ones as ``"inf"``, ``"-inf"``, ``"nan"``."""
    return value if math.isfinite(value) else str(float(value))


def _written_as(pattern: str, complaint: str) -> Any:
    """Text that matches a pattern, with our own error message, and the pattern in the JSON schema."""

    def check(value: str) -> str:
        # pydantic's own pattern would complain in terms of regular expressions.
        if not re.fullmatch(pattern, value):
            raise ValueError(complaint)
        return value

    return Annotated[str, AfterValidator(check), WithJsonSchema({"type": "string", "pattern": pattern})]


_AS_NUMBER = WithJsonSchema({"anyOf": [{"type": "number"}, {"enum": list(_NON_FINITE)}]})
Number = Annotated[float, BeforeValidator(_read_number), PlainSerializer(write_number), _AS_NUMBER]
Drawn = Annotated[
    float,
    BeforeValidator(_read_number),
    PlainSerializer(lambda value: write_number(float(f"{value:.3e}"))),  # drawn, not judged: 4 digits are plenty
    _AS_NUMBER,
]
NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Decibels = Annotated[float, Field(ge=-1000, le=1000, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Similarity = Annotated[float, Field(ge=-1, le=1, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, lt=2**63)]
Steps = Annotated[int, Field(ge=-(2**31), lt=2**31)]
Zero = Annotated[int, Field(ge=-(2**31), lt=2**31)]  # a zero point: biases have 32 bits
Dimension = Annotated[int, Field(ge=0, lt=2**63)] | str
Dtype = Annotated[str, AfterValidator(lambda name: _check_choice(DTYPES, name)), WithJsonSchema({"enum": list(DTYPES)})]
_Item = TypeVar("_Item")
Several = Annotated[tuple[_Item, ...], FailFast()]
"""A tuple whose validation stops at the first wrong item: an untrusted list may have millions."""
Layout = Literal["nchw", "nhwc"]
FileName = _written_as(_FILE_NAME, "should be a plain file name of letters, digits, _ . - and at most 200 characters")
Golden = _written_as(
    r"^([A-Za-z0-9_][A-Za-z0-9_.-]{0,180}\.safetensors)?$", "should be a plain file name that ends in .safetensors"
)
Sha256 = _written_as(_SHA256, "should be 64 hexadecimal digits")
Title = _written_as(r"^[\s\S]{1,200}$", "should be a name of 1 to 200 characters")


def _checked_environment(value: dict[str, str | dict[str, str]]) -> dict[str, str | dict[str, str]]:
    if TIMEOUT in value:
        seconds_of(value[TIMEOUT])
    for key in (LEFT_OUT, OWN_INTEGERS):
        if isinstance(value.get(key), dict):
            raise ValueError(f"{key!r} should be a string")  # noqa: TRY004  (which pydantic does not take)
    if GOLDEN_SHA256 in value:
        checksum = value[GOLDEN_SHA256]
        if not isinstance(checksum, str) or not re.fullmatch(_SHA256, checksum):
            raise ValueError(f"{GOLDEN_SHA256!r} is no SHA-256")
    return value


Environment = Annotated[dict[str, str | dict[str, str]], AfterValidator(_checked_environment)]


def seconds_of(text: object) -> float:
    """The time limit that a report's environment states, in seconds.

    Raises:
        ValueError: it is none.
    """
    try:
        seconds = float(text) if isinstance(text, str) else math.nan
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= LONGEST_TIMEOUT_S:
        raise ValueError(f"{TIMEOUT!r} is no number of seconds up to {LONGEST_TIMEOUT_S:g}")
    return seconds


def names_listed(environment: Mapping[str, str | Mapping[str, str]], key: str) -> tuple[str, ...]:
    """The names that a report's environment lists under a key, as ``"int8, int16x8"``; none if it lacks the key."""
    return tuple(filter(None, str(environment.get(key, "")).split(", ")))


def checked_tensor(shape: Sequence[int | str], dtype: str, layout: str, scale: float | None, zero_point: int) -> None:
    """Checks that layout, dtype, scale and zero point of a tensor agree.

    Raises:
        ValueError: they contradict each other.
    """
    if layout == "nhwc" and len(shape) != 4:
        raise ValueError(f"the layout nhwc is for 4 dimensions, and here are {len(shape)}")
    if scale is None:
        return
    kind = np.dtype(dtype)
    if kind.kind not in "iu":
        raise ValueError(f"a scale is for integers, and the dtype is {dtype}")
    if not _SCALES[0] <= scale <= _SCALES[1]:
        raise ValueError(f"the scale {scale:g} is no float32")
    limits = np.iinfo(kind)
    if not limits.min <= zero_point <= limits.max:
        raise ValueError(f"the zero point {zero_point} is no {dtype}")


def checked_picture(edges: Sequence[float], counts: Sequence[int], rows: Sequence[Sequence[float]]) -> None:
    """Checks that edges, counts and map of a picture agree.

    Raises:
        ValueError: they contradict each other.
    """
    if len(edges) != len(counts) + 1:
        raise ValueError(f"there are {len(edges)} edges of {len(counts)} bins")
    if len(rows) > _MOST_CELLS or any(len(row) > _MOST_CELLS or len(row) != len(rows[0]) for row in rows):
        raise ValueError(f"the map is no rectangle of at most {_MOST_CELLS} by {_MOST_CELLS}")
