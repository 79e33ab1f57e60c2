"""Link 3 of a Resize of an `.onnx` file whose scales are no float32: `.tflite` has the sizes, and their quotient."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from crossed import diagonal

from edgeconv import export_onnx
from edgeconv.core.verdicts import Verdict

MODES = ("half_pixel", "asymmetric", "pytorch_half_pixel")
CASES = diagonal(MODES, ((9, 6, 0.6666667), (10, 6, 0.6), (9, 15, 1.6666666)))


@pytest.mark.parametrize(("mode", "before", "after", "scale"), CASES)
def test_a_scale_that_is_a_quotient_of_sizes_in_float32_is_that_quotient(
    mode: str, before: int, after: int, scale: float, tmp_path: Path
) -> None:
    """Where a position is that of an element, float32 lies on one side of it: right files were called wrong."""
    text = f"""<ir_version: 9, opset_import: ["": 17]>
        g (float[1, 3, {before}, {before}] x) => (float[1, 3, {after}, {after}] y)
        <float[4] scales = {{1, 1, {scale}, {scale}}}> {{
            a = Sin(x)
            b = Resize<mode = "linear", coordinate_transformation_mode = "{mode}">(a, , scales)
            y = Relu(b)
        }}"""
    onnx.save(onnx.parser.parse_model(text), tmp_path / "m.onnx")
    result = export_onnx(tmp_path / "m.onnx", tmp_path / "out", name="m", variants="fp32", devices=("litert",))
    assert result.report is not None
    assert [row.reason for row in result.report.comparisons if row.verdict is Verdict.FAIL] == []
