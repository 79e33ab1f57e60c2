"""A module is captured as in eval mode and left exactly as it was found."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import edgeconv
from edgeconv.capture import capture
from edgeconv.errors import CaptureError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.drop, self.act = nn.Dropout(0.5), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            raise RuntimeError("captured in training mode")
        return self.act(self.drop(self.norm(self.conv(x))))


def _prepared() -> Net:
    torch.manual_seed(0)
    module = Net().train()
    module.norm.eval()
    module.act.eval()
    module.conv.bias.requires_grad_(False)
    module.norm.running_mean.uniform_()
    module.conv.weight.grad = torch.randn_like(module.conv.weight)
    return module


def _state(module: nn.Module) -> dict[str, object]:
    return {
        "modes": {path: part.training for path, part in module.named_modules()},
        "grads": {name: parameter.grad for name, parameter in module.named_parameters()},
        "requires": {name: parameter.requires_grad for name, parameter in module.named_parameters()},
        "objects": {name: (id(tensor), tensor.data_ptr(), tensor._version) for name, tensor in
                    [*module.named_parameters(), *module.named_buffers()]},
        "hooks": {path: (list(part._forward_hooks), list(part._forward_pre_hooks))
                  for path, part in module.named_modules()},
        "attributes": {path: sorted(vars(part)) for path, part in module.named_modules()},
    }  # fmt: skip


@pytest.mark.parametrize("fails", [False, True])
def test_the_module_is_left_as_it_was_found(fails: bool) -> None:
    module = _prepared()
    module.conv.register_forward_hook(lambda *_: None)
    before, weights = _state(module), copy.deepcopy(module.state_dict())
    grad = module.conv.weight.grad.clone()
    generator = torch.get_rng_state()
    x = torch.randn(1, 2 if fails else 3, 8, 8, generator=torch.Generator().manual_seed(0), requires_grad=True)
    if fails:
        with pytest.raises(CaptureError):
            capture(module, (x,), input_names=["x"], output_names=["y"])
    else:
        capture(module, (x,), input_names=["x"], output_names=["y"])
    assert _state(module) == before
    assert torch.equal(module.conv.weight.grad, grad)
    assert torch.equal(torch.get_rng_state(), generator)
    assert torch.is_grad_enabled()
    assert x.grad is None
    for name, value in module.state_dict().items():
        assert torch.equal(value, weights[name]), name


def test_a_module_in_training_mode_is_captured_as_in_eval(evaluate) -> None:
    module, x = _prepared(), torch.randn(1, 3, 8, 8)
    model = capture(module, (x,), input_names=["x"], output_names=["y"])
    with torch.no_grad():
        expected = copy.deepcopy(module).eval()(x)
    np.testing.assert_allclose(evaluate(model, (x,))["y"], expected.numpy(), rtol=1e-5, atol=1e-5)


def test_the_input_is_not_changed_by_a_module_that_works_in_place() -> None:
    x = torch.randn(1, 3, 4, 4)
    before = x.clone()
    capture(nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 3, 1)), (x,), input_names=["x"], output_names=["y"])
    assert torch.equal(x, before)


def test_a_buffer_that_only_counts_is_left_out() -> None:
    class Counts(nn.Module):
        calls: Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return x * 2

    module = Counts()
    model = capture(module, (torch.randn(2),), input_names=["x"], output_names=["y"])
    assert [node.op_type for node in model.graph] == ["Mul"]
    assert module.calls.item() == 0


class _Delayed(nn.Module):
    """What the call before the last one gave is added."""

    def __init__(self) -> None:
        super().__init__()
        self.last: torch.Tensor
        self.before: torch.Tensor
        self.register_buffer("last", torch.zeros(1))
        self.register_buffer("before", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x + self.before
        self.before = self.last
        self.last = y.mean().reshape(1)
        return y


class _Swapped(_Delayed):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = x + self.before
        self.last, self.before = self.before, self.last
        return y


@pytest.mark.parametrize("make", [_Delayed, _Swapped])
def test_buffers_in_the_place_of_one_another_are_told_as_state(make: type[_Delayed], tmp_path: Path) -> None:
    """torch told of a node that is missing nn_module_stack metadata."""
    with pytest.raises(edgeconv.EdgeconvError, match="puts one of its buffers in the place of another"):
        edgeconv.export(make(), (torch.randn(1, 3),), tmp_path, name="net")
