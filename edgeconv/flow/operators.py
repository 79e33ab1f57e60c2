"""The operators that can be exported, read from the tables that do it; the source of the list in `capture/README.md`.

An operator has an entry in each of these tables, or a reason near it why it has none; `operator_page` tells both:

- `edgeconv.capture.torch._aten`, ATen to ONNX; what files dissolve is in `edgeconv.capture.onnx_file._dissolved`, and
  what they write out in `_sums` beside it;
- `edgeconv.reference._operators`, what the ONNX operator computes;
- `edgeconv.parity.bounds`, how far a runtime's result of it may be off;
- `edgeconv.emit.tflite.lower._operators`, ONNX to TFLite (an ``.onnx`` file takes the operator as it is);
- `edgeconv.graph.integer_rules`, what integers make of it;
- `edgeconv.rewrite.open_batch._rules`, how it carries an open batch.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from onnx.defs import get_all_schemas_with_history

from edgeconv.capture import FILE_OPSETS
from edgeconv.capture.onnx_file._dissolved import DISSOLVED
from edgeconv.capture.onnx_file._file import OLDEST_OPSET
from edgeconv.capture.onnx_file._sums import WRITTEN_OUT
from edgeconv.capture.torch import _aten
from edgeconv.emit.tflite.lower._operators import LOWERINGS
from edgeconv.graph.integer_rules import LAYERS, WITH_INTEGERS, WITHOUT_INT16
from edgeconv.graph.recurrence import RECURRENT
from edgeconv.graph.traits import Trait, having
from edgeconv.reference import OPERATORS
from edgeconv.rewrite.open_batch._rules import RULES

BEGIN = "<!-- operators: written by `make readme` -->"
END = "<!-- end of operators -->"


BY_SCALES = having(Trait.SCALED)
"""What the TFLite writer takes without an operator of its own: integers become the tensors' types."""


@dataclass(frozen=True)
class Operators:
    """The names in the tables.

    Attributes:
        aten: ATen operators without overloads and without those that work in place, by family.
        both: ONNX operators that go into both formats.
        dissolved: ONNX operators of which reading a file leaves others, or constants, for both formats.
        onnx_only: ONNX operators that the reference knows and TFLite has no form for.
        unread: ONNX operators that the reference knows and no opset that is read has.
    """

    aten: tuple[tuple[str, tuple[str, ...]], ...]
    both: tuple[str, ...]
    dissolved: tuple[str, ...]
    onnx_only: tuple[str, ...]
    unread: tuple[str, ...]


def operators() -> Operators:
    """Reads the tables."""
    both = {*LOWERINGS, *BY_SCALES, *WRITTEN_OUT, *RECURRENT}
    families = {name: {short(key) for key in table} for name, table in _aten.FAMILIES.items()}
    unread = {name for name in OPERATORS if not opsets_of(name)}
    return Operators(
        aten=tuple((name, tuple(sorted(names, key=str.lower))) for name, names in families.items()),
        both=tuple(sorted(both)),
        dissolved=tuple(sorted(DISSOLVED)),
        onnx_only=tuple(sorted(OPERATORS.keys() - both - DISSOLVED.keys() - unread)),
        unread=tuple(sorted(unread)),
    )


def short(aten: str) -> str:
    """``aten.relu_.default`` -> ``relu``."""
    return aten.split(".")[1].strip("_")


@cache
def _history() -> Mapping[str, Mapping[int, bool]]:
    """Of each operator of the standard domain, the opsets that define it anew, and whether it is in force from there.

    onnx copies every schema that it lists, so they are listed once.
    """
    history: dict[str, dict[int, bool]] = {}
    for schema in get_all_schemas_with_history():
        if schema.domain == "":
            history.setdefault(schema.name, {})[schema.since_version] = not schema.deprecated
    return history


@cache
def opsets_of(operator: str) -> range:
    """The opsets of files that are read and in which the standard domain has the operator."""
    # An operator is there from its first version on, until one that is marked as deprecated.
    starts = _history().get(operator, {})

    def has_it(opset: int) -> bool:
        versions = [start for start in starts if start <= opset]
        return bool(versions) and starts[max(versions)]

    supporting = [opset for opset in range(OLDEST_OPSET, FILE_OPSETS.stop) if has_it(opset)]
    return range(supporting[0], supporting[-1] + 1) if supporting else range(0)


@dataclass(frozen=True)
class Row:
    """Support for one ONNX operator in each format and variant; all of them go into ``.onnx`` files.

    Attributes:
        operator: its name.
        tflite: whether a graph with it goes into a ``.tflite`` file; else the writer refuses it by name.
        int8: ``"yes"`` where integers compute it in an int8 file, if its parameters allow it; ``"float"`` where it
            stays float there; ``"parts"`` where it is written out in operators that have rows of their own;
            ``"dissolved"`` where reading the file leaves others, or constants, in its place; ``"no"``.
        int16: likewise in an int16x8 file, which is TFLite only.
        batch: whether the batch can stay open across it.
    """

    operator: str
    tflite: bool
    int8: str
    int16: str
    batch: bool


def rows() -> tuple[Row, ...]:
    """A row for every ONNX operator that the reference knows or that capture puts others in the place of, by name."""
    both = set(operators().both)
    integers = WITH_INTEGERS | BY_SCALES

    def with_integers(name: str, able: Collection[str]) -> str:
        if name in DISSOLVED:
            return "dissolved"
        if name in RECURRENT or (name in WRITTEN_OUT and name not in LAYERS):
            return "parts"
        if name not in both:
            return "no"
        return "yes" if name in able else "float"

    return tuple(
        Row(
            operator=name,
            tflite=name in both or name in DISSOLVED,
            int8=with_integers(name, integers),
            int16=with_integers(name, integers - WITHOUT_INT16),
            batch=name in RULES or name in WRITTEN_OUT or name in DISSOLVED,
        )
        for name in sorted({*OPERATORS, *both, *DISSOLVED}, key=str.lower)
    )


def to_markdown(tables: Operators) -> str:
    """The section of `capture/README.md`: ATen operators by family, and the ONNX operators of each format."""
    names = sum(len(aten) for _, aten in tables.aten)
    rows = [f"| {family} | {', '.join(aten)} |" for family, aten in tables.aten]
    return "\n".join(
        [
            f"The {names} ATen operators that fast capture knows (with their overloads and in-place forms):",
            "",
            "| family | ATen operators |",
            "|---|---|",
            *rows,
            "",
            f"The {len(tables.both)} ONNX operators that both formats take: {', '.join(tables.both)}.",
            "",
            f"Reading a file dissolves {len(tables.dissolved)} more, for both formats: {', '.join(tables.dissolved)}.",
            "",
            f"In `.onnx` files only, {len(tables.onnx_only)} more: {', '.join(tables.onnx_only)}. The TFLite writer "
            "refuses them by name, with the torch module that they come from.",
        ]
    )


def refreshed(text: str) -> str:
    """A README with the section between `BEGIN` and `END` made anew; ValueError where it has none."""
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"the text has no section between {BEGIN!r} and {END!r}")
    return f"{head}{begin}\n{to_markdown(operators())}\n{end}{tail}"


if __name__ == "__main__":
    for readme in (Path(argument) for argument in sys.argv[1:]):
        readme.write_text(refreshed(readme.read_text(encoding="utf-8")), encoding="utf-8")
