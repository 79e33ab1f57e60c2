"""What counts as a target that holds in the files."""

from __future__ import annotations

import pytest

from edgeconv.core import Comparison, Fidelity, Metrics, Verdict
from edgeconv.frontier import reached
from edgeconv.quantize import Target

GOOD = Metrics(max_abs=0.0, max_rel=0.0, rel_floor=1.0, max_ulp=0.0, mean_abs=0.0, cosine=1.0, sqnr_db=30.0)
SQNR, AGREEMENT = Target(sqnr_db=25.0), Target(agreement=0.9)


def _row(verdict: Verdict, metrics: Metrics | None, agree: int = 10) -> Comparison:
    return Comparison(
        artifact="net.int8.onnx",
        device="onnxruntime",
        output="y",
        metrics=metrics,
        tolerance=Fidelity(),
        verdict=verdict,
        reason="",
        top1={"agree": agree},
        samples=(),
    )


@pytest.mark.parametrize("target", [SQNR, AGREEMENT])
def test_a_device_that_fails_holds_no_target(target: Target) -> None:
    good = _row(Verdict.PASS, GOOD)
    assert reached([good], target)
    assert reached([good, _row(Verdict.SKIPPED, None)], target)
    assert not reached([good, _row(Verdict.FAIL, None)], target)
    assert reached([_row(Verdict.FAIL, GOOD)], target)  # of the recipe's own bound, which is another one
