"""``If`` with a constant condition is replaced by the nodes of its branch."""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from edgeconv.capture.normalize._refused import refused
from edgeconv.graph.edit import constant, is_taken
from edgeconv.graph.names import names_of, take_name
from edgeconv.graph.origin import origin_of, set_origin

_GRAPHS = (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS)


def take_branches(graph: ir.Graph) -> None:
    """Replaces, in place, every ``If`` with a constant condition by the nodes of its branch.

    Raises:
        CaptureError: the branch gives another number of results than the operator.
    """
    for node in list(graph):
        if node.op_type != "If" or node.domain != "" or (condition := constant(node.inputs[0])) is None:
            continue
        name = "then_branch" if bool(condition.reshape(-1)[0]) else "else_branch"
        _take(graph, node, node.attributes[name].as_graph())
    for node in graph:
        if has_subgraph(node) and not any(map(is_taken, node.outputs)):
            release_outer_values(node)


def has_subgraph(node: ir.Node) -> bool:
    """Whether a node runs graphs of its own (If, Loop, Scan)."""
    return any(attribute.type in _GRAPHS for attribute in node.attributes.values())


def _take(graph: ir.Graph, node: ir.Node, branch: ir.Graph) -> None:
    """Moves constants and nodes of a branch into the graph, under unique names, and removes the ``If``."""
    if len(branch.outputs) != len(node.outputs):
        what = f"If has {len(node.outputs)} outputs, and the branch that is taken {len(branch.outputs)}"
        raise refused(node, what, "export the file again")
    for output, result in zip(node.outputs, splice(graph, node, branch, {}), strict=True):
        ir.convenience.replace_all_uses_with(output, result, replace_graph_outputs=True)
    release_outer_values(node)
    graph.remove(node, safe=True)


def splice(graph: ir.Graph, node: ir.Node, inner: ir.Graph, operands: Mapping[ir.Value, ir.Value]) -> list[ir.Value]:
    """Moves constants and nodes of a subgraph in front of the node that holds it, under unique names.

    Args:
        graph: of the node.
        node: stays as it is.
        inner: the node's subgraph, or a copy of it; left empty.
        operands: what takes the place of its inputs.

    Returns:
        What its outputs are in the graph.
    """
    names, replaced = set(names_of(graph)), dict(operands)
    for value in inner.initializers.values():
        copied = ir.val(take_name(value.name or "branch", names), const_value=value.const_value)
        if copied.const_value is not None:
            copied.const_value.name = copied.name
        graph.register_initializer(copied)
        replaced[value] = copied
    # Nodes can be in one graph only: they leave the subgraph before they enter the graph.
    results, nodes = list(inner.outputs), list(inner)
    inner.outputs.clear()
    for value, other in replaced.items():
        ir.convenience.replace_all_uses_with(value, other)
    inner.remove(nodes)
    for inner_node in nodes:
        set_origin(inner_node, origin_of(node))
        for value in inner_node.outputs:
            value.name = take_name(value.name or "branch", names)
    graph.insert_before(node, nodes)
    return [replaced.get(result, result) for result in results]


def release_outer_values(node: ir.Node) -> None:
    """Disconnects the subgraphs of a node that is removed from the values around them.

    Their nodes would count as readers otherwise, and keep alive what computes those values.
    """
    for attribute in node.attributes.values():
        if attribute.type not in _GRAPHS:
            continue
        for graph in [attribute.as_graph()] if attribute.type is ir.AttributeType.GRAPH else attribute.as_graphs():
            for inner in graph:
                release_outer_values(inner)
                for index in range(len(inner.inputs)):
                    inner.replace_input_with(index, None)
            graph.outputs.clear()
