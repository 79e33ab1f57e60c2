"""The operators that can be exported, read from the tables that do it; the source of the list in `capture/README.md`.

An operator is one entry in each of three tables: `edgeconv.capture` (ATen to ONNX), `edgeconv.reference` (what the
ONNX operator computes) and `edgeconv.emit.tflite` (ONNX to TFLite; the ONNX file takes it as it is).
"""

from __future__ import annotations

import sys
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

BEGIN = "<!-- operators: written by `make readme` -->"
END = "<!-- end of operators -->"


# What the TFLite writer takes without an operator of its own: integers become the tensors' types.
_DISSOLVED = ("QuantizeLinear", "DequantizeLinear")


@dataclass(frozen=True)
class Operators:
    """The names in the tables.

    Attributes:
        aten: ATen operators without overloads and without those that work in place, by family.
        both: ONNX operators that go into both formats.
        onnx_only: ONNX operators that the reference knows and TFLite has no form for.
    """

    aten: tuple[tuple[str, tuple[str, ...]], ...]
    both: tuple[str, ...]
    onnx_only: tuple[str, ...]


def operators() -> Operators:
    """Reads the tables; imports torch."""
    from edgeconv.capture.onnx_file._sums import WRITTEN_OUT
    from edgeconv.capture.torch._aten import FAMILIES
    from edgeconv.emit.tflite.lower._operators import LOWERINGS
    from edgeconv.emit.tflite.lower._recurrent import GATES
    from edgeconv.reference import OPERATORS

    both = {*LOWERINGS, *_DISSOLVED, *WRITTEN_OUT, *GATES}
    families = {name: {key.split(".")[1].strip("_") for key in table} for name, table in FAMILIES.items()}
    return Operators(
        aten=tuple((name, tuple(sorted(names, key=str.lower))) for name, names in families.items()),
        both=tuple(sorted(both)),
        onnx_only=tuple(sorted(set(OPERATORS) - both)),
    )


@dataclass(frozen=True)
class Row:
    """Support for one ONNX operator in each format and variant; all of them go into ``.onnx`` files.

    Attributes:
        operator: its name.
        tflite: whether the TFLite writer takes it; else it refuses it by name.
        int8: ``"yes"`` where integers compute it in an int8 file, if its parameters allow it; ``"float"`` where it
            stays float there; ``"parts"`` where it is written out in operators that have rows of their own; ``"no"``.
        int16: likewise in an int16x8 file, which is TFLite only.
        batch: whether the batch can stay open across it.
    """

    operator: str
    tflite: bool
    int8: str
    int16: str
    batch: bool


def rows() -> tuple[Row, ...]:
    """A row for every ONNX operator that the reference knows, by name; imports torch."""
    from edgeconv.capture.onnx_file._sums import WRITTEN_OUT
    from edgeconv.emit.tflite.lower._recurrent import GATES
    from edgeconv.quantize._operators import FIXED, LAYERS, OWN, READING, SHARED, WITHOUT_INT16
    from edgeconv.reference import OPERATORS
    from edgeconv.rewrite.open_batch._rules import RULES

    both = set(operators().both)
    integers = LAYERS | OWN | READING | SHARED | FIXED.keys() | set(_DISSOLVED)

    def with_integers(name: str, able: Collection[str]) -> str:
        if name in both and (name in WRITTEN_OUT or name in GATES):
            return "parts"
        return ("yes" if name in able else "float") if name in both else "no"

    return tuple(
        Row(
            operator=name,
            tflite=name in both,
            int8=with_integers(name, integers),
            int16=with_integers(name, integers - WITHOUT_INT16),
            batch=name in RULES or name in WRITTEN_OUT,
        )
        for name in sorted({*OPERATORS, *both}, key=str.lower)
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
