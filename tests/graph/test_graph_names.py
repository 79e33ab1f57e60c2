"""Values whose names are given later: until then they have names that nobody else has."""

from __future__ import annotations

import onnx_ir as ir

from edgeconv.graph import names


def _graph(*computed: str) -> ir.Graph:
    """A chain of Relus, whose results have these names, behind the input ``x``."""
    value = x = ir.val("x", ir.DataType.FLOAT, [1])
    nodes = []
    for name in computed:
        nodes.append(ir.node("Relu", [value]))
        value = nodes[-1].outputs[0]
        value.name = name
    return ir.Graph([x], [value], nodes=nodes, opset_imports={"": 18})


def test_a_temporary_name_is_none_of_the_graph_and_its_branches() -> None:
    branch = _graph("temporary_1.0")
    graph = _graph("temporary.0", "y")
    choose = ir.node("If", [graph.inputs[0]], {"then_branch": branch, "else_branch": _graph("z")})
    choose.outputs[0].name = "chosen"
    graph.append(choose)
    invented = [names.temporary_name(graph) for _ in range(2)]
    assert invented == ["temporary_2.0", "temporary_2.1"]


def test_names_that_come_later_are_avoided_too() -> None:
    graph = _graph("y")
    names.begin_temporary_names(graph, ["temporary.weight"])
    assert names.temporary_name(graph) == "temporary_1.0"


def test_a_preferred_name_moves_with_the_name_and_is_gone_once_given() -> None:
    graph = _graph("a", "b")
    first, second = (node.outputs[0] for node in graph)
    names.name_later(graph, first, "y.scales")
    assert names.is_named_later(first)
    names.forget_all_but_name(first)
    temporary = first.name
    names.move_name(first, second)
    assert (first.name, second.name, names.preferred_name(second)) == (None, temporary, "y.scales")
    assert not names.is_named_later(first)
    names.rename_values(graph, {first: "a", second: names.preferred_name(second)})
    assert second.name == names.preferred_name(second) == "y.scales"
    assert not names.is_named_later(second)


def test_a_value_that_takes_a_real_name_is_not_named_later() -> None:
    graph = _graph("a", "b")
    first, second = (node.outputs[0] for node in graph)
    names.name_later(graph, second, "a.same")
    names.move_name(first, second)
    assert (second.name, names.preferred_name(second)) == ("a", "a")


def test_values_may_exchange_their_names() -> None:
    graph = _graph("temporary.0", "temporary.1")
    first, second = (node.outputs[0] for node in graph)
    names.rename_values(graph, {first: "temporary.1", second: "temporary.0"})
    assert (first.name, second.name) == ("temporary.1", "temporary.0")
