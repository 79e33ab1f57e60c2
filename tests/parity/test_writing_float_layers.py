"""Float files of other converters: the first layer that differs, and what it may be off by."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

from edgeconv.core import TensorSpec
from edgeconv.parity.writing import Ends, Graph, OnValues, first_float_fault
from edgeconv.parity.writing._real_file import real_onnx
from edgeconv.reference import evaluate

TEXT = """
<ir_version: 8, opset_import: ["" : 18]>
g (float[1, 2, 5, 5] x) => (float[1, 2, 10, 10] y) <float[2] slope = {0.1, SLOPE}, float[4] scales = {1, 1, 2, 2}>
{
  p = PRelu (x, slope3)
  y = Resize <mode = "linear"> (p, , scales)
}
"""


def _model(slope: float) -> ir.Model:
    text = TEXT.replace("float[2] slope", "float[2, 1, 1] slope3").replace("SLOPE", str(slope))
    return ir.from_proto(onnx.parser.parse_model(text))


def test_scales_of_a_resize_decide_a_size_and_are_not_moved() -> None:
    """Of 5 pixels 2 times as many are 10; a hair less than 2 times as many are 9."""
    inputs = {"x": np.random.default_rng(0).standard_normal((1, 2, 5, 5)).astype(np.float32)}
    module = _model(0.2)
    values = evaluate(module, inputs, keep=["p", "y"])
    sample = OnValues(inputs, {"x": inputs["x"].astype(np.float64), **values})
    ends = Ends([TensorSpec("x", (1, 2, 5, 5), "float32")], [TensorSpec("y", (1, 2, 10, 10), "float32")])
    file = real_onnx(Graph(_model(0.3)))
    assert file is not None
    fault = first_float_fault(file, sample, ends, [Graph(module)])
    assert fault is not None
    assert fault[0] == "p"
