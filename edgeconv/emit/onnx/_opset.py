"""Another version of the default ONNX domain, for runtimes that do not know the graph's own.

onnx's converter has no way down for Split, Resize or Pad. From 13 on almost every new version of an operator only
adds types, inputs and attributes, so a node stays as it is when it uses nothing that the other version lacks. The few
that moved something have an entry in the table below. The caller checks the result numerically.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx
from onnx.defs import OpSchema, SchemaError, get_schema

from edgeconv.core.defaults import OPSETS
from edgeconv.errors import EmitError
from edgeconv.graph.names import free_name
from edgeconv.graph.traits import Trait, having
from edgeconv.graph.versions import GRID_MODES

_Constants = Mapping[str, onnx.TensorProto]


def to_opset(proto: onnx.ModelProto, opset: int) -> None:
    """Changes a model in place to another version of the default domain.

    Raises:
        EmitError: the version is not among `OPSETS`, or an operator has no form in it.
    """
    if opset not in OPSETS:
        raise EmitError(f"opset {opset} is not supported", where="ONNX", hint=f"choose {OPSETS[0]} to {OPSETS[-1]}")
    domain = next(entry for entry in proto.opset_import if entry.domain == "")
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    taken = {*constants, *(value.name for value in proto.graph.input)}
    taken |= {name for node in proto.graph.node for name in node.output}
    nodes: list[onnx.NodeProto] = []
    for node in proto.graph.node:
        # Only where the two versions lie on either side of the change.
        moved = _MOVED.get(node.op_type)
        if node.domain == "" and moved is not None and opset < moved.since <= domain.version:
            nodes.extend(moved.adapt(node, constants, taken))
        else:
            nodes.append(node)
    for node in nodes:
        if node.domain == "":
            _fit(node, domain.version, opset)
    # Copies: deleting the list below ends the life of messages that it owns.
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    domain.version = opset


def _fit(node: onnx.NodeProto, from_opset: int, opset: int) -> None:
    """Drops attributes that say nothing new; refuses a node that needs what the version lacks."""
    schema = _schema(node, opset)
    if schema is None:
        raise _refused(node, opset, "does not exist")
    source = _schema(node, from_opset) or schema
    if schema.since_version == source.since_version:
        return
    # Optional inputs at the end that are left out count as inputs of an older version otherwise.
    while node.input and not node.input[-1]:
        del node.input[-1]
    if len(node.input) > schema.max_input:
        raise _refused(node, opset, f"takes at most {schema.max_input} inputs")
    for attribute in list(node.attribute):
        if attribute.name in schema.attributes:
            continue
        default = source.attributes[attribute.name].default_value
        if onnx.helper.get_attribute_value(attribute) != _default(default):
            raise _refused(node, opset, f"has no attribute {attribute.name}")
        node.attribute.remove(attribute)
    if node.op_type == "GridSample" and (schema.since_version < 20) != (source.since_version < 20):
        _rename_mode(node, schema)


def _rename_mode(node: onnx.NodeProto, schema: OpSchema) -> None:
    """GridSample's modes were renamed in opset 20, and so was its default."""
    names: Mapping[str, str] = GRID_MODES
    if schema.since_version >= 20:
        names = {old: new for new, old in GRID_MODES.items()}
    (mode,) = [attribute for attribute in node.attribute if attribute.name == "mode"] or [
        node.attribute.add(name="mode")
    ]
    stated = mode.s.decode() or ("linear" if schema.since_version < 20 else "bilinear")
    mode.CopyFrom(onnx.helper.make_attribute("mode", names.get(stated, stated)))


def _default(attribute: onnx.AttributeProto) -> object:
    return onnx.helper.get_attribute_value(attribute) if attribute.type else None


def _schema(node: onnx.NodeProto, opset: int) -> OpSchema | None:
    try:
        return get_schema(node.op_type, opset, node.domain)
    except SchemaError:
        return None


def _refused(node: onnx.NodeProto, opset: int, why: str) -> EmitError:
    what = f"{node.op_type} {why} in ONNX opset {opset}"
    return EmitError(what, where=node.output[0], hint="ask for a newer opset or replace the operation")


def _axes_to_attribute(node: onnx.NodeProto, constants: _Constants, taken: set[str]) -> list[onnx.NodeProto]:
    """Reductions took their axes as an attribute before 18."""
    if len(node.input) > 1 and node.input[1]:
        if node.input[1] not in constants:
            raise EmitError(f"{node.op_type} has axes that are no constants", where=node.output[0])
        axes = onnx.numpy_helper.to_array(constants[node.input[1]])
        node.attribute.append(onnx.helper.make_attribute("axes", [int(axis) for axis in axes]))
        del node.input[1:]
    return [node]


def _hard_swish(node: onnx.NodeProto, constants: _Constants, taken: set[str]) -> list[onnx.NodeProto]:
    """HardSwish(x) = x · HardSigmoid(x; 1/6, 1/2), which is also how its specification defines it."""
    gate = free_name(f"{node.output[0]}.hardsigmoid", taken)
    taken.add(gate)
    return [
        onnx.helper.make_node("HardSigmoid", [node.input[0]], [gate], alpha=1 / 6, beta=0.5),
        onnx.helper.make_node("Mul", [node.input[0], gate], [node.output[0]]),
    ]


@dataclass(frozen=True)
class _Moved:
    """How an operator is written in the versions before ``since``."""

    since: int
    adapt: Callable[[onnx.NodeProto, _Constants, set[str]], list[onnx.NodeProto]]


_MOVED: Mapping[str, _Moved] = {
    "HardSwish": _Moved(14, _hard_swish),
    **{op: _Moved(18, _axes_to_attribute) for op in having(Trait.REDUCES) - having(Trait.RANKS) - {"ReduceSum"}},
}
