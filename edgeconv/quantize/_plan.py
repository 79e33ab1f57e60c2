"""The plan: which numbers quantize which tensor. A frozen value that can be saved, read, edited and fed back."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from reprlib import repr as brief
from typing import Any, TypeVar

from edgeconv.core import values
from edgeconv.core.affine import SCALE_LIMITS, interval_of, limits_of
from edgeconv.errors import QuantizeError

SCHEMA = 1  # of the file; another one is refused
SCHEMES = ("int8", "int8-weights", "int16x8")
REQUESTED = "it was asked for"
"""Why an operator stays float that the caller named."""
_WIDEST = 40  # exponent of a factor of equalization
RANGES = {dtype: limits_of(dtype) for dtype in ("int8", "int16")}
"""The least and the largest integer of each dtype of a plan; weights leave out the lowest value."""


@dataclass(frozen=True)
class TensorParameters:
    """real = scale · (integer - zero_point).

    Attributes:
        dtype: ``"int8"`` or ``"int16"``.
        scale: above 0; rounded to float32.
        zero_point: an integer of the dtype; 0 for int16.
    """

    dtype: str
    scale: float
    zero_point: int

    def __post_init__(self) -> None:
        if self.dtype not in RANGES:
            raise _bad(f"dtype is {brief(self.dtype)}", f"choose of {', '.join(RANGES)}")
        _check_scale(self.scale)
        low, high = RANGES[self.dtype]
        if type(self.zero_point) is not int or not low <= self.zero_point <= high:
            raise _bad(f"zero_point is {brief(self.zero_point)}", f"give an integer from {low} to {high}")
        if self.dtype == "int16" and self.zero_point:
            raise _bad(f"zero_point is {self.zero_point} for int16, which is symmetric", "give 0")

    def range(self) -> tuple[float, float]:
        """The smallest and the largest real number that it represents."""
        return interval_of(self.scale, self.zero_point, self.dtype)


@dataclass(frozen=True)
class WeightParameters:
    """real = scales[channel] · integer, integers from -127 to 127.

    Attributes:
        axis: of the weight, along which the scales lie; None for one scale.
        scales: one per output channel (of one group, in a ConvTranspose), or one; above 0; rounded to float32.
    """

    axis: int | None
    scales: tuple[float, ...]

    def __post_init__(self) -> None:
        if self.axis is not None and (type(self.axis) is not int or self.axis < 0):
            raise _bad(f"axis is {brief(self.axis)}", "give an axis of the weight, or null for one scale")
        if not self.scales or (self.axis is None and len(self.scales) != 1):
            raise _bad(f"there are {len(self.scales)} scales", "give one scale, or one per channel and the axis")
        for scale in self.scales:
            _check_scale(scale)


@dataclass(frozen=True)
class Plan:
    """What every tensor of a quantized graph is.

    Attributes:
        scheme: one of `SCHEMES`.
        tensors: parameters of activations and constant operands, by name; empty for ``"int8-weights"``.
        weights: parameters of the weights, by the name of the layer (its output) that reads them.
        kept_float: operators that stay float, by the name of their first output, and why.
        pair_safe: weights are rounded so that no pair of products overflows 16 bits (`edgeconv.quantize._pairs`), which
            some processors add them in.
        equalization: the exponents of two that layers' output channels were multiplied by before, by name; None: the
            ranges of the weights alone said how, as they did before 0.2, or nothing was equalized.
        channel_orders: the order that layers' output channels were brought into after that, by name
            (`edgeconv.quantize._reorder`).
    """

    scheme: str
    tensors: Mapping[str, TensorParameters] = field(default_factory=dict)
    weights: Mapping[str, WeightParameters] = field(default_factory=dict)
    kept_float: Mapping[str, str] = field(default_factory=dict)
    pair_safe: bool = False
    equalization: Mapping[str, tuple[int, ...]] | None = None
    channel_orders: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.scheme not in SCHEMES:
            raise _bad(f"scheme is {brief(self.scheme)}", f"choose of {', '.join(SCHEMES)}")
        dtype = {"int8": "int8", "int16x8": "int16"}.get(self.scheme)
        for name, parameters in self.tensors.items():
            if parameters.dtype != dtype:
                raise _bad(f"tensor {name!r} is {parameters.dtype} in a plan of {self.scheme}", f"make it {dtype}")
        if type(self.pair_safe) is not bool:
            raise _bad(f"pair_safe is {brief(self.pair_safe)}", "give true or false")

    def to_json(self) -> str:
        """The plan as JSON text that `from_json` reads back to an equal plan; the same plan gives the same text."""
        document = {
            "schema": SCHEMA,
            "scheme": self.scheme,
            "pair_safe": self.pair_safe,
            "kept_float": dict(self.kept_float),
            "tensors": {
                name: {"dtype": item.dtype, "scale": item.scale, "zero_point": item.zero_point}
                for name, item in self.tensors.items()
            },
            "weights": {name: {"axis": item.axis, "scales": list(item.scales)} for name, item in self.weights.items()},
        }
        if self.equalization is not None:
            document["equalization"] = {name: list(exponents) for name, exponents in self.equalization.items()}
        if self.channel_orders:
            document["channel_orders"] = {name: list(order) for name, order in self.channel_orders.items()}
        return json.dumps(document, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: str = "plan") -> Plan:
        """Reads a plan.

        Args:
            text: as `to_json` writes it, perhaps edited.
            where: how an error names the file.

        Raises:
            QuantizeError: it is no JSON, something is missing, unknown or of another type, or a number is out of range.
        """
        document = _parsed(values.text(text, where, QuantizeError, hint="give the text of a plan"), where)
        if isinstance(document, dict):
            document.setdefault("pair_safe", False)  # plans of before 0.2 do not say so, and are not
            document.setdefault("equalization", None)  # alike
            document.setdefault("channel_orders", {})
        choices = ("scheme", "pair_safe", "equalization", "channel_orders", "kept_float")
        names = ("schema", *choices, "tensors", "weights")
        fields = _fields(document, names, where)
        if type(fields["schema"]) is not int or fields["schema"] != SCHEMA:
            what = f"schema is {brief(fields['schema'])}"
            raise QuantizeError(what, where=where, hint=f"only schema {SCHEMA} is read")
        in_float = _mapping(fields["kept_float"], f"{where}, kept_float", _text)
        tensors = _mapping(fields["tensors"], f"{where}, tensors", _tensor)
        weights = _mapping(fields["weights"], f"{where}, weights", _weight)
        scheme = _text(fields["scheme"], where)
        equalized, inside = fields["equalization"], f"{where}, equalization"
        exponents = None if equalized is None else _mapping(equalized, inside, _exponents)
        orders = _mapping(fields["channel_orders"], f"{where}, channel_orders", _order)
        return _located(lambda: cls(scheme, tensors, weights, in_float, fields["pair_safe"], exponents, orders), where)


_T = TypeVar("_T")


def _parsed(text: str, where: str) -> Any:
    def members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):  # JSON readers take the last, and the one that was edited may be the first
            ((twice, _),) = Counter(name for name, _ in pairs).most_common(1)
            raise QuantizeError(f"{brief(twice)} stands twice in an object", where=where, hint="remove one of them")
        return content

    try:
        return json.loads(text, object_pairs_hook=members)
    except (ValueError, RecursionError) as error:  # ValueError also of integers with thousands of digits
        raise QuantizeError(f"it is no JSON: {error}", where=where, hint="write the plan again") from error


def _tensor(value: Any, where: str) -> TensorParameters:
    fields = _fields(value, ("dtype", "scale", "zero_point"), where)
    dtype = _text(fields["dtype"], f"{where}, dtype")
    return _located(lambda: TensorParameters(dtype, fields["scale"], fields["zero_point"]), where)


def _weight(value: Any, where: str) -> WeightParameters:
    fields = _fields(value, ("axis", "scales"), where)
    if not isinstance(fields["scales"], list):
        raise QuantizeError("scales is no list", where=where, hint="give a list of numbers")
    return _located(lambda: WeightParameters(fields["axis"], tuple(fields["scales"])), where)


def _exponents(value: Any, where: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(exponent) is int and abs(exponent) <= _WIDEST for exponent in value):
        hint = f"give a list of integers from {-_WIDEST} to {_WIDEST}"
        raise QuantizeError("it is no list of exponents", where=where, hint=hint)
    return tuple(value)


def _order(value: Any, where: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(channel) is int and channel >= 0 for channel in value):
        raise QuantizeError("it is no list of channels", where=where, hint="give a list of integers from 0 up")
    return tuple(value)


def _fields(value: Any, names: tuple[str, ...], where: str) -> dict[str, Any]:
    """The members of a JSON object that has exactly these."""
    if not isinstance(value, dict):
        raise QuantizeError(f"it is {brief(value)}", where=where, hint=f"give an object of {', '.join(names)}")
    for name in names:
        if name not in value:
            raise QuantizeError(f"it has no {name}", where=where, hint=f"give an object of {', '.join(names)}")
    for name in value:
        if name not in names:
            raise QuantizeError(f"{name!r} is not known", where=where, hint=f"give an object of {', '.join(names)}")
    return value


def _mapping(value: Any, where: str, read: Callable[[Any, str], _T]) -> dict[str, _T]:
    if not isinstance(value, dict):
        raise QuantizeError(f"it is {brief(value)}", where=where, hint="give an object whose members are named")
    return {name: read(item, f"{where}, {name}") for name, item in value.items()}


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise QuantizeError(f"it is {brief(value)}", where=where, hint="give a string")
    return value


def _check_scale(scale: Any) -> None:
    if type(scale) not in (int, float) or not SCALE_LIMITS[0] <= scale <= SCALE_LIMITS[1]:  # of any digits
        raise _bad(f"scale is {brief(scale)}", "give a positive number of float32")


def _bad(what: str, hint: str) -> QuantizeError:
    return QuantizeError(what, where="plan", hint=hint)


def _located(make: Callable[[], _T], where: str) -> _T:
    """Names the place in an error of a constructor, which does not know it."""
    try:
        return make()
    except QuantizeError as error:
        raise QuantizeError(error.what, where=where, hint=error.hint) from error
