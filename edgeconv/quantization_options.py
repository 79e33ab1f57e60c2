"""What a caller may choose of quantization: each option once, with its default, what it may be, and what it does.

The table ``[quantize]`` of a recipe has these keys (`edgeconv.recipe.quantization`), `edgeconv.Quantization` these
arguments, and the stages take the value itself.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from typing import Any

from edgeconv import values
from edgeconv.errors import QuantizeError

CHOICES, LEAST, MOST = "choices", "least", "most"
"""Keys of the metadata of a field: the names that it may be; the ends of the range of an integer."""


@dataclass(frozen=True, kw_only=True)
class QuantizationOptions:
    """How int8, int16x8 and int8-weights variants are made; the defaults suit most networks.

    Attributes:
        observer: how a range is chosen from what calibration saw of a tensor.
        per_channel: a scale per output channel of a weight rather than one per weight.
        equalize: evens out the ranges of neighbouring layers before (exact; Nagel et al. 2019, arXiv 1906.04721).
        absorb_biases: then what a rectified channel never falls below moves into the next layer's bias (exact on the
            calibration data; the same, section 4.1.3).
        rounding: of weights: ``"nearest"``; ``"corrected"``, with biases that take back the mean error (the same,
            section 4.2); ``"feedback"``, where also later weights make up for earlier ones (Frantar et al. 2023, arXiv
            2210.17323); ``"learned"`` by gradients (AdaRound: Nagel et al. 2020, arXiv 2004.10568). All but the first
            need calibration data; without, the default becomes the first, and the notes say so.
        iterations: of learned rounding, per layer.
        pair_safe: of int8 that an ``.onnx`` file is made of: no two products of neighbouring weights overflow 16 bits,
            in which onnxruntime adds them on x86 processors without VNNI. Both formats carry the same weights.
        relu6_as_relu: writes ReLU6 as ReLU, which equalization can cross; changes what the float network computes, and
            the report says how much.
        io: element type of the files' inputs and outputs.
        keep_float: operators that stay float: by the value that they make (their first output), the torch module or the
            ONNX type, with ``*`` for any letters: ``("head.*", "Sigmoid")``.

    Raises:
        QuantizeError: a choice is not known, or has another type.
    """

    observer: str = field(default="mse", metadata={CHOICES: ("min-max", "percentile", "mse", "entropy")})
    per_channel: bool = True
    equalize: bool = True
    absorb_biases: bool = False
    rounding: str = field(default="feedback", metadata={CHOICES: ("nearest", "corrected", "feedback", "learned")})
    iterations: int = field(default=1000, metadata={LEAST: 1, MOST: 100_000})
    pair_safe: bool = True
    relu6_as_relu: bool = False
    io: str = field(default="float32", metadata={CHOICES: ("float32", "int8")})
    keep_float: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for option in fields(QuantizationOptions):
            values.settle(self, **{option.name: _checked(option, getattr(self, option.name))})


def _checked(option: Field[Any], value: object) -> object:
    """A value in the plain form of its option."""
    name, rule = option.name, option.metadata
    if CHOICES in rule:
        return values.one_of(value, name, rule[CHOICES], QuantizeError)
    if MOST in rule:
        return values.integer(value, name, QuantizeError, least=rule[LEAST], most=rule[MOST])
    if isinstance(option.default, bool):
        return values.flag(value, name, QuantizeError)
    if isinstance(value, str):
        raise QuantizeError("it is one string", where=name, hint=f"write ({value!r},)")
    return values.names(value, name, QuantizeError, hint="give names of operators' first outputs")
