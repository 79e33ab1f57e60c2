"""A .tflite file as C source, for microcontrollers without a file system.

The pair compiles as C++11 and as C11. The names in it begin with the file's: of ``digits.int8.tflite`` comes
``digits_int8_model``. The same file and values give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgeconv.core import Array, TensorSpec
from edgeconv.core.seal import is_sealed, sealed
from edgeconv.errors import NO_C, EmitError

C_SUFFIXES = (".h", ".cc")
_SIGNATURE = "/* Made by edgeconv from "
_TYPES = {
    # One byte in a .tflite file; C11 has the word bool only by another header.
    "bool": "uint8_t",
    "int8": "int8_t",
    "uint8": "uint8_t",
    "int16": "int16_t",
    "int32": "int32_t",
    "int64": "int64_t",
    "float32": "float",
    "float64": "double",
}
_WIDTH = 120  # of a line, as in the sources here
_BYTES = tuple(f"0x{value:02x}," for value in range(256))
_PER_LINE = 20


@dataclass(frozen=True)
class Golden:
    """An input or output of the file with the values of one sample.

    Attributes:
        spec: as the file declares it.
        values: in the file's element type and layout.
    """

    spec: TensorSpec
    values: Array


def to_c(file_name: str, data: bytes, inputs: Sequence[Golden], outputs: Sequence[Golden]) -> tuple[str, str]:
    """Writes a file and the values of one sample as C.

    Args:
        file_name: of the ``.tflite`` file; the pair has its stem.
        data: its bytes.
        inputs: in the file's order.
        outputs: what is to come of them, in the file's order.

    Returns:
        The texts of ``<stem>.h`` and ``<stem>.cc``.

    Raises:
        EmitError: an input or output has a type that C has no name for.
    """
    prefix = identifier(file_name.removesuffix(".tflite"))
    sides = (("input", inputs), ("output", outputs))
    named = [(f"{prefix}_{side}{at}", golden) for side, several in sides for at, golden in enumerate(several)]
    header, source = _header(file_name, prefix, len(data), named), _source(file_name, prefix, data, named)
    return sealed("\n".join(header) + "\n", "/* {} */"), sealed("\n".join(source) + "\n", "/* {} */")


def _header(file_name: str, prefix: str, size_bytes: int, named: Sequence[tuple[str, Golden]]) -> list[str]:
    """The lines of ``<stem>.h``: the model and the arrays of the sample, declared."""
    guard = f"{prefix.upper()}_H_"
    return [
        f"{_SIGNATURE}{file_name}. */",
        f"#ifndef {guard}",
        f"#define {guard}",
        "",
        "#include <stdint.h>",
        "",
        "#ifdef __cplusplus",
        'extern "C" {',
        "#endif",
        "",
        "/* The file itself, aligned to 16 bytes. */",
        f"extern const unsigned char {prefix}_model[{size_bytes}];",
        f"extern const unsigned int {prefix}_model_len;",
        "",
        "/* One sample: the outputs are what the graph computes exactly; kernels may round a step otherwise. */",
        *(line for name, golden in named for line in _declared(name, golden)),
        "",
        "#ifdef __cplusplus",
        "}",
        "#endif",
        "",
        f"#endif /* {guard} */",
    ]


def _source(file_name: str, prefix: str, data: bytes, named: Sequence[tuple[str, Golden]]) -> list[str]:
    """The lines of ``<stem>.cc``: the bytes of the file, and the values of the sample."""
    return [
        f"{_SIGNATURE}{file_name}. */",
        f'#include "{file_name.removesuffix(".tflite")}.h"',
        "",
        "#include <math.h>",
        "#ifndef __cplusplus",
        "#include <stdalign.h>",
        "#endif",
        "",
        f"alignas(16) const unsigned char {prefix}_model[{len(data)}] = {{",
        *("".join(_BYTES[byte] for byte in data[at : at + _PER_LINE]) for at in range(0, len(data), _PER_LINE)),
        "};",
        f"const unsigned int {prefix}_model_len = {len(data)};",
        *(line for name, golden in named for line in _defined(name, golden)),
    ]


def c_files_of(path: Path) -> list[str]:
    """The names of the pair that was made of a ``.tflite`` file, as far as it lies beside it and nobody edited it."""
    return [pair.name for pair in map(path.with_suffix, C_SUFFIXES) if is_sealed(pair)]


def identifier(name: str) -> str:
    """A name as the beginning of C identifiers, none of which is reserved."""
    # Runs of underscores and a leading one are reserved in C++ ([lex.name]).
    text = re.sub(r"[^A-Za-z0-9]+", "_", name).strip("_")
    return text if text[:1].isalpha() else f"model_{text}".rstrip("_")


def _declared(name: str, golden: Golden) -> Iterator[str]:
    spec = golden.spec
    shape = ", ".join(str(size) for size in golden.values.shape)
    layout = f" {spec.layout.upper()}" if golden.values.ndim == 4 else ""
    real = f", real = {name}_scale * (value - {name}_zero_point)" if spec.scale is not None else ""
    yield ""
    yield f"/* {_plain(spec.name)}: {spec.dtype} [{shape}]{layout}{real}. */"
    yield f"extern const {_type(spec)} {name}[{max(1, golden.values.size)}];"
    yield f"extern const unsigned int {name}_len;"
    if spec.scale is not None:
        yield f"extern const float {name}_scale;"
        yield f"extern const int32_t {name}_zero_point;"


def _defined(name: str, golden: Golden) -> Iterator[str]:
    spec, values = golden.spec, golden.values
    yield ""
    yield f"alignas(16) const {_type(spec)} {name}[{max(1, values.size)}] = {{"
    yield from _lines([_literal(value) for value in values.reshape(-1)] or ["0"])
    yield "};"
    yield f"const unsigned int {name}_len = {values.size};"
    if spec.scale is not None:
        yield f"const float {name}_scale = {_literal(np.float32(spec.scale))};"
        yield f"const int32_t {name}_zero_point = {spec.zero_point};"


def _lines(literals: Sequence[str]) -> Iterator[str]:
    """Literals with commas, as many on a line as fit."""
    line = ""
    for literal in literals:
        if len(line) + len(literal) + 2 > _WIDTH:
            yield line
            line = ""
        line += f"{' ' if line else ''}{literal},"
    yield line


def _literal(value: Any) -> str:
    """A numpy scalar as C reads it back to the same bits."""
    if value.dtype.kind != "f":
        whole = int(value)
        if value.dtype.itemsize < 8:
            return str(whole)
        return f"{whole}LL" if whole > -(2**63) else "(-9223372036854775807LL - 1)"  # C negates a positive literal
    number = float(value)
    if not np.isfinite(number):
        return "NAN" if number != number else f"{'-' if number < 0 else ''}INFINITY"
    # The shortest decimal that reads back to the same float; C needs an `f`, or it would be a double.
    text = str(np.format_float_scientific(value, unique=True, trim="0"))
    return f"{text}f" if value.dtype == np.float32 else text


def _type(spec: TensorSpec) -> str:
    if spec.dtype not in _TYPES:
        raise EmitError(f"{spec.dtype} has no type in C", where=f"{spec.name}, C arrays", hint=NO_C)
    return _TYPES[spec.dtype]


def _plain(name: str) -> str:
    """A tensor's name inside a comment, which it must not end."""
    return "".join(
        character if character.isascii() and character.isprintable() and character not in "*\\?" else "_"
        for character in name
    )
