"""Removes nodes that return one of their inputs unchanged.

Capture removes those that restate a dtype or a shape (`FORMS`); the optimizer's table in
`edgeconv.rewrite.remove_no_ops` adds arithmetic that changes no number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from edgeconv.graph.constants import exact
from edgeconv.graph.edit import constant, graph_of, input_of, is_taken
from edgeconv.graph.replace import stand_in
from edgeconv.graph.traits import Trait, having

Rule = Callable[[ir.Node], ir.Value | None]
"""Gives the input that a node's result equals; None where the node may change something."""


class RemoveNoOpsPass(ir.passes.InPlacePass):
    """Removes nodes whose result is one of their inputs, zero biases, and operands that add nothing to a Concat.

    1. Requires: the table of rules says of the node that it changes nothing: by its kind (Identity), its mode (Dropout
       in inference), its attributes and constants (``x * 1``, Pad by nothing, Concat of one), or because a static or
       symbolic shape in equals the shape out for an operator that keeps the order of the elements (Reshape).
    2. Ensures: readers read the node's input, which keeps its name. A graph output keeps its own: its value takes it,
       with the former name in the value's metadata. A node between a graph input, a constant or another graph output
       and a graph output stays.
    3. Exact: no number changes, but for the sign of a zero (``-0 + 0``).

    onnx_ir's IdentityEliminationPass knows Identity alone, and forgets the former name of what becomes an output.
    """

    def __init__(
        self, rules: Mapping[str, Rule], *, capturing: bool = False, parameters: frozenset[ir.Value] = frozenset()
    ) -> None:
        """Sets the rules.

        Args:
            rules: by operator.
            capturing: any value may become a graph output, in place of (2): at capture outputs are named later.
            parameters: biases that stay although they are zero, as the module has them.
        """
        super().__init__()
        self._rules = rules
        self._capturing = capturing
        self._parameters = parameters

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Removes them in the graph's order."""
        modified = False
        for node in tuple(model.graph):
            modified = self._drop_zero_bias(node) or _drop_empty_operands(node) or modified
            rule = self._rules.get(node.op_type)
            source = rule(node) if rule is not None and node.domain == "" else None
            if source is not None and not any(map(is_taken, node.outputs[1:])):
                modified = self._forward(node, source) or modified
        return ir.passes.PassResult(model, modified)

    def _forward(self, node: ir.Node, source: ir.Value) -> bool:
        result = node.outputs[0]
        source.shape = source.shape if source.shape is not None else result.shape
        source.type = source.type if source.type is not None else result.type
        if not self._capturing:
            return stand_in(result, source)
        ir.convenience.replace_all_uses_with(result, source, replace_graph_outputs=True)
        graph_of(node).remove(node, safe=True)
        return True

    def _drop_zero_bias(self, node: ir.Node) -> bool:
        """Removes an all-zero bias of a Conv or ConvTranspose: torch.onnx writes one where the module has none."""
        bias = input_of(node, 2) if node.op_type in having(Trait.LAYER | Trait.WINDOWS) else None
        numbers = None if bias in self._parameters else exact(bias)
        if numbers is None or numbers.any():
            return False
        node.resize_inputs(2)
        return True


def _drop_empty_operands(node: ir.Node) -> bool:
    """Removes the operands of a Concat that hold no elements; where all of them are empty, one stays.

    torch.block_diag and windows that are padded by nothing join them; an empty operand has no range of numbers.
    """
    if node.op_type != "Concat" or node.domain != "":
        return False
    filled = [value for value in node.inputs if value is None or value.shape is None or 0 not in value.shape]
    operands = filled or list(node.inputs[:1])
    if len(operands) == len(node.inputs):
        return False
    for index, value in enumerate(operands):
        node.replace_input_with(index, value)
    node.resize_inputs(len(operands))
    return True


def first_input(condition: Callable[[ir.Node], bool]) -> Rule:
    """The rule of an operator that returns its first input where the condition holds."""
    return lambda node: node.inputs[0] if node.inputs and condition(node) else None


def same_shape(node: ir.Node, source: ir.Value | None = None) -> bool:
    """Whether two shapes are equal. Dimensions with the same symbol are; one without a name is unknown.

    Args:
        node: whose first result is compared.
        source: the input that it is compared with; None for the first one.
    """
    before, after = (None if value is None else value.shape for value in (source or node.inputs[0], node.outputs[0]))
    if before is None or after is None or len(before) != len(after):
        return False
    return all(map(_same_size, before, after))


def _same_size(before: int | ir.SymbolicDim, after: int | ir.SymbolicDim) -> bool:
    if isinstance(before, ir.SymbolicDim):
        return isinstance(after, ir.SymbolicDim) and before.value is not None and before.value == after.value
    return before == after


def _is_inference(node: ir.Node) -> bool:
    """Whether a Dropout is known to be out of training."""
    mode = input_of(node, 2)
    training = constant(mode)
    return mode is None or (training is not None and not training.any())


def _same_dtype(node: ir.Node) -> bool:
    before, after = node.inputs[0], node.attributes.get_int("to", 0) or node.outputs[0].dtype
    return before is not None and before.dtype is not None and before.dtype == after


def _identity_permutation(node: ir.Node) -> bool:
    permutation = node.attributes.get_ints("perm", (1, 0))
    return list(permutation) == sorted(permutation)


FORMS: Mapping[str, Rule] = {
    "Cast": first_input(_same_dtype),
    "CastLike": first_input(_same_dtype),
    "Dropout": first_input(_is_inference),
    "Expand": first_input(same_shape),
    "Flatten": first_input(same_shape),
    "Identity": first_input(lambda node: len(node.inputs) == 1),
    "Reshape": first_input(same_shape),
    "Transpose": first_input(_identity_permutation),
}
"""No-ops that exporters leave: operators that restate a dtype, a shape or an order of axes."""
