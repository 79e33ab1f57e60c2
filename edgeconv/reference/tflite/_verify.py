"""Verifies a `.tflite` file of unknown origin as a whole, before any field of it is read.

The readers that flatbuffers generates follow any offset that a file states. Here every table, vector and text that they
could reach is checked against the size of the file, by the schema's layout; then indices, types and names are checked.
https://flatbuffers.dev/internals/ describes the encoding.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import cache
from typing import Any

from edgeconv.errors import EmitError

_MOST_TABLES = 500_000  # far above any network's; a small file can refer to one table again and again
_MOST_ENTRIES = 100_000  # operators, their inputs, metadata entries
_MOST_INTERFACE = 4096  # inputs or outputs of a graph, which `edgeconv inspect` lists
_LONGEST = 1 << 16  # bytes of a name
# Tables may share a vector: equal tensors share their shape. The limit of the bytes of all vectors, each counted as
# often as a table refers to it: so many per byte of the file, plus a constant.
_MOST_SHARED, _SHARED_IN_SMALL = 4, 1 << 24
_HIGHEST_RANK = 64
_SCALARS: Mapping[str, int] = {"1": 1, "2": 2, "4": 4, "8": 8}
# By table and slot of a field: the bytes of a scalar, "text", "[n]" a vector of scalars of n bytes, "table" any table,
# or the name of a table, in brackets for a vector of them. From tensorflow/lite/schema/schema.fbs, without fields that
# nothing here reads.
_LAYOUT: Mapping[str, Mapping[int, str]] = {
    "Model": {
        0: "4",
        1: "[OperatorCode]",
        2: "[SubGraph]",
        3: "text",
        4: "[Buffer]",
        5: "[4]",
        6: "[Metadata]",
        7: "[SignatureDef]",
    },
    "OperatorCode": {0: "1", 1: "text", 2: "4", 3: "4"},
    "SubGraph": {0: "[Tensor]", 1: "[4]", 2: "[4]", 3: "[Operator]", 4: "text", 5: "4"},
    "Tensor": {0: "[4]", 1: "1", 2: "4", 3: "text", 4: "Quantization", 5: "1", 6: "table", 7: "[4]", 8: "1"},
    "Quantization": {0: "[4]", 1: "[4]", 2: "[4]", 3: "[8]", 4: "1", 5: "table", 6: "4"},
    "Operator": {
        0: "4",
        1: "[4]",
        2: "[4]",
        3: "1",
        4: "table",
        5: "[1]",
        6: "1",
        7: "[1]",
        8: "[4]",
        11: "1",
        12: "table",
    },
    "Buffer": {0: "[1]", 1: "8", 2: "8"},
    "Metadata": {0: "text", 1: "4"},
    "SignatureDef": {0: "[TensorMap]", 1: "[TensorMap]", 2: "text", 4: "4"},
    "TensorMap": {0: "text", 1: "4"},
    "table": {},
}


def open_tflite(data: bytes) -> Any:
    """The model of a file, as the schema's module reads it in place; every index in it is in range.

    Returns:
        ``schema_py_generated.Model``, with at least one subgraph. Tensors' types and operators' codes are known,
        names are UTF-8; ``-1`` stands for an input that an operator does without.

    Raises:
        EmitError: no TFLite file, or damaged; says where.
    """
    if len(data) < 8 or data[4:8] != b"TFL3":
        raise EmitError("not a TFLite file (no TFL3 identifier)", hint="export it again")
    from ai_edge_litert import schema_py_generated as schema

    _Verifier(data).verify()
    model = schema.Model.GetRootAs(data, 0)
    for kind in ("OperatorCodes", "Metadata", "SignatureDefs", "Subgraphs"):
        require(getattr(model, f"{kind}Length")() <= _MOST_ENTRIES, f"more than {_MOST_ENTRIES} {kind}")
    require(model.SubgraphsLength() > 0, "no subgraph")
    codes, types = set(_values(schema.BuiltinOperator)), set(_values(schema.TensorType))
    for at in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(at)
        require(operator_number(code) in codes, f"operator code {at} is {operator_number(code)}")
        text_of(code.CustomCode(), f"operator code {at}")
    for at in range(model.SubgraphsLength()):
        _check_graph(model, model.Subgraphs(at), types, f"subgraph {at}")
    _check_surroundings(model)
    return model


def operator_number(code: Any) -> int:
    """The operator's number in BuiltinOperator; old files have it in the byte-wide field only."""
    return int(max(code.BuiltinCode(), code.DeprecatedBuiltinCode()))


@cache
def names_of(enumeration: Any) -> dict[int, str]:
    """The names of an enumeration of the schema (``TensorType``, ``BuiltinOperator``), by number."""
    return {number: name for name, number in vars(enumeration).items() if isinstance(number, int)}


def text_of(data: bytes | None, where: str = "a name") -> str:
    """A name of the file.

    Raises:
        EmitError: it is no UTF-8, or longer than any name is.
    """
    try:
        require(data is None or len(data) <= _LONGEST, f"{where} has a name of {len(data or b'')} bytes")
        return (data or b"").decode()
    except UnicodeDecodeError as error:
        raise damaged(f"{where} has a name that is no UTF-8") from error


def _values(enumeration: Any) -> tuple[int, ...]:
    return tuple(value for value in vars(enumeration).values() if isinstance(value, int))


def _check_graph(model: Any, graph: Any, types: set[int], where: str) -> None:
    tensors = graph.TensorsLength()
    require(max(tensors, graph.OperatorsLength()) <= _MOST_ENTRIES, f"{where} has more than {_MOST_ENTRIES} entries")
    for at in range(tensors):
        tensor = graph.Tensors(at)
        require(tensor.Type() in types, f"{where}: tensor {at} is of type {tensor.Type()}")
        require(tensor.Buffer() < max(1, model.BuffersLength()), f"{where}: tensor {at} has buffer {tensor.Buffer()}")
        text_of(tensor.Name(), f"{where}: tensor {at}")
        rank = max(tensor.ShapeLength(), tensor.ShapeSignatureLength())
        require(rank <= _HIGHEST_RANK, f"{where}: tensor {at} has {rank} dimensions")
    _check_indices(graph, tensors, where, least=0, most=_MOST_INTERFACE)
    for at in range(graph.OperatorsLength()):
        operator = graph.Operators(at)
        inside = f"{where}: operator {at}"
        require(operator.OpcodeIndex() < model.OperatorCodesLength(), f"{inside} has code {operator.OpcodeIndex()}")
        _check_indices(operator, tensors, inside, least=-1, most=_MOST_ENTRIES)


def _check_indices(holder: Any, tensors: int, where: str, *, least: int, most: int) -> None:
    """Inputs may be left out (-1), outputs not."""
    for kind, smallest in (("Inputs", least), ("Outputs", 0)):
        count = getattr(holder, f"{kind}Length")()
        require(count <= most, f"{where} has {count} {kind.lower()}")
        for index in indices_of(holder, kind):
            require(smallest <= index < tensors, f"{where} speaks of tensor {index}, and there are {tensors}")


def indices_of(holder: Any, kind: str) -> tuple[int, ...]:
    """The ``Inputs`` or ``Outputs`` of a graph or operator, read at once: the schema's readers take 1 us for each."""
    return tuple(getattr(holder, f"{kind}AsNumpy")().tolist()) if getattr(holder, f"{kind}Length")() else ()


def _check_surroundings(model: Any) -> None:
    """Metadata and signatures."""
    for at in range(model.MetadataLength()):
        item = model.Metadata(at)
        text_of(item.Name(), f"metadata {at}")
        require(item.Buffer() < model.BuffersLength(), f"metadata {at} has buffer {item.Buffer()}")
    for at in range(model.SignatureDefsLength()):
        text_of(model.SignatureDefs(at).SignatureKey(), f"signature {at}")


def require(holds: bool, what: str) -> None:
    """Raises `damaged` unless the condition holds."""
    if not holds:
        raise damaged(what)


def damaged(what: str) -> EmitError:
    return EmitError(f"the TFLite file is damaged: {what}", hint="export it again")


class _Verifier:
    """Follows every offset that a reader may follow."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left = _MOST_TABLES
        self._bytes_left = _MOST_SHARED * len(data) + _SHARED_IN_SMALL

    def verify(self) -> None:
        """Checks all of the file against its layout.

        Raises:
            EmitError: an offset, a length or a table leads outside of the file, there are too many tables, or too many
                of them share a vector.
        """
        waiting = [("Model", self._read("<I", 0, "the root"))]
        while waiting:
            kind, table = waiting.pop()
            self._left -= 1
            require(self._left >= 0, f"it leads to more than {_MOST_TABLES} tables")
            waiting += self._fields(kind, table)

    def _read(self, form: str, at: int, what: str) -> int:
        require(0 <= at <= len(self._data) - struct.calcsize(form), f"{what} lies outside of the file")
        return int(struct.unpack_from(form, self._data, at)[0])

    def _fields(self, kind: str, table: int) -> list[tuple[str, int]]:
        """Checks a table; returns the tables that it refers to, with their kinds."""
        vtable = table - self._read("<i", table, kind)
        size, extent = self._read("<H", vtable, kind), self._read("<H", vtable + 2, kind)
        sound = size >= 4 and size % 2 == 0 and vtable + size <= len(self._data) and table + extent <= len(self._data)
        require(sound, f"{kind} has no layout")
        targets: list[tuple[str, int]] = []
        for slot, form in _LAYOUT[kind].items():
            offset = self._read("<H", vtable + 4 + 2 * slot, kind) if 4 + 2 * slot < size else 0
            if offset:
                require(offset + _SCALARS.get(form, 4) <= extent, f"{kind} has a field outside of it")
                targets += self._field(kind, form, table + offset)
        return targets

    def _field(self, kind: str, form: str, at: int) -> list[tuple[str, int]]:
        if form in _SCALARS:
            return []
        target = at + self._read("<I", at, kind)
        if form[0] != "[" and form != "text":
            return [(form, target)]
        inner = "1" if form == "text" else form[1:-1]
        count = self._read("<I", target, f"a vector of {kind}")
        end = target + 4 + count * _SCALARS.get(inner, 4)
        require(end <= len(self._data), f"a vector of {kind} lies outside of the file")
        self._bytes_left -= end - target
        require(self._bytes_left >= 0, f"too many tables share a vector, one of {kind} the last")
        if inner in _SCALARS:
            return []
        require(count <= self._left, f"{kind} leads to {count} tables")
        places = range(target + 4, end, 4)
        return [(inner, place + self._read("<I", place, inner)) for place in places]
