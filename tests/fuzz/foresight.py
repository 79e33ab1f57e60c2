"""Which refusals hide an exception that nobody meant: a border turned it into general words, and a fault it is.

A refusal is foreseen where a check of ours raised it, or where a library at whose border it stands said no. The rest,
such as an `AttributeError` of our own code that a border catches as "damaged", is told with its stack.
"""

from __future__ import annotations

import json
import linecache
import tomllib
import traceback
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from google.protobuf.message import DecodeError
from onnx.checker import ValidationError as CheckError
from onnx.shape_inference import InferenceError
from pydantic import ValidationError

import edgeconv
from edgeconv.errors import EdgeconvError

_ROOM = Path(edgeconv.__file__).parent
_MEANT = (
    *(OSError, UnicodeDecodeError, json.JSONDecodeError, ValidationError, zipfile.BadZipFile, zlib.error),
    *(tomllib.TOMLDecodeError, DecodeError, CheckError, InferenceError),
)
"""What libraries raise of the data itself, wherever they do."""

CALLS_OF_LIBRARIES = {
    ("capture/onnx_file/_file.py", "read_proto"): "protobuf says in many classes that bytes are no message",
    ("capture/onnx_file/_file.py", "_check"): "onnx's checker knows the format better than we could repeat",
    (
        "capture/onnx_file/_file.py",
        "lifted",
    ): "onnx's inliner and converter tell of functions and opsets in C++'s words",
    ("flow/inspection/integers_onnx.py", "float_parts_of_onnx"): "onnx itself inlines functions and infers types",
    ("capture/onnx_file/_stored.py", "load_external"): "onnx itself reads external data",
    ("recipe/arrays.py", "_check_dtype"): "numpy raises nearly anything of a damaged header",
    ("recipe/arrays.py", "_npy_array"): "numpy raises nearly anything of a damaged array",
    ("recipe/arrays.py", "_npz_arrays"): "numpy and zipfile do, of a damaged archive",
    ("recipe/modules.py", "_from_factory"): "a factory may raise anything, of arguments that are not its own too",
    ("recipe/weights.py", "_read"): "safetensors reads its own format",
    ("recipe/checkpoint.py", "read_checkpoint"): "torch.load raises nearly anything of a damaged pickle",
    ("parity/golden.py", "_read"): "safetensors reads its own format, and numpy lacks types of it",
    ("quantize/_plan.py", "_parsed"): "numbers of thousands of digits, and depth, are json's to refuse",
    ("report/_json.py", "_checked"): "alike",
    ("flow/journal.py", "_read"): "alike",
    ("recipe/factory.py", "imported"): "a module lacks what a recipe names of it",
    ("nn/dsconv.py", "DepthwiseSeparableConv.__init__"): "a module like any other: torch says what is too large",
    ("nn/dsconv.py", "DepthwiseSeparableConv.forward"): "a module like any other: torch says what it does not take",
}
"""By the function of ours that calls the library."""


# What torch and numpy say of operands that do not fit, where operators call them; anything else is ours.
_OPERANDS: dict[str, tuple[type[BaseException], ...]] = {
    "reference/_operators/": (ArithmeticError, IndexError, MemoryError, RuntimeError, ValueError),
    "reference/_moves.py": (IndexError, ValueError),
    "reference/tflite/_operators/": (ArithmeticError, IndexError, MemoryError, TypeError, ValueError),
}


def unforeseen(error: BaseException) -> str:
    """The stack of the first exception behind `error` that was not meant; empty where there is none."""
    for link in _chain(error):
        if isinstance(link, (EdgeconvError, *_MEANT)):
            continue
        stack = list(traceback.walk_tb(link.__traceback__))
        ours = [(frame, line) for frame, line in stack if _ROOM in Path(frame.f_code.co_filename).parents]
        if not ours:
            continue
        frame, line = ours[-1]
        place = (
            Path(frame.f_code.co_filename).relative_to(_ROOM).as_posix(),
            frame.f_code.co_qualname.split(".<locals>")[0],
        )
        if place in CALLS_OF_LIBRARIES or any(
            place[0].startswith(at) and isinstance(link, _OPERANDS[at]) for at in _OPERANDS
        ):
            continue
        if _last(link.__traceback__) is frame and _is_raised(frame.f_code.co_filename, line):
            continue
        return f"{'/'.join(place)}: {type(link).__name__}: {' '.join(str(link).split())[:300]}\n" + "".join(
            traceback.format_exception(link)
        )
    return ""


def _is_raised(file: str, line: int) -> bool:
    """Whether a check of ours raises it."""
    return linecache.getline(file, line).lstrip().startswith("raise ")


def _last(trace: TracebackType | None) -> object:
    last = None
    for frame, _ in traceback.walk_tb(trace):
        last = frame
    return last


def _chain(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)
