"""`edgeconv inspect`: what is in a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from edgeconv.cli._inspect_onnx import read_onnx
from edgeconv.cli._inspect_tflite import read_tflite
from edgeconv.cli._streams import printable, say
from edgeconv.core import sha256_of
from edgeconv.errors import EmitError

_READERS: Mapping[str, Callable[[bytes], dict[str, Any]]] = {".onnx": read_onnx, ".tflite": read_tflite}


def command(
    file: Annotated[Path, typer.Argument(help="An .onnx or .tflite file.", metavar="FILE")],
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> int:
    """Show a file's inputs, outputs, operators, metadata and size."""
    found = _found(file)
    if as_json:
        say(json.dumps(found, indent=2))
        return 0
    for key, value in found.items():
        if isinstance(value, dict):
            say(f"{key}:")
            for name, item in value.items():
                say(printable(f"  {name}: {item}"))
        else:
            say(printable(f"{key}: {value}"))
    return 0


def _found(file: Path) -> dict[str, Any]:
    where = str(file)
    if not file.is_file():
        what = "this is no regular file" if file.exists() else "there is no such file"
        raise EmitError(what, where=where, mend="check the path")
    reader = _READERS.get(file.suffix.lower())
    if reader is None:
        kind = f"the suffix {file.suffix} is not known" if file.suffix else "the file has no suffix"
        raise EmitError(kind, where=where, mend="give an .onnx or .tflite file")
    try:
        data, sha256 = file.read_bytes(), sha256_of(file)
    except OSError as error:
        raise EmitError(f"cannot read: {error.strerror}", where=where, mend="check its permissions") from error
    try:
        inside = reader(data)
    except EmitError as error:
        raise EmitError(error.what, where=where, mend=error.mend) from error
    return {"file": file.name, "size_bytes": len(data), "sha256": sha256, **inside}
