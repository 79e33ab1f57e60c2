"""Models of one operator, and what onnx's own reference makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from edgeconv.reference import evaluate


def one_node(
    op: str, inputs: Sequence[np.ndarray | None], attributes: dict[str, Any], *, outputs: int = 1, opset: int = 18
) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A model of one operator whose arrays are all graph inputs, and those inputs."""
    names = ["" if array is None else f"x{index}" for index, array in enumerate(inputs)]
    node = onnx.helper.make_node(op, names, [f"y{index}" for index in range(outputs)], **attributes)
    feeds = {name: array for name, array in zip(names, inputs, strict=True) if array is not None}
    graph = onnx.helper.make_graph(
        [node],
        "one",
        [
            onnx.helper.make_tensor_value_info(
                name, onnx.helper.np_dtype_to_tensor_dtype(array.dtype), list(array.shape)
            )
            for name, array in feeds.items()
        ],
        [onnx.ValueInfoProto(name=name) for name in node.output],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)], ir_version=10), feeds


def compute(
    op: str, *inputs: np.ndarray | None, outputs: int = 1, opset: int = 18, **attributes: Any
) -> tuple[np.ndarray, ...]:
    """The outputs of one operator by `edgeconv.reference`."""
    proto, feeds = one_node(op, inputs, attributes, outputs=outputs, opset=opset)
    values = evaluate(ir.serde.deserialize_model(proto), feeds)
    return tuple(values[f"y{index}"] for index in range(outputs))


def assert_as_onnx(
    op: str, *inputs: np.ndarray | None, outputs: int = 1, opset: int = 18, rtol: float = 1e-12, **attributes: Any
) -> None:
    """Both references give the same shapes, dtypes and numbers."""
    proto, feeds = one_node(op, inputs, attributes, outputs=outputs, opset=opset)
    with np.errstate(all="ignore"):
        expected = ReferenceEvaluator(proto).run(None, feeds)
    for ours, theirs in zip(
        compute(op, *inputs, outputs=outputs, opset=opset, **attributes), map(np.asarray, expected), strict=True
    ):
        assert_same(ours, theirs, rtol)


def assert_same(ours: np.ndarray, theirs: np.ndarray, rtol: float = 1e-12) -> None:
    """Equal shapes and dtypes; floats within ``rtol`` of the largest magnitude, the rest equal."""
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    if ours.dtype.kind != "f":
        np.testing.assert_array_equal(ours, theirs)
        return
    finite = np.abs(theirs[np.isfinite(theirs)])
    np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=rtol * float(finite.max(initial=1e-300)))
