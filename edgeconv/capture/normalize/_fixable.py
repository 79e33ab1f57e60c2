"""Inputs of a single number that decide what a node computes: with such an input fixed, the graph is plain."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

import onnx_ir as ir

from edgeconv.errors import Wording
from edgeconv.graph.edit import dims


def hint_to_fix(values: Sequence[ir.Value | None], *, flag: str = "") -> str:
    """How to fix the one input that all of the values are computed from.

    Args:
        values: of the graph, or None, which decides nothing.
        flag: what to fix a boolean input to that is one of the values itself; either, by default.

    Returns:
        The hint; empty where no input decides, several do, or one of more than a single number.
    """
    inputs = _inputs_behind(values)
    if len(inputs) != 1 or dims(inputs[0]) not in ((), (1,)):
        return ""
    name = inputs[0].name or ""
    number = "<number>"
    if inputs[0].dtype == ir.DataType.BOOL:
        number = flag if flag and inputs[0] in values else "<true or false>"
    return str(
        Wording(
            f"fix the input: --set {shlex.quote(name)}={number}",
            f"fix the input: [model] fixed = {{ {json.dumps(name, ensure_ascii=False)} = {number} }}",
            f"fix the input: fixed={{{name!r}: {number.title() if number == flag else number}}}",
        )
    )


def _inputs_behind(values: Sequence[ir.Value | None]) -> list[ir.Value]:
    """The inputs of the graph that the values depend on."""
    pending, seen = list(values), set[ir.Value]()
    while pending:
        value = pending.pop()
        if value is None or value in seen:
            continue
        seen.add(value)
        producer = value.producer()
        pending.extend(producer.inputs if producer is not None else ())
    return [value for value in seen if value.is_graph_input() and not value.is_initializer()]
