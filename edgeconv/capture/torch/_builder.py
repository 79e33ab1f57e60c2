"""Appends the ONNX nodes of one torch operation after another, each with static shapes and dtypes.

Entries of the table in `_aten` get a `Builder` as their first argument. Constants are lazy: a weight becomes an
initializer only when a node takes it, and arithmetic on constants is done by torch in float64 and rounded once
(`Builder.exact`), so that a folded batch norm, say, has no more than one rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import torch

from edgeconv.errors import CaptureError
from edgeconv.graph.edit import WRITTEN_OUT
from edgeconv.graph.names import begin_temporary_names, temporary_name
from edgeconv.graph.origin import Origin, set_origin
from edgeconv.reference import MOST_ELEMENTS

Operand = ir.Value | float
"""A tensor, or a Python number among the arguments of a torch operation."""
Result = ir.Value | Sequence[ir.Value | None]
"""The value of an operation, or one per result of torch's; None for a result that nobody uses and no entry made."""
Entry = Callable[..., Result]
"""A translator of one ATen operator: takes the builder and the arguments by name (``self`` and ``input`` are ``x``)."""

DTYPES: Mapping[torch.dtype, ir.DataType] = {
    torch.float16: ir.DataType.FLOAT16,
    torch.bfloat16: ir.DataType.BFLOAT16,
    torch.float32: ir.DataType.FLOAT,
    torch.float64: ir.DataType.DOUBLE,
    torch.bool: ir.DataType.BOOL,
    torch.uint8: ir.DataType.UINT8,
    torch.int8: ir.DataType.INT8,
    torch.int16: ir.DataType.INT16,
    torch.int32: ir.DataType.INT32,
    torch.int64: ir.DataType.INT64,
}
_TORCH = {onnx_dtype: dtype for dtype, onnx_dtype in DTYPES.items()}


def renamed(entry: Entry, **names: str) -> Entry:
    """The same entry for a schema with other argument names: ``renamed(clip, min="low")`` passes ``min`` as ``low``."""

    def entry_of_schema(b: Builder, **arguments: Any) -> Result:
        return entry(b, **{names.get(name, name): argument for name, argument in arguments.items()})

    return entry_of_schema


class Unsupported(Exception):  # noqa: N818 it never leaves the room: the official exporter takes over
    """The table has no entry for an operator, or its entry does not handle this form of the arguments."""


class Builder:
    """Appends nodes to a graph. `begin` states the torch operation that the next nodes belong to.

    Args:
        opset: version of the default ONNX domain.
        weights: names of weights, which temporary names must not take.

    Attributes:
        opset: version of the default ONNX domain.
        graph: the graph that nodes are appended to.
        exact: the unrounded tensor (float64, or integers) of each value that is a constant.
    """

    def __init__(self, opset: int, weights: Iterable[str]) -> None:
        self.opset = opset
        self.graph = ir.Graph([], [], nodes=[], opset_imports={"": opset})
        begin_temporary_names(self.graph, weights)
        self.exact: dict[ir.Value, torch.Tensor] = {}
        self._waiting: dict[ir.Value, Callable[[], npt.NDArray[Any]]] = {}
        self._origin = Origin()
        self._fakes: list[torch.Tensor] = []
        self._used: frozenset[int] = frozenset()
        self._is_written_out = False

    def begin(self, origin: Origin, fakes: list[torch.Tensor], used: frozenset[int]) -> None:
        """The next nodes belong to this operation.

        Args:
            origin: of the operation.
            fakes: torch's results: tensors with shape and dtype, without data.
            used: positions of the results that other operations use.
        """
        self._origin, self._fakes, self._used = origin, fakes, used
        self._is_written_out = False

    def write_out(self) -> None:
        """Marks the further nodes of this operation as `WRITTEN_OUT`: their values may leave float16's range.

        A float16 file then computes them in float32. Otherwise only the range of the operation's result would decide,
        which may be small where intermediates are not (a norm squares).
        """
        self._is_written_out = True

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of torch's (first) result."""
        return shape_of(self._fakes[0])

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of all of torch's results."""
        return [shape_of(fake) for fake in self._fakes]

    @property
    def dtype(self) -> ir.DataType:
        """The dtype of torch's (first) result."""
        return dtype_of(self._fakes[0])

    def is_used(self, index: int) -> bool:
        """Whether another operation uses torch's result at this position."""
        return index in self._used

    def add(
        self,
        op_type: str,
        *inputs: ir.Value | None,
        shape: Sequence[int] | None = None,
        dtype: ir.DataType | None = None,
        **attributes: Any,
    ) -> ir.Value:
        """Appends a node with one output.

        Args:
            op_type: ONNX operator.
            inputs: None for one that is left out.
            shape: of the output; by default what the inputs broadcast to.
            dtype: of the output; by default that of the first input.
            attributes: of the node.
        """
        tensors = [value for value in inputs if value is not None]
        if shape is None:
            sizes = {sizes_of(value) for value in tensors}
            shape = sizes.pop() if len(sizes) == 1 else np.broadcast_shapes(*sizes)
        return self.add_many(op_type, inputs, [shape], dtype or tensors[0].dtype, **attributes)[0]

    def add_many(
        self,
        op_type: str,
        inputs: Iterable[ir.Value | None],
        shapes: Sequence[Sequence[int]],
        dtype: ir.DataType | None = None,
        **attributes: Any,
    ) -> list[ir.Value]:
        """Appends a node with one output per shape, all of them of one dtype (that of the first input)."""
        operands = list(inputs)
        for value in operands:
            if value in self._waiting:
                self.keep(value)
        stated = {name: value for name, value in attributes.items() if value is not None}
        node = ir.node(op_type, operands, stated, num_outputs=len(shapes))
        of = dtype or (operands[0].dtype if operands and operands[0] is not None else None) or self.dtype
        for output, shape in zip(node.outputs, shapes, strict=True):
            output.shape, output.dtype, output.name = ir.Shape(shape), of, temporary_name(self.graph)
        set_origin(node, self._origin)
        if self._is_written_out:
            node.metadata_props[WRITTEN_OUT] = self._origin.operation
        self.graph.append(node)
        return list(node.outputs)

    def completed(self, output: ir.Value, shape: Sequence[int], dtype: ir.DataType) -> ir.Value:
        """Sets shape, dtype and name of an output that was added to a node."""
        output.shape, output.dtype, output.name = ir.Shape(shape), dtype, temporary_name(self.graph)
        return output

    def ints(self, *numbers: int) -> ir.Value:
        """A 1-d int64 constant: axes, shapes, pads."""
        return self.constant(np.array(numbers, dtype=np.int64))

    def scalar(self, number: float, dtype: ir.DataType | None = None) -> ir.Value:
        """A 0-d constant, by default of the dtype of torch's result; -1 as uint8 is 255, as in torch.

        Raises:
            Unsupported: a fraction in an integer dtype, which torch would compute in floats.
        """
        of = dtype or self.dtype
        if not of.is_floating_point() and of is not ir.DataType.BOOL and number != int(number):
            raise Unsupported(f"the number {number} among {of.name.lower()} tensors")
        if of is ir.DataType.UINT8 and number < 0:
            number = int(number) % 256
        return self.constant(np.array(number, dtype=of.numpy()))

    def filled(self, number: float, *shape: int, dtype: ir.DataType | None = None) -> ir.Value:
        """A constant that is the same number everywhere."""
        return self.constant(np.full(shape, number, dtype=(dtype or self.dtype).numpy()))

    def constant(self, array: npt.NDArray[Any]) -> ir.Value:
        """A constant of the array's dtype."""
        return self.waiting(temporary_name(self.graph), array.shape, ir.DataType.from_numpy(array.dtype), lambda: array)

    def exactly(self, tensor: torch.Tensor, dtype: ir.DataType) -> ir.Value:
        """A constant that is rounded to `dtype` only when a node takes it.

        Raises:
            CaptureError: it claims many more elements than the module holds.
        """
        # A tensor that ``expand`` made shares one element by strides of 0; written out it may not fit into memory.
        if tensor.numel() > max(MOST_ELEMENTS, tensor.untyped_storage().nbytes()):
            what = f"a constant of {tensor.numel():.2g} elements, expanded from a few"
            raise CaptureError(what, where=self.graph.name or "model", hint="let the operator that takes it broadcast")
        value = self.waiting(temporary_name(self.graph), tuple(tensor.shape), dtype, lambda: _rounded(tensor, dtype))
        self.exact[value] = tensor
        return value

    def waiting(
        self, name: str, shape: Sequence[int], dtype: ir.DataType, make: Callable[[], npt.NDArray[Any]]
    ) -> ir.Value:
        """A constant whose data `make` gives when a node first takes it; an unused one costs nothing."""
        value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(dtype))
        self._waiting[value] = make
        return value

    def keep(self, value: ir.Value) -> ir.Value:
        """Turns a waiting constant into an initializer of the graph; returns any value unchanged."""
        make = self._waiting.pop(value, None)
        if make is not None:
            value.const_value = ir.Tensor(make(), dtype=value.dtype, name=value.name)
            self.graph.register_initializer(value)
        return value

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """The value in another dtype; itself when it has it."""
        if value.dtype == dtype:
            return value
        if value in self.exact:
            tensor = self.exact[value]
            wide = tensor.double() if dtype.is_floating_point() else tensor.to(_TORCH[dtype])
            return self.exactly(wide, dtype)
        return self.add("Cast", value, dtype=dtype, to=int(dtype))

    def tensor(self, operand: Operand, dtype: ir.DataType | None = None) -> ir.Value:
        """A number or a tensor as a tensor (of the dtype of torch's result)."""
        of = dtype or self.dtype
        return self.cast(operand, of) if isinstance(operand, ir.Value) else self.scalar(operand, of)

    def reshape(self, value: ir.Value, shape: Sequence[int]) -> ir.Value:
        """Reshape: the same elements in another shape."""
        if sizes_of(value) == tuple(shape):
            return value
        if value in self.exact:
            return self.exactly(self.exact[value].reshape(tuple(shape)), _dtype(value))
        return self.add("Reshape", value, self.ints(*shape), shape=shape)

    def transpose(self, value: ir.Value, perm: Sequence[int]) -> ir.Value:
        """The axes in another order."""
        if list(perm) == sorted(perm):
            return value
        if value in self.exact:
            return self.exactly(self.exact[value].permute(tuple(perm)), _dtype(value))
        sizes = sizes_of(value)
        return self.add("Transpose", value, shape=[sizes[axis] for axis in perm], perm=list(perm))

    def slice(self, value: ir.Value, axis: int, start: int, end: int, step: int = 1) -> ir.Value:
        """The elements ``start:end:step`` (within the size, step positive) of one axis."""
        sizes = list(sizes_of(value))
        sizes[axis] = max(0, -(-(end - start) // step))
        bounds = (self.ints(start), self.ints(end), self.ints(axis), self.ints(step))
        return self.add("Slice", value, *bounds, shape=sizes)

    def split(self, value: ir.Value, axis: int, lengths: Sequence[int]) -> list[ir.Value]:
        """Consecutive pieces of one axis."""
        sizes = sizes_of(value)
        shapes = [(*sizes[:axis], length, *sizes[axis + 1 :]) for length in lengths]
        return self.add_many("Split", [value, self.ints(*lengths)], shapes, axis=axis)

    def concat(self, values: Sequence[ir.Value], axis: int) -> ir.Value:
        """The values behind each other along one axis."""
        if len(values) == 1:
            return values[0]
        sizes = list(sizes_of(values[0]))
        sizes[axis] = sum(sizes_of(value)[axis] for value in values)
        return self.add("Concat", *values, shape=sizes, axis=axis)

    def matmul(self, left: ir.Value, right: ir.Value) -> ir.Value:
        """The matrix product over the last two axes, the others broadcast; both of rank 2 or more.

        ONNX's MatMul takes no integers narrower than 32 bits. Those are multiplied as int32 and cast back, which keeps
        the low bits: the wrapped result that torch has.
        """
        a, b = sizes_of(left), sizes_of(right)
        shape = (*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1])
        kind = _dtype(left)
        if kind.is_floating_point() or kind in (ir.DataType.INT32, ir.DataType.INT64):
            return self.add("MatMul", left, right, shape=shape)
        wide = [self.cast(factor, ir.DataType.INT32) for factor in (left, right)]
        return self.cast(self.add("MatMul", *wide, shape=shape), kind)

    def reduce(self, op_type: str, value: ir.Value, axes: Sequence[int], *, keepdims: bool) -> ir.Value:
        """A ``Reduce…`` with its axes as an input, the form since opset 18; the value itself where there are none."""
        sizes = list(sizes_of(value))
        reduced = {axis % len(sizes) for axis in axes} if sizes else set()
        shape = [1 if axis in reduced else size for axis, size in enumerate(sizes) if keepdims or axis not in reduced]
        if not reduced:
            return value
        return self.add(op_type, value, self.ints(*axes), shape=shape, keepdims=int(keepdims))

    def constant_of(self, value: ir.Value | None) -> torch.Tensor | None:
        """The unrounded constant that a value stands for; None where it is computed at run time."""
        return None if value is None else self.exact.get(value)


def sizes_of(value: ir.Value) -> tuple[int, ...]:
    """The static shape of a value."""
    if value.shape is None:
        raise Unsupported("a value without a shape")
    return tuple(value.shape)  # type: ignore[arg-type]  # the builder gives integers only


def shape_of(tensor: torch.Tensor) -> tuple[int, ...]:
    """The static shape that torch recorded.

    Raises:
        Unsupported: a size is symbolic.
    """
    shape = tuple(tensor.shape)
    if not all(isinstance(size, int) for size in shape):
        raise Unsupported("a shape that is not known before it runs")
    return shape


def dtype_of(tensor: torch.Tensor) -> ir.DataType:
    """The ONNX dtype of what torch recorded.

    Raises:
        Unsupported: ONNX has none that this project handles (complex, quantized, float8).
    """
    if tensor.dtype not in DTYPES:
        raise Unsupported(f"a tensor of {str(tensor.dtype).removeprefix('torch.')}")
    return DTYPES[tensor.dtype]


def numpy_of(tensor: torch.Tensor) -> npt.NDArray[Any]:
    """A copy of a tensor's data."""
    dense = tensor.detach().cpu().contiguous()
    if dense.dtype is torch.bfloat16:  # numpy itself has none
        return np.array(dense.view(torch.int16).numpy().view(ml_dtypes.bfloat16), copy=True)
    return np.array(dense.numpy(), copy=True)


def torch_dtype(dtype: ir.DataType | None) -> torch.dtype:
    """torch's name of a dtype."""
    if dtype is None:
        raise Unsupported("a value without a dtype")
    return _TORCH[dtype]


def _dtype(value: ir.Value) -> ir.DataType:
    return DTYPES[torch_dtype(value.dtype)]


def _rounded(tensor: torch.Tensor, dtype: ir.DataType) -> npt.NDArray[Any]:
    return numpy_of(tensor.to(_TORCH[dtype]))
