"""Layers that were judged already.

Two releases of a runtime, or both layouts of a file, often compute the same numbers to the last bit: the same operators
on the same operands with the same result use the same share of the same bound, and are judged once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from edgeconv.core import Array
from edgeconv.core.threads import in_threads

if TYPE_CHECKING:
    from edgeconv.parity.running._layers import Layer, Operand, Step


class Known:
    """The layers that were judged, by all that the judgement depends on.

    Attributes:
        layers: by key, see `keys`.
    """

    def __init__(self) -> None:
        self.layers: dict[str, Layer] = {}

    def keys(
        self, steps: Sequence[Step], held: Mapping[Hashable, Operand], told: Mapping[Hashable, Array], reading: int
    ) -> dict[Hashable, str]:
        """By told value, a digest (SHA-256) of its operators and of each bit of their operands and of its own.

        Args:
            steps: the operators, in the order of execution; values of one without an identity have no key.
            held: inputs and constants.
            told: results, as a runtime has them.
            reading: which of the readings of told values it is.
        """
        digests = _Digests(held, told)
        # A value that is not told is what its operators make of told ones: their digest stands for it.
        untold: dict[Hashable, str] = {}
        keys: dict[Hashable, str] = {}
        for step in steps:
            operands = [
                untold[key] if key in untold and key not in told else digests.operand(key) for key in step.inputs
            ]
            if not step.identity or not all(operands):
                continue
            text = _digest("\n".join([step.identity, str(reading), *operands]).encode())
            for place, key in enumerate(step.outputs):
                if key in told:
                    keys[key] = f"{text}/{place}/{digests.operand(key)}"
                else:
                    untold[key] = f"{text}/{place}"
        return keys


class _Digests:
    """Of the arrays of a walk, each read once."""

    def __init__(self, held: Mapping[Hashable, Operand], told: Mapping[Hashable, Array]) -> None:
        arrays = {key: item for key, item in {**held, **told}.items() if isinstance(item, np.ndarray)}
        numbers = in_threads(_digest, [_bytes_of(array) for array in arrays.values()])
        self._texts = {
            key: f"{key in told} {array.dtype.str} {array.shape} {text}"
            for (key, array), text in zip(arrays.items(), numbers, strict=True)
        }

    def operand(self, key: Hashable | None) -> str:
        """Whether it is told, its type, its shape and its numbers; empty for what is neither told nor held."""
        return "none" if key is None else self._texts.get(key, "")


def _bytes_of(array: Array) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _digest(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()
