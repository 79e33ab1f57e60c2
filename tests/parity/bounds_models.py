"""Models of one operator, what runtimes make of them, and the bounds of that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import helper

from edgeconv.parity.bounds import Arithmetic, Bound, of_node

Array = npt.NDArray[Any]
OPSET = 22


@dataclass(frozen=True)
class NodeCase:
    """One node: operands by their order, attributes, number of results."""

    name: str
    operands: Sequence[Array | None]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    results: int = 1
    opset: int = OPSET


def node_of(case: NodeCase) -> tuple[onnx.ModelProto, ir.Node]:
    """A model whose inputs are all operands, and its node."""
    names = ["" if item is None else f"x{at}" for at, item in enumerate(case.operands)]
    outputs = [f"y{at}" for at in range(case.results)]
    node = helper.make_node(case.name, names, outputs, **case.attributes)
    values = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(item.dtype), item.shape)
        for name, item in zip(names, case.operands, strict=True)
        if item is not None
    ]
    graph = helper.make_graph([node], "one", values, [onnx.ValueInfoProto(name=name) for name in outputs])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", case.opset)], ir_version=10)
    model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    inferred = {info.name: info for info in (*model.graph.value_info, *model.graph.output)}
    for output in model.graph.output:
        output.CopyFrom(inferred[output.name])
    loaded = ir.from_proto(model)
    return model, next(iter(loaded.graph))


def on_onnxruntime(model: onnx.ModelProto, operands: Sequence[Array | None]) -> list[Array]:
    """The results, on one thread and without optimizations."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    results: list[Array] = session.run(None, {f"x{at}": item for at, item in enumerate(operands) if item is not None})
    return results


def judged(case: NodeCase, arithmetic: Arithmetic) -> list[tuple[Bound, Array]]:
    """Each result of ONNX Runtime with its bound."""
    model, node = node_of(case)
    results = on_onnxruntime(model, case.operands)
    return list(zip(of_node(node, case.operands, opset=case.opset, arithmetic=arithmetic), results, strict=True))
