"""A file of nodes over one input ``x``, and whether what onnxruntime makes of it comes out of each export of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from ai_edge_litert.interpreter import Interpreter
from onnx import TensorProto, helper, numpy_helper

import edgeconv
from edgeconv.core import Artifact

_draw = np.random.default_rng(5)
_NARROW = {"fp32": 1e-4, "fp16": 1e-2, "int8": 0.1}


def noise(*shape: int) -> np.ndarray:
    """Standard normal numbers in float32."""
    return _draw.standard_normal(shape).astype(np.float32)


def outputs_of(artifact: Artifact, x: np.ndarray) -> list[np.ndarray]:
    """On onnxruntime or LiteRT, in torch's layout and as real numbers."""
    if artifact.format == "onnx":
        session = onnxruntime.InferenceSession(artifact.path, providers=["CPUExecutionProvider"])
        results = session.run([spec.name for spec in artifact.outputs], {"x": x})
    else:
        named = Interpreter(str(artifact.path), num_threads=1).get_signature_runner()(x=artifact.inputs[0].to_file(x))
        results = [named[spec.name] for spec in artifact.outputs]
    return [spec.from_file(np.asarray(result)) for spec, result in zip(artifact.outputs, results, strict=True)]


def file_of(folder: Path, nodes: list[Any], shape: tuple[int | str, ...], opset: int, **constants: Any) -> Path:
    """Saves the nodes as a model whose outputs are all that no node reads."""
    inner = [inner_node for node in nodes for attribute in node.attribute for inner_node in attribute.g.node]
    read = {name for node in (*nodes, *inner) for name in node.input}
    last = [name for node in nodes for name in node.output if name and name not in read]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in last],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(model, folder / "m.onnx")
    return folder / "m.onnx"


def assert_right_from_file(
    path: Path,
    shape: tuple[int, ...],
    folder: Path,
    *,
    scale: float = 1.0,
    variants: tuple[str, ...] = ("fp32", "int8"),
    computes: Callable[[np.ndarray], list[np.ndarray]] | None = None,
) -> None:
    """Exports to both formats in these variants; compares every output on noise of this scale.

    They are compared with what onnxruntime makes of the file, or with what it `computes` where onnxruntime lacks that.
    """
    batches = [{"x": noise(*shape) * np.float32(scale)} for _ in range(4)]
    if computes is None:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        expected = session.run(None, batches[0])
    else:
        expected = computes(batches[0]["x"])
    result = edgeconv.export_onnx(
        path, folder / "out", name="net", variants=variants,
        quantization=edgeconv.Quantization(batches=lambda: batches),
    )  # fmt: skip
    assert len(result.artifacts) == 2 * len(variants)
    for artifact in result.artifacts:
        for ours, theirs in zip(outputs_of(artifact, batches[0]["x"]), expected, strict=True):
            assert ours.shape == theirs.shape
            largest = max(1.0, float(np.abs(theirs).max()))
            np.testing.assert_allclose(ours, theirs, atol=_NARROW[artifact.variant] * largest, err_msg=artifact.format)
