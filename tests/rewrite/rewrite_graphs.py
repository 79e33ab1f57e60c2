"""Small graphs for the tests of rewrites, and a float64 evaluator of them that shares no code with the rewrites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from onnx.reference import ReferenceEvaluator
from torch.nn import functional as F  # noqa: N812

from edgeconv.rewrite import REWRITES, optimize

OPSET = 18
EPSILON = 2.0**-10  # exact in float32, as an ONNX attribute is


def node(op: str, inputs: Sequence[str], output: str | Sequence[str], **attributes: Any) -> onnx.NodeProto:
    outputs = [output] if isinstance(output, str) else list(output)
    return onnx.helper.make_node(op, list(inputs), outputs, name=f"node_{outputs[0]}", **attributes)


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    outputs: Sequence[str],
    constants: Mapping[str, np.ndarray],
    dtype: int = onnx.TensorProto.DOUBLE,
) -> ir.Model:
    """A model with shapes inferred; every value's name is its "module"."""
    proto = onnx.helper.make_graph(
        list(nodes),
        "test",
        [onnx.helper.make_tensor_value_info(name, dtype, shape) for name, shape in inputs.items()],
        [onnx.helper.make_tensor_value_info(name, dtype, None) for name in outputs],
        [onnx.numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()],
    )
    model = onnx.helper.make_model(proto, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=10)
    return ir.serde.deserialize_model(onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True))


def cast(model: ir.Model, dtype: int) -> ir.Model:
    """A copy of the model whose float32 or float64 tensors, values and casts are of another float dtype."""
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE)
    proto = ir.serde.serialize_model(model)
    tensors = [*proto.graph.initializer, *(item.t for each in proto.graph.node for item in each.attribute)]
    for tensor in tensors:
        if tensor.data_type in floats:
            array = onnx.numpy_helper.to_array(tensor).astype(onnx.helper.tensor_dtype_to_np_dtype(dtype))
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        if value.type.tensor_type.elem_type in floats:
            value.type.tensor_type.elem_type = dtype
    for attribute in (item for each in proto.graph.node if each.op_type == "Cast" for item in each.attribute):
        attribute.i = dtype if attribute.i in floats else attribute.i
    return ir.serde.deserialize_model(proto)


def operators(model: ir.Model) -> list[str]:
    return [item.op_type for item in model.graph]


def constant(model: ir.Model, name: str) -> np.ndarray:
    tensor = model.graph.initializers[name].const_value
    assert tensor is not None
    return tensor.numpy()


def statistics(rng: np.random.Generator, channels: int, prefix: str = "bn") -> dict[str, np.ndarray]:
    """BatchNormalization's constants, none of them harmless: negative and zero gammas, tiny variances, large means."""
    gamma = rng.normal(size=channels)
    gamma[0] = -abs(gamma[0]) - 0.1
    variance = np.exp(rng.uniform(-12, 4, size=channels))
    mean = rng.normal(size=channels) * 10.0 ** rng.integers(-1, 3, size=channels)
    return {
        f"{prefix}.weight": gamma,
        f"{prefix}.bias": rng.normal(size=channels),
        f"{prefix}.running_mean": mean,
        f"{prefix}.running_var": variance,
    }


def batch_norm(source: str, output: str, prefix: str = "bn", **attributes: Any) -> onnx.NodeProto:
    constants = [f"{prefix}.{name}" for name in ("weight", "bias", "running_mean", "running_var")]
    return node("BatchNormalization", [source, *constants], output, **{"epsilon": EPSILON, **attributes})


def evaluate(model: ir.Model, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every value that a node of the graph makes, by name."""
    values: dict[str, np.ndarray] = {"": np.array(0), **feeds}
    for name, initializer in model.graph.initializers.items():
        assert initializer.const_value is not None
        values.setdefault(name, initializer.const_value.numpy())
    for proto in ir.serde.serialize_model(model).graph.node:
        inputs = [values[name] if name else None for name in proto.input]
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in proto.attribute}
        engine = _TORCH.get(proto.op_type)
        if engine is not None:
            results = [
                engine([None if a is None else torch.from_numpy(np.array(a)) for a in inputs], attributes).numpy()
            ]
        else:
            names = [name for name in proto.input if name]
            results = ReferenceEvaluator(proto, opsets={"": OPSET}).run(None, {name: values[name] for name in names})
        values.update(zip(proto.output, results, strict=False))
    made = {name for proto in ir.serde.serialize_model(model).graph.node for name in proto.output}
    return {name: values[name] for name in made | {value.name for value in model.graph.outputs}}


def assert_rewritten_exactly(model: ir.Model, seed: int = 0, *, skip: Sequence[str] = (), rtol: float = 1e-12) -> None:
    """Optimizes the model, and checks the promises that hold for every graph.

    Outputs keep names and shapes; every value left under a name that was there before holds the same numbers; a second
    optimization changes nothing; the result is a valid ONNX model.
    """
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in model.graph.inputs:
        shape = [size if isinstance(size, int) else 3 for size in value.shape or ()]
        feeds[value.name or ""] = rng.normal(size=shape).astype(value.dtype.numpy() if value.dtype else np.float64)
    names = [value.name for value in model.graph.outputs]
    before = evaluate(model, feeds)
    assert optimize(model, skip=skip) is model
    after = evaluate(model, feeds)
    assert [value.name for value in model.graph.outputs] == names
    for name in after.keys() & before.keys():
        assert after[name].shape == before[name].shape, name
        assert after[name].dtype == before[name].dtype, name
        if after[name].dtype.kind == "f":
            bound = rtol * max(1.0, float(np.abs(before[name]).max(initial=0.0)))
            np.testing.assert_allclose(after[name], before[name], rtol=rtol, atol=bound, err_msg=name)
        else:
            np.testing.assert_array_equal(after[name], before[name], err_msg=name)
    onnx.checker.check_model(ir.serde.serialize_model(model), full_check=True)
    for rewrite in REWRITES:
        if rewrite.name not in skip:
            assert not rewrite.make()(model).modified, rewrite.name


def _convolve(inputs: list[Any], attributes: Mapping[str, Any]) -> torch.Tensor:
    x, weight, bias = (*inputs, None)[:3]
    spatial = weight.ndim - 2
    pads = attributes.get("pads", [0] * 2 * spatial)
    x = F.pad(x, [size for axis in reversed(range(spatial)) for size in (pads[axis], pads[spatial + axis])])
    convolve = (F.conv1d, F.conv2d, F.conv3d)[spatial - 1]
    strides, dilations = (attributes.get(name, [1] * spatial) for name in ("strides", "dilations"))
    return convolve(x, weight, bias, strides, 0, dilations, attributes.get("group", 1))


def _convolve_transposed(inputs: list[Any], attributes: Mapping[str, Any]) -> torch.Tensor:
    x, weight, bias = (*inputs, None)[:3]
    spatial = weight.ndim - 2
    convolve = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)[spatial - 1]
    strides, dilations = (attributes.get(name, [1] * spatial) for name in ("strides", "dilations"))
    pads = attributes.get("pads", [0] * 2 * spatial)[:spatial]
    extra = attributes.get("output_padding", [0] * spatial)
    return convolve(x, weight, bias, strides, pads, extra, attributes.get("group", 1), dilations)


def _normalize(inputs: list[Any], attributes: Mapping[str, Any]) -> torch.Tensor:
    x, gamma, beta, mean, variance = inputs
    training = bool(attributes.get("training_mode", 0))
    return F.batch_norm(x, mean, variance, gamma, beta, training, 0.0, attributes.get("epsilon", 1e-5))


def _average(inputs: list[Any], attributes: Mapping[str, Any]) -> torch.Tensor:
    x, kernel = inputs[0], attributes["kernel_shape"]
    pads, strides = attributes.get("pads", [0] * 4), attributes.get("strides", [1, 1])
    frame = [pads[1], pads[3], pads[0], pads[2]]
    total = F.avg_pool2d(F.pad(x, frame), kernel, strides)
    if attributes.get("count_include_pad", 0):
        return total
    return total / F.avg_pool2d(F.pad(torch.ones_like(x), frame), kernel, strides)


def _multiply(inputs: list[Any], attributes: Mapping[str, Any]) -> torch.Tensor:
    a, b, c = (*inputs, None)[:3]
    a = a.T if attributes.get("transA", 0) else a
    b = b.T if attributes.get("transB", 0) else b
    product = attributes.get("alpha", 1.0) * (a @ b)
    return product if c is None else product + attributes.get("beta", 1.0) * c


_TORCH = {
    "AveragePool": _average,
    "BatchNormalization": _normalize,
    "Conv": _convolve,
    "ConvTranspose": _convolve_transposed,
    "Gemm": _multiply,
    "HardSwish": lambda inputs, _: F.hardswish(inputs[0]),  # onnx's own rounds 1/6 to float32
}
