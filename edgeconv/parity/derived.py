"""Inputs that look for trouble, derived from a graph and one of the proof's own samples.

A kernel that is wrong where nobody looks (a clamp that no photograph reaches, a border, a denormal) passes any proof on
photographs. These inputs look there: link 4 judges every layer of a runtime on them, by bounds that hold for any
operands. No output of theirs is held to a tolerance, which is for inputs that a user has.

- ``trouble``: zeros with impulses of both signs at corners and in the middle of edges, each in another channel, and in
  rows of their own large numbers, denormals and numbers next to zero.
- ``times K``: a sample's numbers times K, of both signs: kinks are passed on both sides, and integers saturate.
- ``level K``: one number everywhere.

Of the last two those are chosen that reach what nothing reached before, as `edgeconv.parity.coverage` tells. All are
pure functions of the sample, so that a golden file keeps their names alone.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array, Sample
from edgeconv.core.threads import one_thread
from edgeconv.parity.coverage import Heard, Reach

TROUBLE = "trouble"
CANDIDATES = ("times 64", "times -64", "level 64", "level -64", "times 8")
_MOST_CHOSEN = 2  # beside TROUBLE: each costs a run of every layer on every device
_KIND = re.compile(r"trouble|(times|level) (-?[1-9][0-9]{0,2})")
_LOUD = 16.0
_QUIET = (2.0**-126, 2.0**-130, 2.0**-140, 2.0**-149, 2.0**-60, 2.0**-24)
_MOST = {"fp16": 2.0**13}  # of any value in the graph: float16 ends at 2^16
_MOST_OF_FLOAT32 = 2.0**60  # squares of it are finite


def is_kind(text: str) -> bool:
    """Whether `derived_sample` knows it."""
    return _KIND.fullmatch(text) is not None


def derived_sample(kind: str, base: Sample) -> Sample:
    """An input of a kind.

    Args:
        kind: ``"trouble"``, ``"times K"`` or ``"level K"``, K an integer.
        base: whose shapes and numbers it is derived from; inputs that are no real numbers, nor 8 bits, are its own.
    """
    inputs = {name: _derived(kind, array) for name, array in base.inputs.items()}
    return Sample(f"derived ({kind})", inputs)


def _derived(kind: str, array: Array) -> Array:
    if array.dtype == np.uint8:  # a camera's: its middle is what 0 is of real numbers
        real = _derived(kind, (array.astype(np.float32) - 128) / 64)
        return np.asarray(np.clip(np.rint(real * 64 + 128), 0, 255).astype(np.uint8))
    if array.dtype.kind != "f":
        return array
    if kind == TROUBLE:
        return _trouble(array)
    matched = _KIND.fullmatch(kind)
    assert matched is not None  # `is_kind` was asked
    factor = array.dtype.type(matched[2])
    return np.asarray(array * factor if matched[1] == "times" else np.full_like(array, factor))


def _trouble(array: Array) -> Array:
    """Zeros, impulses at corners and edges, and where there are rows enough, loud and quiet ones."""
    result = np.zeros_like(array)
    if array.ndim < 3 or not array.size:
        flat = result.reshape(-1)
        for at, index in enumerate(_places(flat.size)):
            flat[index] = _LOUD * (-1) ** at
        return result
    by_channel = result.reshape(-1, array.shape[1], *array.shape[2:])
    channels, sizes = by_channel.shape[1], by_channel.shape[2:]
    grid = [_places(size) for size in sizes]
    for at, place in enumerate(itertools.product(*grid)):
        by_channel[(slice(None), at % channels, *place)] = (1.0 + at) * (-1) ** (at // channels)
    rows = sizes[0]
    if rows >= 8:  # away from the impulses
        signs = np.where(np.arange(by_channel[:, :, 0].size) % 3 == 0, -1.0, 1.0).reshape(by_channel[:, :, 0].shape)
        by_channel[:, :, rows // 4] = _LOUD * signs
        quiet = np.resize(np.array(_QUIET), by_channel[:, :, 0].shape)
        by_channel[:, :, 3 * rows // 4] = (quiet * signs).astype(array.dtype)
    return result


def _places(size: int) -> list[int]:
    """The first, the middle and the last of so many, as far as there are."""
    return sorted({0, size // 2, size - 1})


def chosen_kinds(model: ir.Model, base: Sample, reach: Reach, variant: str) -> tuple[str, ...]:
    """The kinds that a graph is probed with.

    Args:
        model: the graph.
        base: see `derived_sample`.
        reach: what the proof's own samples reached; hears of what these reach besides.
        variant: of the graph. Numbers that float16 cannot hold say nothing of kernels.

    Raises:
        RewriteError: the reference lacks an operator.
    """
    from edgeconv.reference import evaluate_each  # torch, which proving again does not need

    outputs = [value.name or "" for value in model.graph.outputs]
    most = _MOST.get(variant, _MOST_OF_FLOAT32)
    kinds: list[str] = []
    trial = _Trial(reach)

    def offered() -> Iterator[Mapping[str, Array]]:
        for kind in (TROUBLE, *CANDIDATES):
            if kind != TROUBLE and (reach.is_complete or len(kinds) > _MOST_CHOSEN):
                return
            trial.begin(kind)
            yield derived_sample(kind, base).inputs

    with one_thread():
        for _ in evaluate_each(model, offered(), keep=outputs, observe=trial.observe):
            if trial.peak <= most and (trial.reaches_more() or trial.kind == TROUBLE):
                kinds.append(trial.kind)
    return tuple(kinds)


class _Trial:
    """Hears of the values of one input at a time, which counts only where it is taken."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        self.begin("")

    def begin(self, kind: str) -> None:
        """Forgets the values of the input before."""
        self.kind, self.peak = kind, 0.0
        self._heard: list[Heard] = []

    def observe(self, sample: int, name: str, array: Array) -> None:
        """Hears of a value."""
        if array.dtype.kind == "f" and array.size:
            self.peak = max(self.peak, float(np.nan_to_num(np.abs(array).max(), nan=np.inf)))
        self._heard += self._reach.heard(name, array)

    def reaches_more(self) -> bool:
        """Puts what was heard to what was reached, and tells whether it is more."""
        return self._reach.take(self._heard)
