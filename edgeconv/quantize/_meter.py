"""What a quantized graph makes of the data that a target is about, against the float graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array, Parts
from edgeconv.core.affine import decibels
from edgeconv.core.confidence import sqnr_bound
from edgeconv.core.defaults import ENOUGH_JUDGED, MOST_BESIDE
from edgeconv.core.search_target import Measured, Target
from edgeconv.core.variation import OutputErrors
from edgeconv.errors import JUDGED, QuantizeError
from edgeconv.graph.indices import indices_of
from edgeconv.graph.joints import joints_of
from edgeconv.quantize._calibrate import mapped, session_of
from edgeconv.quantize._sensitivity import Batches

if TYPE_CHECKING:
    import onnxruntime

_SCORES_RANK = 2  # (rows, classes)


@dataclass
class _Output:
    """One output over the data: of numbers their energies, input by input, of indices how many are equal."""

    is_scores: bool
    is_indices: bool
    joints: Sequence[Parts]
    signals: list[float] = field(default_factory=list)
    noises: list[float] = field(default_factory=list)
    agreeing: int = 0
    count: int = 0
    parts: OutputErrors = field(init=False)

    def __post_init__(self) -> None:
        self.parts = OutputErrors(self.joints)

    def add(self, expected: Array, actual: Array) -> None:
        if self.is_indices:
            self.agreeing += int(np.count_nonzero(expected == actual))
            self.count += expected.size
            return
        exact = expected.astype(np.float64)
        self.signals.append(float(np.sum(exact**2)))
        self.noises.append(float(np.sum((exact - actual) ** 2)))
        if expected.dtype.kind == "f":
            self.parts.add(actual, expected)
        if self.is_scores:
            self.agreeing += int(np.count_nonzero(exact.argmax(1) == actual.argmax(1)))
            self.count += len(exact)

    def measured(self) -> Measured:
        share = self.agreeing / self.count if self.count else None
        if self.is_indices:
            return Measured(np.inf, None, share)
        # finite: charts draw it
        sqnr_db = decibels(max(sum(self.signals), 1e-300), sum(self.noises))
        return Measured(sqnr_db, share, None, self.parts.judged().lost)


class Meter:
    """Compares graphs with the float one on the judged data, and on others beside where these are few.

    Few inputs say little of the worst ones, which make most of the error: real PP-OCRv4's recognizer had 20 dB on six
    judged lines, and 15.8 on 200 others. Calibration data are many. They are measured for themselves: added up with
    the judged ones each would hide the other. What is likely of data that nobody measured is told by all of them,
    however many are judged: of 40 judged lines the recognizer's bound fell by 1.2 dB where two more layers were in
    float, as single lines had it, and of these and 60 others it rose by 0.5.
    """

    def __init__(self, reference: ir.Model, judged: Batches, target: Target, beside: Batches | None = None) -> None:
        self._reference = session_of(reference, (), optimized=False)
        self._groups, self._confidence = [judged], target.confidence
        few = sum(1 for _ in islice(judged(), ENOUGH_JUDGED)) < ENOUGH_JUDGED
        if beside is not None and (few or target.confidence is not None):
            stride = max(1, sum(1 for _ in beside()) // MOST_BESIDE)
            self._groups.append(lambda: islice(beside(), 0, stride * MOST_BESIDE, stride))
        self._for_themselves = len(self._groups) if few else 1
        sample = next(iter(judged()), None)
        if sample is None:
            raise QuantizeError("there is no data to judge by", where="target", hint=JUDGED)
        self._indices, self._joints = indices_of(reference.graph), joints_of(reference.graph)
        self._names = [value.name or "" for value in reference.graph.outputs]
        self._scores = [array.ndim == _SCORES_RANK and array.shape[1] > 1 for array in _run(self._reference, sample)]
        if target.agreement is not None and not any(self._scores):
            what = "no output is scores of classes (N, classes)"
            raise QuantizeError(what, where="target", hint="ask for an SQNR instead")

    def measure(self, model: ir.Model) -> Measured:
        """Runs the quantized graph on the judged data, as it says; the worst of what is measured for itself."""
        # Without onnxruntime's optimizer, which would fuse what the plan rounds (see `session_of`).
        session = session_of(model, (), optimized=False)
        groups = [self._outputs(session, batches) for batches in self._groups]
        worst = _worst([output.measured() for group in groups[: self._for_themselves] for output in group])
        if self._confidence is None:
            return worst
        bounds = [_bound(outputs, self._confidence) for outputs in zip(*groups, strict=True)]
        # others may do better than the judged ones; the bound is about these, too
        least = min((min(bound, worst.sqnr_db) for bound in bounds if bound is not None), default=None)
        return replace(worst, sqnr_bound_db=least)

    def _outputs(self, session: onnxruntime.InferenceSession, batches: Batches) -> list[_Output]:
        outputs = [
            _Output(is_scores, name in self._indices, self._joints.get(name, ()))
            for name, is_scores in zip(self._names, self._scores, strict=True)
        ]
        for batch in batches():
            pairs = zip(outputs, _run(self._reference, batch), _run(session, batch), strict=True)
            for output, expected, actual in pairs:
                output.add(expected, actual)
        return outputs


def _bound(outputs: Sequence[_Output], confidence: float) -> float | None:
    """The SQNR that one output, seen on several sets of data, has at least on others like all these."""
    signals = [energy for output in outputs for energy in output.signals]
    noises = [energy for output in outputs for energy in output.noises]
    return sqnr_bound(signals, noises, confidence)


def _worst(several: Sequence[Measured]) -> Measured:
    """The worst of each figure."""
    agreements = [item.agreement for item in several if item.agreement is not None]
    equal = [item.index_agreement for item in several if item.index_agreement is not None]
    return Measured(
        sqnr_db=min(item.sqnr_db for item in several),
        agreement=min(agreements, default=None),
        index_agreement=min(equal, default=None),
        lost_parts=max(item.lost_parts for item in several),
    )


def _run(session: onnxruntime.InferenceSession, batch: Mapping[str, Array]) -> list[Array]:
    with mapped("target"):
        return list(session.run(None, dict(batch)))
