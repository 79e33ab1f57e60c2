"""A `.tflite` file as frozen values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Option = int | float | bool | tuple[int, ...]


@dataclass(frozen=True)
class Quantization:
    """``real = scale * (integer - zero_point)``, for the whole tensor or for each slice along an axis.

    Attributes:
        scales: one, or one per slice; float32 numbers, positive and finite.
        zero_points: as many as scales.
        axis: of the slices; without meaning if there is one scale.
    """

    scales: tuple[float, ...]
    zero_points: tuple[int, ...]
    axis: int

    @property
    def per_channel(self) -> bool:
        """Whether each slice along the axis has a scale of its own."""
        return len(self.scales) > 1


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor of the graph.

    Attributes:
        name: as in the file; ``name#index`` where the file uses it twice, or leaves it empty.
        shape: as stated; an open dimension has the size that the file was built with.
        dtype: ``float32``, ``float16``, ``bfloat16``, ``int8``, ``int4`` (held in int8), ``bool`` and so on.
        quantization: None where the tensor holds plain numbers.
        data: a constant's values, read-only, of `shape`; float16 and integers as stored, bfloat16 as float32.
        variable: whether it keeps its value from one run to the next.
        open_axes: the axes whose size follows from the inputs (-1 in ``shape_signature``).
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    quantization: Quantization | None = None
    data: Array | None = None
    variable: bool = False
    open_axes: tuple[int, ...] = ()

    @property
    def floating(self) -> bool:
        """Whether it holds real numbers, which are evaluated in float64."""
        return self.dtype in ("float16", "bfloat16", "float32", "float64")

    @property
    def held_as(self) -> np.dtype[Any]:
        """The numpy dtype that an evaluation holds its values in."""
        return np.dtype("float64" if self.floating else {"int4": "int8"}.get(self.dtype, self.dtype))

    @property
    def stored(self) -> Array | None:
        """The value before any operator runs: a constant's, or the zeros of a variable; else None."""
        if self.data is not None:
            return np.asarray(self.data, self.held_as)
        return np.zeros(self.shape, self.held_as) if self.variable else None


@dataclass(frozen=True)
class Operator:
    """One operator of the graph.

    Attributes:
        name: of the builtin operator (``CONV_2D``), or of a custom one.
        inputs: indices of tensors; -1 where an optional one is left out.
        outputs: indices of tensors.
        options: its builtin options, by the schema's names, with the schema's defaults filled in.
        version: of the operator that the file asks for.
        custom: whether it is no builtin operator.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Option]
    version: int = 1
    custom: bool = False


@dataclass(frozen=True)
class TfliteGraph:
    """The main graph of a file.

    Attributes:
        tensors: all, in the file's order.
        operators: in the order of execution.
        inputs: indices of tensors.
        outputs: indices of tensors.
    """

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    @property
    def stored(self) -> dict[int, Array]:
        """The values before any operator runs, by the index of the tensor: constants, and zeros of variables."""
        values = ((index, tensor.stored) for index, tensor in enumerate(self.tensors))
        return {index: value for index, value in values if value is not None}

    @property
    def kept(self) -> dict[int, Array]:
        """The same in the types of the file, which take half the memory; `operands` converts those that are read."""
        constants = {index: tensor.data for index, tensor in enumerate(self.tensors) if tensor.data is not None}
        variables = {index: tensor.stored for index, tensor in enumerate(self.tensors) if tensor.variable}
        return {index: value for index, value in {**variables, **constants}.items() if value is not None}

    def operands(self, operator: Operator, values: Mapping[int, Array]) -> dict[int, Array]:
        """The inputs of an operator among values, by the index of the tensor, in the types that are evaluated."""
        read = {index: values[index] for index in operator.inputs if index in values}
        return {index: np.asarray(value, self.tensors[index].held_as) for index, value in read.items()}
