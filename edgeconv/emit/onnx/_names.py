"""Names for the values that the simplifier makes of its own.

Layers are aligned by the names of values, and the simplifier's own (``_v_265``) say nothing and change with its
version. In this order:

1. A strided part of a tensor keeps the name that it had: two slices in a row that became one are the second of them.
2. Any other value is ``<value that it is made for>.<operator>`` (``fc.gemm``), as inside of a torch operation that
   became several nodes: the first named value behind it, along its first consumers.
3. A value that still has its name but another shape (elementwise operators may move before a reshape) is no longer
   the output of the module that it is named after: it is ``<its name>.flat``.
4. A constant is ``<value that it is made for>.<input of the operator>`` (``fc.reshape.shape``).

A name that is taken gets ``_1``, ``_2``, …
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from edgeconv.graph.names import input_name, take_name

_Part = tuple[str, tuple[range, ...]]


def name_invented(before: onnx.ModelProto, after: onnx.ModelProto) -> None:
    """Renames, in place, the values and constants of ``after`` that ``before`` does not have.

    Args:
        before: the graph, with the shapes of its values.
        after: what the simplifier made of it; nothing else may have been renamed in it.
    """
    names_before = _names(before.graph)
    invented = [name for name in _names(after.graph) if name not in names_before]
    taken = set(names_before) | {value.name for value in (*after.graph.input, *after.graph.output)}
    chosen = _same_parts(before.graph, after.graph, invented)
    chosen |= {name: take_name(f"{name}.flat", taken) for name in _reshaped(before.graph, after.graph)}
    _name_values(after.graph, set(invented), chosen, taken)
    _name_constants(after, set(invented), chosen, taken)
    _rename(after.graph, chosen)


def _names(graph: onnx.GraphProto) -> dict[str, None]:
    """Values and constants in graph order."""
    values = [name for node in graph.node for name in node.output if name]
    return dict.fromkeys([*(tensor.name for tensor in graph.initializer), *values])


def _same_parts(before: onnx.GraphProto, after: onnx.GraphProto, invented: list[str]) -> dict[str, str]:
    """Rule 1: invented name -> the dropped name of the same part of the same tensor."""
    parts_after = _parts(after)
    invented_parts = {parts_after[name] for name in invented if name in parts_after}
    dropped = set(_names(before)) - set(_names(after))
    old_names = (
        {part: name for name, part in _parts(before).items() if name in dropped and part in invented_parts}
        if invented_parts
        else {}
    )
    return {name: old_names[parts_after[name]] for name in invented if parts_after.get(name) in old_names}


def _reshaped(before: onnx.GraphProto, after: onnx.GraphProto) -> list[str]:
    """Rule 3: values of both graphs whose shapes differ, in graph order."""
    shapes = {value.name: _shape(value) for value in before.value_info}
    return [
        value.name for value in after.value_info
        if value.name and shapes.get(value.name, _shape(value)) != _shape(value)  # without a name: an output left out
    ]  # fmt: skip


def _parts(graph: onnx.GraphProto) -> dict[str, _Part]:
    """What each Slice with constant bounds takes of the tensor at the head of its chain: positions, axis by axis."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    shapes = {value.name: _shape(value) for value in (*graph.input, *graph.value_info, *graph.output)}
    parts: dict[str, _Part] = {}
    for node in graph.node:
        if node.op_type != "Slice" or not all(name in constants for name in node.input[1:] if name):
            continue
        source = parts.get(node.input[0]) or _whole_tensor(node.input[0], shapes)
        if source is None:
            continue
        bounds = [[int(i) for i in onnx.numpy_helper.to_array(constants[name])] for name in node.input[1:] if name]
        starts, ends = bounds[0], bounds[1]
        axes = bounds[2] if len(bounds) > 2 else list(range(len(starts)))
        steps = bounds[3] if len(bounds) > 3 else [1] * len(starts)
        positions = list(source[1])
        for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
            positions[axis] = positions[axis][start:end:step]  # Slice clamps its bounds as Python does
        parts[node.output[0]] = (source[0], tuple(positions))
    return parts


def _whole_tensor(name: str, shapes: Mapping[str, tuple[int, ...]]) -> _Part | None:
    return (name, tuple(range(size) for size in shapes[name])) if name in shapes else None


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)


def _name_values(graph: onnx.GraphProto, invented: set[str], chosen: dict[str, str], taken: set[str]) -> None:
    """Rule 2: adds a name to ``chosen`` for every invented result of a node."""
    made_for: dict[str, str] = {}
    for node in reversed(graph.node):
        first = next(name for name in node.output if name)
        # A node of an invented result passes on the name that its own result is made for.
        goal = chosen.get(first, made_for.get(first, first) if first in invented else first)
        made_for |= dict.fromkeys(node.input, goal)  # an earlier consumer comes later and stays
    for node in graph.node:
        for name in node.output:
            if name in invented and name not in chosen:
                chosen[name] = take_name(f"{made_for.get(name, 'unused')}.{node.op_type.lower()}", taken)


def _name_constants(model: onnx.ModelProto, invented: set[str], chosen: dict[str, str], taken: set[str]) -> None:
    """Rule 4: adds a name to ``chosen`` for every invented constant."""
    opset = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    for node in model.graph.node:
        first = next(name for name in node.output if name)
        for index, name in enumerate(node.input):
            if name in invented and name not in chosen:
                own = input_name(node.op_type, node.domain, index, opset)
                chosen[name] = take_name(f"{chosen.get(first, first)}.{own}", taken)


def _rename(graph: onnx.GraphProto, chosen: Mapping[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [chosen.get(name, name) for name in node.input]
        node.output[:] = [chosen.get(name, name) for name in node.output]
    for item in (*graph.initializer, *graph.value_info):
        item.name = chosen.get(item.name, item.name)
