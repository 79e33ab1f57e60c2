"""The ONNX graph that is built of a file, and each operator's view of it: operands in either layout, results."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeconv.errors import EmitError
from edgeconv.reference.tflite._call import Call
from edgeconv.reference.tflite._graph import Array, Operator, Quantization, Tensor, TfliteGraph

# Opset 20 has Gelu, 21 has QuantizeLinear of 16 bits. Not always 21: onnxruntime 1.32 moves a Transpose across int8
# pairs in opset 20 only.
_OPSET, _OPSET_INT16 = 20, 21
_FIRST, _LAST = (0, 3, 1, 2), (0, 2, 3, 1)  # channels first of channels last, and back
_CLAMPS: Mapping[int, tuple[float, ...]] = {1: (0.0,), 2: (-1.0, 1.0), 3: (0.0, 6.0)}
Attribute = int | float | str | Sequence[int] | Sequence[str]


class Builder:
    """The ONNX graph so far.

    Attributes:
        file: the graph that was read.
        constants: arrays of tensors that never change, by index; of variables, the zeros that they begin with.
    """

    def __init__(self, file: TfliteGraph) -> None:
        self.file = file
        self.constants: dict[int, Array] = {
            index: tensor.stored if tensor.data is None else np.asarray(tensor.data)
            for index, tensor in enumerate(file.tensors)
            if tensor.stored is not None
        }
        self._values: dict[int, ir.Value] = {}
        # A tensor may have a value in each layout; a Transpose is added when one is asked for that is not there.
        self._first: dict[int, ir.Value] = {}  # of rank 4, channels first
        self._nodes: list[ir.Node] = []
        self._initializers: list[ir.Value] = []
        self._ends: dict[int, ir.Value] = {}  # of quantized outputs: the integers
        self._taken: set[str] = set()
        self._inputs = [self._input(index) for index in file.inputs]

    def model(self) -> ir.Model:
        """The whole."""
        outputs = [self._output(index) for index in self.file.outputs]
        is_wide = any(tensor.quantization is not None and tensor.dtype == "int16" for tensor in self.file.tensors)
        graph = ir.Graph(
            self._inputs,
            outputs,
            nodes=self._nodes,
            initializers=self._initializers,
            opset_imports={"": _OPSET_INT16 if is_wide else _OPSET},
            name="main",
        )
        return ir.Model(graph, ir_version=10, producer_name="edgeconv")

    def node(self, kind: str, inputs: Sequence[ir.Value | None], name: str, **attributes: Attribute) -> ir.Value:
        """Adds an operator with one result."""
        (result,) = self.nodes(kind, inputs, [name], **attributes)
        return result

    def nodes(
        self, kind: str, inputs: Sequence[ir.Value | None], names: Sequence[str], **attributes: Attribute
    ) -> Sequence[ir.Value]:
        """Adds an operator."""
        stated = [ir.convenience.convert_attribute(key, value) for key, value in attributes.items()]
        node = ir.Node("", kind, inputs, stated, outputs=[ir.Value(name=self._unique(name)) for name in names])
        self._nodes.append(node)
        return node.outputs

    def constant(self, array: Array, name: str) -> ir.Value:
        """Adds an initializer."""
        tensor = ir.tensor(np.ascontiguousarray(array).reshape(array.shape), name=self._unique(name))
        value = ir.Value(
            name=tensor.name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype)
        )
        self._initializers.append(value)
        return value

    def real_constant(self, index: int, axes: Sequence[int] | None = None) -> ir.Value:
        """A constant as an operator reads it, its axes in another order where one is stated."""
        tensor, array = self.file.tensors[index], self.constants[index]
        order = tuple(axes) if axes is not None else tuple(range(array.ndim))
        array = array.transpose(order)
        if tensor.quantization is None or tensor.floating:
            held = array.astype(np.float32) if tensor.floating else array
            return self.constant(held, tensor.name)
        if tensor.dtype == "int64":  # a bias, which no DequantizeLinear takes
            return self.constant((array * np.array(tensor.quantization.scales)).astype(np.float32), tensor.name)
        scale, zero = self._parameters(tensor.quantization, tensor)
        along = {"axis": order.index(tensor.quantization.axis)} if tensor.quantization.per_channel else {}
        stored = self.constant(array, f"{tensor.name}/stored")
        return self.node("DequantizeLinear", [stored, scale, zero], tensor.name, **along)

    def last(self, index: int) -> ir.Value:
        """A tensor in the file's layout."""
        if index not in self._values:
            if index in self._first:
                name = self.file.tensors[index].name
                self._values[index] = self.node("Transpose", [self._first[index]], name, perm=_LAST)
            elif index in self.constants:
                self._values[index] = self.real_constant(index)
            else:
                what = "nothing computes this tensor before an operator reads it, or it is an output"
                raise EmitError(what, where=self.file.tensors[index].name, hint="export the file again")
        return self._values[index]

    def first(self, index: int) -> ir.Value:
        """A tensor of rank 4, channels first."""
        if index not in self._first:
            name = f"{self.file.tensors[index].name}/nchw"
            self._first[index] = self.node("Transpose", [self.last(index)], name, perm=_FIRST)
        return self._first[index]

    def is_first(self, index: int) -> bool:
        """Whether a tensor has a value with channels first already."""
        return index in self._first

    def bind(self, index: int, value: ir.Value, *, first: bool = False) -> None:
        """Sets the value of a tensor; that of a quantized one is rounded."""
        tensor = self.file.tensors[index]
        if tensor.quantization is not None and not tensor.floating:
            value = self._rounded(index, tensor, value, first=first)
        (self._first if first else self._values)[index] = value

    def _rounded(self, index: int, tensor: Tensor, value: ir.Value, *, first: bool) -> ir.Value:
        assert tensor.quantization is not None  # the caller looked
        scale, zero = self._parameters(tensor.quantization, tensor)
        stored = self.node("QuantizeLinear", [value, scale, zero], f"{tensor.name}/stored")
        # The file's output is of integers, so these get the tensor's name; the real numbers are `/real`.
        if index in self.file.outputs:
            end = self.node("Transpose", [stored], tensor.name, perm=_LAST) if first else stored
            self._ends[index] = end if first else self.node("Identity", [stored], tensor.name)
        return self.node("DequantizeLinear", [stored, scale, zero], f"{tensor.name}/real")

    def stepped(self, value: ir.Value, tensor: Tensor, quantization: Quantization) -> ir.Value:
        """A real value rounded by the quantization of a tensor."""
        ends = self._parameters(quantization, tensor)
        stored = self.node("QuantizeLinear", [value, *ends], f"{tensor.name}/stored")
        return self.node("DequantizeLinear", [stored, *ends], f"{tensor.name}/real")

    def _parameters(self, quantization: Quantization, tensor: Tensor) -> tuple[ir.Value, ir.Value]:
        held = np.dtype(tensor.held_as)
        scales, zeros = np.array(quantization.scales, np.float32), np.array(quantization.zero_points, held)
        if not quantization.per_channel:
            scales, zeros = scales.reshape(()), zeros.reshape(())
        return self.constant(scales, f"{tensor.name}/scale"), self.constant(zeros, f"{tensor.name}/zero_point")

    def _input(self, index: int) -> ir.Value:
        tensor = self.file.tensors[index]
        value = ir.Value(name=tensor.name, shape=ir.Shape(tensor.shape), type=ir.TensorType(element_type(tensor)))
        self._values[index] = value
        if tensor.quantization is not None and not tensor.floating:
            scale, zero = self._parameters(tensor.quantization, tensor)
            self._values[index] = self.node("DequantizeLinear", [value, scale, zero], f"{tensor.name}/real")
        return value

    def _output(self, index: int) -> ir.Value:
        tensor = self.file.tensors[index]
        value = self._ends.get(index) or self.last(index)
        if value.name != tensor.name:
            value = self.node("Identity", [value], tensor.name)
        value.shape, value.type = ir.Shape(tensor.shape), ir.TensorType(element_type(tensor))
        return value

    def _unique(self, name: str) -> str:
        """The name, with a number appended if it is taken."""
        unique, number = name, 1
        while unique in self._taken:
            number += 1
            unique = f"{name}.{number}"
        self._taken.add(unique)
        return unique


@dataclass(frozen=True)
class Site:
    """One operator.

    Attributes:
        builder: of the graph.
        call: its tensors and options.
    """

    builder: Builder
    call: Call

    @classmethod
    def of(cls, builder: Builder, operator: Operator) -> Site:
        """Of an operator of the file."""
        return cls(builder, Call.of(builder.file.tensors, operator, builder.constants))

    def __getitem__(self, at: int) -> ir.Value:
        """Operand ``at`` in the file's layout."""
        return self.builder.last(self.index(at))

    def index(self, at: int) -> int:
        """The tensor of an operand."""
        inputs = self.call.operator.inputs
        if at >= len(inputs) or inputs[at] < 0:
            raise self.call.refuse(f"has no input {at}")
        return inputs[at]

    def has(self, at: int) -> bool:
        """Whether an operand is there."""
        inputs = self.call.operator.inputs
        return at < len(inputs) and inputs[at] >= 0

    def first(self, at: int) -> ir.Value:
        """Operand ``at``, channels first."""
        if len(self.shape(at)) != 4:
            raise self.call.refuse(f"has an operand of rank {len(self.shape(at))} where it takes 4")
        return self.builder.first(self.index(at))

    def shape(self, at: int) -> tuple[int, ...]:
        """The shape of an operand in the file's layout."""
        return self.call.source(at).shape

    @property
    def result(self) -> tuple[int, ...]:
        """The shape of the first result, likewise."""
        return self.call.result.shape

    def weights(self, at: int, axes: Sequence[int]) -> ir.Value:
        """A constant operand with its axes in this order, or one that is computed and transposed."""
        if self.index(at) in self.builder.constants:
            return self.builder.real_constant(self.index(at), axes)
        return self.node("Transpose", [self[at]], perm=axes)

    def ints(self, at: int) -> list[int]:
        """A constant operand of integers."""
        if self.call.optional(at) is None:
            raise self.call.refuse(f"computes its input {at}, which has to be a constant here")
        return self.call.ints(at)

    def number(self, number: float) -> ir.Value:
        """A constant of the operator's own, float32."""
        return self.builder.constant(np.array(number, np.float32), f"{self.call.result.name}/number")

    def sizes(self, numbers: Sequence[Any] | int) -> ir.Value:
        """Integers that say what an operator does: int64."""
        return self.builder.constant(np.array(numbers, np.int64), f"{self.call.result.name}/sizes")

    def node(self, kind: str, inputs: Sequence[ir.Value | None], **attributes: Attribute) -> ir.Value:
        """Adds an operator, named after the first result."""
        return self.builder.node(kind, inputs, f"{self.call.result.name}/{kind}", **attributes)

    def zeros(self, shape: Sequence[int], tensor: Tensor | None = None) -> ir.Value:
        """Zeros as a constant of the operator's own: float32, or as an operator computes this tensor."""
        real = tensor is None or tensor.floating or tensor.quantization is not None
        dtype = np.dtype(np.float32) if tensor is None or real else tensor.held_as
        return self.builder.constant(np.zeros(shape, dtype), f"{self.call.result.name}/zeros")

    def transposed(self, value: ir.Value, order: Sequence[int]) -> ir.Value:
        """The value with its axes in this order."""
        return value if list(order) == sorted(order) else self.node("Transpose", [value], perm=list(order))

    def activated(self, value: ir.Value) -> ir.Value:
        """After the fused activation."""
        number = self.call.integer("fused_activation_function")
        if number == 0:
            return value
        if number not in _CLAMPS:
            raise self.call.refuse(f"has the fused activation {number}, which ONNX has no word for here")
        if len(_CLAMPS[number]) == 1:
            return self.node("Relu", [value])
        return self.clipped(value, *_CLAMPS[number])

    def clipped(self, value: ir.Value, least: float, most: float) -> ir.Value:
        """Between two numbers."""
        return self.node("Clip", [value, *(self.number(number) for number in (least, most))])

    def as_stored(self, value: ir.Value, at: int) -> ir.Value:
        """A value rounded by the quantization of an operand, if it has one: what a state keeps."""
        tensor = self.call.source(at)
        return value if tensor.quantization is None else self.builder.stepped(value, tensor, tensor.quantization)

    def settle(self, array: Array) -> None:
        """Sets the result to a constant."""
        self.builder.constants[self.call.operator.outputs[0]] = array

    def give(self, value: ir.Value, at: int = 0, *, first: bool = False) -> None:
        """Sets the value of a result."""
        self.builder.bind(self.call.operator.outputs[at], value, first=first)


Rule = Callable[[Site], None]


def element_type(tensor: Tensor) -> ir.DataType:
    """What ONNX holds a tensor in."""
    return ir.DataType.FLOAT if tensor.floating else ir.DataType.from_numpy(np.dtype(tensor.held_as))
