"""Modules are called as their owners call them, and may be programs or scripts.

Members: keywords, keyword-only parameters, None and defaults, numbers and text, lists, tuples and dicts of tensors,
nested; names that would be given twice; an open batch; an ``ExportedProgram`` with and without its own examples, with
open sizes; ``torch.jit.script``, ``trace`` and ``freeze``, in training mode; numbers and defaults beside the tensors
of scripts and programs; what is no call at all.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

import edgeconv
from edgeconv.errors import CaptureError


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, *, scale: float = 1.0, mode: str = "relu",
        features: Any = None, extra: Any = None,
    ) -> dict[str, Tensor]:  # fmt: skip
        y = self.norm(self.conv(x)) * scale
        y = y.relu() if mode == "relu" else y.tanh()
        y = y if mask is None else y * mask
        for each in features or ():
            y = y + each
        y = y if extra is None else y - extra["a"] * extra["b"]["c"][0]
        return {"out": y}


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        z = self.norm(self.conv(x)).relu()
        return z.mean((2, 3)) + y if z.shape[1] == 4 else z


X, MASK = torch.randn(1, 3, 8, 8), torch.rand(1, 1, 6, 6)
PARTS = [torch.randn(1, 4, 6, 6), torch.randn(1, 4, 1, 1)]
NESTED = {"features": PARTS, "extra": {"a": PARTS[0], "b": {"c": [PARTS[1], None]}}, "scale": 2.5, "mode": "tanh"}

CALLS: dict[str, tuple[tuple[Any, ...], Mapping[str, Any], list[str]]] = {
    "keyword": ((X,), {"mask": MASK}, ["x", "mask"]),
    "all by keyword": ((), {"x": X, "scale": 0.5}, ["x"]),
    "none": ((X, None), {}, ["x"]),
    "nested": ((X,), NESTED, ["x", "features_0", "features_1", "extra_a", "extra_b_c_0"]),
    "tuple": ((X,), {"features": (PARTS[0],)}, ["x", "features_0"]),
    "keywords in another order": (
        (X,),
        {"extra": NESTED["extra"], "mask": MASK},
        ["x", "extra_a", "extra_b_c_0", "mask"],
    ),
}


def _proven(module: Any, args: tuple[Any, ...], out: Path, **options: Any) -> list[str]:
    """Exports on both runtimes and beside torch; the names of the inputs."""
    result = edgeconv.export(module, args, out, name="m", devices=("onnxruntime", "litert", "torch"), **options)
    assert result.report is not None
    assert result.report.verdict.value == "pass", [each.reason for each in result.report.comparisons]
    return [each.name for each in result.artifacts[0].inputs]


@pytest.mark.parametrize("name", CALLS)
def test_a_call_of_any_form(tmp_path: Path, name: str) -> None:
    args, kwargs, names = CALLS[name]
    net = Net()
    before = {path: sorted(vars(part)) for path, part in net.named_modules()}
    assert sorted(_proven(net, args, tmp_path, kwargs=kwargs)) == sorted(names)
    assert {path: sorted(vars(part)) for path, part in net.named_modules()} == before


def test_layers_keep_their_names_and_the_batch_stays_open(tmp_path: Path) -> None:
    x, mask = torch.randn(2, 3, 8, 8), torch.rand(2, 1, 6, 6)
    assert _proven(Net(), (x,), tmp_path, kwargs={"mask": mask}, dynamic_batch=True) == ["x", "mask"]
    result = edgeconv.export(Net(), (X,), tmp_path, name="m", kwargs={"mask": MASK}, input_names=["a", "b"])
    assert [each.name for each in result.artifacts[0].inputs] == ["a", "b"]


def test_an_exported_program(tmp_path: Path) -> None:
    program = torch.export.export(Net().eval(), (X,), {"mask": MASK})
    assert _proven(program, (), tmp_path) == ["x", "mask"]
    assert _proven(program, (X,), tmp_path, kwargs={"mask": MASK + 1}) == ["x", "mask"]
    batch = torch.export.Dim("batch")
    wide = torch.export.export(
        Plain().eval(), (torch.randn(2, 3, 8, 8), torch.randn(2, 4)), dynamic_shapes=({0: batch}, {0: batch})
    )
    assert _proven(wide, (X, torch.randn(1, 4)), tmp_path) == ["x", "y"]


class Weighed(nn.Module):
    def forward(self, x: Tensor, y: Tensor, *, a: Tensor, b: Tensor) -> Tensor:
        return x * y.sum() + a * b.sum()


def test_an_exported_program_is_called_in_any_order(tmp_path: Path) -> None:
    x, y, a, b = X, torch.randn(2, 2), torch.randn(8), torch.randn(5)
    program = torch.export.export(Weighed(), (x, y), {"a": a, "b": b})
    assert _proven(program, (x, y), tmp_path, kwargs={"b": b, "a": a}) == ["x", "y", "a", "b"]
    assert _proven(program, (x,), tmp_path, kwargs={"b": b, "y": y, "a": a}) == ["x", "y", "a", "b"]
    assert _proven(program, (), tmp_path, kwargs={"a": a, "b": b, "y": y, "x": x}) == ["x", "y", "a", "b"]
    with pytest.raises(edgeconv.CaptureError, match=r"kwargs\['a'\]: it is torch.float32 of shape \(5,\)"):
        edgeconv.export(program, (x, y), tmp_path, name="m", kwargs={"b": a, "a": b})


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("kind", ["script", "trace", "freeze", "training"])
def test_a_script_is_exported_and_left_as_it_was(tmp_path: Path, kind: str) -> None:
    net, args = Plain().eval(), (X, torch.randn(1, 4))
    script = torch.jit.trace(net, args) if kind == "trace" else torch.jit.script(net)
    script = torch.jit.freeze(script) if kind == "freeze" else script
    if kind == "training":
        script.train()
    state = copy.deepcopy(script.state_dict())
    assert _proven(script, args, tmp_path) == ["x", "y"]
    assert kind != "training" or script.training
    assert all(torch.equal(value, state[key]) for key, value in script.state_dict().items())


class Scaled(nn.Module):
    """With numbers among the arguments, one of which chooses a branch."""

    def forward(self, x: torch.Tensor, scale: float = 2.0, rectify: bool = True) -> torch.Tensor:
        return x.relu() * scale if rectify else x * scale


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("numbers", [(), (3.0,), (3.0, False)])
@pytest.mark.parametrize("kind", ["script", "program"])
def test_numbers_beside_the_tensors_of_a_graph(tmp_path: Path, kind: str, numbers: tuple[Any, ...]) -> None:
    net = Scaled().eval()
    graph = torch.jit.script(net) if kind == "script" else torch.export.export(net, (X, *numbers))
    assert len(_proven(graph, (X, *numbers), tmp_path)) == 1
    (file,) = tmp_path.rglob("*.onnx")
    session = onnxruntime.InferenceSession(file)
    result = session.run(None, {session.get_inputs()[0].name: X.numpy()})[0]
    np.testing.assert_allclose(result, net(X, *numbers).numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("args", "kwargs", "what"),
    [
        ((X,), {"nothing": X}, "unexpected keyword argument 'nothing'"),
        ((3,), {}, "there is no tensor among the arguments; pass an example input"),
        (X, {}, r"args: it is a Tensor, not a tuple; write \(x,\)"),
        ((X,), [X], "kwargs: it is a list; write"),
        ((X.to_sparse(),), {}, r"args\[0\]: it is a sparse tensor"),
    ],
)
def test_what_is_no_call(tmp_path: Path, args: Any, kwargs: Any, what: str) -> None:
    with pytest.raises(CaptureError, match=what):
        edgeconv.export(Net(), args, tmp_path, name="m", kwargs=kwargs)


class Parts(nn.Module):
    """A module that holds parts and computes nothing."""


class OnGpu(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.cuda()


class Rounded(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.quantize_per_tensor(x, 0.1, 0, torch.qint8).dequantize()


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
@pytest.mark.parametrize(
    ("module", "what"),
    [
        (
            Parts(),
            "Parts: it has no forward, and computes nothing by itself; pass a module whose forward calls its parts",
        ),
        (nn.ModuleList([nn.ReLU()]), "ModuleList: it has no forward"),
        (nn.ParameterList(), "ParameterList: it holds parameters and has no forward"),
        (OnGpu(), "OnGpu: the forward makes tensors on a GPU, and modules are exported on the CPU"),
        (Rounded(), "Rounded: the forward makes quantized tensors of torch"),
    ],
)
def test_modules_that_cannot_run_are_named(tmp_path: Path, module: nn.Module, what: str) -> None:
    with pytest.raises(edgeconv.CaptureError, match=what):
        edgeconv.export(module, (X,), tmp_path, name="m")


def test_a_program_takes_the_sizes_and_types_that_it_was_exported_for(tmp_path: Path) -> None:
    """It has the sizes in its graph as numbers: of others it would compute something else than its module."""

    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x / x.shape[-1]

    program = torch.export.export(Scaled(), (X,))
    with pytest.raises(edgeconv.CaptureError, match=r"args\[0\]: it is torch\.float32 of shape .*was exported for"):
        edgeconv.export(program, (torch.zeros(1, 3, 5, 5),), tmp_path, name="m")
    with pytest.raises(
        edgeconv.CaptureError, match=r"args\[0\]: it is torch\.float64 .*was exported for torch\.float32"
    ):
        edgeconv.export(program, (X.double(),), tmp_path, name="m")
    wide = torch.export.export(Scaled(), (X,), dynamic_shapes=({3: torch.export.Dim("width", min=2)},))
    assert edgeconv.export(wide, (torch.zeros(*X.shape[:3], 5),), tmp_path, name="m").artifacts


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("args", "kwargs", "what"),
    [
        ((X,), {"y": X}, r"args and kwargs: forward\(.*\) cannot be called so: no argument 'y' is left"),
        ((X, X), {}, r"args: forward\(.*\) cannot be called so: 2 are too many"),
    ],
)
def test_arguments_that_a_script_does_not_take(tmp_path: Path, args: Any, kwargs: Any, what: str) -> None:
    with pytest.raises(edgeconv.CaptureError, match=what):
        edgeconv.export(torch.jit.script(nn.ReLU()), args, tmp_path, name="m", kwargs=kwargs)


class Counting(nn.Module):
    """Carries a number from call to call."""

    def __init__(self) -> None:
        super().__init__()
        self.count = torch.jit.Attribute(1, int)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count = self.count + 1
        return x * self.count


class Measuring(Counting):
    """Sets the number before it reads it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count = x.shape[1]
        return x * self.count


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_number_that_a_script_carries_from_call_to_call(tmp_path: Path) -> None:
    script = torch.jit.script(nn.Sequential(nn.ReLU(), Counting()).eval())
    with pytest.raises(edgeconv.CaptureError, match=r"forward changes the attribute 1\.count and reads it again"):
        edgeconv.export(script, (X,), tmp_path, name="m")
    assert script(X).equal(2 * X.relu())  # nothing was counted
    _proven(torch.jit.script(Measuring().eval()), (X,), tmp_path)
