"""Folds a Pad with zeros into the convolutions and average pools that read it."""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.graph.constants import exact, integers
from edgeconv.graph.edit import input_of, rank
from edgeconv.graph.replace import stand_in
from edgeconv.graph.windows import pads_by_size, stated_pads


class FoldPaddingPass(ir.passes.InPlacePass):
    """Folds Pad with zeros over spatial axes into the Conv or AveragePool nodes that read it.

    1. Requires: constant, non-negative amounts, none of them on the batch or channel axis, a constant value of zero,
       and readers that all pad explicitly. An AveragePool must count its own padding, or have none, must not round
       its output size up, and must not have windows that lie in the padding as a whole.
    2. Ensures: the readers read the Pad's input and pad for themselves.
    3. Exact: a Conv's own padding is zeros; an average that counts its padding divides by the same number as one
       over the padded input.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Folds them in the graph's order."""
        modified = False
        for node in tuple(model.graph):
            pads = _spatial_pads(node) if node.op_type == "Pad" and node.domain == "" else None
            readers = [use.node for use in node.outputs[0].uses()]
            if pads is None or node.outputs[0].is_graph_output() or not readers or node.inputs[0] is None:
                continue
            if not all(_takes(reader, node.outputs[0], pads) for reader in readers):
                continue
            # 2: the amounts are added to each reader's own.
            for reader in readers:
                own = stated_pads(reader, len(pads) // 2)
                total = [own_pad + more for own_pad, more in zip(own, pads, strict=True)]
                reader.attributes["pads"] = ir.AttrInt64s("pads", total)
                reader.attributes.pop("auto_pad", None)
                if reader.op_type == "AveragePool":
                    reader.attributes["count_include_pad"] = ir.AttrInt64("count_include_pad", 1)
            modified = stand_in(node.outputs[0], node.inputs[0]) or modified
        return ir.passes.PassResult(model, modified)


def _spatial_pads(node: ir.Node) -> list[int] | None:
    """The amounts as ``pads`` of a Conv (all starts, then all ends); None if rule (1) does not hold."""
    dimensions = rank(node.inputs[0])
    amounts = integers(input_of(node, 1))
    value = 0.0 if input_of(node, 2) is None else exact(input_of(node, 2))
    if dimensions is None or amounts is None or value is None or value != 0.0:
        return None
    if node.attributes.get_string("mode", "constant") != "constant":
        return None
    axes = list(range(dimensions)) if input_of(node, 3) is None else integers(input_of(node, 3))
    if axes is None or len(amounts) != 2 * len(axes) or min(amounts) < 0:
        return None
    full = [0] * (2 * dimensions)
    for index, axis in enumerate(axes):
        full[axis % dimensions] += amounts[index]
        full[dimensions + axis % dimensions] += amounts[len(axes) + index]
    on_batch_or_channel = full[0] or full[1] or full[dimensions] or full[dimensions + 1]
    return None if on_batch_or_channel else full[2:dimensions] + full[dimensions + 2 :]


def _takes(reader: ir.Node, padded: ir.Value, pads: list[int]) -> bool:
    """Whether a reader can do the padding itself (1)."""
    if reader.domain != "" or reader.inputs[0] is not padded or pads_by_size(reader):
        return False
    if reader.op_type == "Conv":
        return True
    if reader.op_type != "AveragePool" or reader.attributes.get_int("ceil_mode", 0) != 0:
        return False
    # An average with uncounted padding of its own would count it together with the Pad's zeros, or neither.
    own = stated_pads(reader, len(pads) // 2)
    kernel = reader.attributes.get_ints("kernel_shape", ())
    counted = reader.attributes.get_int("count_include_pad", 0) == 1 or not any(own)
    totals = [own_pad + more for own_pad, more in zip(own, pads, strict=True)]
    return counted and all(total < size for total, size in zip(totals, (*kernel, *kernel), strict=True))
