"""Reads an ``.onnx`` file, checks it, and converts it to a supported opset.

Every failure of onnx's readers, checkers and converters becomes a `CaptureError` here.
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
from edgeconv.capture.onnx_file._fused import write_out_fused
from edgeconv.capture.onnx_file._order import order_nodes
from edgeconv.capture.onnx_file._soundness import STANDARD, check_sound, every_node, open_sizes
from edgeconv.capture.onnx_file._stored import check_sizes, check_total, load_external
from edgeconv.core.named_files import read_named
from edgeconv.errors import CaptureError, is_own_fault
from edgeconv.graph.names import take_name

OLDEST_OPSET = 7
"""Before opset 7, operators broadcast by an attribute (``broadcast``, ``axis``) and not by numpy's rules."""
_LONGEST_MESSAGE = 240  # characters of a foreign message
_MASKS_SINCE = 12  # opset since which the specification defines Dropout's mask outside of training
# Opset since which Hardmax works along one axis. onnx's converter rewrites older Softmax and LogSoftmax, not Hardmax.
_ALONG_ONE_AXIS = 13
_PLAIN_IR_VERSION = 8  # onnx's converter fails on initializers that are no inputs unless the IR version is at least 4
# Attributes that opset 11 added to Resize. onnx's converter leaves them out, and their defaults are not what opset 10
# means.
_RESIZE_10 = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": BEFORE_11}

_CONSTANT = onnx.helper.make_attribute("mode", "constant")


# Hints for operators of other domains.
_UNFUSED = "export the model without fusions for one runtime (onnxruntime: save it at the level ORT_ENABLE_BASIC)"
_CLASSICAL = "compute that in the program around the file (skl2onnx: leave ZipMap out with options={'zipmap': False})"


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
    with _mapped("its fused operators cannot be read", where, hint=_UNFUSED):
        write_out_fused(proto, opset_of(proto))
    with _mapped("onnx's checker refuses it", where, hint="correct the model, or export it again"):
        _check(proto)
    # Device configurations of multi-device runs (ONNX 1.18); libraries would print a warning when they drop them.
    if "configuration" in proto.DESCRIPTOR.fields_by_name:
        proto.ClearField("configuration")
    return proto, data


def lifted(proto: onnx.ModelProto, opsets: range, where: str) -> onnx.ModelProto:
    """The model without functions, in the nearest of these opsets; nothing but the standard domain is left.

    Raises:
        CaptureError: an operator of another domain, or one that has no form in that opset.
    """
    # 1. Functions are inlined, so that the checks below see every operator.
    proto.ir_version = max(proto.ir_version, _PLAIN_IR_VERSION)
    if proto.functions:
        with _mapped("its functions cannot be inlined", where, hint="export it without functions"):
            proto = inliner.inline_local_functions(proto, True)
            _check(proto)  # a function may read, or return, names that its nodes do not define
    integers = [node for node in proto.graph.node if is_spelled(node)]
    _check_operators(proto.graph, where, exempt=integers)
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
    """The SHA-256 checksum, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _bytes_of(path: Path) -> bytes:
    data = read_named(path, kind=".onnx", error=CaptureError)
    if not data:
        raise CaptureError("is empty", where=str(path), hint="export it again")
    return data


def _check(proto: onnx.ModelProto) -> None:
    """Runs onnx's checker, with empty shapes for inputs and outputs that have none, which it requires."""
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
    """Checks that no domain has two versions: some readers take the first, others the last. ai.onnx is also ""."""
    versions: dict[str, int] = {}
    for entry in opsets:
        domain = "" if entry.domain in STANDARD else entry.domain
        if versions.setdefault(domain, entry.version) != entry.version:
            what = f"it states opset {versions[domain]} and opset {entry.version} of the domain {domain or 'ai.onnx'!r}"
            raise CaptureError(what, where=where, hint="export it again: which of them it means cannot be told")


def _check_operators(graph: onnx.GraphProto, where: str, exempt: Iterable[onnx.NodeProto] = ()) -> None:
    """Refuses operators of other domains, but for exempt nodes."""
    read = {id(node) for node in exempt}
    strange = [node for node in every_node(graph) if node.domain not in STANDARD and id(node) not in read]
    if strange:
        node = strange[0]
        others = Counter(f"{other.domain}::{other.op_type}" for other in strange)
        more = f" (operators of other domains: {', '.join(sorted(others))})" if len(others) > 1 else ""
        what = f"{node.domain}::{node.op_type} is no operator of standard ONNX{more}"
        hint = _CLASSICAL if node.domain == "ai.onnx.ml" else _UNFUSED
        raise CaptureError(what, where=f"{where}: node {node.name or ', '.join(node.output)}", hint=hint)


def _check_known(graph: onnx.GraphProto, target: int, where: str) -> None:
    """Refuses operators that are newer than an opset: onnx's converter would fail in an assertion at the first one."""
    new = [node for node in every_node(graph) if not _is_known(node.op_type, target)]
    if new:
        kinds = sorted({node.op_type for node in new})
        are = "are operators that opsets" if len(kinds) > 1 else "is an operator that opsets"
        what = f"{', '.join(kinds)} {are} up to {target} do not have, which is not supported"
        hint = f"write that part of the model with operators of opset {target}"
        raise CaptureError(what, where=f"{where}: node {new[0].name or ', '.join(new[0].output)}", hint=hint)


def _is_known(operator: str, opset: int) -> bool:
    try:
        onnx.defs.get_schema(operator, opset)
    except onnx.defs.SchemaError:
        return False
    return True


def _check_masks(graph: onnx.GraphProto, opset: int, where: str) -> None:
    """Refuses a Dropout before opset 12 whose mask is used: it is undefined outside of training."""
    taken = {name for node in every_node(graph) for name in node.input} | {value.name for value in graph.output}
    for node in every_node(graph) if opset < _MASKS_SINCE else ():
        if node.op_type == "Dropout" and taken.intersection(node.output[1:]):
            what = f"Dropout gives its mask {node.output[1]!r}, which opset {opset} leaves undefined out of training"
            hint = f"leave the mask out, or export it with opset {_MASKS_SINCE} or newer"
            raise CaptureError(what, where=f"{where}: node {node.name or node.output[0]}", hint=hint)


def _check_statistics(graph: onnx.GraphProto, where: str) -> None:
    """Refuses BatchNormalization with statistics per element (``spatial`` = 0), which opset 9 removed."""
    for node in every_node(graph):
        if node.op_type == "BatchNormalization" and any(a.name == "spatial" and a.i == 0 for a in node.attribute):
            what = "BatchNormalization with spatial = 0, of statistics for each element, is not read"
            hint = "write it as Sub, Mul and Add, or export it with opset 9 or newer"
            raise CaptureError(what, where=f"{where}: node {node.name or node.output[0]}", hint=hint)


def _value_names(graph: onnx.GraphProto) -> set[str]:
    return {name for node in graph.node for name in (*node.input, *node.output)}


def _name_invented(graph: onnx.GraphProto, before: set[str]) -> None:
    """Names the values that onnx's converter adds after the value that they lead to: ``probabilities.flatten``."""
    chosen: dict[str, str] = {}
    taken = before | _value_names(graph)
    following = ""  # backwards: the file's own value that comes next in the graph
    for node in reversed(graph.node):
        for name in node.output:
            if name in before:
                following = name
            elif name not in chosen:
                chosen[name] = take_name(f"{following}.{node.op_type.lower()}", taken)
    for node in graph.node:
        node.input[:] = [chosen.get(name, name) for name in node.input]
        node.output[:] = [chosen.get(name, name) for name in node.output]


def _flatten_hardmaxes(graph: onnx.GraphProto) -> None:
    """Writes Hardmax of opsets before 13, which is over all axes from ``axis`` on, as Flatten, Hardmax and Reshape."""
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
    # Copies, as deleting the list would clear the nodes that are in it.
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(nodes)


def _drop_unread_values(graph: onnx.GraphProto) -> None:
    """Removes the value of a Pad that repeats or mirrors: onnx's converter would leave an attribute that is invalid."""
    for node in every_node(graph):
        stated = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type == "Pad" and "value" in stated and stated.get("mode", _CONSTANT).s != b"constant":
            node.attribute.remove(stated["value"])


def _spell_out_resizes(graph: onnx.GraphProto) -> None:
    """Sets the modes of opset 10 on converted resizes; see `_RESIZE_10`."""
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
"""Hints, by words of onnx's messages."""


def static_errors(where: str) -> contextlib.AbstractContextManager[None]:
    """Maps the errors of onnx's shape inference."""
    return _mapped("its operators do not fit these input shapes", where, hint="correct the shapes, or the model")


@contextlib.contextmanager
def _mapped(what: str, where: str, hint: str) -> Iterator[None]:
    """Maps any foreign error inside of the block to a `CaptureError` that begins with `what`."""
    try:
        yield
    except CaptureError:
        raise
    except Exception as error:  # the border: onnx raises classes of its own, protobuf's, and RuntimeError from C++
        if is_own_fault(error):
            raise
        message = _first_line(error)
        fitting_hint = next((hint for words, hint in _HINTS.items() if words in message), hint)
        raise CaptureError(f"{what}: {message}", where=where, hint=fitting_hint) from error


def _first_line(error: Exception) -> str:
    """The first line of a message, without onnx's own file names and dumps of nodes."""
    text = str(error).strip() or type(error).__name__
    first = text.splitlines()[0] if isinstance(error, ValidationError) else " ".join(text.split())
    first = re.sub(r"^\S*\.(?:h|cc):\d+: \w+: ", "", first)
    first = first.rstrip(".:; ")  # the hint follows
    return first if len(first) <= _LONGEST_MESSAGE else f"{first[: _LONGEST_MESSAGE - 1]}…"
