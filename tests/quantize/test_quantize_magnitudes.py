"""Numbers near the ends of float32, whose squares and sums are beyond it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest
from quantize_graphs import Graph, data, outputs, sqnr_db

from edgeconv.core import Array
from edgeconv.errors import QuantizeError
from edgeconv.flow.variants import Quantization, variants_of
from edgeconv.progress import Silent
from edgeconv.quantize import adaround, calibrate, correct_biases, make_plan, round_weights
from edgeconv.reference import evaluate

TUNED = (correct_biases, round_weights, adaround)


def _homogeneous(weight: float = 0.0) -> ir.Model:
    """Layers that make k times as much of k times as much."""
    g = Graph(0, input=(1, 8, 6, 6))
    g.conv(g.add("Relu", [g.conv("input", "a", (8, 8, 3, 3))], "b"), "c", (12, 8, 1, 1))
    for name in ("a.bias", "c.bias"):
        g.constants[name][:] = 0
    if weight:
        g.constants["a.weight"][0, 0, 0, 0] = weight
    return g.model("c")


def _times(batches: list[dict[str, Array]], factor: float, channels: slice) -> list[Mapping[str, Array]]:
    made = [{name: array.copy() for name, array in batch.items()} for batch in batches]
    for batch in made:
        batch["input"][:, channels] *= np.float32(factor)
    return list(made)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("tune", TUNED)
@pytest.mark.parametrize("exponent", [-60, 66, 120])
def test_weights_are_rounded_the_same_whatever_the_unit_of_the_data(tune, exponent: int) -> None:
    model = _homogeneous()
    found = []
    for factor in (1.0, 2.0**exponent):
        batches = _times(data(model, 4), factor, slice(None))
        plan = make_plan(model, calibrate(model, batches))
        tuned = tune(model, plan, batches, **({"iterations": 20} if tune is adaround else {}))
        found.append([tuned.graph.initializers[name].const_value.numpy() for name in ("a.weight", "c.weight")])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize("rounding", ["corrected", "feedback", "learned"])
@pytest.mark.parametrize("which", ["channel", "batch", "weight"])
def test_one_huge_number_among_others_is_quantized_without_a_warning(rounding: str, which: str) -> None:
    model = _homogeneous(1e37 if which == "weight" else 0.0)
    batches = data(model, 3)
    if which == "channel":
        batches = _times(batches, 1e25, slice(3, 4))
    elif which == "batch":
        batches = [*batches, *_times(batches[:1], 1e25, slice(None))]
    asked = Quantization(batches=lambda: batches, rounding=rounding, iterations=20)
    (made,) = variants_of(model, ("int8",), asked, Silent())
    assert sqnr_db(outputs(evaluate, model, batches), outputs(evaluate, made.model, batches)) > 25


def test_data_that_are_not_finite_are_refused_beside_a_plan() -> None:
    model = _homogeneous()
    plan = make_plan(model, calibrate(model, data(model, 2)))
    batches = _times(data(model, 2), np.inf, slice(0, 1))
    with pytest.raises(QuantizeError, match="calibration data: it holds NaN or Inf; give finite numbers"):
        round_weights(model, plan, batches)
