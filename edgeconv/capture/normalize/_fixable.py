"""Inputs of a single number that decide what a node computes: with such inputs fixed, the graph is plain."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence

import onnx_ir as ir

from edgeconv.errors import Wording
from edgeconv.graph.edit import dims


def hint_to_fix(values: Sequence[ir.Value | None], *, flag: str = "") -> str:
    """How to fix the inputs that all of the values are computed from.

    Args:
        values: of the graph, or None, which decides nothing.
        flag: what to fix a boolean input to that is one of the values itself; either, by default.

    Returns:
        The hint; empty where no input decides, or one of more than a single number.
    """
    inputs = _inputs_behind(values)
    if not inputs or any(dims(value) not in ((), (1,)) for value in inputs):
        return ""
    fixed = [(value.name or "", _number(value, flag if value in values else "")) for value in inputs]
    # One list for all three: a name may need quotes, which a shell, TOML and Python write each in their own way.
    flags = " ".join(f"--set {shlex.quote(name)}={number}" for name, number in fixed)
    keys = ", ".join(f"{json.dumps(name, ensure_ascii=False)} = {number}" for name, number in fixed)
    items = ", ".join(f"{name!r}: {number.title() if number == flag else number}" for name, number in fixed)
    what = "fix the input" if len(fixed) == 1 else "fix the inputs"
    return str(
        Wording(f"{what}: {flags}", f"{what}: [model] fixed = {{ {keys} }}", f"{what}: fixed={{{items}}}"),
    )


def _number(value: ir.Value, flag: str) -> str:
    """What stands for the number of an input."""
    if value.dtype != ir.DataType.BOOL:
        return "<number>"
    return flag or "<true or false>"


def _inputs_behind(values: Sequence[ir.Value | None]) -> list[ir.Value]:
    """The inputs of the graph that the values depend on, the nearest first."""
    pending, seen = list(values), dict[ir.Value, None]()
    while pending:
        value = pending.pop(0)
        if value is None or value in seen:
            continue
        seen[value] = None
        producer = value.producer()
        pending.extend(producer.inputs if producer is not None else ())
    return [value for value in seen if value.is_graph_input() and not value.is_initializer()]
