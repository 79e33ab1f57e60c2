"""Each operator with each member of its schema, in every opset: ONNX Runtime is within its bound, or the form is named.

What no rule knows is refused in one line, and never ends a proof with an error of Python's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from onnx_schema import REFUSED
from test_contract_onnx_schema import WALKED, expected_refusals, members, node_of, plain_of, theirs, versions

from edgeconv.errors import EdgeconvError
from edgeconv.parity.bounds import Arithmetic, Bound, of_node

Array = npt.NDArray[Any]
RUNTIME = Arithmetic(runtime="onnxruntime")
FORMS = {
    "BatchNormalization": "in training mode",
    "Dropout": "draws random numbers in training mode",
    **dict.fromkeys(("GlobalLpPool", "LpPool"), "of p = 3"),
    **dict.fromkeys(("GRU", "LSTM", "RNN"), "with "),
}
"""The operators of which a form has no bound, and what is said of it."""


@pytest.mark.parametrize("operator", WALKED)
def test_every_form_is_within_its_bound_or_named(operator: str) -> None:
    judged = 0
    for opset, schema in versions(operator):
        plain = plain_of(schema, opset)
        if plain is None:
            continue
        for member in ["", *(member for member in members(schema) if member in plain.changes)]:
            model, feeds = node_of(schema, opset, plain, member)
            results = theirs(model, feeds)
            if not results or "graph" in expected_refusals(operator, opset, member):
                continue
            node = next(iter(ir.from_proto(onnx.shape_inference.infer_shapes(model)).graph))
            held = {**feeds, **{tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}}
            operands = [None if value is None else held[value.name] for value in node.inputs]
            bounds, refusal = _bounds(node, operands, opset)
            assert not refusal or FORMS.get(operator, "no form") in refusal, (opset, member)
            for bound, result in zip(bounds, results, strict=False):
                assert bound.used(np.asarray(result)).max(initial=0.0) <= 1, (opset, member)
            judged += len(bounds)
    assert judged or operator in REFUSED


def _bounds(node: ir.Node, operands: Sequence[Array | None], opset: int) -> tuple[Sequence[Bound], str]:
    """Of the results; or what is said of a form that has none."""
    try:
        return of_node(node, operands, opset=opset, arithmetic=RUNTIME), ""
    except EdgeconvError as error:
        return (), str(error)
