"""An operator with its tensors, their values and its options: the argument of every operator's function."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from edgeconv.errors import EmitError
from edgeconv.reference._extent import MOST_ELEMENTS, shown
from edgeconv.reference.tflite._fixed_point import rounded
from edgeconv.reference.tflite._graph import Array, Operator, Tensor

# ActivationFunctionType (schema.fbs) -> bounds; no converter fuses the others, TANH and SIGN_BIT.
_CLAMPS = {0: (-math.inf, math.inf), 1: (0.0, math.inf), 2: (-1.0, 1.0), 3: (0.0, 6.0)}
_RANGES = {
    "int4": (-8, 7),
    "int8": (-128, 127),
    "uint8": (0, 255),
    "int16": (-(2**15), 2**15 - 1),
    "int32": (-(2**31), 2**31 - 1),
}


@dataclass(frozen=True)
class Call:
    """One operator, with the values of its inputs.

    Attributes:
        operator: the operator.
        sources: the tensors of its inputs; None where an optional one is left out.
        results: the tensors of its outputs.
        values: of its inputs: float64 for real numbers, the stored integers for everything else.
    """

    operator: Operator
    sources: tuple[Tensor | None, ...]
    results: tuple[Tensor, ...]
    values: tuple[Array | None, ...]

    @classmethod
    def of(cls, tensors: Sequence[Tensor], operator: Operator, values: Mapping[int, Array]) -> Self:
        """The call of an operator of a file with these tensors; `values` has those of its inputs, by their numbers."""
        return cls(
            operator,
            tuple(None if index < 0 else tensors[index] for index in operator.inputs),
            tuple(tensors[index] for index in operator.outputs),
            tuple(None if index < 0 else values.get(index) for index in operator.inputs),
        )

    def __getitem__(self, index: int) -> Array:
        """The value of input ``index``: float64 or the stored integers."""
        value = self.optional(index)
        if value is None:
            raise self.refuse(f"has no input {index}")
        return value

    def optional(self, index: int) -> Array | None:
        """The value of input ``index``; None where it is left out."""
        return self.values[index] if index < len(self.values) else None

    def source(self, index: int) -> Tensor:
        """The tensor of input ``index``."""
        tensor = self.sources[index] if index < len(self.sources) else None
        if tensor is None:
            raise self.refuse(f"has no input {index}")
        return tensor

    @property
    def result(self) -> Tensor:
        """The tensor of the first output."""
        if not self.results:
            raise self.refuse("has no output")
        return self.results[0]

    @property
    def quantized(self) -> bool:
        """Whether it computes on quantized integers: its first output is such a tensor."""
        return self.result.quantization is not None and not self.result.floating

    def real(self, index: int) -> Array:
        """Input ``index`` in float64: the numbers that a quantized tensor stands for."""
        tensor, value = self.source(index), self[index]
        if tensor.floating or tensor.quantization is None:
            return np.asarray(value, np.float64)
        scales = np.array(tensor.quantization.scales)
        by = scales[0] if len(scales) == 1 else scales.reshape(self._along_axis(tensor))
        return np.asarray(self.centered(index) * by)

    def centered(self, index: int) -> Array:
        """The integers of input ``index`` minus their zero points, in float64, where products and sums are exact."""
        tensor, value = self.source(index), self[index].astype(np.float64)
        if tensor.quantization is None or not any(tensor.quantization.zero_points):
            return value
        points = np.array(tensor.quantization.zero_points, np.float64)
        return value - (points[0] if len(points) == 1 else points.reshape(self._along_axis(tensor)))

    def _along_axis(self, tensor: Tensor) -> tuple[int, ...]:
        axis = tensor.quantization.axis if tensor.quantization is not None else 0
        return tuple(-1 if at == axis else 1 for at in range(len(tensor.shape)))

    def integers(self, index: int) -> Array:
        """As `centered`, in int64."""
        return self.centered(index).astype(np.int64)

    def scale(self, tensor: Tensor | int) -> np.float32:
        """The scale of a tensor, or of input ``index``, that has a single one."""
        tensor = self.source(tensor) if isinstance(tensor, int) else tensor
        if tensor.quantization is None or tensor.quantization.per_channel:
            raise self.refuse(f"needs one scale for {tensor.name!r}")
        return np.float32(tensor.quantization.scales[0])

    def zero_point(self, tensor: Tensor | int) -> int:
        """The zero point of a tensor, or of input ``index``, that has a single scale."""
        tensor = self.source(tensor) if isinstance(tensor, int) else tensor
        self.scale(tensor)
        return tensor.quantization.zero_points[0] if tensor.quantization is not None else 0

    def ints(self, index: int) -> list[int]:
        """The integers of input ``index``: axes, shapes, paddings."""
        if self.source(index).floating:
            raise self.refuse(f"has real numbers as input {index} where it takes integers")
        return [int(item) for item in self[index].reshape(-1).tolist()]

    def integer(self, name: str) -> int:
        """An option that is an integer, or an enumeration's number."""
        value = self.operator.options[name]
        if isinstance(value, tuple | float):
            raise self.refuse(f"has no integer as {name}")
        return int(value)

    def number(self, name: str) -> float:
        """An option that is a real number."""
        value = self.operator.options[name]
        if isinstance(value, tuple):
            raise self.refuse(f"has no number as {name}")
        return float(value)

    def flag(self, name: str) -> bool:
        """An option that is true or false."""
        return bool(self.operator.options[name])

    def axis(self, axis: int, rank: int) -> int:
        """An axis, counted from the front.

        Raises:
            EmitError: there is no such axis.
        """
        if not -rank <= axis < rank:
            raise self.refuse(f"speaks of axis {axis} of a tensor of {rank} axes")
        return axis % rank

    def activated(self, values: Array) -> Array:
        """Real numbers, or plain integers, after the fused activation."""
        low, high = self._clamp()
        return values if (low, high) == _CLAMPS[0] else np.clip(values, low, high).astype(values.dtype)

    def _clamp(self) -> tuple[float, float]:
        number = self.integer("fused_activation_function")
        if number not in _CLAMPS:
            raise self.refuse(f"has the fused activation {number}, which is not computed")
        return _CLAMPS[number]

    def range_of(self, tensor: Tensor) -> tuple[int, int]:
        """The smallest and the largest integer that a quantized tensor holds."""
        if tensor.dtype not in _RANGES:
            raise self.refuse(f"gives quantized {tensor.dtype}, which is not computed")
        return _RANGES[tensor.dtype]

    def quantize(self, value: float) -> int:
        """A real number as an integer of the output, not clamped to its range; computed in float32, as in kernels."""
        return self.zero_point(self.result) + int(rounded(float(np.float32(value) / self.scale(self.result))))

    def saturated(self, integers: Array, *, activation: bool = False) -> Array:
        """Integers (zero point included) clamped to the output's range and, with `activation`, to the fused one's."""
        low, high = self.range_of(self.result)
        if activation:
            least, most = self._clamp()
            low = max(low, self.quantize(least)) if math.isfinite(least) else low
            high = min(high, self.quantize(most)) if math.isfinite(most) else high
        clamped: Array = np.clip(integers, low, max(low, high)).astype(np.int64)
        return clamped

    def sized(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape of a result, checked before it is computed.

        Raises:
            EmitError: a size is negative, or there are more than `MOST_ELEMENTS` elements.
        """
        if any(size < 0 for size in shape):
            raise self.refuse(f"would give the shape {list(shape)}")
        if math.prod(shape) > MOST_ELEMENTS:
            raise self.refuse(f"would give {shown(float(math.prod(shape)))} elements, more than are computed")
        return tuple(shape)

    def together(self, *values: Array) -> None:
        """Checks the shape that values broadcast to, before they do.

        Raises:
            EmitError: they do not fit, or the result would have more than `MOST_ELEMENTS` elements.
        """
        shapes = [value.shape for value in values]
        try:
            common = np.broadcast_shapes(*shapes)
        except ValueError:
            raise self.refuse(f"has operands that do not fit: their shapes are {shapes}") from None
        self.sized(common)

    def refuse(self, what: str) -> EmitError:
        """The error that says ``<operator> <what>`` and names the operator by its first output."""
        where = self.results[0].name if self.results else self.operator.name
        return EmitError(f"{self.operator.name} {what}", where=where, hint="compute it on a runtime instead")


# What an operator returns: its only output, or all of them in their order.
Result = Array | tuple[Array, ...]
Kernel = Callable[[Call], Result]
