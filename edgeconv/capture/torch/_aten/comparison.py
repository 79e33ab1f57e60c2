"""Comparisons and logic: operands are brought to the dtype in which torch compares them."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir
import torch

from edgeconv.capture.torch._builder import DTYPES, Builder, Entry, Operand, Unsupported, sizes_of, torch_dtype

_BOOL = ir.DataType.BOOL


def comparison(op_type: str) -> Entry:
    """A comparison in the dtype that torch promotes both sides to; the result is bool.

    Less and Greater of booleans are refused: ONNX types only Equal for them.
    """

    def entry(b: Builder, x: Operand, other: Operand) -> ir.Value:
        dtype = common_dtype(x, other)
        if dtype is _BOOL and op_type != "Equal":
            raise Unsupported("an order of booleans")
        return b.add(op_type, b.tensor(x, dtype), b.tensor(other, dtype), dtype=_BOOL)

    return entry


def not_equal(b: Builder, x: Operand, other: Operand) -> ir.Value:
    """Not of Equal, in the dtype that torch promotes both sides to."""
    dtype = common_dtype(x, other)
    return b.add("Not", b.add("Equal", b.tensor(x, dtype), b.tensor(other, dtype), dtype=_BOOL))


def logical(op_type: str) -> Entry:
    """Logic of what is not zero: both sides are cast to bool first."""

    def entry(b: Builder, x: ir.Value, other: ir.Value) -> ir.Value:
        return b.add(op_type, b.cast(x, _BOOL), b.cast(other, _BOOL))

    return entry


def bitwise(op_type: str) -> Entry:
    """Of booleans the logic of masks, of integers that of their bits."""

    def entry(b: Builder, x: Operand, other: Operand) -> ir.Value:
        return b.add(op_type if b.dtype is _BOOL else f"Bitwise{op_type}", b.tensor(x), b.tensor(other))

    return entry


def logical_not(b: Builder, x: ir.Value) -> ir.Value:
    """Whether elements are zero: Cast to bool, and Not."""
    return b.add("Not", b.cast(x, _BOOL))


def bitwise_not(b: Builder, x: ir.Value) -> ir.Value:
    """Of booleans Not, of integers BitwiseNot (opset 18)."""
    return b.add("Not" if b.dtype is _BOOL else "BitwiseNot", x)


def test(op_type: str) -> Entry:
    """A test of each element, such as IsNaN; the result is bool."""

    def entry(b: Builder, x: ir.Value) -> ir.Value:
        return b.add(op_type, x, dtype=_BOOL)

    return entry


def common_dtype(x: Operand, other: Operand) -> ir.DataType:
    """The dtype of torch's promotion rules."""
    return DTYPES[torch.result_type(_stand_in(x), _stand_in(other))]


def _stand_in(operand: Operand) -> torch.Tensor | float:
    """A number itself, or an empty tensor of the same dtype and rank: ``result_type`` reads only these."""
    if not isinstance(operand, ir.Value):
        return operand
    return torch.empty([0] * len(sizes_of(operand)), dtype=torch_dtype(operand.dtype))


_COMPARED = {"gt": "Greater", "ge": "GreaterOrEqual", "lt": "Less", "le": "LessOrEqual", "eq": "Equal"}
_KINDS = ("Tensor", "Scalar")
_LOGIC = ("And", "Or", "Xor")

TABLE: Mapping[str, Entry] = {
    **{f"aten.{name}.{kind}": comparison(op) for name, op in _COMPARED.items() for kind in _KINDS},
    **{f"aten.ne.{kind}": not_equal for kind in _KINDS},
    "aten.logical_and.default": logical("And"),
    "aten.logical_or.default": logical("Or"),
    "aten.logical_xor.default": logical("Xor"),
    "aten.logical_not.default": logical_not,
    **{f"aten.bitwise_{op.lower()}.{kind}": bitwise(op) for op in _LOGIC for kind in (*_KINDS, "Scalar_Tensor")},
    **{f"aten.__{op.lower()}__.{kind}": bitwise(op) for op in _LOGIC for kind in _KINDS},
    "aten.bitwise_not.default": bitwise_not,
    "aten.isnan.default": test("IsNaN"),
}
