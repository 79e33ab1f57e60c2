"""ONNX Runtime's quantized operators, spelled out: what they are by definition, in operators of the specification.

``quantize_static(quant_format=QuantFormat.QOperator)`` writes them (domain ``com.microsoft``). Each dequantizes its
operands, computes in real numbers, and quantizes the result: "performs … on 8 bit data types".

Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.graph.edit import constant, input_of
from edgeconv.graph.names import unique_name
from edgeconv.graph.replace import take_over
from edgeconv.graph.traits import Trait, having, having_any

DOMAIN = "com.microsoft"
_LEAST_OPSET = 13  # from which on scales lie along an axis, and Softmax is of one axis

_Parameters = tuple[int, int]  # the places of scale and zero point


class _Spelled:
    """What a node becomes: the nodes before it, which read what it reads."""

    def __init__(self, graph: ir.Graph, node: ir.Node, kind: ir.DataType) -> None:
        self.node, self._graph, self._kind = node, graph, kind

    def real(self, place: int, parameters: _Parameters, axis: int | None = None) -> ir.Value:
        """An operand as the real numbers that it stands for."""
        scale, zero = (input_of(self.node, at) for at in parameters)
        return self.add("DequantizeLinear", [input_of(self.node, place), scale, zero], {} if axis is None else axis)

    def bias(self, place: int, scales: Sequence[int], axis: int, multiple: float = 1.0) -> ir.Value | None:
        """A term of int32, whose scale is the product of two others', or a multiple of it."""
        value = input_of(self.node, place)
        if value is None:
            return None
        arrays = [constant(input_of(self.node, at)) for at in scales]
        factor = np.asarray(np.prod(np.broadcast_arrays(*(np.float64(item) for item in arrays if item is not None)), 0))
        factor = (factor * multiple).astype(self._kind.numpy())
        name = unique_name(self._graph, f"{value.name}/scale")
        scale = ir.Value(name=name, shape=ir.Shape(factor.shape), type=ir.TensorType(self._kind))
        scale.const_value = ir.tensor(factor, name=name)
        self._graph.register_initializer(scale)
        return self.add("DequantizeLinear", [value, scale], {} if factor.size == 1 else axis)

    def add(
        self,
        operator: str,
        operands: Sequence[ir.Value | None],
        attributes: Mapping[str, ir.Attr] | int,
        kind: ir.DataType = ir.DataType.FLOAT,
    ) -> ir.Value:
        """The real result of a further node; a number is its axis."""
        stated = [ir.AttrInt64("axis", attributes)] if isinstance(attributes, int) else list(attributes.values())
        maker = f"{self.node.op_type} {self.node.name or self.node.outputs[0].name}"  # as messages are to name it
        node = ir.Node("", operator, operands, stated, num_outputs=1, name=maker)
        result = node.outputs[0]
        result.name = unique_name(self._graph, f"{self.node.outputs[0].name}/{operator}")
        result.type = ir.TensorType(kind)
        self._graph.insert_before(self.node, node)
        return result

    def attributes(self, *left_out: str) -> dict[str, ir.Attr]:
        return {name: item for name, item in self.node.attributes.items() if name not in left_out}


_Spell = Callable[[_Spelled], ir.Value]


def _of_one(operator: str, *left_out: str) -> tuple[_Spell, _Parameters]:
    return lambda to: to.add(operator, [to.real(0, (1, 2))], to.attributes(*left_out)), (3, 4)


def _of_two(operator: str) -> tuple[_Spell, _Parameters]:
    return lambda to: to.add(operator, [to.real(0, (1, 2)), to.real(3, (4, 5))], {}), (6, 7)


def _concat(to: _Spelled) -> ir.Value:
    parts = [to.real(at, (at + 1, at + 2)) for at in range(2, len(to.node.inputs), 3)]
    return to.add("Concat", parts, to.attributes())


def _where(to: _Spelled) -> ir.Value:
    return to.add("Where", [input_of(to.node, 0), to.real(1, (2, 3)), to.real(4, (5, 6))], {})


def _gemm(to: _Spelled) -> ir.Value:
    axis = _axis_of(to.node, 0 if to.node.attributes.get_int("transB", 0) else 1)
    term = input_of(to.node, 6)
    last = len(term.shape) - 1 if term is not None and term.shape is not None else 0
    alpha = to.node.attributes.get_float("alpha", 1.0)
    operands = [to.real(0, (1, 2)), to.real(3, (4, 5), axis), to.bias(6, (1, 4), last, alpha)]
    return to.add("Gemm", operands, to.attributes())


def _convolution(to: _Spelled) -> ir.Value:
    operands = [to.real(0, (1, 2)), to.real(3, (4, 5), _axis_of(to.node, 0)), to.bias(8, (1, 4), 0)]
    return to.add("Conv", operands, to.attributes())


def _product(to: _Spelled) -> ir.Value:
    return to.add("MatMul", [to.real(0, (1, 2)), to.real(3, (4, 5), _axis_of(to.node, 1))], {})


def _softmax(to: _Spelled) -> ir.Value:
    """Before opset 13 over all axes from ``axis`` on together: over the rows of a matrix."""
    value, attributes = to.real(0, (1, 2)), to.attributes("opset")
    if to.node.attributes.get_int("opset", 1) >= _LEAST_OPSET:
        return to.add("Softmax", [value], attributes)
    rows = to.add("Flatten", [value], to.node.attributes.get_int("axis", 1))
    shape = to.add("Shape", [value], {}, ir.DataType.INT64)
    return to.add("Reshape", [to.add("Softmax", [rows], 1), shape], {})


def _axis_of(node: ir.Node, axis: int) -> int | None:
    """The axis of the weight's scales; None where it has one."""
    scales = constant(input_of(node, 4))
    return axis if scales is not None and scales.size > 1 else None


_SPELLED: dict[str, tuple[_Spell, _Parameters]] = {
    "QGemm": (_gemm, (7, 8)),
    "QLinearAdd": _of_two("Add"),
    "QLinearAveragePool": _of_one("AveragePool", "channels_last"),
    "QLinearConcat": (_concat, (0, 1)),
    "QLinearGlobalAveragePool": _of_one("GlobalAveragePool", "channels_last"),
    "QLinearLeakyRelu": _of_one("LeakyRelu"),
    "QLinearMul": _of_two("Mul"),
    "QLinearReduceMean": _of_one("ReduceMean"),
    "QLinearSigmoid": _of_one("Sigmoid"),
    "QLinearSoftmax": (_softmax, (3, 4)),
    "QLinearWhere": (_where, (7, 8)),
}
"""By operator: the real result, and the places of the parameters that it is quantized with."""
OF_THE_SPECIFICATION = {"QLinearConv": (_convolution, (6, 7)), "QLinearMatMul": (_product, (6, 7))}
_TWINS = having(Trait.SCALED)
"""The specification's operators, which ONNX Runtime had of 16 and 4 bits before."""
SPELLED = frozenset((*_SPELLED, *_TWINS))
"""ONNX Runtime's operators that `spell_out` knows."""
PARAMETERS: Mapping[str, tuple[int, int]] = {
    "QuantizeLinear": (1, 2),
    **{operator: places for operator, (_, places) in (_SPELLED | OF_THE_SPECIFICATION).items()},
}
"""The places of the scale and the zero point that an operator quantizes its result with."""


def spell_out(
    model: ir.Model, *, all_of_them: bool = False, products: ir.DataType = ir.DataType.DOUBLE
) -> frozenset[str]:
    """Replaces ONNX Runtime's quantized operators, in place; values that the file has keep their names.

    Args:
        model: to change.
        all_of_them: those of the specification (QLinearConv, QLinearMatMul), too.
        products: the type of scales that are products of two.

    Of those that are left (channels last, parameters that are computed) whoever reads the graph says that it does not
    know them.

    Returns:
        The names of the values that the file does not have.
    """
    graph, before = model.graph, {value.name for node in model.graph for value in node.outputs}
    if graph.opset_imports.get("", 0) < _LEAST_OPSET:
        return frozenset()
    for node in list(graph):
        if node.domain == DOMAIN and node.op_type in _TWINS:
            node.domain = ""
        table = _SPELLED if node.domain == DOMAIN else OF_THE_SPECIFICATION if all_of_them else {}
        spelled = table.get(node.op_type)
        if spelled is not None and _is_plain(node):
            spell, parameters = spelled
            _quantize(graph, node, spell(_Spelled(graph, node, products)), parameters)
    return frozenset(value.name or "" for node in graph for value in node.outputs if value.name not in before)


def misread(model: ir.Model) -> Iterator[tuple[str, str]]:
    """Integers that are read with another scale or zero point than they were written with: name, and one line."""
    for node in model.graph:
        if node.op_type != "DequantizeLinear" or node.inputs[0] is None:
            continue
        writer = _writer_of(node.inputs[0])
        if writer is None:
            continue
        for what, place in (("scale", 1), ("zero point", 2)):
            written, read = (_numbers(input_of(item, place)) for item in (writer, node))
            if written is None or read is None or not _is_comparable(written, read):
                continue
            pairs = zip(*np.broadcast_arrays(written, read), strict=True)
            apart = next(((due, other) for due, other in pairs if due != other), None)
            if apart is not None:
                name = writer.outputs[0].name or ""
                yield name, f"{name} is written with the {what} {apart[0]:.9g}, and read with {apart[1]:.9g}"


def _is_comparable(written: Array, read: Array) -> bool:
    """Whether one of them is of all, or both are of an axis: the same one, as nothing in between but moves it."""
    return 1 in (written.size, read.size) or written.size == read.size


def _writer_of(value: ir.Value) -> ir.Node | None:
    """What quantized a value, before its elements were moved or picked."""
    node = value.producer()
    while node is not None and node.op_type in having_any([Trait.REARRANGES, Trait.LARGEST]) and len(node.inputs) < 3:
        source = node.inputs[0]
        node = source.producer() if source is not None and node.op_type not in ("Max", "Concat") else None
    return node if node is not None and node.op_type == "QuantizeLinear" else None


def _numbers(value: ir.Value | None) -> Array | None:
    """Scales or zero points, of all or of an axis; a zero point that is left out is 0; None of what is computed."""
    if value is None:
        return np.zeros(1)
    array = constant(value)
    return None if array is None or not array.size else array.reshape(-1).astype(np.float64)


def _is_plain(node: ir.Node) -> bool:
    if node.attributes.get_int("channels_last", 0) or len(node.outputs) != 1:
        return False
    varying = [value for value in node.inputs if value is None or constant(value) is None]
    most = {"QLinearConcat": (len(node.inputs) - 2) // 3, "QLinearWhere": 3}.get(node.op_type, 2)
    return None not in varying and len(varying) <= most


def _quantize(graph: ir.Graph, node: ir.Node, real: ir.Value, parameters: _Parameters) -> None:
    result = node.outputs[0]
    scale, zero = (input_of(node, at) for at in parameters)
    if scale is None:  # QGemm whose result stays real
        result.type = real.type
        take_over(result, real)
        return
    quantize = ir.Node("", "QuantizeLinear", [real, scale, zero], num_outputs=1)
    graph.insert_before(node, quantize)
    result.type = zero.type if zero is not None else None
    take_over(result, quantize.outputs[0])
