"""One node by itself, on numpy arrays."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

from edgeconv.rewrite._graph import graph_of


def evaluate_node(node: ir.Node, arrays: list[npt.NDArray[np.generic] | None]) -> npt.NDArray[np.generic] | None:
    """One node through ONNX's reference implementation, which computes in the dtype of its inputs."""
    proto = ir.serde.serialize_node(node)
    names = ["" if array is None else f"input_{index}" for index, array in enumerate(arrays)]
    del proto.input[:], proto.output[:]
    proto.input.extend(names)
    proto.output.append("output")
    opset = graph_of(node).opset_imports.get("", onnx.defs.onnx_opset_version())
    feeds = {name: array for name, array in zip(names, arrays, strict=True) if name}
    try:
        with np.errstate(all="ignore"):
            (result,) = ReferenceEvaluator(proto, opsets={"": opset}).run(None, feeds)
    except (NotImplementedError, ValueError, TypeError, RuntimeError, AttributeError, IndexError):
        return None  # the reference knows no such operator for such dtypes: the node is simply left to the runtime
    return np.asarray(result) if isinstance(result, np.ndarray | np.generic) else None
