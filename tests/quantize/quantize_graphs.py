"""Small float32 graphs to quantize, and data for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir

from edgeconv.core import Array

OPSET = 18


class Graph:
    """Writes a graph node by node; every value is named, every shape inferred."""

    def __init__(self, seed: int = 0, **inputs: Sequence[int]) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}
        self.inputs = inputs

    def add(self, op: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        self.nodes.append(onnx.helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def constant(self, name: str, array: Any) -> str:
        self.constants[name] = np.asarray(array)
        return name

    def conv(self, x: str, name: str, shape: Sequence[int], *, gain: float = 1.0, **attributes: Any) -> str:
        fan = float(np.prod(shape[1:]))
        weight = self.constant(f"{name}.weight", (self.rng.normal(size=shape) * gain / fan**0.5).astype(np.float32))
        bias = self.constant(f"{name}.bias", (self.rng.normal(size=shape[0]) * 0.1).astype(np.float32))
        return self.add("Conv", [x, weight, bias], name, kernel_shape=list(shape[2:]), **attributes)

    def clip(self, x: str, name: str, low: float = 0.0, high: float = 6.0) -> str:
        bounds = [self.constant(f"{name}.{at}", np.float32(value)) for at, value in (("min", low), ("max", high))]
        return self.add("Clip", [x, *bounds], name)

    def model(self, *outputs: str) -> ir.Model:
        proto = onnx.helper.make_graph(
            self.nodes,
            "test",
            [onnx.helper.make_tensor_value_info(name, 1, list(shape)) for name, shape in self.inputs.items()],
            [onnx.helper.make_tensor_value_info(name, 1, None) for name in outputs],
            [onnx.numpy_helper.from_array(array, name) for name, array in self.constants.items()],
        )
        made = onnx.helper.make_model(proto, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=10)
        return ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(made, strict_mode=True, data_prop=True))


def mobile(seed: int = 0, *, act: str = "Clip", channels: int = 8, blocks: int = 2) -> ir.Model:
    """A small network of depthwise separable blocks with a residual sum, a mean and a classifier."""
    g = Graph(seed, input=(1, 3, 16, 16))

    def activated(x: str, name: str) -> str:
        if act == "Clip":
            return g.clip(x, name)
        if act == "PRelu":
            slope = g.rng.uniform(0.05, 0.5, (channels, 1, 1)).astype(np.float32)
            return g.add("PRelu", [x, g.constant(f"{name}.slope", slope)], name)
        return g.add(act, [x], name, **({"alpha": 0.125} if act == "LeakyRelu" else {}))

    x = activated(g.conv("input", "stem", (channels, 3, 3, 3), pads=[1, 1, 1, 1]), "stem.act")
    for index in range(blocks):
        y = g.conv(x, f"{index}.dw", (channels, 1, 3, 3), pads=[1, 1, 1, 1], group=channels, gain=1.5)
        y = g.conv(activated(y, f"{index}.dw.act"), f"{index}.pw", (channels, channels, 1, 1), gain=1.5)
        y = activated(y, f"{index}.pw.act")
        x = g.add("Add", [x, y], f"{index}.sum") if index else y
    g.add("GlobalAveragePool", [x], "pool")
    g.add("Flatten", ["pool"], "flat")
    weight = g.constant("fc.weight", g.rng.normal(size=(5, channels)).astype(np.float32))
    g.add("Gemm", ["flat", weight, g.constant("fc.bias", g.rng.normal(size=5).astype(np.float32))], "fc", transB=1)
    return g.model("fc")


def data(model: ir.Model, count: int, seed: int = 0) -> list[dict[str, Array]]:
    """Correlated noise of scale 1 for every input."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        shapes = {value.name or "": tuple(value.shape.numpy()) for value in model.graph.inputs if value.shape}
        found.append(
            {name: rng.normal(rng.uniform(-0.3, 0.3), 1.0, shape).astype(np.float32) for name, shape in shapes.items()}
        )
    return found


def sqnr_db(wanted: Sequence[Array], got: Sequence[Array]) -> float:
    a, b = np.concatenate([x.ravel() for x in wanted]), np.concatenate([x.ravel() for x in got])
    return float(10 * np.log10(np.sum(a**2) / max(np.sum((a - b) ** 2), 1e-300)))


def outputs(
    evaluate: Callable[..., Mapping[str, Array]], model: ir.Model, batches: Sequence[Mapping[str, Array]]
) -> list[Array]:
    """The only output of the graph for each batch."""
    name = model.graph.outputs[0].name
    return [evaluate(model, batch, keep=[name])[name] for batch in batches]
