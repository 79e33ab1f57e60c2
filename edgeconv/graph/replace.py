"""The ways in which stages change a graph: replace a constant, insert a node, let one value take over another."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from edgeconv.core import Array
from edgeconv.graph.constants import add_constant
from edgeconv.graph.edit import MODULE, graph_of, hand_on, tensor_of
from edgeconv.graph.names import unique_name


def replace_constant(node: ir.Node, index: int, array: Array, dtype: ir.DataType, name: str) -> None:
    """Replaces input ``index`` of ``node`` by a new constant; other readers of the old one keep it.

    The new one gets the old one's name if nothing else reads that, else `name` with a number if it is taken.
    """
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    # The old constant is unregistered first, so that the new one may have its name.
    old = node.inputs[index]
    node.replace_input_with(index, None)
    freed = old is not None and drop(old) and old.name == name
    graph = graph_of(node)
    unique = name if freed else unique_name(graph, name)
    node.replace_input_with(index, add_constant(graph, unique, array, dtype))


def drop(value: ir.Value) -> bool:
    """Unregisters an initializer that nothing reads any more, which frees its name; returns whether it did."""
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
    """Inserts a node before ``node``; returns its result.

    Args:
        node: whose marks the new node gets, too.
        op_type: of the new node.
        inputs: of the new node.
        attributes: of the new node.
        name: of the result and the node; no value may have it.
        like: gives the result its type and shape; None for the result of ``node``.
        shape: of the result, if it is another one.
    """
    model = node.outputs[0] if like is None else like
    value = ir.Value(name=name, type=model.type, shape=model.shape if shape is None else ir.Shape(shape))
    new = ir.Node("", op_type, inputs, attributes, outputs=[value], name=name)
    hand_on(node, new)
    graph_of(node).insert_before(node, new)
    return value


def stand_in(old: ir.Value, new: ir.Value) -> bool:
    """Removes the node of ``old``, and lets ``new``, which has the same value, replace it.

    Both names are right for the value, so ``new`` keeps its own, unless ``old`` is a graph output: outputs keep their
    names, and ``new``'s former name goes to its metadata.

    Returns:
        False if ``old`` must stay: it is a graph output, and ``new`` is an input, a constant or another output.
    """
    producer = old.producer()
    if producer is None:
        return False
    if old.is_graph_output():
        if new.is_graph_input() or new.is_graph_output() or new.is_initializer() or tensor_of(new) is not None:
            return False
        if new.name:
            new.metadata_props.setdefault(MODULE, new.name)
        ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
        new.name = old.name
    else:
        ir.convenience.replace_all_uses_with(old, new)
    graph_of(producer).remove(producer, safe=True)
    return True


def take_over(old: ir.Value, new: ir.Value) -> None:
    """Makes ``new`` replace ``old`` (readers, name, metadata, graph outputs), and removes the node of ``old``.

    For a ``new`` that now has the value of ``old``, and not that of its own former name: a convolution that absorbed
    its BatchNormalization. If the names of both are right, `edit.stand_in` is the one to use.
    """
    name, producer = old.name, old.producer()
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)
    new.name, new.shape, new.type = name, old.shape, old.type
    new.metadata_props.clear()
    new.metadata_props.update(old.metadata_props)
    if producer is not None:
        graph_of(producer).remove(producer, safe=True)


def disown(value: ir.Value, graph: ir.Graph) -> None:
    """Renames a value that no longer is the output of the torch module that it is named after."""
    value.metadata_props.pop(MODULE, None)
    value.name = unique_name(graph, f"{value.name}.unscaled")
