"""ONNX nodes: their operands with errors, and which of them round nothing.

Operators of which `edgeconv.graph.traits` knows that their results are elements of the operands, comparisons, places or
shapes need no row: nothing is rounded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgeconv.errors import ParityError
from edgeconv.graph.origin import place_of
from edgeconv.graph.traits import Trait, having_any
from edgeconv.parity.bounds._arithmetic import FLOAT32, Arithmetic, Array
from edgeconv.parity.bounds._bound import Bound, bound_of, carried_over, either
from edgeconv.parity.bounds._node_rules import RULES, WITHOUT_BOUND
from edgeconv.parity.bounds._site import Site
from edgeconv.reference import evaluate_node

_BY_TRAITS = having_any(
    [
        *(Trait.MOVES, Trait.REARRANGES, Trait.PICKS, Trait.COMPARES, Trait.RANKS, Trait.SHAPE_ONLY),
        *(Trait.CLAMPS, Trait.PIECEWISE_CONSTANT),
    ]
)
_BY_NAME = {
    *("Abs", "And", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "CenterCropPad", "Constant"),
    *("ConstantOfShape", "Dropout", "GatherND", "Hardmax", "MaxUnpool", "Neg", "NonZero", "Not", "OneHot", "Or", "Pad"),
    *("Scatter", "ThresholdedRelu", "Trilu", "Where", "Xor"),
}
NOTHING_ROUNDED = (_BY_TRAITS | _BY_NAME) - WITHOUT_BOUND.keys()
"""Those whose every result is exact, whatever their operands are: elements, comparisons, places, shapes."""
INTEGERS = frozenset({"ConvInteger", "MatMulInteger"})
"""Those of integers alone, which are exact."""
_JUMPS = having_any([Trait.COMPARES, Trait.PIECEWISE_CONSTANT])
"""Those whose result jumps where a tiny number is read as 0."""
_CARRIED = (
    having_any([Trait.MOVES, Trait.REARRANGES, Trait.CLAMPS, Trait.LARGEST, Trait.SMALLEST])
    | {"Abs", "CenterCropPad", "Dropout", "GatherND", "Neg", "Pad", "Trilu", "Where"}
) - having_any([Trait.RANKS])
"""Those that round nothing, and whose results lie between what they make of both ends of their operands' errors."""
_KNOWN_OPERANDS = frozenset({"CumSum", "DequantizeLinear", "DynamicQuantizeLinear", "LpPool", "Mod", "QLinearConv"}) | {
    *("QLinearMatMul", "Shrink"),
}
"""Those whose rules only take operands that a runtime returned, and cannot carry an error of them."""


def of_node(
    node: ir.Node, operands: Sequence[Array | Bound | None], *, opset: int, arithmetic: Arithmetic = FLOAT32
) -> tuple[Bound, ...]:
    """How far any correct evaluation of a node may lie from the exact one, given its own operands.

    Args:
        node: as for `edgeconv.reference.evaluate_node`: its attributes are read, its subgraphs are not.
        operands: one per input, in torch's layout, as the runtime had them: float32 or float16 (or wider: taken as they
            are), and integers; None where an optional one is left out. A `Bound` is an operand that the runtime did not
            tell: its errors are carried on, so that several nodes are bounded as one.
        opset: of the default domain.
        arithmetic: what the runtime computes in.

    Returns:
        One `Bound` per result.

    Raises:
        ParityError: the operator, or a form of it, has no bound.
        RewriteError: `evaluate_node` refuses it.
    """
    carried = {at: item for at, item in enumerate(operands) if isinstance(item, Bound) and item.has_errors}
    if node.domain == "" and node.op_type in WITHOUT_BOUND:
        raise _unbounded(node)
    values = tuple(item.exact if isinstance(item, Bound) else item for item in operands)
    results = evaluate_node(node, values, opset=opset)
    # 1. What rounds nothing: the result itself, another one where an operand may be flushed, or errors carried on.
    integral = all(result.dtype.kind != "f" for result in results)
    exact = _is_exact(node, values, integral=integral)
    if carried and (node.op_type not in _CARRIED if exact else node.op_type in _KNOWN_OPERANDS):
        what = f"{node.op_type} is bounded for operands that a runtime told, and not for computed ones"
        raise ParityError(what, where=place_of(node), hint="have the runtime tell its operands")
    if exact and not carried and node.op_type in _JUMPS:
        read = tuple(None if item is None else arithmetic.read(np.asarray(item)) for item in values)
        if any(item is not value for item, value in zip(read, values, strict=True)):
            again = evaluate_node(node, read, opset=opset)
            return tuple(either(*pair) for pair in zip(results, again, strict=True))
    if exact:
        return _moved(node, values, carried, opset, results)
    # 2. All others by their rule.
    rule = RULES.get(node.op_type) if node.domain == "" else None
    if rule is None:
        raise _unbounded(node)
    arrays = tuple(None if item is None else np.asarray(item) for item in values)
    site = Site(node, arrays, opset, _no_body, arithmetic, results, carried)
    with np.errstate(all="ignore"):
        bounded = rule(site)
        rows = bounded if isinstance(bounded, tuple) else (bounded,)
        rows = (*rows, *[None] * (len(results) - len(rows)))
        return tuple(
            bound_of(result, row.stored() if row is not None and result.dtype.kind == "f" else row)
            for result, row in zip(results, rows, strict=False)
        )


def _unbounded(node: ir.Node) -> ParityError:
    what, why = f"no error bound is known for {node.op_type}", WITHOUT_BOUND.get(node.op_type, "")
    return ParityError(f"{what}: {why}" if why else what, where=place_of(node), hint="judge its outputs")


def _moved(
    node: ir.Node,
    values: Sequence[Array | None],
    carried: Mapping[int, Bound],
    opset: int,
    results: Sequence[Array],
) -> tuple[Bound, ...]:
    """The results of a node that rounds nothing: between what it makes of both ends of its operands' errors."""
    if not carried:
        return tuple(bound_of(result, None) for result in results)

    def evaluate(offsets: Mapping[int, Array]) -> Sequence[Array]:
        shifted = list(values)
        for at, offset in offsets.items():
            shifted[at] = carried[at].exact + offset
        return evaluate_node(node, shifted, opset=opset)

    return carried_over(results, carried, evaluate)


def _is_exact(node: ir.Node, operands: Sequence[Array | None], *, integral: bool) -> bool:
    """Whether nothing is rounded: elements are moved or compared, or all are integers."""
    quantizes = node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul")
    whole = all(item is None or item.dtype.kind in "iub" for item in operands)
    casts = node.op_type in ("Cast", "CastLike")
    return node.op_type in NOTHING_ROUNDED or (integral and (whole or casts) and not quantizes)


def _no_body(graph: ir.Graph) -> tuple[Array, ...]:
    raise ParityError(f"the subgraph {graph.name!r} has no error bound", hint="judge its operators")
