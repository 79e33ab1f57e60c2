"""Blocks of published papers and idioms of torch, in both formats on both runtimes, against torch in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
import onnxruntime
import paper_attention
import paper_convolutions
import paper_heads
import pytest
import torch
import torch_idioms
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from crossed import slow_but
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from edgeconv.capture import NOTE, capture
from edgeconv.core import Emitted
from edgeconv.emit.onnx import to_onnx
from edgeconv.emit.tflite import to_tflite
from edgeconv.reference import evaluate
from edgeconv.rewrite import optimize

Arrays = list[np.ndarray]
BLOCKS = {**paper_convolutions.BLOCKS, **paper_attention.BLOCKS, **paper_heads.BLOCKS}
BLOCKS |= {
    name: (lambda f=function: torch_idioms.Function(f), ((1, 8, 6, 7),))
    for name, function in torch_idioms.IDIOMS.items()
}

# The dearest whose lines the others reach.
_REPEATED = {
    *("vit-unfused", "swin-shifted", "detr", "transformer-encoder-layer", "efficientvit-cascade"),
    *("efficientvit-linear", "yolo-dfl-head", "yolo-c2f", "yolov5-decode", "super-resolution"),
    *("mbconv-same-padding", "bit", "resnest", "sknet", "involution"),
}

RESOLVERS = (OpResolverType.AUTO, OpResolverType.BUILTIN_REF)


def _tensors(made: object) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(made) if leaf is not None]


def _module(make: Callable[[], nn.Module]) -> nn.Module:
    """In eval mode, its BatchNorm statistics not trivial."""
    torch.manual_seed(0)
    module = make().eval()
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean, -0.5, 0.5)
            nn.init.uniform_(layer.running_var, 0.5, 2.0)
    return module


def _on_onnxruntime(model: ir.Model, inputs: Sequence[np.ndarray]) -> Arrays:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(to_onnx(model, metadata={}).data, options)
    return session.run(None, dict(zip([each.name for each in session.get_inputs()], inputs, strict=True)))


def _on_litert(emitted: Emitted, inputs: Sequence[np.ndarray], resolver: OpResolverType) -> Arrays:
    interpreter = Interpreter(model_content=emitted.data, experimental_op_resolver_type=resolver, num_threads=1)
    interpreter.allocate_tensors()
    for spec, detail, array in zip(emitted.inputs, interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], spec.to_file(array))
    interpreter.invoke()
    details = interpreter.get_output_details()
    return [
        spec.from_file(interpreter.get_tensor(d["index"])) for spec, d in zip(emitted.outputs, details, strict=True)
    ]


def _check(made: Arrays, expected: Arrays, where: str) -> None:
    assert len(made) == len(expected), where
    for actual, wanted in zip(made, expected, strict=True):
        assert actual.shape == wanted.shape, where
        np.testing.assert_allclose(actual.astype(np.float64), wanted, rtol=1e-5, atol=1e-5, err_msg=where)


@pytest.mark.parametrize("name", slow_but(BLOCKS.keys() - _REPEATED, BLOCKS))
def test_both_formats_compute_the_module(name: str) -> None:
    make, shapes = BLOCKS[name]
    module = _module(make)
    generator = torch.Generator().manual_seed(1)
    args = tuple(torch.randn(shape, generator=generator) for shape in shapes)
    inputs = [each.numpy() for each in args]
    names = [f"input{index}" for index in range(len(args))]
    with torch.no_grad():
        wide = _tensors(_module(make).double()(*(each.double() for each in args)))
    expected = [each.double().numpy() for each in wide]
    model = capture(module, args, input_names=names, output_names=[])
    assert model.metadata_props[NOTE] == "fast", model.metadata_props[NOTE]
    known = evaluate(model, dict(zip(names, inputs, strict=True)))
    _check([known[value.name] for value in model.graph.outputs], expected, "reference")
    model = optimize(model)
    _check(_on_onnxruntime(model, inputs), expected, "onnxruntime")
    for layout in ("nhwc", "nchw"):
        emitted = to_tflite(model, layout=layout, metadata={})
        for resolver in RESOLVERS:
            _check(_on_litert(emitted, inputs, resolver), expected, f"{layout} {resolver.name}")
