"""Basic questions to a graph (constants, shapes, readers), and the removal of what nothing reads.

Names of new values come from `edgeconv.graph.names`; attributes from `onnx_ir` itself (``node.attributes.get_int``).
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from edgeconv.core import Array

MODULE = "edgeconv.module"
"""metadata_props key: the torch module that a value or node comes from."""

NODE = "edgeconv.node"
"""metadata_props key: what a file that was read calls the node."""

WRITTEN_OUT = "edgeconv.written_out"
"""metadata_props key: the torch operation that this node writes out together with others.

Intermediate values may leave float16's range (products of many elements, say) although neither inputs nor results do:
a float16 file computes these nodes in float32.
"""

LOG1P = "ln(1 + x)"
"""The operation of `WRITTEN_OUT` whose result never is large."""

KEEP_FLOAT = "edgeconv.keep_float"
"""metadata_props key: why a node is computed in float although it has an integer form.

Between quantized values a node without QuantizeLinear could not be told from one that was forgotten.
"""

ROUNDED_BETWEEN = "edgeconv.rounded_between"
"""metadata_props key of a model: its module computed on integers throughout, also where its graph rounds nothing."""

ROUNDED_WEIGHTS = "edgeconv.rounded_weights"
"""metadata_props key of a model: how many weights its module rounds, where it rounds nothing else; floats here."""

MEETING = "edgeconv.meeting"
"""metadata_props key: why several updates of a ScatterElements may have the same index."""

_MARKS = (MODULE, WRITTEN_OUT)


def tensor_of(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of an initializer or of a ``Constant`` node's output; None for whatever is not constant.

    An initializer that is a graph input too is only a default that a caller may replace: not constant.
    """
    if value is None or value.is_graph_input():
        return None
    return ir.convenience.get_const_tensor(value)


def constant(value: ir.Value | None) -> Array | None:
    """The array of a constant, in the element type that it is stored in; None for whatever is not constant."""
    tensor = tensor_of(value)
    return None if tensor is None else tensor.numpy()


def dims(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape when every dimension is a known number, else None."""
    if value is None or value.shape is None or not value.shape.is_static():
        return None
    return tuple(value.shape.numpy())


def rank(value: ir.Value | None) -> int | None:
    """The number of dimensions, where it is known."""
    return None if value is None or value.shape is None else len(value.shape)


def input_of(node: ir.Node, index: int) -> ir.Value | None:
    """Input ``index``; None where the node leaves it out."""
    return node.inputs[index] if index < len(node.inputs) else None


def producer_of(value: ir.Value | None) -> ir.Node | None:
    """The node that computes a value; None for an input or a constant, and where there is no value."""
    return None if value is None else value.producer()


def stated_input(node: ir.Node, index: int = 0) -> ir.Value:
    """Input ``index`` of a node that has it by the specification: onnx's checker has seen to it.

    Raises:
        ValueError: the node leaves it out.
    """
    value = input_of(node, index)
    if value is None:
        raise ValueError(f"{node.op_type} without its input {index}")
    return value


def is_taken(value: ir.Value) -> bool:
    """Whether anything reads a result, or it is an output of the graph."""
    return bool(value.uses()) or value.is_graph_output()


def only_reader(value: ir.Value) -> ir.Node | None:
    """The node that alone reads the value, once, where the value is no graph output; else None."""
    uses = tuple(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def graph_of(node: ir.Node) -> ir.Graph:
    """The graph that the node stands in.

    Raises:
        PreconditionError: it stands in none; a bug of ours.
    """
    graph = node.graph
    if not isinstance(graph, ir.Graph):
        name = next((value.name for value in node.outputs if value.name), "?")
        raise ir.passes.PreconditionError(f"node {node.op_type} of {name} stands in no graph")
    return graph


def hand_on(node: ir.Node, new: ir.Node) -> None:
    """Copies the marks of a node (`_MARKS`) to a new one that does its work or a part of it."""
    new.metadata_props.update((key, node.metadata_props[key]) for key in _MARKS if key in node.metadata_props)


def add_initializer(graph: ir.Graph, name: str, array: Array) -> ir.Value:
    """Registers a constant of the array's element type under that name, which must be free; see `unique_name`."""
    tensor = ir.tensor(array, name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=tensor)
    graph.register_initializer(value)
    return value


def remove_unread(values: Iterable[ir.Value | None]) -> None:
    """Removes the nodes that compute these values, if nothing reads their results, and then the nodes before them."""
    pending = [value for value in values if value is not None]
    while pending:
        node = pending.pop().producer()
        if node is None or node.graph is None or any(map(is_taken, node.outputs)):
            continue
        pending += [value for value in node.inputs if value is not None]
        graph_of(node).remove(node, safe=True)


def remove_unread_constants(graph: ir.Graph) -> None:
    """Unregisters the initializers that nothing reads and that are no inputs or outputs of the graph."""
    for name, value in tuple(graph.initializers.items()):
        if not is_taken(value) and not value.is_graph_input():
            del graph.initializers[name]
