"""The few ways in which a stage may change a graph."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.graph.constants import add_constant, exact, stated_axes
from edgeconv.graph.edit import MODULE, graph_of, hand_on, rank
from edgeconv.graph.names import unique_name


def replace_constant(node: ir.Node, index: int, array: Array, dtype: ir.DataType, name: str) -> None:
    """Gives input ``index`` of ``node`` a new constant named ``name``; other users of the old one keep the old one."""
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    old = node.inputs[index]
    node.replace_input_with(index, None)
    freed = old is not None and drop(old) and old.name == name
    graph = graph_of(node)
    unique = name if freed else unique_name(graph, name)
    node.replace_input_with(index, add_constant(graph, unique, array, dtype))


def drop(value: ir.Value) -> bool:
    """Unregisters an initializer that nothing uses any more, so that its name is free; says whether it did."""
    graph = value.graph
    if not value.is_initializer() or value.uses() or value.is_graph_input() or value.is_graph_output():
        return False
    if not isinstance(graph, ir.Graph) or value.name is None:
        return False
    del graph.initializers[value.name]
    return True


def insert_like(
    node: ir.Node,
    op_type: str,
    inputs: Sequence[ir.Value],
    attributes: Sequence[ir.Attr],
    name: str,
    *,
    like: ir.Value | None = None,
    shape: Sequence[int | ir.SymbolicDim] | None = None,
) -> ir.Value:
    """Puts a node before ``node``; its result, under that free name, is like that node's, but for what is stated."""
    model = node.outputs[0] if like is None else like
    value = ir.Value(name=name, type=model.type, shape=model.shape if shape is None else ir.Shape(shape))
    new = ir.Node("", op_type, inputs, attributes, outputs=[value], name=name)
    hand_on(node, new)
    graph_of(node).insert_before(node, new)
    return value


def has_constants(node: ir.Node) -> bool:
    """Whether all operands behind the first are float constants, or left out."""
    return all(value is None or exact(value) is not None for value in node.inputs[1:])


def is_over_space(node: ir.Node) -> bool:
    """Whether a reduction states its axes, and they are all behind batch and channels."""
    dimensions, axes = rank(node.inputs[0]), stated_axes(node)
    return dimensions is not None and bool(axes) and all(axis % dimensions > 1 for axis in axes or ())


def where(node: ir.Node) -> str:
    """How a message names a node: its torch module, or its first output."""
    return node.metadata_props.get(MODULE) or next((value.name for value in node.outputs if value.name), None) or "?"


def take_over(old: ir.Value, new: ir.Value) -> None:
    """Lets ``new`` stand for ``old`` everywhere: its users, its name, its place among the graph outputs.

    For a ``new`` that now holds what ``old`` held and that no longer holds what its own name says (a convolution
    that absorbed its BatchNormalization). The node that made ``old`` stays, unused.
    """
    name, producer = old.name, old.producer()
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    new.name, new.shape, new.type = name, old.shape, old.type
    new.metadata_props.clear()
    new.metadata_props.update(old.metadata_props)
    if producer is not None:
        graph_of(producer).remove(producer, safe=True)


def disown(value: ir.Value, graph: ir.Graph) -> None:
    """Takes the module's name off a value that no longer holds the module's output."""
    value.metadata_props.pop(MODULE, None)
    value.name = unique_name(graph, f"{value.name}.unscaled")
