"""The rules by which other tools accept a file, on the same runs; each compares with torch in float32, as they do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from edgeconv.core import Array, Run

Rule = Callable[[Array, Array], bool]


def _close(rtol: float, atol: float) -> Rule:
    return lambda a, b: bool(np.allclose(a, b, rtol=rtol, atol=atol, equal_nan=True))


def _cosine(least: float) -> Rule:
    def accepts(a: Array, b: Array) -> bool:
        a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
        norms = float(np.linalg.norm(a) * np.linalg.norm(b))
        return not a.any() and not b.any() if norms == 0 else float(a @ b) / norms >= least

    return accepts


def _sqnr(least_db: float) -> Rule:
    def accepts(a: Array, b: Array) -> bool:
        signal = float(np.square(b.astype(np.float64)).sum())
        noise = float(np.square(a.astype(np.float64) - b).sum())
        return noise == 0 or (signal > 0 and 10 * np.log10(signal / noise) >= least_db)

    return accepts


RULES: dict[str, Rule] = {
    "torch.onnx (1e-3, 1e-5)": _close(1e-3, 1e-5),
    "1e-4 absolute": _close(0.0, 1e-4),
    "1e-3 absolute": _close(0.0, 1e-3),
    "cosine 0.99": _cosine(0.99),
    "SQNR 30 dB": _sqnr(30.0),
    "NNSmith (1e-2, 1e-3)": _close(1e-2, 1e-3),
}


def rejected_by(run: Run, torch_run: Run) -> list[str]:
    """The rules that reject a run: one that failed is rejected by all."""
    if run.reason or len(run.outputs) != len(torch_run.outputs):
        return list(RULES)
    pairs = [
        (outputs[name], expected[name])
        for outputs, expected in zip(run.outputs, torch_run.outputs, strict=True)
        for name in expected
    ]
    return [name for name, accepts in RULES.items() if not _accepted(accepts, pairs)]


def _accepted(accepts: Rule, pairs: Sequence[tuple[Array, Array]]) -> bool:
    with np.errstate(all="ignore"):
        return all(a.shape == b.shape and a.dtype.kind == b.dtype.kind and accepts(a, b) for a, b in pairs)
