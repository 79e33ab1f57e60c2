"""A small mutable TFLite graph: tensors, operators and constants, before they are written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np

from edgeconv.core import Array
from edgeconv.emit.tflite._quantization import Quantization

COMPARISONS = ("EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "NOT_EQUAL")


@dataclass(eq=False)
class Tensor:
    """A tensor of the file; compared by identity.

    Attributes:
        name: its name in the file (made unique when the graph is written).
        shape: its dimensions in the file's own order.
        dtype: its element type.
        data: its value, for a constant.
        owner: the ONNX value that it is named after; ``""`` while it is only an intermediate.
        digest: of a constant's bytes.
        quantization: what its integers stand for, or shall stand for once the graph is made integer; None: floats.
        planned: whether the quantized graph rounds this very value; False where the scale was taken over from a
            RESHAPE's result (`share_scales`).
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    data: Array | None = None
    owner: str = ""
    digest: bytes = b""
    quantization: Quantization | None = None
    planned: bool = True


@dataclass(eq=False)
class Operator:
    """An operator of the file.

    Attributes:
        code: its name in the schema's ``BuiltinOperator`` (``"CONV_2D"``), or of a placeholder that becomes several
            operators before the file is written (``"TABLE"``).
        inputs: in the schema's order.
        outputs: in the schema's order.
        options: fields of its builtin options table, by the schema module's names (``strideW``).
        keeps_float: why it stays float in a graph that otherwise is quantized, where the graph or the plan says so.
        places: whether it computes places in an image, of which float16 would round the constants to others.
    """

    code: str
    inputs: list[Tensor]
    outputs: list[Tensor]
    options: dict[str, Any] = field(default_factory=dict)
    keeps_float: str = ""
    places: bool = False


class Graph:
    """Tensors and operators in execution order; constants with equal bytes are one tensor."""

    def __init__(self) -> None:
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.operators: list[Operator] = []
        self.open_axes: dict[Tensor, int] = {}  # the dimension that follows an open batch; its size is for a batch of 1
        self.reshaped: dict[Tensor, list[Tensor]] = {}  # what held, or holds, the elements of a tensor in another shape
        self.border_types: dict[str, str] = {}  # of inputs and outputs that are integers whatever a caller asks for
        self.all_halves = False  # float constants are float16, and so may the computation be
        self._constants: dict[tuple[str, tuple[int, ...], bytes, Quantization | None], Tensor] = {}

    def constant(self, array: Array, name: str, quantization: Quantization | None = None) -> Tensor:
        """A constant tensor of the array's shape and dtype; the first name of equal constants stays."""
        # ascontiguousarray makes rank 1 of a scalar.
        array = np.ascontiguousarray(array) if array.ndim else array
        digest = blake2b(array.reshape(-1).view(np.uint8).data).digest()
        key = (array.dtype.str, array.shape, digest, quantization)
        if key not in self._constants:
            self._constants[key] = Tensor(name, array.shape, array.dtype, array, "", digest, quantization)
        return self._constants[key]

    def add(
        self,
        code: str,
        inputs: Sequence[Tensor],
        shapes: Sequence[Sequence[int]],
        name: str,
        dtype: np.dtype[Any] | None = None,
        **options: Any,
    ) -> list[Tensor]:
        """Appends an operator and returns its outputs, one per shape; dtype is the first input's when not given."""
        kind = inputs[0].dtype if dtype is None else dtype
        outputs = [Tensor(name, tuple(int(size) for size in shape), kind) for shape in shapes]
        self.operators.append(Operator(code, list(inputs), outputs, options))
        return outputs

    def note_reshaped(self, tensor: Tensor, other: Tensor) -> None:
        """Remembers that two tensors have the same elements in the same order, whichever of them stays."""
        self.reshaped.setdefault(tensor, []).append(other)
        self.reshaped.setdefault(other, []).append(tensor)

    def producers(self) -> dict[Tensor, Operator]:
        """Each computed tensor's operator."""
        return {output: operator for operator in self.operators for output in operator.outputs}

    def consumers(self) -> dict[Tensor, list[Operator]]:
        """The operators that read a tensor, once per reading."""
        readers: dict[Tensor, list[Operator]] = {}
        for operator in self.operators:
            for tensor in operator.inputs:
                readers.setdefault(tensor, []).append(operator)
        return readers

    def replace(self, old: Tensor, new: Tensor) -> None:
        """Makes every reader of ``old`` read ``new``."""
        for operator in self.operators:
            operator.inputs = [new if tensor is old else tensor for tensor in operator.inputs]
