"""What mobile networks are made of, through capture, rewrites and the ``.onnx`` file, against float64 torch."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import onnxsim
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgeconv.capture import capture
from edgeconv.emit.onnx import to_onnx
from edgeconv.rewrite import optimize


class Function(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Focus(nn.Module):
    """The stem of YOLOv5: every second pixel, four times."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)


class Tokens(nn.Module):
    """A channels-last block as in ConvNeXt: depthwise convolution, LayerNorm, two linear layers, residual."""

    def __init__(self, channels: int = 8) -> None:
        super().__init__()
        self.spatial = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.up, self.act, self.down = nn.Linear(channels, 16), nn.GELU(), nn.Linear(16, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.spatial(x).permute(0, 2, 3, 1))
        return x + (self.scale * self.down(self.act(self.up(y)))).permute(0, 3, 1, 2)


def _f(function: Callable[[Tensor], Tensor]) -> Callable[[], nn.Module]:
    return lambda: Function(function)


IMAGE: dict[str, Callable[[], nn.Module]] = {
    "conv": lambda: nn.Conv2d(8, 6, 3, padding=1),
    "conv-stride-asymmetric": lambda: nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(8, 6, 3, stride=2)),
    "conv-depthwise-multiplier": lambda: nn.Conv2d(8, 16, 3, groups=8),
    "conv-grouped": lambda: nn.Conv2d(8, 4, 3, groups=2, stride=(1, 2)),
    "conv-dilated": lambda: nn.Conv2d(8, 4, 3, dilation=2, padding=2),
    "conv-same": lambda: nn.Conv2d(8, 4, 4, padding="same"),
    "conv-batch-norm": lambda: nn.Sequential(nn.Conv2d(8, 4, 3, bias=False), nn.BatchNorm2d(4)),
    "conv-transpose": lambda: nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1),
    "conv-transpose-grouped": lambda: nn.ConvTranspose2d(8, 4, 3, groups=2, dilation=2),
    "batch-norm-alone": lambda: nn.Sequential(nn.Sigmoid(), nn.BatchNorm2d(8), nn.Tanh()),
    "leaky-relu": lambda: nn.LeakyReLU(0.1),
    "prelu": lambda: nn.PReLU(8),
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "clip": lambda: nn.Hardtanh(-0.5, 0.75),
    "hardswish": nn.Hardswish,
    "hardsigmoid": nn.Hardsigmoid,
    "sigmoid": nn.Sigmoid,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "gelu-tanh": lambda: nn.GELU(approximate="tanh"),
    "softmax": lambda: nn.Softmax(1),
    "arithmetic": _f(lambda x: (x + x.mean(1, keepdim=True)) * (x - 0.5) / (x.abs() + 1)),
    "average-pool": lambda: nn.AvgPool2d(3, 2, 1),
    "average-pool-ceil": lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    "max-pool": lambda: nn.MaxPool2d(3, 2, 1),
    "max-pool-dilated": lambda: nn.MaxPool2d(2, 1, 1, dilation=2),
    "max-pool-ceil": lambda: nn.MaxPool2d(3, 2, ceil_mode=True),
    "global-average": lambda: nn.AdaptiveAvgPool2d(1),
    "global-max": lambda: nn.AdaptiveMaxPool2d(1),
    "adaptive-average": lambda: nn.AdaptiveAvgPool2d((5, 3)),
    "mean": _f(lambda x: x.mean((2, 3))),
    "mean-of-mean": _f(lambda x: x.mean(1).mean(-1, keepdim=True)),
    "max-of-max": _f(lambda x: x.amax(1, keepdim=True).amax(-1)),
    "amax": _f(lambda x: x.amax(1, keepdim=True)),
    "concat": _f(lambda x: torch.cat([x, x.relu()], 1)),
    "split": _f(lambda x: torch.cat(x.split([1, 5, 2], 1)[::-1], 1)),
    "slice": _f(lambda x: x[:, ::2, 1:-1, :-2]),
    "focus": Focus,
    "focus-conv": lambda: nn.Sequential(Focus(), nn.Conv2d(32, 8, 3, padding=1), nn.SiLU()),
    "reshape": _f(lambda x: x.reshape(2, 4, 2, -1).permute(0, 3, 1, 2)),
    "flatten": nn.Flatten,
    "transpose": _f(lambda x: x.transpose(1, 3)),
    "squeeze": _f(lambda x: x.mean(3, keepdim=True).squeeze(3)),
    "pad": lambda: nn.ZeroPad2d((1, 2, 0, 3)),
    "pad-reflect": lambda: nn.ReflectionPad2d((1, 2, 1, 3)),
    "resize-nearest": lambda: nn.Upsample(scale_factor=2),
    "resize-bilinear": _f(lambda x: functional.interpolate(x, (15, 11), mode="bilinear")),
    "resize-bilinear-corners": _f(lambda x: functional.interpolate(x, (15, 11), mode="bilinear", align_corners=True)),
    "linear-of-channels": lambda: nn.Linear(6, 5),
    "linear-of-features": lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    "tokens": Tokens,
    "matmul": _f(lambda x: torch.softmax(x @ x.transpose(2, 3), -1) @ x),
}
SEQUENCE: dict[str, Callable[[], nn.Module]] = {
    "linear": lambda: nn.Linear(8, 5),
    "linear-without-bias": lambda: nn.Linear(8, 5, bias=False),
    "mlp": lambda: nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)),
    "norm-mlp": lambda: nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8), nn.Softmax(-1)),
}
CASES = {name: (make, (2, 8, 10, 6)) for name, make in IMAGE.items()}
CASES |= {f"tokens-{name}": (make, (2, 3, 8)) for name, make in SEQUENCE.items()}


def _module_and_input(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, shape = CASES[name]
    module = make().eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_mean, -0.5, 0.5)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
    return module, torch.randn(shape)


def _file(module: nn.Module, x: Tensor) -> onnx.ModelProto:
    model = optimize(capture(module, (x,), input_names=["input"], output_names=["output"]))
    return onnx.load_from_string(to_onnx(model, metadata={}).data)


@pytest.mark.parametrize("name", CASES)
def test_it_computes_what_torch_computes(name: str) -> None:
    module, x = _module_and_input(name)
    session = onnxruntime.InferenceSession(_file(module, x).SerializeToString(), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = copy.deepcopy(module).double()(x.double()).numpy()
    (got,) = session.run(None, {"input": x.numpy()})
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["tokens-linear", "tokens-mlp", "focus", "tokens", "linear-of-channels"])
def test_where_the_simplifier_makes_values_the_file_is_its_fixpoint_and_deterministic(name: str) -> None:
    module, x = _module_and_input(name)
    proto = _file(module, x)
    assert _file(module, x).SerializeToString(deterministic=True) == proto.SerializeToString(deterministic=True)
    again, equal = onnxsim.simplify(proto, check_n=1)
    assert equal
    assert [node.SerializeToString() for node in again.graph.node] == [
        node.SerializeToString() for node in proto.graph.node
    ]
    names = [name for node in proto.graph.node for name in (*node.input, *node.output)]
    assert not [name for name in names if name.startswith("_v_")]


def test_values_of_the_simplifier_are_named_after_the_value_that_they_are_made_for() -> None:
    graph = _file(*_module_and_input("tokens-linear")).graph
    assert [(node.op_type, node.name, list(node.input)) for node in graph.node] == [
        ("Reshape", "output.reshape", ["input", "output.reshape.shape"]),
        ("Gemm", "output.gemm", ["output.reshape", "linear.matmul.b", "bias"]),
        ("Reshape", "output", ["output.gemm", "output.shape"]),
    ]


def test_slices_that_became_one_keep_the_name_of_the_last() -> None:
    module, x = _module_and_input("focus")
    model = capture(module, (x,), input_names=["input"], output_names=["output"])
    (concat,) = [node for node in model.graph if node.op_type == "Concat"]
    parts = [value.name for value in concat.inputs if value is not None]
    graph = _file(module, x).graph
    assert [(node.op_type, node.name) for node in graph.node] == [
        *(("Slice", part) for part in parts),
        ("Concat", "output"),
    ]


def test_a_value_of_another_shape_does_not_keep_the_name_of_a_module() -> None:
    module, x = _module_and_input("tokens-mlp")
    shapes: dict[str, tuple[int, ...]] = {}
    for path, part in module.named_children():
        part.register_forward_hook(lambda _m, _a, y, path=path: shapes.update({path: tuple(y.shape)}))
    module(x)
    graph = _file(module, x).graph
    for value in graph.value_info:
        shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        assert shapes.get(value.name, shape) == shape
