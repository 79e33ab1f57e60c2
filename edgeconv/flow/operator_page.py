"""The page of ``edgeconv operators --details``: for every operator, which tables have it, or why not.

To add an operator is to enter it in the tables that `edgeconv.flow.operators` names; the page, and a test, say which of
them lack it.
"""

from __future__ import annotations

import dis
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import CodeType, FunctionType
from typing import Any

from edgeconv.capture import FILE_OPSETS
from edgeconv.capture.onnx_file._dissolved import DISSOLVED
from edgeconv.capture.onnx_file._sums import WRITTEN_OUT
from edgeconv.capture.torch import _aten
from edgeconv.capture.torch._builder import Builder
from edgeconv.core.values import listed
from edgeconv.emit.tflite.lower import _operators as lowerings
from edgeconv.flow.operators import BY_SCALES, opsets_of, short
from edgeconv.graph import integer_rules as integers
from edgeconv.graph.recurrence import RECURRENT
from edgeconv.parity.bounds import EXACT_NODES, NODES, WITHOUT_BOUND
from edgeconv.reference import OPERATORS
from edgeconv.reference import _operators as reference
from edgeconv.rewrite.open_batch._rules import RULES, WITHOUT_RULE

_ROOM = "edgeconv.capture.torch"
_SHOWN = 8  # ATen operators on a line
_UNREAD = f"no opset up to {FILE_OPSETS[-1]} has it"


@dataclass(frozen=True)
class Support:
    """A table's entry for an operator, or the reason why it has none: exactly one, or the table is incomplete.

    Attributes:
        entry: where its entry stands, or how it gets by without one; empty where it does neither.
        reason: why it has no entry; empty where it has one.
    """

    entry: str = ""
    reason: str = ""

    def __str__(self) -> str:
        if self.entry and self.reason:
            return f"{self.entry}; AND YET: {self.reason}"
        return self.entry or (f"no ({self.reason})" if self.reason else "MISSING")


@dataclass(frozen=True)
class Details:
    """Every table's word on one ONNX operator.

    Attributes:
        operator: its name.
        opsets: of the files that may have it; empty where none that is read has it.
        tables: what each table says, by the page's name of it.
    """

    operator: str
    opsets: range
    tables: Mapping[str, Support]


def details() -> tuple[Details, ...]:
    """Every table's word on each operator that the reference knows or that capture dissolves, by name."""
    named_by = aten_operators()
    return tuple(
        Details(
            name,
            opsets_of(name),
            {
                "capture": _capture(name, named_by.get(name, ())),
                "reference": Support(_family(name, reference.FAMILIES) or _before(name)),
                "bounds": _bounds(name),
                ".tflite": _tflite(name),
                "int8": _integers(name),
                "int16x8": _integers(name, int16=True),
                "open batch": _open_batch(name),
            },
        )
        for name in sorted({*OPERATORS, *DISSOLVED}, key=str.lower)
    )


def incomplete(page: Collection[Details]) -> list[str]:
    """Which operators have neither an entry nor a reason in a table, or both."""
    return [
        f"{row.operator}: {table}: {support}"
        for row in page
        for table, support in row.tables.items()
        if bool(support.entry) == bool(support.reason)
    ]


def to_page(page: Collection[Details]) -> str:
    """Markdown: a section for each operator, and in it a line for each table."""
    lines = ["# Operators", "", "The file in which each table has its entry, or why it has none."]
    for row in page:
        opsets = f", opsets {row.opsets[0]} to {row.opsets[-1]}" if row.opsets else ""
        lines += ["", f"## {row.operator}{opsets}", ""]
        lines += [f"- {table}: {support}" for table, support in row.tables.items()]
    return "\n".join(lines)


def aten_operators() -> Mapping[str, set[str]]:
    """The ATen operators whose entries name an ONNX operator, by that operator's name."""
    named_by: dict[str, set[str]] = {}
    for aten, entry in _aten.TABLE.items():
        for text in _texts(entry, set()):
            named_by.setdefault(text, set()).add(short(aten))
    return named_by


def _capture(name: str, aten: Collection[str]) -> Support:
    if not opsets_of(name):
        return Support(reason=_UNREAD)
    torch = [f"torch's {listed(sorted(aten), _SHOWN)}"] if aten else []
    files = "files"
    if name in DISSOLVED:
        files = f"files, where it becomes {DISSOLVED[name]}"
    elif name in WRITTEN_OUT:
        files = "files, where it is written out (`onnx_file/_sums`)"
    return Support("; ".join([*torch, files]))


def _texts(part: Any, seen: set[int]) -> Iterator[str]:
    """The strings in an entry: in its code and that of the room's functions it calls, and in what it closes over.

    Among them are the ONNX operators that it emits: entries name them by string (``b.add("Relu", x)``).
    """
    if id(part) in seen:
        return
    seen.add(id(part))
    match part:
        case str():
            yield part
        case tuple() | list() | CodeType():  # not sets: code compares with their members, and emits none of them
            for item in part.co_consts if isinstance(part, CodeType) else part:
                yield from _texts(item, seen)
        case partial():
            yield from _texts((part.func, part.args), seen)
        case FunctionType() if part.__module__.startswith(_ROOM):
            closed_over = tuple(cell.cell_contents for cell in part.__closure__ or ())
            yield from _texts((part.__code__, closed_over, *_called(part)), seen)


def _called(function: FunctionType) -> Iterator[object]:
    """The functions that it reads by name, and the methods of the builder."""
    waiting = [function.__code__]
    while waiting:
        code = waiting.pop()
        waiting += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        # Bytecode shows the calls that source shows: a function by its global name, a method of the builder by its own.
        for step in dis.get_instructions(code):
            if step.opname == "LOAD_GLOBAL":
                yield function.__globals__.get(step.argval)
            elif step.opname == "LOAD_METHOD":
                yield Builder.__dict__.get(step.argval)


def _bounds(name: str) -> Support:
    """How far a runtime's result may be off."""
    reason = WITHOUT_BOUND.get(name, "")
    if name in NODES:
        return Support("a rule (`parity/bounds`)", reason)
    if name in EXACT_NODES:
        return Support("none is needed: nothing is rounded", reason)
    return Support("" if reason else _before(name), reason)


def _tflite(name: str) -> Support:
    return Support(_lowered(name), lowerings.WITHOUT_LOWERING.get(name, "" if opsets_of(name) else _UNREAD))


def _lowered(name: str) -> str:
    """How an operator comes into a TFLite file; empty where it does not."""
    if name in BY_SCALES:
        return "the types of the tensors (`lower/_qdq`)"
    if name in RECURRENT:
        return "written out step by step (`lower/_recurrent`)"
    return _family(name, lowerings.FAMILIES) or _before(name)


def _before(name: str) -> str:
    """How capture replaces an operator that no later stage meets; empty for all others."""
    if name in DISSOLVED:
        return "dissolved by capture"
    return "written out by capture" if name in WRITTEN_OUT else ""


def _integers(name: str, *, int16: bool = False) -> Support:
    lowered, reason = _tflite(name), integers.FLOAT.get(name, "")
    if name not in integers.WITH_INTEGERS:
        if name in integers.LOOKED_UP and not int16 and not lowered.reason:
            return Support("a table, where both sides are rounded")
        if lowered.reason or reason:
            return Support(reason=f"stays float: {reason}" if reason else lowered.reason)
        return Support("" if name in lowerings.LOWERINGS else lowered.entry)
    if int16 and name in integers.WITHOUT_INT16:
        return Support(reason="stays float: TFLite has no int16 kernel of it, or none of use")
    rule = [str(flag.name).lower() for flag in integers.RULES.get(name, ())]
    rule += ["layer"] if name in integers.LAYERS else []
    rule += ["fixed scale"] if name in integers.FIXED else []
    return Support(f"integers: {', '.join(rule)}", reason)


def _open_batch(name: str) -> Support:
    reason = WITHOUT_RULE.get(name, "" if opsets_of(name) else _UNREAD)
    rule = RULES.get(name)
    return Support(f"by the rule `{rule.__qualname__.split('.')[0]}`" if rule else _before(name), reason)


def _family(name: str, families: Mapping[str, Mapping[str, Any]]) -> str:
    """The file that has the operator's entry."""
    return ", ".join(f"`{family}`" for family, table in families.items() if name in table)
