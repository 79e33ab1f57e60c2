"""Operators of 8 and 16 bit integers that ONNX or onnxruntime does not know: computed in int32 instead.

Whole powers of any integers become products, which wrap: onnxruntime's Pow goes through float64, saturates and rounds.

Specification: the type constraints of the ONNX operators, and the kernels that the CPU provider of onnxruntime 1.32
registers; each pair of the table was tried. A result that leaves the narrow type wraps, as it does in torch: a Cast to
fewer bits keeps the lowest.
"""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.graph.edit import constant, input_of, rank
from edgeconv.graph.names import unique_name

_8_BITS = {"CumSum", "Einsum", "MatMul", "NonZero", "Pow", "ReduceL1", "ReduceProd", "ReduceSum", "ReduceSumSquare"}
_16_BITS = _8_BITS | {"ArgMax", "ArgMin", "Clip", "Max", "Min", "Pad", "ReduceMax", "ReduceMin", "Resize", "Where"}
_UNSIGNED = {"Neg", "Relu"}
_WIDENED: dict[ir.DataType, frozenset[str]] = {
    ir.DataType.INT8: frozenset(_8_BITS | {"Trilu"}),
    ir.DataType.UINT8: frozenset(_8_BITS | _UNSIGNED | {"Trilu"}),
    ir.DataType.INT16: frozenset(_16_BITS | {"Relu", "Trilu"}),
    ir.DataType.UINT16: frozenset(_16_BITS | _UNSIGNED | {"TopK", "Trilu"}),
}
"""Operators without a kernel, by the type of their operands."""
_MULTIPLIED = {*_WIDENED, ir.DataType.INT32, ir.DataType.INT64}
_MOST_POWER = 64  # of a number but 0, 1 and -1 no type of at most 64 bits holds more


def wide_integers(graph: ir.Graph) -> None:
    """Widens the operands of operators without a kernel for their type, and narrows what they make of them."""
    powers = {node: power for node in graph if (power := _whole_power(node))}
    for node in list(graph):
        dtype = _data_type(node)
        if dtype is None or node.domain != "" or node.op_type not in _WIDENED.get(dtype, ()):
            continue
        # A Pow that stays one saturates in onnxruntime: in int64 the fewest results reach the end.
        wide = ir.DataType.INT64 if node.op_type == "Pow" and node not in powers else ir.DataType.INT32
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype == dtype:
                node.replace_input_with(index, _cast(graph, value, node, wide))
        for result in node.outputs:
            if result.dtype == dtype:
                _narrow(graph, node, result, wide)
    for node, power in powers.items():
        _multiply(graph, node, power)


def _whole_power(node: ir.Node) -> int | None:
    """The exponent of a power of integers, where that is a constant from 2 on."""
    if node.op_type != "Pow" or node.domain != "" or _data_type(node) not in _MULTIPLIED:
        return None
    exponent = constant(node.inputs[1])
    if exponent is None or exponent.size != 1 or exponent.ndim > (rank(node.inputs[0]) or 0):
        return None
    power = float(exponent.reshape(()))
    return int(power) if power.is_integer() and 2 <= power <= _MOST_POWER else None


def _multiply(graph: ir.Graph, node: ir.Node, power: int) -> None:
    """Makes products of a power: squares of squares, which wrap as torch's do."""
    base = node.inputs[0]
    assert base is not None  # it has a type

    def operands(number: int) -> tuple[ir.Value, ir.Value]:
        if number % 2:
            return value(number - 1), base
        half = value(number // 2)
        return half, half

    def value(number: int) -> ir.Value:
        if number == 1:
            return base
        factors = operands(number)
        name = unique_name(graph, f"{node.outputs[0].name}.power")
        product = ir.Value(name=name, type=base.type, shape=base.shape)
        graph.insert_before(node, ir.Node("", "Mul", factors, outputs=[product]))
        return product

    for index, operand in enumerate(operands(power)):
        node.replace_input_with(index, operand)
    node.op_type = "Mul"


def _data_type(node: ir.Node) -> ir.DataType | None:
    """The type of the first operand that is no condition."""
    index = 1 if node.op_type == "Where" else 0
    value = input_of(node, index)
    return value.dtype if value is not None else None


def _cast(graph: ir.Graph, value: ir.Value, before: ir.Node, dtype: ir.DataType) -> ir.Value:
    cast = ir.Value(name=unique_name(graph, f"{value.name}.wide"), type=ir.TensorType(dtype), shape=value.shape)
    graph.insert_before(before, ir.Node("", "Cast", [value], {"to": ir.AttrInt64("to", dtype.value)}, outputs=[cast]))
    return cast


def _narrow(graph: ir.Graph, node: ir.Node, result: ir.Value, wide: ir.DataType) -> None:
    """Puts a Cast behind a result, which takes its name and its readers."""
    dtype = result.dtype
    assert dtype is not None
    cast = ir.Value(type=ir.TensorType(dtype), shape=result.shape)
    ir.convenience.replace_all_uses_with(result, cast, replace_graph_outputs=True)
    cast.name, result.name = result.name, unique_name(graph, f"{result.name}.wide")
    cast.metadata_props.update(result.metadata_props)
    result.metadata_props.clear()
    result.type = ir.TensorType(wide)
    graph.insert_after(node, ir.Node("", "Cast", [result], {"to": ir.AttrInt64("to", dtype.value)}, outputs=[cast]))
