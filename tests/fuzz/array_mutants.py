"""Mutants of `.npy`, `.npz` and `.safetensors`: headers that lie, and archives that do."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from chances import FLOATS, NUMBERS, WORDS, bytes_of
from text_mutants import json_of

_DESCR = (
    *("'<f4'", "'<f8'", "'<i8'", "'|b1'", "'<c8'", "'|O'", "'<U3'", "'|V4'", "'<M8[ns]'", "'>f4'", "'|S0'", "'<f2'"),
    *("[('a', '<f4'), ('b', '|O')]", "[('a', '<f4', (2,))]", "[('a', '<f4'), ('a', '<f4')]", "'float8'", "''", "None"),
    *("{}", "7", "'<f4,<f4'", "'|V1000000000'", "[('', '<f4')]", "'<U1000000000'", "(1, 2)", "'<f16'", "'<i3'", "[[]]"),
)
_SHAPES = (
    *("(2, 3, 8, 8)", "(1, 3, 8, 8)", "()", "(0,)", "(-1,)", "(2, -3)", "(1000000000000,)", "(2.0,)", "(True,)"),
    *("[1, 3, 8, 8]", "7", "None", "(1,) * 10**9", "(0, 10**18)", "(9223372036854775807, 2)", "(1, 3, 8, 9)", "'x'"),
    *("(" + "1," * 70 + ")", "(3, 8, 8)", "(4294967296, 4294967296)", "(-9223372036854775808,)", "(1e400,)", "((1,),)"),
)
_SHORTEST, _LONGEST = 1, 5
_TENSOR_TYPES = ("F32", "F64", "F16", "BF16", "F8_E4M3", "F4", "I64", "BOOL", "U8", "C64", "", "f32", 7, None)


def npy_of(rng: random.Random) -> bytes:
    """An array's file, its header of the writer's own making."""
    descr = rng.choice(_DESCR) if rng.random() < 0.6 else "'<f4'"
    shape = rng.choice(_SHAPES) if rng.random() < 0.6 else "(2, 3, 8, 8)"
    order = rng.choice(("False", "False", "True", "None", "2", "'x'"))
    header = f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}"
    kind = rng.randrange(12)
    if kind == 0:
        header = rng.choice(("{", "{}", "__import__('os').abort()", "[" * 5000, "\xff", "{'descr': '<f4'}", "1" * 5000))
    elif kind == 1:
        header = header.replace("}", f"'{rng.choice(('x', 'shape'))}': 1}}")
    version = rng.choice(((1, 0), (1, 0), (2, 0), (3, 0), (0, 0), (9, 9)))
    text = header.encode("utf-8" if version[0] == 3 else "latin-1") + b"\n"
    length = len(text) if rng.random() < 0.9 else rng.choice((0, 1, 65535, 2**31, 2**32 - 1))
    prefix = struct.pack("<H", length & 0xFFFF) if version[0] < 2 else struct.pack("<I", length)
    values = np.zeros(rng.choice((384, 192, 0, 7)), np.float32)
    values[:1] = rng.choice(FLOATS)
    data = b"\x93NUMPY" + bytes(version) + prefix + text + values.tobytes()
    return bytes_of(data, rng) if rng.random() < 0.1 else data


def _plain_npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz_of(rng: random.Random) -> bytes:
    """An archive of arrays: sound ones, damaged ones, odd names, doubled members, lying sizes."""
    file = io.BytesIO()
    pressed = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(file, "w", pressed) as archive:
        for _ in range(rng.choice((1, 1, 1, 2, 3, 40))):
            name = rng.choice(("x.npy", "x.npy", "x.npy", "x", "y.npy", ".npy", *(f"{word}.npy" for word in WORDS)))
            kind = rng.randrange(4)
            noise = np.full(rng.choice(((2, 3, 8, 8), (1, 3, 8, 8), (3, 8, 8), ())), rng.choice(FLOATS), np.float32)
            if kind == 0:
                data = npy_of(rng)
            elif kind == 1:
                data = _plain_npy(np.zeros(noise.shape, rng.choice(("float64", "int64", "complex64", "U3", "bool"))))
            else:
                data = _plain_npy(noise)
            _store(archive, name, data if rng.random() < 0.95 else bytes(2**20))
    data = file.getvalue()
    kind = rng.randrange(5)
    if kind == 0:
        return _lying(data, rng)
    return bytes_of(data, rng) if kind == 1 else data


def _store(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that is there already
        archive.writestr(name.replace("\0", "") or "n", data)


def _lying(data: bytes, rng: random.Random) -> bytes:
    """Sizes, offsets, methods and flags of the directory that are others than the members'."""
    changed = bytearray(data)
    at = changed.rfind(b"PK\x01\x02")
    offset, size = rng.choice(((8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (30, 2), (42, 4)))
    number = rng.choice((0, 1, 8, 12, 14, 99, 2**16 - 1, 2**31, 2**32 - 1)) & (2 ** (8 * size) - 1)
    changed[at + offset : at + offset + size] = number.to_bytes(size, "little")
    return bytes(changed)


def bomb_of(rng: random.Random) -> bytes:
    """A member of gigabytes of zeros in kilobytes: its size stated truly, or not."""
    block = zlib.compressobj(9, zlib.DEFLATED, -15)
    pieces = [block.compress(_plain_npy(np.zeros(8, np.float32))), *(block.compress(bytes(2**20)) for _ in range(64))]
    data = b"".join([*pieces, block.flush()])
    stated = rng.choice((64 * 2**20 + 160, 160, 0, 2**31, 2**32 - 1))
    name = b"x.npy"
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0, 0, len(data), stated, len(name), 0) + name
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 8, 0, 0, 0, len(data), stated, len(name), 0, 0, 0, 0, 0, 0)
    count = rng.choice((1, 1, 100, 2000))  # all over the same bytes
    directory = (entry + name) * count
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, count & 0xFFFF, count & 0xFFFF, len(directory), len(local + data), 0)
    return local + data + directory + end


def safetensors_of(data: bytes, rng: random.Random) -> bytes:
    """A file whose header says something else than its bytes."""
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    rest = data[8 + length :]
    kind = rng.randrange(8)
    if kind == 0:
        return bytes_of(data, rng)
    for _ in range(rng.randint(1, 2)):
        _retell(header, len(rest), rng)
    text = (json_of(header, rng) if kind == 1 else json.dumps(header)).encode("utf-8", "surrogatepass")
    stated = len(text) if kind != 2 else rng.choice((0, 1, 2**31, 2**63, 2**64 - 1, len(data)))
    return stated.to_bytes(8, "little") + text + rest


def _reworded(text: Any, rng: random.Random) -> Any:
    try:
        return json_of(json.loads(text), rng)
    except (TypeError, ValueError, RecursionError):  # no JSON, or not any more
        return rng.choice(("x", 7, None))


def _retell(header: dict[str, Any], size: int, rng: random.Random) -> None:
    tensors = [key for key in header if key != "__metadata__"]
    metadata: Any = header.get("__metadata__")
    if not tensors or (isinstance(metadata, Mapping) and rng.random() < 0.3):
        for key, text in list(metadata.items() if isinstance(metadata, Mapping) else ()):
            header["__metadata__"][key] = _reworded(text, rng)
        return
    name = rng.choice(tensors)
    entry = header[name]
    if not isinstance(entry, dict):
        return
    kind = rng.randrange(6)
    if kind == 0:
        entry["dtype"] = rng.choice(_TENSOR_TYPES)
    elif kind == 1:
        entry["shape"] = rng.choice(([], [0], [-1], [2**40, 2**40], [2**63], [1.5], None, [1] * 80, ["x"], [0, 2**62]))
    elif kind == 2:
        entry["data_offsets"] = rng.choice(([0, 0], [0, size], [size, 0], [-1, 4], [0, 2**63], [0], None, [0, 4, 8]))
    elif kind == 3:
        header[rng.choice((*WORDS, "__metadata__"))] = header.pop(name)
    elif kind == 4:
        header[rng.choice((*WORDS, "0/in/x"))] = dict(entry)
    else:
        entry[rng.choice(("dtype", "shape", "data_offsets", "x"))] = rng.choice((*NUMBERS, *WORDS, None, []))
