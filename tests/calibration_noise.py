"""Seeded noise as ONNX Runtime's quantizer reads it, for tests of files that it wrote."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from onnxruntime.quantization import CalibrationDataReader


class Noise(CalibrationDataReader):
    """Batches of standard normal float32 numbers for one input.

    Args:
        name: of the input.
        shape: of a batch.
        seed: of all that is drawn.
        count: of the batches.
    """

    def __init__(self, name: str, shape: Sequence[int], *, seed: int, count: int = 8) -> None:
        rng = np.random.default_rng(seed)
        self._batches = iter([{name: rng.standard_normal(shape).astype(np.float32)} for _ in range(count)])

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        return next(self._batches, None)
