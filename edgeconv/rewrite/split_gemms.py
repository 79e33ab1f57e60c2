"""Gemm with a computed matrix or a bias per row, written as MatMul and Add, which every runtime computes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import onnx_ir as ir

from edgeconv.graph.constants import is_float, new_constant
from edgeconv.graph.each_node import Change, EachNodePass
from edgeconv.graph.edit import dims, graph_of, input_of, stated_input, tensor_of
from edgeconv.graph.names import unique_name
from edgeconv.graph.replace import insert_like, take_over

_OF_A_CONSTANT = frozenset({"DequantizeLinear", "QuantizeLinear", "Transpose", "Reshape"})


class SplitGemmsPass(EachNodePass):
    """Writes alpha A' B' + beta C as MatMul and Add, with Transpose and Mul where the Gemm has them.

    A fully connected layer of TFLite has a constant weight and one bias per output; so has a quantized layer.

    1. Requires: a Gemm whose B or C is computed, or whose constant C differs from row to row.
       Integers have no factors.
    2. Ensures: no such Gemm is left. The result keeps its name.
    3. Exact: Gemm is defined so (ONNX, operator Gemm), and C broadcasts to the result as an operand of Add does.
    """

    ensured = True

    def change_at(self, node: ir.Node) -> Change | None:
        """The replacement of a Gemm."""
        if node.op_type != "Gemm" or node.domain != "":
            return None
        bias = input_of(node, 2)
        fits = _is_computed(node.inputs[1]) or (bias is not None and (_is_computed(bias) or _has_rows(bias)))
        return partial(_replace, node) if fits and (is_float(node.outputs[0].dtype) or _is_plain(node)) else None


def _is_computed(value: ir.Value | None) -> bool:
    """Whether a value depends on more than constants; in front of a layer, constants may be dequantized or moved."""
    if tensor_of(value) is not None:
        return False
    node = None if value is None else value.producer()
    return node is None or node.op_type not in _OF_A_CONSTANT or _is_computed(node.inputs[0])


def _is_plain(node: ir.Node) -> bool:
    """Whether it has no factors: what a fraction times integers is, the specification does not say."""
    return all(node.attributes.get_float(name, 1.0) == 1 for name in ("alpha", "beta"))


def _has_rows(bias: ir.Value) -> bool:
    sizes = dims(bias) or ()
    return len(sizes) > 1 and sizes[0] != 1


def _replace(node: ir.Node) -> None:
    result = node.outputs[0]
    a, b = (
        _transposed(node, stated_input(node, at)) if node.attributes.get_int(name, 0) else stated_input(node, at)
        for at, name in enumerate(("transA", "transB"))
    )
    bias, beta = input_of(node, 2), node.attributes.get_float("beta", 1.0)
    product = _insert(node, "MatMul", [a, b], "product")
    product = _scaled(node, product, node.attributes.get_float("alpha", 1.0), "alpha")
    if bias is not None and beta != 0:
        product = _insert(node, "Add", [product, _scaled(node, bias, beta, "beta")], "sum")
    take_over(result, product)


def _transposed(node: ir.Node, matrix: ir.Value) -> ir.Value:
    shape = None if matrix.shape is None else tuple(matrix.shape)[::-1]
    perm = [ir.AttrInt64s("perm", [1, 0])]
    name = unique_name(graph_of(node), f"{matrix.name}.transposed")
    return insert_like(node, "Transpose", [matrix], perm, name, like=matrix, shape=shape)


def _scaled(node: ir.Node, value: ir.Value, factor: float, name: str) -> ir.Value:
    if factor == 1:
        return value
    dtype = value.dtype or ir.DataType.FLOAT
    scale = new_constant(graph_of(node), f"{node.outputs[0].name}.{name}", np.array(factor, dtype.numpy()))
    at = unique_name(graph_of(node), f"{value.name}.scaled")
    return insert_like(node, "Mul", [value, scale], [], at, like=value)


def _insert(node: ir.Node, op_type: str, inputs: Sequence[ir.Value], name: str) -> ir.Value:
    at = unique_name(graph_of(node), f"{node.outputs[0].name}.{name}")
    return insert_like(node, op_type, inputs, [], at)
