"""All kinds of faults by name, and how one is planted: a pure function of a file's bytes and a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from array_faults import ARRAY_FAULTS
from onnx_edit import OnnxEdit
from onnx_faults import ONNX_FAULTS
from planted import NoPlaceError
from tflite_edit import TfliteEdit
from tflite_faults import TFLITE_FAULTS

EDITS: dict[str, Callable[[bytes], Any]] = {"onnx": OnnxEdit, "tflite": TfliteEdit}
_FAULTS: dict[str, dict[str, Callable[[Any, random.Random], str]]] = {
    "onnx": {**ARRAY_FAULTS, **ONNX_FAULTS},
    "tflite": {**ARRAY_FAULTS, **TFLITE_FAULTS},
}
KINDS: tuple[str, ...] = tuple(dict.fromkeys([*_FAULTS["onnx"], *_FAULTS["tflite"]]))
SINGLE_ULP = frozenset(("weight-ulp", "bias-ulp", "constant-ulp", "slope-ulp", "scale-ulp", "weight-scale-ulp"))
"""Those that change one constant by one unit in the last place."""


@dataclass(frozen=True)
class Planted:
    """A file with one fault: its bytes, and the layer, constant or tensor where it is."""

    data: bytes
    where: str


def plant(data: bytes, format_: str, kind: str, rng: random.Random) -> Planted | None:
    """Plants a fault; None where the file has no place for one of this kind."""
    fault = _FAULTS[format_].get(kind)
    if fault is None:
        return None
    edit = EDITS[format_](data)
    try:
        where = fault(edit, rng)
    except NoPlaceError:
        return None
    changed = edit.data()
    return None if changed == data else Planted(changed, where)
