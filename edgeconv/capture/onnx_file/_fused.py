"""Operators that ONNX Runtime fuses when it saves an optimized model, written out as what it fused.

``SessionOptions.optimized_model_filepath`` at the level ``ORT_ENABLE_EXTENDED`` writes them (domain ``com.microsoft``;
its layer normalizations stand in the default domain, whatever the opset). Each is a few operators of the specification,
in the opset of the file, of the same real function; the last one keeps the names of the results.

Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md, and for the order of
``activation_params`` onnxruntime/core/mlas/inc/mlas.h (``MLAS_ACTIVATION``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from edgeconv.capture.onnx_file._soundness import STANDARD, every_graph
from edgeconv.graph.quantized_operators import DOMAIN

_NORMS_SINCE = 17  # LayerNormalization
_AXES_AS_INPUT = 18  # ReduceMean
_BOUNDS_AS_INPUT = 11  # Clip
_EINSUM_SINCE = 12
# The attributes of an activation that have numbers, in the order of ``activation_params``.
_ACTIVATIONS: Mapping[str, Sequence[str]] = {
    "Clip": ("min", "max"),
    "Elu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "LeakyRelu": ("alpha",),
    "Relu": (),
    "Selu": ("alpha", "gamma"),
    "Sigmoid": (),
    "Softplus": (),
    "Softsign": (),
    "Tanh": (),
    "ThresholdedRelu": ("alpha",),
}


class _Unknown(Exception):  # noqa: N818
    """The node is of a form that has no equal in the specification."""


class _WrittenOut:
    """The nodes that stand for one."""

    def __init__(self, node: onnx.NodeProto, graph: onnx.GraphProto, opset: int) -> None:
        self.node, self.opset = node, opset
        self.nodes: list[onnx.NodeProto] = []
        self.attributes: dict[str, Any] = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        self._graph = graph

    def operand(self, place: int) -> str:
        """The name of an input; empty where it is left out."""
        return self.node.input[place] if place < len(self.node.input) else ""

    def is_used(self, place: int) -> bool:
        """Whether the node has this output."""
        return place < len(self.node.output) and bool(self.node.output[place])

    def text(self, name: str) -> str:
        """An attribute of text; empty where it is left out."""
        value = self.attributes.get(name, b"")
        return value.decode() if isinstance(value, bytes) else ""

    def add(self, operator: str, *operands: str, result: str = "", **attributes: Any) -> str:
        """The name of a further node's result."""
        result = result or f"{self.node.output[0]}/{self.node.op_type}_{len(self.nodes)}"
        name = f"{self.node.name or self.node.output[0]}/{operator}"
        while operands and not operands[-1]:
            operands = operands[:-1]
        self.nodes.append(helper.make_node(operator, operands, [result], name=name, **attributes))
        return result

    def number(self, value: float) -> str:
        """The name of a constant of one float."""
        return self.constant(np.array(value, np.float32), "number")

    def constant(self, array: np.ndarray, what: str) -> str:
        name = f"{self.node.output[0]}/{what}_{len(self._graph.initializer)}"
        self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def end(self, value: str, place: int = 0) -> None:
        """Gives a result the name that the node's has."""
        for node in self.nodes:
            node.output[:] = [self.node.output[place] if name == value else name for name in node.output]
            node.input[:] = [self.node.output[place] if name == value else name for name in node.input]


def write_out_fused(proto: onnx.ModelProto, opset: int) -> None:
    """Writes out, in place, what ONNX Runtime fused; a form that the specification has no equal for stays.

    Args:
        proto: the model; its graphs inside of nodes, too.
        opset: of the default domain.
    """
    for graph in every_graph(proto.graph):
        nodes = list(graph.node)
        written = [_written_out(node, graph, opset) for node in nodes]
        if any(written):
            del graph.node[:]
            graph.node.extend(part for node, parts in zip(nodes, written, strict=True) for part in parts or [node])


def _written_out(node: onnx.NodeProto, graph: onnx.GraphProto, opset: int) -> list[onnx.NodeProto]:
    """The nodes that stand for a fused one; none for any other, and for a form that has no equal."""
    write = _FUSED.get(node.op_type) if node.domain == DOMAIN else None
    if node.domain in STANDARD and node.op_type == "LayerNormalization" and opset < _NORMS_SINCE:
        write = _layer_norm
    if node.op_type == "SimplifiedLayerNormalization":
        write = _root_mean_square
    if write is None:
        return []
    to, constants = _WrittenOut(node, graph, opset), len(graph.initializer)
    try:
        write(to)
    except _Unknown:
        del graph.initializer[constants:]
        return []
    return to.nodes


def _convolution(to: _WrittenOut) -> None:
    """FusedConv: Conv, plus a fourth input, and an activation behind both."""
    own = {name: value for name, value in to.attributes.items() if not name.startswith("activation")}
    y = to.add("Conv", *(to.operand(place) for place in range(3)), **own)
    if to.operand(3):
        y = to.add("Add", y, to.operand(3))
    numbers = to.attributes.get("activation_params", ())
    _end_activated(to, y, dict(zip(_ACTIVATIONS.get(to.text("activation"), ()), numbers, strict=False)))


def _gemm(to: _WrittenOut) -> None:
    """FusedGemm: Gemm, and an activation behind it, whose numbers are attributes of their own."""
    own = {name: value for name, value in to.attributes.items() if not name.startswith("activation")}
    y = to.add("Gemm", *(to.operand(place) for place in range(3)), **own)
    stated = {name.removeprefix("activation_"): value for name, value in to.attributes.items() if name not in own}
    names = _ACTIVATIONS.get(to.text("activation"), ())
    _end_activated(to, y, {name: stated[name] for name in names if name in stated})


def _end_activated(to: _WrittenOut, y: str, numbers: Mapping[str, Any]) -> None:
    activation = to.text("activation")
    if activation and activation not in _ACTIVATIONS:
        raise _Unknown
    if activation == "Clip" and to.opset >= _BOUNDS_AS_INPUT:
        y = to.add("Clip", y, *(to.number(numbers[name]) if name in numbers else "" for name in ("min", "max")))
    elif activation:
        y = to.add(activation, y, **numbers)
    to.end(y)


def _product(to: _WrittenOut) -> None:
    """FusedMatMul: ``alpha`` times the product of operands of which the last two axes may be exchanged."""
    if to.attributes.get("transBatchA") or to.attributes.get("transBatchB"):
        raise _Unknown
    operands = [to.operand(0), to.operand(1)]
    for place, name in enumerate(("transA", "transB")):
        if to.attributes.get(name):
            if to.opset < _EINSUM_SINCE:
                raise _Unknown
            operands[place] = to.add("Einsum", operands[place], equation="...ij->...ji")  # of whatever rank
    y = to.add("MatMul", *operands)
    alpha = float(to.attributes.get("alpha", 1.0))
    to.end(y if alpha == 1 else to.add("Mul", y, to.number(alpha)))


def _gelu(to: _WrittenOut) -> None:
    """Gelu and BiasGelu: x · (1 + erf(x / sqrt(2))) / 2."""
    x = to.add("Add", to.operand(0), to.operand(1)) if to.operand(1) else to.operand(0)
    share = to.add("Erf", to.add("Div", x, to.number(math.sqrt(2))))
    half = to.add("Mul", x, to.add("Add", share, to.number(1)))
    to.end(to.add("Mul", half, to.number(0.5)))


def _gelu_of_tanh(to: _WrittenOut) -> None:
    """FastGelu: x · (1 + tanh(sqrt(2 / pi) · (x + 0.044715 · x³))) / 2."""
    x = to.add("Add", to.operand(0), to.operand(1)) if to.operand(1) else to.operand(0)
    cube = to.add("Mul", to.add("Mul", x, x), x)
    inner = to.add("Add", x, to.add("Mul", cube, to.number(0.044715)))
    share = to.add("Tanh", to.add("Mul", inner, to.number(math.sqrt(2 / math.pi))))
    half = to.add("Mul", x, to.add("Add", share, to.number(1)))
    to.end(to.add("Mul", half, to.number(0.5)))


def _gelu_of_sigmoid(to: _WrittenOut) -> None:
    """QuickGelu: x · sigmoid(alpha · x)."""
    alpha = float(to.attributes.get("alpha", 1.702))
    inner = to.operand(0) if alpha == 1 else to.add("Mul", to.operand(0), to.number(alpha))
    to.end(to.add("Mul", to.operand(0), to.add("Sigmoid", inner)))


def _biased(to: _WrittenOut) -> None:
    """BiasAdd: the sum of all three."""
    to.end(to.add("Add", to.add("Add", to.operand(0), to.operand(1)), to.operand(2)))


def _layer_norm(to: _WrittenOut) -> None:
    _end_normalized(to, to.operand(0), to.operand(1), to.operand(2), centered=True, epsilon=1e-5)


def _root_mean_square(to: _WrittenOut) -> None:
    _end_normalized(to, to.operand(0), to.operand(1), "", centered=False, epsilon=1e-5)


def _added_layer_norm(to: _WrittenOut) -> None:
    """SkipLayerNormalization: of the sum of two inputs, and a bias; the fourth output is that sum."""
    _end_normalized(to, _sum_of(to, 4), to.operand(2), to.operand(3), centered=True, epsilon=1e-12)


def _added_root_mean_square(to: _WrittenOut) -> None:
    _end_normalized(to, _sum_of(to, 3), to.operand(2), "", centered=False, epsilon=1e-12)


def _sum_of(to: _WrittenOut, bias: int) -> str:
    total = to.add("Add", to.operand(0), to.operand(1))
    if to.operand(bias):
        total = to.add("Add", total, to.operand(bias))
    if to.is_used(3):
        to.end(total, 3)
        total = to.node.output[3]
    return total


def _end_normalized(to: _WrittenOut, x: str, scale: str, bias: str, *, centered: bool, epsilon: float) -> None:
    """A row divided by the root of the mean of its squares, times a scale, plus a bias."""
    if any(to.is_used(place) for place in (1, 2)):
        raise _Unknown  # the mean and the deviation, which nobody reads outside of training
    axis = int(to.attributes.get("axis", -1))
    epsilon = float(to.attributes.get("epsilon", epsilon))
    if centered and to.opset >= _NORMS_SINCE:
        to.end(to.add("LayerNormalization", x, scale, bias, axis=axis, epsilon=epsilon))
        return
    if axis != -1:
        raise _Unknown  # how many axes it is of cannot be told before the shapes are known
    rows = to.add("Sub", x, _mean(to, x)) if centered else x
    spread = to.add("Add", _mean(to, to.add("Mul", rows, rows)), to.number(epsilon))
    y = to.add("Mul", to.add("Div", rows, to.add("Sqrt", spread)), scale)
    to.end(to.add("Add", y, bias) if bias else y)


def _mean(to: _WrittenOut, x: str) -> str:
    if to.opset >= _AXES_AS_INPUT:
        return to.add("ReduceMean", x, to.constant(np.array([-1], np.int64), "axes"), keepdims=1)
    return to.add("ReduceMean", x, axes=[-1], keepdims=1)


_FUSED: Mapping[str, Callable[[_WrittenOut], None]] = {
    "BiasAdd": _biased,
    "BiasGelu": _gelu,
    "FastGelu": _gelu_of_tanh,
    "FusedConv": _convolution,
    "FusedGemm": _gemm,
    "FusedMatMul": _product,
    "Gelu": _gelu,
    "QuickGelu": _gelu_of_sigmoid,
    "SkipLayerNormalization": _added_layer_norm,
    "SkipSimplifiedLayerNormalization": _added_root_mean_square,
    "TransposeMatMul": _product,
}
