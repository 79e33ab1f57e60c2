"""What a caller may choose of quantization: each option once, with its default, what it may be, and what it does.

The table ``[quantize]`` of a recipe has these keys (`edgeconv.recipe.quantization`), `edgeconv.Quantization` these
arguments, and the stages take the value itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field, dataclass, field, fields
from typing import Any

from edgeconv.core import values
from edgeconv.errors import QuantizeError

CHOICES, LEAST, MOST = "choices", "least", "most"
"""Keys of the metadata of a field: the names that it may be; the ends of the range of a number."""
OBSERVERS = ("min-max", "percentile", "mse", "entropy")
LEAST_PERCENTILE = 50.0
_GREATEST = 2.0**64  # of an end of a range: far beyond any input, and far below where float32 ends


@dataclass(frozen=True, kw_only=True)
class Override:
    """What is chosen otherwise for some operators; None leaves a choice as it is for all.

    Attributes:
        operators: named as in `QuantizationOptions.keep_float`; inputs of the graph by their names. Where several
            overrides name an operator, the last counts.
        observer: of what they make.
        percentile: of that observer.
        range: of inputs alone, in place of an observer: the least and the greatest number that is worth representing,
            which the 256 integers then stand for. It is widened to hold zero.
        per_channel: of their weights.

    Raises:
        QuantizeError: no operator is named, nothing is chosen, or a choice is not known.
    """

    operators: tuple[str, ...]
    observer: str | None = None
    percentile: float | None = None
    range: tuple[float, float] | None = None
    per_channel: bool | None = None

    def __post_init__(self) -> None:
        where = "override"
        if isinstance(self.operators, str):
            raise QuantizeError("operators is one string", where=where, hint=f"write ({self.operators!r},)")
        operators = values.names(self.operators, f"{where}, operators", QuantizeError)
        if not operators:
            raise QuantizeError("it names no operators", where=where, hint='give operators=("head.*",), say')
        if (self.observer, self.percentile, self.range, self.per_channel) == (None,) * 4:
            hint = "give observer, percentile, range or per_channel"
            raise QuantizeError("it chooses nothing", where=where, hint=hint)
        if self.range is not None and (self.observer, self.percentile) != (None, None):
            raise QuantizeError("it has a range and an observer", where=where, hint="leave one of them out")
        if self.observer is not None:
            values.one_of(self.observer, f"{where}, observer", OBSERVERS, QuantizeError)
        if self.percentile is not None:
            values.settle(self, percentile=_percentile(self.percentile, f"{where}, percentile"))
        if self.per_channel is not None:
            values.flag(self.per_channel, f"{where}, per_channel", QuantizeError)
        if self.range is not None:
            values.settle(self, range=_range(self.range, f"{where}, range"))
        values.settle(self, operators=operators)


def _range(value: object, where: str) -> tuple[float, float]:
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 2:
        raise QuantizeError(f"it is {values.kind_of(value)}", where=where, hint="give two numbers: (-1.0, 1.0)")
    low, high = (values.number(end, where, QuantizeError, least=-_GREATEST, most=_GREATEST) for end in value)
    if not low < high:
        raise QuantizeError(f"it is {low:g} to {high:g}", where=where, hint="give the smaller number first")
    return low, high


def _percentile(value: object, where: str) -> float:
    return values.number(value, where, QuantizeError, least=LEAST_PERCENTILE, most=100.0)


@dataclass(frozen=True, kw_only=True)
class QuantizationOptions:
    """How int8, int16x8 and int8-weights variants are made; the defaults suit most networks.

    Attributes:
        observer: how a range is chosen from what calibration saw of a tensor.
        percentile: of the observer of this name: the share of the elements that the range holds, in percent; what is
            left out is left out by halves at both ends.
        per_channel: a scale per output channel of a weight rather than one per weight.
        equalize: evens out the ranges of neighboring layers before (exact; Nagel et al. 2019, arXiv 1906.04721).
        absorb_biases: then what a rectified channel never falls below moves into the next layer's bias (exact on the
            calibration data; the same, section 4.1.3).
        rounding: of weights: ``"nearest"``; ``"corrected"``, with biases that take back the mean error (the same,
            section 4.2); ``"feedback"``, where also later weights make up for earlier ones (Frantar et al. 2023, arXiv
            2210.17323); ``"learned"`` by gradients (AdaRound: Nagel et al. 2020, arXiv 2004.10568). All but the first
            need calibration data; without, the default becomes the first, and the notes say so.
        iterations: of learned rounding, per layer.
        pair_safe: of int8 that an ``.onnx`` file is made of: no two products of neighboring weights overflow 16 bits,
            in which onnxruntime adds them on x86 processors without VNNI. Both formats carry the same weights.
        keep_roundings: of int8 in an ``.onnx`` file: rounds all that the plan rounds, also where onnxruntime computes a
            small layer faster in float. Models that are quantized already keep their roundings in any case: of these,
            ``.tflite`` files of integers alone, also where TFLite's integer kernels are a step off.
        relu6_as_relu: writes ReLU6 as ReLU, which equalization can cross; changes what the float network computes, and
            the report says how much.
        io: element type of the files' inputs and outputs.
        keep_float: operators that stay float: by the value that they make (their first output), the torch module or the
            ONNX type, with ``*`` for any letters: ``("head.*", "Sigmoid")``. Of a model that is quantized already: what
            is computed in floats between its own roundings.
        override: what is chosen otherwise for some operators.

    Raises:
        QuantizeError: a choice is not known, has another type, or is one that nothing heeds.
    """

    observer: str = field(default="mse", metadata={CHOICES: OBSERVERS})
    percentile: float = field(default=99.99, metadata={LEAST: LEAST_PERCENTILE, MOST: 100.0})
    per_channel: bool = True
    equalize: bool = True
    absorb_biases: bool = False
    rounding: str = field(default="feedback", metadata={CHOICES: ("nearest", "corrected", "feedback", "learned")})
    iterations: int = field(default=1000, metadata={LEAST: 1, MOST: 100_000})
    pair_safe: bool = True
    keep_roundings: bool = False
    relu6_as_relu: bool = False
    io: str = field(default="float32", metadata={CHOICES: ("float32", "int8", "uint8")})
    keep_float: tuple[str, ...] = ()
    override: tuple[Override, ...] = ()

    def __post_init__(self) -> None:
        for option in fields(QuantizationOptions):
            values.settle(self, **{option.name: _checked(option, getattr(self, option.name))})
        # A percentile that no observer uses is a misunderstanding, and refused.
        observers = [override.observer or self.observer for override in self.override]
        stated = [override.percentile is not None for override in self.override]
        unheeded = any(by and name != "percentile" for by, name in zip(stated, observers, strict=True))
        changed = self.percentile != QuantizationOptions.percentile
        if unheeded or (changed and "percentile" not in (self.observer, *observers)):
            hint = 'choose observer = "percentile" beside it'
            raise QuantizeError("no observer heeds it", where="percentile", hint=hint)


def _checked(option: Field[Any], value: object) -> object:
    """A value in the plain form of its option."""
    name, rule = option.name, option.metadata
    if CHOICES in rule:
        return values.one_of(value, name, rule[CHOICES], QuantizeError)
    if MOST in rule and isinstance(option.default, float):
        return values.number(value, name, QuantizeError, least=rule[LEAST], most=rule[MOST])
    if MOST in rule:
        return values.integer(value, name, QuantizeError, least=rule[LEAST], most=rule[MOST])
    if name == "override":
        hint = "give (Override(operators=…, …),)"
        if not isinstance(value, Sequence) or not all(isinstance(item, Override) for item in value):
            raise QuantizeError(f"it is {values.kind_of(value)}", where=name, hint=hint)
        return tuple(value)
    if isinstance(option.default, bool):
        return values.flag(value, name, QuantizeError)
    if isinstance(value, str):
        raise QuantizeError("it is one string", where=name, hint=f"write ({value!r},)")
    return values.names(value, name, QuantizeError, hint="give names of operators' first outputs")
