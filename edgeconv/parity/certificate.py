"""The flip certificate of a classifier: the samples whose class no correct evaluation of the file can change.

The bounds of all operators are carried from the inputs to the outputs. Where the first class is further above every
other than both may be off, no order of summation, no fused multiplication and no kernel that rounds as its operator may
makes another class the first. The bounds are the worst ones, and grow from layer to layer: what they do not certify may
be as safe. Running error analysis: Higham, Accuracy and Stability of Numerical Algorithms, section 3.3. The
likely bounds of sums (Higham and Mary 2019), carried in the same way, are no sharper: what grows is what is carried.

Float32 alone. A runtime may compute a file of halves in halves, and each operator of integers may be one step off where
its specification allows that: both are far more than float32's rounding, so that carried on they certify nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from edgeconv.core import Array
from edgeconv.core.verdicts import FlipCertificate
from edgeconv.errors import EdgeconvError
from edgeconv.parity.bounds import Arithmetic, Bound

_MOST = 100  # samples: each is an evaluation with bounds


class CarriedFile(Protocol):
    """A file whose bounds can be carried through it."""

    def carried(self, inputs: Sequence[Array]) -> Sequence[Bound]:
        """The outputs on these inputs, with all that correct evaluations may be off."""
        ...


def open_carried(path: Path, data: bytes) -> CarriedFile:
    """A file, for whatever runtime computes in float32.

    Args:
        path: where it lies, with what belongs to it.
        data: its bytes.

    Raises:
        ParityError: it is none any more.
    """
    arithmetic = Arithmetic("float32", "float32", "any")
    if path.suffix == ".onnx":
        from edgeconv.parity.running._onnx import OnnxFile

        return OnnxFile(path, data, arithmetic)
    from edgeconv.parity.running._tflite import TfliteFile

    return TfliteFile(data, arithmetic)


def certificate(
    file: CarriedFile, inputs: Sequence[Sequence[Array]], scores: Sequence[Array], *, output: int
) -> FlipCertificate | None:
    """Certifies the classes of samples; None where an operator has no bound that can be carried.

    Args:
        file: the file.
        inputs: of each sample, in the file's order and layout.
        scores: the float64 reference of the output that tells classes, per sample: (rows, classes), two or more.
        output: its place among the file's outputs.
    """
    chosen = list(zip(inputs, scores, strict=True))[:_MOST]
    margins = [float(_margins(array).min(initial=np.inf)) for _, array in chosen]
    certain, error = 0, 0.0
    try:
        for arrays, reference in chosen:
            bound = file.carried(arrays)[output]
            error = max(error, float(np.max(bound.worst, initial=0.0)))
            certain += _is_certain(bound, reference)
            if not certain and float(np.min(bound.worst, initial=np.inf)) > max(margins):
                break  # too wide for any of them
    except EdgeconvError:
        return None
    return FlipCertificate(len(chosen), certain, min(margins), error) if chosen else None


def _margins(scores: Array) -> npt.NDArray[np.float64]:
    """How far the first class is above the second, row by row."""
    second, first = np.sort(np.asarray(scores, np.float64), axis=1)[:, -2:].T
    return np.asarray(first - second)


def _is_certain(bound: Bound, reference: Array) -> bool:
    """Whether in every row the reference's first class stays the first."""
    exact = np.asarray(bound.exact, np.float64)
    if exact.shape != reference.shape:
        return False
    rows = np.arange(len(exact))
    first = reference.argmax(axis=1)
    others = exact + bound.worst
    others[rows, first] = -np.inf
    return bool((exact[rows, first] - bound.worst[rows, first] > others.max(axis=1)).all())
