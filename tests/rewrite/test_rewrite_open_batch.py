"""The batch is followed through every operator, or refused where it cannot be."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F  # noqa: N812

from edgeconv.capture import capture
from edgeconv.errors import RewriteError
from edgeconv.reference import evaluate
from edgeconv.rewrite import optimize
from edgeconv.rewrite.open_batch import free_batch

BATCHES = (1, 3, 5)


class Function(nn.Module):
    def __init__(self, function: Callable[..., object], *parameters: tuple[int, ...]) -> None:
        super().__init__()
        self.function = function
        self.parts = nn.ParameterList(torch.randn(shape, dtype=torch.float32) for shape in parameters)

    def forward(self, *args: torch.Tensor) -> object:
        return self.function(*args, *self.parts)


def freed(module: nn.Module, *shapes: tuple[int, ...]) -> ir.Model:
    names = [f"x{index}" for index in range(len(shapes))]
    args = tuple(torch.randn(2, *shape) for shape in shapes)
    return free_batch(optimize(capture(module.eval(), args, input_names=names, output_names=[])), inputs=names)


def check(function: Callable[..., object], *shapes: tuple[int, ...], parameters: tuple[tuple[int, ...], ...] = ()):
    torch.manual_seed(0)
    module = Function(function, *parameters)
    model = freed(module, *shapes)
    double = module.double()
    for batch in BATCHES:
        inputs = [torch.randn(batch, *shape, dtype=torch.float64) for shape in shapes]
        with torch.no_grad():
            wanted = double(*inputs)
        found = evaluate(model, {f"x{index}": x.numpy() for index, x in enumerate(inputs)})
        for value, one in zip(model.graph.outputs, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
            assert found[value.name].shape == tuple(one.shape)
            np.testing.assert_allclose(found[value.name], one.numpy(), rtol=1e-10, atol=1e-10)
    return model


def _assigned(x: torch.Tensor) -> torch.Tensor:
    y = x.clone()
    y[:, 1:3] = x[:, 2:4] * 2
    return y


def _grid(x: torch.Tensor) -> torch.Tensor:
    """Six places, the same for each image."""
    return (torch.arange(12, dtype=x.dtype) / 8 - 0.75).view(1, 3, 2, 2).expand(len(x), -1, -1, -1)


CASES: dict[str, tuple[Callable[..., object], tuple[int, ...]]] = {
    "flatten": (lambda x: x.flatten(1), (3, 4, 5)),
    "merge and split again": (lambda x: (x.flatten(0, 1) + 1).view(-1, 3, 4, 5), (3, 4, 5)),
    "merge behind another axis": (
        lambda x: x.transpose(0, 1).reshape(-1, 5).view(4, -1, 5).sin().transpose(0, 1),
        (4, 5),
    ),
    "squeeze": (lambda x: x.mean((2, 3), keepdim=True).squeeze((2, 3)), (2, 4, 4)),
    "unsqueeze": (lambda x: x[:, None] * x[:, :, None], (6,)),
    "reduce": (lambda x: (x.amax(1), x.mean((1, 2), keepdim=True), x.flatten(1).argmax(1)), (3, 4)),
    "softmax": (lambda x: x.transpose(0, 1).softmax(2).transpose(0, 1).log_softmax(1), (3, 4)),
    "expand": (lambda x: x.mean(2, keepdim=True).expand(-1, -1, 7) - 0.5, (3, 4)),
    "tile": (lambda x: x.repeat(1, 2, 3), (3, 4)),
    "split": (lambda x: tuple(x.split([1, 3], 1)), (4, 5)),
    "slices": (lambda x: x[:, 1:, ::2] + x[:, :-1, 1::2], (3, 6)),
    "gather": (lambda x: x[:, [2, 0, 1]], (3, 4)),
    "take": (lambda x: x.permute(2, 0, 1)[[1, 1, 0]].permute(1, 0, 2), (3, 4)),
    "roll": (lambda x: torch.roll(x, (1, -1), (1, 2)), (4, 5)),
    "assign": (_assigned, (4, 5)),
    "pad": (lambda x: F.pad(x, (1, 2, 0, 1), value=0.5), (4, 5)),
    "matrices": (lambda x: x @ x.transpose(1, 2), (3, 4)),
    "cumulate": (lambda x: x.cumsum(1), (3, 4)),
    "scatter into zeros": (lambda x: torch.zeros_like(x).scatter(1, x.argmax(1, keepdim=True), 1.0), (3, 4)),
    "scatter a constant": (lambda x: x.scatter(2, x.argmin(2, keepdim=True), 0.5), (3, 4)),
    "scatter at fixed places": (
        lambda x: x.scatter_add(1, torch.tensor([[2, 0]]).expand(len(x), -1), x[:, 1:3] * 2),
        (4,),
    ),
    "scatter beside the batch": (
        lambda x: x.permute(1, 0, 2).scatter(2, x.argmax(2, keepdim=True).transpose(0, 1), 3.0).transpose(0, 1),
        (3, 4),
    ),
    "gather from a table": (
        lambda x: torch.arange(12.0, dtype=x.dtype).view(1, 3, 4).expand(len(x), -1, -1).gather(1, x.argsort(1)),
        (3, 4),
    ),
    "gather at fixed places": (lambda x: x.gather(1, torch.tensor([[2, 0]]).expand(len(x), -1)), (4,)),
    "sample at computed places": (
        lambda x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1) / 2, align_corners=False),
        (2, 4, 5),
    ),
    "sample at fixed places": (lambda x: F.grid_sample(x, _grid(x), mode="bicubic", align_corners=True), (3, 4, 5)),
    "sample a fixed image": (
        lambda x: F.grid_sample(_grid(x).permute(0, 3, 1, 2), x.permute(0, 2, 3, 1) / 2, align_corners=True),
        (2, 4, 5),
    ),
    "where": (lambda x: torch.where(x > 0, x, torch.zeros_like(x)), (3, 4)),
    "ones": (lambda x: torch.cat([torch.ones_like(x[:, :1]), x, x.new_full((x.shape[0], 2, 4), 0.25)], 1), (3, 4)),
}


@pytest.mark.parametrize("name", CASES)
def test_an_operation_at_every_batch(name: str) -> None:
    function, shape = CASES[name]
    check(function, shape)


@settings(deadline=None, max_examples=20)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.data())
def test_any_regrouping_behind_the_batch(shape: list[int], data: st.DataObject) -> None:
    """The axes of an image are cut anew, the batch merged with the first of them or left alone."""
    total = int(np.prod(shape))
    first = data.draw(st.sampled_from([size for size in range(1, total + 1) if total % size == 0]))
    rest = total // first
    merged = data.draw(st.booleans())
    inner = (lambda x: x.reshape(-1, rest)) if merged else (lambda x: x.reshape(x.shape[0], first, rest))
    check(lambda x: (inner(x) * 2).reshape(x.shape[0], rest, first), tuple(shape))


@settings(deadline=None, max_examples=20)
@given(st.permutations([0, 1, 2, 3]), st.integers(1, 3), st.integers(1, 3), st.integers(2, 3))
def test_any_permutation_and_back(perm: list[int], a: int, b: int, c: int) -> None:
    back = [perm.index(axis) for axis in range(4)]
    check(lambda x: (x.permute(perm).relu() + 1).permute(back), (a, b, c))


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4), st.sampled_from(["token", "query", "bias"]))
def test_what_is_expanded_to_the_batch(heads: int, tokens: int, width: int, kind: str) -> None:
    """A captured constant with the batch's rows gives up all but one."""
    functions: dict[str, Callable[..., object]] = {
        "token": lambda x, p: torch.cat([x, p.expand(x.shape[0], -1, -1)], 1),
        "query": lambda x, p: torch.bmm(p.expand(x.shape[0], -1, -1), x.transpose(1, 2)),
        "bias": lambda x, p: x.unsqueeze(1) + p.expand(x.shape[0], -1, -1)[:, :, None],
    }
    check(functions[kind], (tokens, width), parameters=((1, heads, width),))


class Begun(nn.Module):
    """A recurrent layer that begins with states of its own."""

    def __init__(self, layer: nn.RNNBase, *, learned: bool) -> None:
        super().__init__()
        self.layer = layer
        count = layer.num_layers * (2 if layer.bidirectional else 1)
        self.state = nn.Parameter(torch.randn(count, 1, layer.hidden_size)) if learned else None

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.state is None:
            y, end = self.layer(x)
        else:
            images = x.shape[0] if self.layer.batch_first else x.shape[1]
            begin = self.state.expand(-1, images, -1)
            y, end = self.layer(x, (begin, begin * 2) if isinstance(self.layer, nn.LSTM) else begin)
        last = end[0] if isinstance(end, tuple) else end
        return y if self.layer.batch_first else y.transpose(0, 1), last.transpose(0, 1)


@pytest.mark.parametrize("learned", [False, True], ids=["zeros", "learned"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_at_every_batch(kind: type[nn.RNNBase], learned: bool) -> None:
    torch.manual_seed(0)
    module = Begun(kind(4, 5, num_layers=2, bidirectional=True, batch_first=True), learned=learned)
    model = freed(module, (6, 4))
    double = module.double()
    for batch in BATCHES:
        x = torch.randn(batch, 6, 4, dtype=torch.float64)
        with torch.no_grad():
            wanted = double(x)
        found = evaluate(model, {"x0": x.numpy()})
        for value, one in zip(model.graph.outputs, wanted, strict=True):
            np.testing.assert_allclose(found[value.name], one.numpy(), rtol=1e-10, atol=1e-10)


def test_states_that_differ_from_image_to_image_are_refused() -> None:
    module = Begun(nn.RNN(4, 5, batch_first=True), learned=True)
    module.state = nn.Parameter(torch.randn(1, 2, 5))
    with pytest.raises(RewriteError, match="meets a constant that differs from image to image"):
        freed(module, (6, 4))


def test_rows_for_each_image_hold_whatever_the_image_holds() -> None:
    """They are made of the image, and yet NaN and infinities in it do not reach them."""
    model = freed(Function(lambda x: torch.ones_like(x).scatter(1, x.argmax(1, keepdim=True), 0.0)), (3,))
    x = np.array([[np.nan, 1, 2], [np.inf, -np.inf, 0], [1, 2, 3]])
    (found,) = (evaluate(model, {"x0": x})[value.name] for value in model.graph.outputs)
    np.testing.assert_array_equal(found, [[0, 1, 1], [0, 1, 1], [1, 1, 0]])


def test_several_inputs_carry_the_same_batch() -> None:
    model = check(lambda a, b: torch.cat([a, b], 1) * a[:, :1], (3, 4), (2, 4))
    assert [str(value.shape) for value in model.graph.inputs] == ["[batch,3,4]", "[batch,2,4]"]


def test_an_input_without_a_batch_stays() -> None:
    names = ["x", "table"]
    args = (torch.randn(2, 3, 4), torch.randn(4, 5))
    model = capture(Function(lambda x, table: x @ table), args, input_names=names, output_names=["y"])
    free_batch(model, inputs=["x"], symbol="n")
    assert [str(value.shape) for value in (*model.graph.inputs, *model.graph.outputs)] == [
        "[n,3,4]",
        "[4,5]",
        "[n,3,5]",
    ]


def test_a_merged_dimension_is_a_multiple() -> None:
    model = freed(Function(lambda x: (x.flatten(0, 1) + 1).view(-1, 3, 4)), (3, 4))
    shapes = [str(value.shape) for node in model.graph for value in node.outputs]
    assert "[3*batch,4]" in shapes
    assert shapes[-1] == "[batch,3,4]"


def test_constants_say_nothing_of_the_batch() -> None:
    """A target shape of 0s and -1s, a size per axis that is resized."""
    module = Function(lambda x: F.interpolate(x, size=(5, 9), mode="bilinear").flatten(2))
    model = freed(module, (2, 3, 4))
    sizes = {name: value.const_value.numpy().tolist() for name, value in model.graph.initializers.items()}
    assert sorted(sizes.values()) == [[-1, 2, 45], [5, 9]]


REFUSED: dict[str, tuple[Callable[..., object], tuple[int, ...], str]] = {
    "mean over the batch": (lambda x: x - x.mean(0), (3, 4), "ReduceMean works along the batch"),
    "softmax over the batch": (lambda x: x.softmax(0), (3, 4), "Softmax works along the batch"),
    "one image of the batch": (lambda x: x[0], (3, 4), "the batch"),
    "images side by side": (lambda x: torch.cat([x, x], 0), (3, 4), "Concat works along the batch"),
    "images by images": (lambda x: x @ x.t(), (4,), "MatMul multiplies images by one another"),
    "a sum over images": (lambda x: x.t() @ x, (4,), "MatMul sums over the batch"),
    "an order of images": (lambda x: x.flip(0), (3, 4), "the batch"),
    "constants per image": (lambda x: x * torch.arange(2.0)[:, None, None], (3, 4), "differs from image to image"),
    "images as channels": (lambda x: x.transpose(0, 1), (3, 4), "does not have the batch by itself at dimension 0"),
    "a constant batch": (lambda x: (x, torch.arange(2.0)[:, None] + 1), (3, 4), "does not depend on the input"),
    "scatter over the batch": (lambda x: x.scatter(0, x.argmax(0, keepdim=True), 1.0), (4,), "works along the batch"),
    "rows of all images": (lambda x: x.flatten(0, 1), (3, 4), "does not have the batch by itself at dimension 0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_carry_it_is_refused(name: str) -> None:
    function, shape, message = REFUSED[name]
    with pytest.raises(RewriteError, match=message) as caught:
        freed(Function(function), shape)
    assert "fixed batch" in caught.value.hint
    assert "export with a fixed batch" in caught.value.hint


def test_a_refusal_names_the_torch_module() -> None:
    class Mixes(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x - x.mean(0, keepdim=True)

    module = nn.Sequential()
    module.add_module("stem", nn.Conv2d(3, 4, 1))
    module.add_module("mixer", Mixes())
    with pytest.raises(RewriteError) as caught:
        freed(module, (3, 4, 4))
    assert (caught.value.where, caught.value.what.split()[0]) == ("mixer", "ReduceMean")


def test_inputs_that_do_not_fit_are_refused() -> None:
    model = capture(nn.Conv2d(3, 4, 1), (torch.randn(1, 3, 4, 4),), input_names=["x"], output_names=["y"])
    with pytest.raises(RewriteError, match="at least 2"):
        free_batch(model, inputs=["x"])
    with pytest.raises(RewriteError, match=r"'image' is no input.*its inputs are x"):
        free_batch(model, inputs=["image"])
