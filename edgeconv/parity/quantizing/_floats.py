"""Which operators compute in floats, by the plan; what others read and make is of integers."""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.graph.constants import clip_bounds
from edgeconv.graph.edit import KEEP_FLOAT, constant, input_of, only_reader
from edgeconv.graph.gelus import spelled_out
from edgeconv.graph.integer_rules import CONSTANT_OPERANDS, FUSING, LAYERS, WITH_INTEGERS
from edgeconv.parity.quantizing._alongside import Operand, first_name
from edgeconv.parity.quantizing._origin import Numbers, Origin
from edgeconv.parity.quantizing._place import Place

_BY_OPERANDS = LAYERS | {"Clip", "Div"}
"""Operators whose operands decide whether integers compute them."""


class Floats:
    """The operators of a float graph that stay float, and what follows for values and constants.

    Between two of them nothing is rounded. A plan that was chosen for the graph names all of them; one that somebody
    stated may leave out those that no integers compute, whose values it has no parameters of.

    Args:
        origin: the graph, with weights and biases as they are rounded, and the plan.
    """

    def __init__(self, origin: Origin) -> None:
        self._numbers, self._is_chosen = origin.numbers, origin.is_chosen
        self._spelled = spelled_out(origin.rounded.graph)
        kept, self._nodes = self._numbers.kept_float, {*origin.rounded.graph}
        self._kept = {node for node in self._nodes if first_name(self._spelled.get(node, node)) in kept}
        if not self._is_chosen:
            self._kept |= {node for node in self._nodes if not self._has_parameters(node)}

    @property
    def numbers(self) -> Numbers:
        """The plan's."""
        return self._numbers

    def keeps(self, node: ir.Node | None) -> bool:
        """Whether an operator of the float graph stays float."""
        return node in self._kept

    def other_mark(self, operand: Operand) -> Place | None:
        """Where a node tells emitters that it stays float and the plan does not say so, or the other way round."""
        node, before, name = operand.node, operand.before, operand.name
        if node is None or before is None or not self._numbers.tensors:
            return None
        is_marked, is_kept = bool(node.metadata_props.get(KEEP_FLOAT)), self.keeps(before)
        if is_marked and not is_kept:
            return Place(name, f"{name} is computed in floats, and the plan does not say that it stays float")
        has_integers = before.op_type in WITH_INTEGERS - _BY_OPERANDS and any(map(_is_real, before.outputs))
        if is_kept and not is_marked and has_integers and self._is_chosen:
            return Place(name, f"{name} stays float by the plan, and may be computed in integers")
        return None

    def is_rounded(self, operand: Operand) -> bool:
        """Whether a value is rounded before it is read here, if the plan has its parameters."""
        maker, reader = operand.value.producer(), operand.before
        around = {maker, *(use.node for use in operand.value.uses())} & self._nodes
        if around <= self._kept:
            return False
        return not (self.keeps(maker) and self.keeps(reader))

    def lacks(self, operand: Operand) -> bool:
        """Whether the plan has no parameters of a value that an operator of integers makes or reads."""
        value = operand.value
        if not self._numbers.tensors or not self._is_chosen or value.name in self._numbers.tensors:
            return False
        around = [node for node in (value.producer(), operand.before) if node is not None]
        return _is_real(value) and not self._is_inside(value) and not all(map(self.keeps, around))

    def is_integer(self, operand: Operand) -> bool:
        """Whether a constant is one of integers: a weight or a bias of a layer, or of what takes integer constants."""
        node, name = operand.before, operand.name
        if node is None or self.keeps(node):
            return False
        is_layer = node.op_type in LAYERS and constant(input_of(node, 1)) is not None
        if not self._numbers.tensors:
            stated = self._is_chosen or name in self._numbers.weights
            return is_layer and operand.index == 1 and stated
        if is_layer:
            return operand.index in (1, 2)
        takes = node.op_type in CONSTANT_OPERANDS and (node.op_type != "PRelu" or operand.index == 1)
        return takes and operand.value.dtype == ir.DataType.FLOAT and node not in self._spelled

    def _has_parameters(self, node: ir.Node) -> bool:
        values = [value for value in (*node.inputs, *node.outputs) if value is not None and _is_real(value)]
        return all(value.name in self._numbers.tensors or self._is_inside(value) for value in values)

    def _is_inside(self, value: ir.Value) -> bool:
        """Whether no integers stand for it: inside of a GELU, or before the bias or clamp that fuses with its maker."""
        maker, reader = value.producer(), only_reader(value)
        if maker is None or reader is None:
            return False
        if maker in self._spelled and self._spelled[maker] is not maker:
            return True
        if (
            maker.op_type == "MatMul"
            and reader.op_type == "Add"
            and any(constant(item) is not None for item in reader.inputs)
        ):
            return constant(input_of(maker, 1)) is not None
        bounds = clip_bounds(reader)
        return maker.op_type in FUSING and bounds is not None and bounds[0] <= 0 <= bounds[1]


def _is_real(value: ir.Value) -> bool:
    return value.dtype == ir.DataType.FLOAT and constant(value) is None
