"""An ``.onnx`` file as somebody else wrote it: read, checked, and lifted to an opset of ours.

Every failure of onnx's readers and converters becomes one `CaptureError` here.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import inliner
from onnx.checker import ValidationError

from edgeconv.capture.normalize._runtime_places import BEFORE_11
from edgeconv.capture.onnx_file._foreign_integers import is_spelled, least_opset, spelled
from edgeconv.capture.onnx_file._order import order_nodes
from edgeconv.capture.onnx_file._soundness import check_sound, every_node, open_sizes
from edgeconv.capture.onnx_file._stored import check_sizes, check_total, load_external
from edgeconv.core.named_files import read_named
from edgeconv.errors import CaptureError, is_own_fault
from edgeconv.graph.names import take_name

OLDEST_OPSET = 7
"""Older operators broadcast by other rules."""
STANDARD = ("", "ai.onnx")
_WANTED = 240  # characters of a foreign message
_MASKS_SINCE = 12  # since which Dropout's specification says what its mask is out of training
_ALONG_ONE_AXIS = 13  # since which Hardmax works so; of Softmax and LogSoftmax, onnx's converter knows it
_PLAIN_IR_VERSION = 8  # from 4 on initializers need not stand among the inputs, which onnx's converter relies on
# Resize had no attributes for these before 11, and onnx's converter leaves them to the defaults of 11.
_RESIZE_10 = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": BEFORE_11}

_CONSTANT = onnx.helper.make_attribute("mode", "constant")


def read_proto(path: Path) -> tuple[onnx.ModelProto, bytes]:
    """The file's model with external data inside, and the bytes of a single file that holds all of it.

    Raises:
        CaptureError: it cannot be read, is no whole ONNX file, lacks its external data, or onnx's checker refuses it.
    """
    where = str(path)
    data = _bytes_of(path)
    try:
        proto = onnx.ModelProto.FromString(data)
    except DecodeError as error:
        raise CaptureError("is no ONNX file, or damaged", where=where, hint="export it again") from error
    if not proto.ir_version or not proto.HasField("graph"):
        raise CaptureError("is no ONNX file, or damaged", where=where, hint="export it again")
    if load_external(proto, path, len(data)):
        data = proto.SerializeToString()
    check_total(len(data), where)
    check_sound(proto, where)
    check_sizes(proto, where)
    order_nodes(proto.graph)
    open_sizes(proto)
    _check_versions(proto, where)
    with _mapped("onnx's checker refuses it", where, hint="correct the model, or export it again"):
        _check(proto)
    if (
        "configuration" in proto.DESCRIPTOR.fields_by_name
    ):  # the clusters that it ran on; libraries print what they drop
        proto.ClearField("configuration")
    return proto, data


def lifted(proto: onnx.ModelProto, opsets: range, where: str) -> onnx.ModelProto:
    """The model without functions, in the nearest of these opsets; nothing but the standard domain is left.

    Raises:
        CaptureError: an operator of another domain, or one that has no form in that opset.
    """
    proto.ir_version = max(proto.ir_version, _PLAIN_IR_VERSION)
    if proto.functions:
        with _mapped("its functions cannot be inlined", where, hint="export it without functions"):
            proto = inliner.inline_local_functions(proto, True)
            _check(proto)  # what a function reads, and what it is to give, its nodes may not make
    integers = [node for node in proto.graph.node if is_spelled(node)]
    _check_operators(proto.graph, where, known=integers)
    _check_masks(proto.graph, opset_of(proto), where)
    _check_statistics(proto.graph, where)
    own, target = opset_of(proto), min(max(opset_of(proto), opsets[0], least_opset(proto, integers)), opsets[-1])
    if own > target:
        _check_known(proto.graph, target, where)
    if own != target:
        hint = f"export it again, with opset {opsets[0]} to {opsets[-1]}"
        with _mapped(f"cannot be converted from opset {own} to {target}", where, hint=hint):
            before = _value_names(proto.graph)
            if own < _ALONG_ONE_AXIS:
                _flatten_hardmaxes(proto.graph)
            _drop_unread_values(proto.graph)
            proto = onnx.version_converter.convert_version(proto, target)
            _name_invented(proto.graph, before)
            if own < 11:
                _spell_out_resizes(proto.graph)
            _check(proto)
    if integers:
        with _mapped("its operators of integers cannot be read", where, hint="export it as QDQ"):
            proto = spelled(proto)
            _check_operators(proto.graph, where)
            _check(proto)
    return proto


def opset_of(proto: onnx.ModelProto) -> int:
    """The version of the default ONNX domain; 0 where none is stated."""
    return max((entry.version for entry in proto.opset_import if entry.domain in STANDARD), default=0)


def sha256(data: bytes) -> str:
    """Hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _bytes_of(path: Path) -> bytes:
    data = read_named(path, kind=".onnx", error=CaptureError)
    if not data:
        raise CaptureError("is empty", where=str(path), hint="export it again")
    return data


def _check(proto: onnx.ModelProto) -> None:
    """onnx's checker, which insists on a shape of every input and output; runtimes do not."""
    graph = proto.graph
    bare = [value.type.tensor_type for value in (*graph.input, *graph.output) if value.type.HasField("tensor_type")]
    bare = [tensor for tensor in bare if not tensor.HasField("shape")]
    for tensor in bare:
        tensor.shape.SetInParent()
    onnx.checker.check_model(proto)
    for tensor in bare:
        tensor.ClearField("shape")


def _check_versions(proto: onnx.ModelProto, where: str) -> None:
    for stated in (proto.opset_import, *(function.opset_import for function in proto.functions)):
        _check_stated_once(stated, where)
    opset, newest = opset_of(proto), onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        what = f"opset {opset} is not read" if opset else "it states no opset of the default domain"
        raise CaptureError(what, where=where, hint=f"export it with opset {OLDEST_OPSET} to {newest}")
    nodes = (node for graph in (proto.graph, *proto.functions) for node in every_node(graph))
    if proto.graph.sparse_initializer or any(a.HasField("sparse_tensor") for node in nodes for a in node.attribute):
        raise CaptureError("it holds sparse weights", where=where, hint="save them dense")


def _check_stated_once(opsets: Iterable[onnx.OperatorSetIdProto], where: str) -> None:
    """A domain of two versions is for each reader what it reads first, or last; one domain has two names."""
    versions: dict[str, int] = {}
    for entry in opsets:
        domain = "" if entry.domain in STANDARD else entry.domain
        if versions.setdefault(domain, entry.version) != entry.version:
            what = f"it states opset {versions[domain]} and opset {entry.version} of the domain {domain or 'ai.onnx'!r}"
            raise CaptureError(what, where=where, hint="export it again: which of them it means cannot be told")


def _check_operators(graph: onnx.GraphProto, where: str, known: Iterable[onnx.NodeProto] = ()) -> None:
    """Refuses operators of other domains, but for nodes that are known."""
    read = {id(node) for node in known}
    strange = [node for node in every_node(graph) if node.domain not in STANDARD and id(node) not in read]
    if strange:
        node = strange[0]
        others = Counter(f"{other.domain}::{other.op_type}" for other in strange)
        more = f" (operators of other domains: {', '.join(sorted(others))})" if len(others) > 1 else ""
        raise CaptureError(
            f"{node.domain}::{node.op_type} is no operator of standard ONNX{more}",
            where=f"{where}: node {node.name or ', '.join(node.output)}",
            hint="export the model without fusions for one runtime",
        )


def _check_known(graph: onnx.GraphProto, target: int, where: str) -> None:
    """Operators that no opset up to this one has: onnx's converter ends at the first, with an assertion of its own."""
    new = [node for node in every_node(graph) if not _is_known(node.op_type, target)]
    if new:
        kinds = sorted({node.op_type for node in new})
        are = "are operators that opsets" if len(kinds) > 1 else "is an operator that opsets"
        raise CaptureError(
            f"{', '.join(kinds)} {are} up to {target} do not have, which is not supported",
            where=f"{where}: node {new[0].name or ', '.join(new[0].output)}",
            hint=f"write that part of the model with operators of opset {target}",
        )


def _is_known(operator: str, opset: int) -> bool:
    try:
        onnx.defs.get_schema(operator, opset)
    except onnx.defs.SchemaError:
        return False
    return True


def _check_masks(graph: onnx.GraphProto, opset: int, where: str) -> None:
    """Out of training, Dropout fills its mask from opset 12 on; before, runtimes leave there what they like."""
    taken = {name for node in every_node(graph) for name in node.input} | {value.name for value in graph.output}
    for node in every_node(graph) if opset < _MASKS_SINCE else ():
        if node.op_type == "Dropout" and taken.intersection(node.output[1:]):
            raise CaptureError(
                f"Dropout gives its mask {node.output[1]!r}, which opset {opset} leaves undefined out of training",
                where=f"{where}: node {node.name or node.output[0]}",
                hint=f"leave the mask out, or export it with opset {_MASKS_SINCE} or newer",
            )


def _check_statistics(graph: onnx.GraphProto, where: str) -> None:
    """BatchNormalization has one statistic per channel; up to opset 8 ``spatial`` 0 asks for one per element."""
    for node in every_node(graph):
        if node.op_type == "BatchNormalization" and any(a.name == "spatial" and a.i == 0 for a in node.attribute):
            raise CaptureError(
                "BatchNormalization with spatial = 0, of statistics for each element, is not read",
                where=f"{where}: node {node.name or node.output[0]}",
                hint="write it as Sub, Mul and Add, or export it with opset 9 or newer",
            )


def _value_names(graph: onnx.GraphProto) -> set[str]:
    return {name for node in graph.node for name in (*node.input, *node.output)}


def _name_invented(graph: onnx.GraphProto, before: set[str]) -> None:
    """What the converter made is named after what it is made for (``probabilities.flatten``), and not ``_v_12``."""
    chosen: dict[str, str] = {}
    taken = before | _value_names(graph)
    goal = ""
    for node in reversed(graph.node):
        for name in node.output:
            if name in before:
                goal = name
            elif name not in chosen:
                chosen[name] = take_name(f"{goal}.{node.op_type.lower()}", taken)
    for node in graph.node:
        node.input[:] = [chosen.get(name, name) for name in node.input]
        node.output[:] = [chosen.get(name, name) for name in node.output]


def _flatten_hardmaxes(graph: onnx.GraphProto) -> None:
    """Hardmax over all axes from ``axis`` on together, as opsets before 13 mean it: over the rows of a matrix."""
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.op_type != "Hardmax":
            nodes.append(node)
            continue
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        x, y = node.input[0], node.output[0]
        shape, rows, hot = (f"{y}.hardmax.{part}" for part in ("shape", "rows", "hot"))
        nodes += [
            onnx.helper.make_node("Shape", [x], [shape], name=f"{node.name}.shape"),
            onnx.helper.make_node("Flatten", [x], [rows], name=f"{node.name}.rows", axis=axis),
            onnx.helper.make_node("Hardmax", [rows], [hot], name=node.name, axis=1),
            onnx.helper.make_node("Reshape", [hot, shape], [y], name=f"{node.name}.back"),
        ]
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)


def _drop_unread_values(graph: onnx.GraphProto) -> None:
    """A Pad that repeats or mirrors has no use for a value, which onnx's converter then leaves where none may be."""
    for node in every_node(graph):
        stated = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "Pad" and "value" in stated and stated.get("mode", _CONSTANT).s != b"constant":
            node.attribute.remove(stated["value"])


def _spell_out_resizes(graph: onnx.GraphProto) -> None:
    for node in graph.node:
        if node.op_type == "Resize":
            stated = {attribute.name for attribute in node.attribute}
            node.attribute.extend(
                onnx.helper.make_attribute(name, value) for name, value in _RESIZE_10.items() if name not in stated
            )


_HINTS = {
    "ir_version": "save it with an older release of onnx, or install a newer one",
    "not unique": "give each tensor a name of its own",
    "single static assignment": "give each tensor a name of its own",
    "topologically sorted": "make each input, ahead of the nodes that read it",
    "No Op registered": "export it with an opset that has the operator",
    "is deprecated": "export it with another opset",
}
"""What helps, by what onnx's messages hold."""


def static_errors(where: str) -> contextlib.AbstractContextManager[None]:
    """Maps what onnx's shape inference raises."""
    return _mapped("its operators do not fit these input shapes", where, hint="correct the shapes, or the model")


@contextlib.contextmanager
def _mapped(what: str, where: str, hint: str) -> Iterator[None]:
    try:
        yield
    except CaptureError:
        raise
    except Exception as error:  # the border: onnx raises classes of its own, protobuf's, and RuntimeError from C++
        if is_own_fault(error):
            raise
        message = _said(error)
        fitting_hint = next((hint for words, hint in _HINTS.items() if words in message), hint)
        raise CaptureError(f"{what}: {message}", where=where, hint=fitting_hint) from error


def _said(error: Exception) -> str:
    """The first line of a message, without onnx's own file names and dumps of nodes."""
    text = str(error).strip() or type(error).__name__
    first = text.splitlines()[0] if isinstance(error, ValidationError) else " ".join(text.split())
    first = re.sub(r"^\S*\.(?:h|cc):\d+: \w+: ", "", first)
    first = first.rstrip(".:; ")  # the hint follows
    return first if len(first) <= _WANTED else f"{first[: _WANTED - 1]}…"
