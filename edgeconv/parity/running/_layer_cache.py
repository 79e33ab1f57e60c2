"""Layers that were judged already.

Two releases of a runtime, or both layouts of a file, often compute the same numbers to the last bit: the same operators
on the same operands with the same result use the same share of the same bound, and are judged once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping, Sequence

import numpy as np

from edgeconv.core import Array
from edgeconv.core.moved import contiguous
from edgeconv.core.threads import in_threads
from edgeconv.parity.running._step import Layer, Operand, Step


class LayerCache:
    """The layers that were judged, by all that the judgment depends on.

    Attributes:
        layers: by key, see `keys`.
    """

    def __init__(self) -> None:
        self.layers: dict[str, Layer] = {}

    def keys(
        self, steps: Sequence[Step], fed: Mapping[Hashable, Operand], returned: Mapping[Hashable, Array], reading: int
    ) -> dict[Hashable, str]:
        """By returned value, a digest (SHA-256) of its operators and of each bit of their operands and of its own.

        Args:
            steps: the operators, in the order of execution; values of one without an identity have no key.
            fed: inputs and constants.
            returned: results, as a runtime has them.
            reading: which of the readings of returned values it is.
        """
        digests = _Digests(fed, returned)
        # An inner value, which is not returned, is what operators make of returned ones: their digest stands for it.
        inner: dict[Hashable, str] = {}
        keys: dict[Hashable, str] = {}
        for step in steps:
            operands = [
                inner[key] if key in inner and key not in returned else digests.operand(key) for key in step.inputs
            ]
            if not step.identity or not all(operands):
                continue
            text = _digest("\n".join([step.identity, str(reading), *operands]).encode())
            for place, key in enumerate(step.outputs):
                if key in returned:
                    keys[key] = f"{text}/{place}/{digests.operand(key)}"
                else:
                    inner[key] = f"{text}/{place}"
        return keys


class _Digests:
    """Of the arrays of a walk, each read once."""

    def __init__(self, fed: Mapping[Hashable, Operand], returned: Mapping[Hashable, Array]) -> None:
        arrays = {key: item for key, item in {**fed, **returned}.items() if isinstance(item, np.ndarray)}
        numbers = in_threads(_digest, [_bytes_of(array) for array in arrays.values()])
        self._texts = {
            key: f"{key in returned} {array.dtype.str} {array.shape} {text}"
            for (key, array), text in zip(arrays.items(), numbers, strict=True)
        }

    def operand(self, key: Hashable | None) -> str:
        """Whether it is returned, its type, its shape and its numbers; empty for an inner value."""
        return "none" if key is None else self._texts.get(key, "")


def _bytes_of(array: Array) -> memoryview:
    return contiguous(array).reshape(-1).view(np.uint8).data


def _digest(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()
