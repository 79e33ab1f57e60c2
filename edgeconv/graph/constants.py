"""The numbers of constants: those that the file holds, and those that they were rounded from.

A constant has a tensor, rounded to the graph's dtype, which the file will hold, and the float64 array that it was
rounded from. The array is kept in ``Value.meta`` (not serialized), so that a weight which three rewrites change is
rounded only once. The proof reads it, too: it judges rewrites apart from rounding.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.graph.edit import add_initializer, constant, input_of, rank, tensor_of
from edgeconv.graph.names import unique_name

Float64 = npt.NDArray[np.float64]

Face = tuple[ir.TensorProtocol, Float64]

_EXACT = "edgeconv.exact"  # Value.meta key: (tensor, float64 array that the tensor was rounded from)


def exact(value: ir.Value | None) -> Float64 | None:
    """The constant as float64, without the rounding that its dtype imposed on it; None when it is not constant."""
    tensor = tensor_of(value)
    if tensor is None or value is None or not is_float(tensor.dtype):
        return None
    remembered = value.meta.get(_EXACT)
    if remembered is not None and remembered[0] is tensor:  # rule out a tensor that was replaced in between
        array: Float64 = remembered[1]
        return array
    return tensor.numpy().astype(np.float64)


def unrounded(value: ir.Value | None) -> Array | None:
    """A constant to compute with: floats as of `exact`, others as stored; None for text and non-constants."""
    tensor = tensor_of(value)
    if tensor is None or tensor.dtype == ir.DataType.STRING:
        return None
    return exact(value) if is_float(tensor.dtype) else tensor.numpy()


def scalar(value: ir.Value | None, default: float) -> float | None:
    """A constant of one element; ``default`` where the input is left out, None where it is not such a constant."""
    if value is None:
        return default
    array = constant(value)
    return None if array is None or array.size != 1 else float(array.reshape(()))


def clip_bounds(node: ir.Node) -> tuple[float, float] | None:
    """The bounds of a Relu or Clip; None for other operators and for bounds that are no constants."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type != "Clip":
        return None
    low, high = scalar(input_of(node, 1), -np.inf), scalar(input_of(node, 2), np.inf)
    return None if low is None or high is None else (low, high)


def integers(value: ir.Value | None) -> list[int] | None:
    """A constant of integer dtype as a flat list; None when it is not one."""
    tensor = tensor_of(value)
    if tensor is None or not tensor.dtype.is_integer():
        return None
    return [int(item) for item in tensor.numpy().reshape(-1)]


def stated_axes(node: ir.Node) -> list[int] | None:
    """The axes of a reduction, from its input (opset 18) or its attribute; none where it states none.

    None where they are computed.
    """
    axes = input_of(node, 1)
    return list(node.attributes.get_ints("axes", ())) if axes is None else integers(axes)


def permutation_of(node: ir.Node, rank: int) -> list[int]:
    """The order in which a Transpose puts its operand's axes; the reverse where it states none."""
    return list(node.attributes.get_ints("perm", ())) or list(range(rank))[::-1]


def resized_axes(node: ir.Node, rank: int) -> list[int]:
    """The axes that a Resize states scales, sizes and regions for (attribute ``axes``, opset 18); all by default."""
    return [axis % rank for axis in node.attributes.get_ints("axes", ()) or range(rank)]


def is_float(dtype: ir.DataType | None) -> bool:
    """Whether arithmetic on the dtype rounds: the floats of 16 bits and more."""
    return dtype in (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def holds(dtype: ir.DataType, array: Float64) -> bool:
    """Whether the array is finite and within the range of a floating dtype."""
    limit = float(dtype.max)
    return array.size == 0 or bool(-limit <= array.min() and array.max() <= limit)  # comparisons with NaN are false


def add_constant(graph: ir.Graph, name: str, array: Array, dtype: ir.DataType) -> ir.Value:
    """Registers an initializer under that name, which must be free; see `unique_name`.

    A float64 ``array`` is rounded to a floating ``dtype`` and remembered exactly.
    """
    stored = array.astype(dtype.numpy())
    tensor = ir.tensor(stored, dtype=dtype, name=name)
    value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(stored.shape), const_value=tensor)
    if is_float(dtype) and array.dtype == np.float64:
        remember_exact(value, array)
    graph.register_initializer(value)
    return value


def new_constant(graph: ir.Graph, preferred: str, array: Array) -> ir.Value:
    """Registers an initializer of the array's element type, under that name or one with a number behind it."""
    return add_initializer(graph, unique_name(graph, preferred), array)


def remember_exact(value: ir.Value, array: Float64) -> None:
    """Keeps the array that a constant's tensor was rounded from, if it is another one."""
    tensor = value.const_value
    if tensor is not None and not np.array_equal(tensor.numpy(), array):
        value.meta[_EXACT] = (tensor, array)


def unrounded_copy(model: ir.Model) -> ir.Model:
    """A copy of a graph whose constants are the float64 arrays that they were rounded from, if those are kept.

    Arrays are shared, not copied.
    """
    model = model.clone()
    for name, value in model.graph.initializers.items():
        if (remembered := value.meta.get(_EXACT)) is not None and remembered[0] is value.const_value:
            value.const_value = ir.tensor(remembered[1], name=name)
            value.type = ir.TensorType(ir.DataType.DOUBLE)
    return model


def take_exact(model: ir.Model) -> dict[str, Face]:
    """Removes and returns the float64 arrays of all constants, by name; they take twice the memory of the tensors."""
    values = model.graph.initializers.items()
    return {name: value.meta.pop(_EXACT) for name, value in values if _EXACT in value.meta}


def give_exact(model: ir.Model, faces: Mapping[str, Face]) -> None:
    """Restores the arrays that `take_exact` removed, for constants whose tensor is still the same."""
    for name, (tensor, array) in faces.items():
        value = model.graph.initializers.get(name)
        if value is not None and value.const_value is tensor:
            value.meta[_EXACT] = (tensor, array)


def has_constants(node: ir.Node) -> bool:
    """Whether all inputs but the first are float constants, or left out."""
    return all(value is None or exact(value) is not None for value in node.inputs[1:])


def is_over_space(node: ir.Node) -> bool:
    """Whether a reduction states its axes, and none of them is the batch or the channels."""
    dimensions, axes = rank(node.inputs[0]), stated_axes(node)
    return dimensions is not None and bool(axes) and all(axis % dimensions > 1 for axis in axes or ())
