"""`edgeconv inspect`: what is in a file."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from edgeconv.cli._streams import results_only, say
from edgeconv.cli._supervisor import writes_to
from edgeconv.cli.exit_codes import FAILED, OK
from edgeconv.core.named_files import is_onnx, naming, read_named
from edgeconv.errors import EmitError, printable
from edgeconv.flow.output import settle

_T = TypeVar("_T")
_SUFFIXES = (".onnx", ".tflite")


def command(
    file: Annotated[Path, typer.Argument(help="An .onnx or .tflite file.", metavar="FILE")],
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    integer_only: Annotated[
        bool, typer.Option("--integer-only", help="Check that it computes in integers; exit 1 if not.")
    ] = False,
    as_onnx: Annotated[
        Path | None,
        typer.Option(help="Write the graph that a .tflite file was read as; exit 1 if LiteRT differs.", metavar="OUT"),
    ] = None,
) -> int:
    """Show a file's inputs, outputs, operators, metadata and size.

    With --integer-only, list instead what is float in it, but for QUANTIZE at the inputs of a .tflite file and
    DEQUANTIZE at its outputs. Of an .onnx file, the form with QuantizeLinear and DequantizeLinear is checked: every
    operator must stand between the two.

    With --as-onnx, write a .tflite file as ONNX: its names and its layout, quantized tensors between QuantizeLinear and
    DequantizeLinear, checked against LiteRT on noise: a file of integers layer by layer. What LiteRT cannot run is
    written, and the line says that it was not checked.
    """
    if as_onnx is not None:
        return _as_onnx(file, as_onnx, as_json)
    if integer_only:
        return _integer_only(file, as_json)
    facts = _facts_of(file)
    if as_json:
        say(json.dumps(facts, indent=2))
        return OK
    for key, value in facts.items():
        if isinstance(value, dict):
            say(f"{key}:")
            for name, item in value.items():
                say(printable(f"  {name}: {item}"))
        else:
            say(printable(f"{key}: {value}"))
    return OK


def _as_onnx(file: Path, out: Path, as_json: bool) -> int:
    """Writes a .tflite file as ONNX, and tells how it was checked; returns `FAILED` where it was not written."""
    from edgeconv.flow.inspection.as_onnx import write_as_onnx

    writes_to(out.parent)
    with results_only(when=as_json):
        outcome = write_as_onnx(file, out)
    if as_json:
        shown = None if outcome.sqnr_db is None else min(outcome.sqnr_db, sys.float_info.max)
        facts = {"file": file.name, "onnx": str(out) if outcome.written else None, "checked": outcome.checked}
        say(json.dumps({**facts, "sqnr_db": shown, "reason": outcome.reason}))
    elif not outcome.written:
        say(printable(f"{file.name}: not written: {outcome.reason}"))
    elif not outcome.checked:
        say(printable(f"{out}: written, and not checked: {outcome.reason}"))
    else:
        decibels = "" if outcome.sqnr_db is None else f", {outcome.sqnr_db:.0f} dB at the outputs"
        say(printable(f"{out}: written; {outcome.reason}{decibels}"))
    return OK if outcome.written else FAILED


def _integer_only(file: Path, as_json: bool) -> int:
    """Prints what is float in a file; returns `FAILED` if anything is."""
    from edgeconv.flow.inspection.integers_onnx import float_parts_of_onnx
    from edgeconv.flow.inspection.integers_tflite import float_parts_of_tflite

    data = _read(file)
    _inside(file, data)
    parts = _named_errors(file, float_parts_of_onnx if is_onnx(file) else float_parts_of_tflite, data)
    if as_json:
        say(json.dumps({"file": file.name, "integer_only": not parts, "float": parts}, indent=2))
        return FAILED if parts else OK
    for line in parts:
        say(printable(line))
    count = f"{len(parts)} float part{'s' if len(parts) > 1 else ''}"
    say(printable(f"{file.name}: {count if parts else 'integer only'}"))
    return FAILED if parts else OK


def _facts_of(file: Path) -> dict[str, Any]:
    data = _read(file)
    inside = _inside(file, data)
    return {"file": file.name, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), **inside}


def _inside(file: Path, data: bytes) -> dict[str, Any]:
    """What is in a file, by its suffix."""
    from edgeconv.flow.inspection.onnx import read_onnx
    from edgeconv.flow.inspection.tflite import read_tflite

    return _named_errors(file, read_onnx if is_onnx(file) else read_tflite, data)


def _named_errors(file: Path, reader: Callable[[bytes], _T], data: bytes) -> _T:
    """What a reader finds, its complaints with the file's name."""
    with naming(file):
        return reader(data)


def _read(file: Path) -> bytes:
    where = str(file)
    settle(file.parent)
    if file.suffix.lower() not in _SUFFIXES and file.is_file():
        kind = f"the suffix {file.suffix} is not known" if file.suffix else "the file has no suffix"
        raise EmitError(kind, where=where, hint="give an .onnx or .tflite file")
    return read_named(file, kind=".onnx or .tflite", error=EmitError)
