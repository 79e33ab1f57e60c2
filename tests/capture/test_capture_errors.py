"""What cannot be captured gets one line: what, where, and how to fix it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from edgeconv.capture import capture
from edgeconv.capture.normalize._clean import clean
from edgeconv.errors import CaptureError


class Inner(nn.Module):
    state: Tensor

    def __init__(self, function: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("state", torch.zeros(1))

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


class Outer(nn.Module):
    def __init__(self, function: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.stage = nn.Sequential(nn.ReLU(), Inner(function))

    def forward(self, x: Tensor) -> Any:
        return self.stage(x)


def _stateful(self: Inner, x: Tensor) -> Tensor:
    self.state += x.mean()
    return x * self.state


FORWARDS: dict[str, tuple[Callable[[Any, Tensor], Any], str, str]] = {
    "branch": (lambda self, x: x if x.sum() > 0 else -x, "stage.1", "control flow depends on the values"),
    "loop": (lambda self, x: [x * i for i in range(int(x.sum()))], "stage.1", "control flow depends on the values"),
    "cond": (lambda self, x: torch.cond(x.sum() > 0, torch.sin, torch.cos, (x,)), "stage.1", "uses torch's cond"),
    "mask": (lambda self, x: x[x > 0], "stage.1", "the size of what index gives depends on values"),
    "numpy": (lambda self, x: torch.from_numpy(x.numpy() * 2), "stage.1", "leaves torch"),
    "channels": (lambda self, x: self.conv(x[:, :2]), "stage.1.conv", "to have 3 channels, but got 2"),
    "dtype": (lambda self, x: self.conv(x.double()), "stage.1.conv", "double"),
    "bug": (lambda self, x: {}["missing"], "stage.1", "KeyError: 'missing'"),
    "random": (lambda self, x: x + torch.randn_like(x), "stage.1", "random numbers"),
    "state": (_stateful, "Outer", "changes the buffer stage.1.state"),
    "number": (lambda self, x: (x, 3), "Outer", "returns an int beside tensors"),
    "nothing": (lambda self, x: None, "Outer", "returns no tensor"),
    "operator": (lambda self, x: torch.linalg.svd(x)[1], "stage.1", "aten._linalg_svd has no ONNX form"),
}


@pytest.mark.parametrize("name", FORWARDS)
def test_forward_that_cannot_be_captured(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    function, where, what = FORWARDS[name]
    with pytest.raises(CaptureError) as caught:
        capture(Outer(function), (torch.randn(1, 3, 8, 8),), input_names=["x"], output_names=())
    error = caught.value
    assert error.where == where
    assert what in error.what
    assert error.hint
    assert "\n" not in str(error)
    assert len(str(error)) < 420
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("args", "inputs", "outputs", "what"),
    [
        (2, ["a", "b"], [], "cannot be called so: too many positional arguments"),
        (0, [], [], "cannot be called so: missing a required argument: 'input'"),
        (1, ["a", "b"], [], "2 input names for 1 argument"),
        (1, ["a"], ["x", "y"], "2 output names for 1 output tensor"),
        (1, ["a"], ["a"], "'a' is given twice"),
        (1, [""], ["a"], "a name is empty"),
    ],
)
def test_names_and_arguments_that_do_not_fit(args: int, inputs: list[str], outputs: list[str], what: str) -> None:
    with pytest.raises(CaptureError, match=what):
        capture(nn.Conv2d(3, 4, 1), (torch.randn(1, 3, 4, 4),) * args, input_names=inputs, output_names=outputs)


def test_arguments_that_are_no_tensors() -> None:
    with pytest.raises(CaptureError, match="it is a list, not a tensor"):
        capture(nn.ReLU(), ([1.0],), input_names=["x"], output_names=())  # type: ignore[arg-type]


@pytest.mark.parametrize("opset", [13, 17, 30])
def test_an_opset_that_torch_would_replace_by_another(opset: int) -> None:
    with pytest.raises(CaptureError, match=f"opset: it is {opset}; give an integer from 18 to 22"):
        capture(nn.ReLU(), (torch.randn(2),), input_names=["x"], output_names=(), opset=opset)


@pytest.mark.parametrize("path", ["auto", "official"])
def test_the_culprit_is_the_module_that_has_no_form_and_not_its_sister(path: Any) -> None:
    class Function(nn.Module):
        def __init__(self, *, inverse: bool) -> None:
            super().__init__()
            self.inverse = inverse

        def forward(self, x: Tensor) -> Tensor:
            return x.erfinv() if self.inverse else x.erf()

    class Functions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = Function(inverse=False), Function(inverse=True)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return self.a(x), self.b(x)

    with pytest.raises(CaptureError, match=r"aten.erfinv has no ONNX form") as caught:
        capture(Functions(), (torch.rand(1, 3),), input_names=["x"], output_names=(), path=path)
    assert caught.value.where == "b"


class _Projected(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.LSTM(5, 6, proj_size=3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.fft.rfft(self.layers(x)[0]).real


def test_what_keeps_an_lstm_from_being_written_is_named() -> None:
    with pytest.raises(CaptureError, match=r"layers: lstm .* not written beside fft_rfft, .*; replace fft_rfft, or"):
        capture(_Projected().eval(), (torch.randn(4, 5),), input_names=["x"], output_names=())


def test_of_many_operators_that_have_no_form_two_are_told() -> None:
    values = [ir.node("RandomNormal", [], {"shape": [1]}).outputs[0] for _ in range(5)]
    for index, value in enumerate(values):
        value.name = f"noise_{index}"
    graph = ir.Graph([], values, nodes=[value.producer() for value in values], opset_imports={"": 18})
    with pytest.raises(CaptureError) as caught:
        clean(ir.Model(graph, ir_version=10))
    assert str(caught.value).count("RandomNormal draws random numbers") == 2
    assert caught.value.what.endswith("; and 3 more")


@pytest.mark.parametrize("path", ["fast", "official"])
@pytest.mark.parametrize(
    ("operation", "function"),
    [
        ("avg_pool2d", lambda m, x: nn.functional.avg_pool2d(x.long(), 2)),
        ("max_pool2d", lambda m, x: nn.functional.max_pool2d(x.int(), 3)),
        ("conv2d", lambda m, x: nn.functional.conv2d(x.long(), torch.ones(2, 3, 3, 3, dtype=torch.long))),
    ],
)
def test_windows_of_integers(operation: str, function: Callable[[Any, Tensor], Any], path: Any) -> None:
    with pytest.raises(CaptureError, match=rf"^stage\.1: {operation} is of int\d\d, and no runtime has it"):
        capture(Outer(function).eval(), (torch.ones(1, 3, 8, 8),), input_names=["x"], output_names=["y"], path=path)
