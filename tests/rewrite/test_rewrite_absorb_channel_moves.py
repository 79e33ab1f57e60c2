"""Channel shuffles and gathers vanish into the weights of the operators that read them.

Members of what joins moved channels with others: cat and stack along every axis, the batch's among them, of values
whose first axis is a batch and of others where the channels came to lie there; batches of one and of more.
"""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rewrite_blocks import conv_norm
from rewrite_graphs import assert_rewritten_exactly, batch_norm, cast, graph, node, operators, statistics
from test_rewrite_captured import randomise
from torch import nn

from edgeconv.capture import capture
from edgeconv.reference import evaluate
from edgeconv.rewrite import optimize

MIXERS = {"Transpose", "Gather", "Reshape"}
CHANNELS, SIZE = 12, 4


def ints(*numbers):
    return np.array(numbers, np.int64)


class Builder:
    """Nodes that move channels and nodes that read them, one after another."""

    def __init__(self, seed, batch=2):
        self.rng, self.batch = np.random.default_rng(seed), batch
        self.nodes, self.constants, self.channels = [], {}, {"input": CHANNELS}

    def name(self):
        return f"value{len(self.channels)}"

    def emit(self, op, inputs, channels, constants=(), **attributes):
        output = self.name()
        names = [f"{output}.constant{index}" for index in range(len(constants))]
        self.constants |= dict(zip(names, constants, strict=True))
        self.nodes.append(node(op, [*inputs, *names], output, **attributes))
        self.channels[output] = channels
        return output

    def shuffle(self, source, groups):
        count = self.channels[source]
        shape = [self.batch, groups, count // groups, SIZE, SIZE]
        split = self.emit("Reshape", [source], 0, [ints(*shape)])
        turned = self.emit("Transpose", [split], 0, perm=[0, 2, 1, 3, 4])
        return self.emit("Reshape", [turned], count, [ints(self.batch, count, SIZE, SIZE)])

    def gather(self, source, index):
        return self.emit("Gather", [source], len(index), [ints(*index)], axis=1)

    def halves(self, source):
        left = self.channels[source] // 2
        sizes = [left, self.channels[source] - left]
        outputs = [f"{self.name()}.{side}" for side in ("left", "right")]
        self.constants[f"{outputs[0]}.sizes"] = ints(*sizes)
        self.nodes.append(node("Split", [source, f"{outputs[0]}.sizes"], outputs, axis=1))
        self.channels |= dict(zip(outputs, sizes, strict=True))
        return outputs

    def conv(self, source, channels=CHANNELS // 2):
        weight = self.rng.normal(size=(channels, self.channels[source], 1, 1))
        return self.emit("Conv", [source], channels, [weight, self.rng.normal(size=channels)])

    def depthwise(self, source):
        count = self.channels[source]
        weights = [self.rng.normal(size=(count, 1, 3, 3)), self.rng.normal(size=count)]
        return self.emit("Conv", [source], count, weights, pads=[1] * 4, group=count)

    def norm(self, source):
        output, count = self.name(), self.channels[source]
        self.constants |= statistics(self.rng, count, output)
        self.nodes.append(batch_norm(source, output, output))
        self.channels[output] = count
        return output

    def relu(self, source):
        return self.emit("Relu", [source], self.channels[source])

    def concat(self, *sources):
        return self.emit("Concat", sources, sum(self.channels[source] for source in sources), axis=1)

    def model(self, *outputs):
        return graph(self.nodes, {"input": (self.batch, CHANNELS, SIZE, SIZE)}, outputs, self.constants)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 2**16),
    batch=st.integers(1, 2),
    groups=st.lists(st.sampled_from([2, 3, 4]), min_size=1, max_size=3),
    carriers=st.lists(st.sampled_from(["relu", "depthwise", "norm"]), max_size=3),
    repeats=st.booleans(),
)
def test_units_of_split_branch_concat_shuffle(seed, batch, groups, carriers, repeats):
    """However many units follow one another: the moves are gone, but for slices and concatenations."""
    build = Builder(seed, batch)
    x = build.relu("input")
    for group in groups:
        left, branch = build.halves(build.shuffle(x, group))
        for carrier in carriers:
            branch = getattr(build, carrier)(branch)
        x = build.concat(left, build.relu(build.conv(branch)))
    if repeats:
        x = build.gather(x, build.rng.integers(0, CHANNELS, size=CHANNELS + 3))
    model = build.model(build.conv(x))
    assert_rewritten_exactly(model, seed)
    assert not MIXERS & set(operators(model))


@pytest.mark.parametrize("first", ["conv", "depthwise", "relu"])
def test_a_shuffle_between_convolutions_costs_nothing(first):
    build = Builder(1)
    x = build.shuffle(getattr(build, first)("input"), 3)
    model = build.model(build.conv(build.relu(build.depthwise(x))))
    assert_rewritten_exactly(model)
    assert not {*MIXERS, "Slice", "Concat"} & set(operators(model))


def test_channels_that_nobody_reads_are_left_out():
    build = Builder(2)
    model = build.model(build.conv(build.gather(build.relu("input"), [7, 3, 3, 4])))
    assert_rewritten_exactly(model)
    assert operators(model).count("Slice") == 2
    assert next(item for item in model.graph if item.op_type == "Conv").inputs[1].shape[1] == 3


def test_through_the_head_of_a_classifier():
    build = Builder(3)
    pooled = build.emit("GlobalAveragePool", [build.shuffle(build.relu(build.conv("input")), 2)], 6)
    flat = build.emit("Flatten", [pooled], 6)
    logits = build.emit("Gemm", [flat], 5, [build.rng.normal(size=(5, 6)), build.rng.normal(size=5)], transB=1)
    model = build.model(logits)
    assert_rewritten_exactly(model)
    assert operators(model) == ["Conv", "Relu", "GlobalAveragePool", "Flatten", "Gemm"]


@pytest.mark.parametrize("reduction", ["ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2"])
def test_through_a_reduction_of_the_plane(reduction):
    build = Builder(5)
    x = build.shuffle(build.conv("input"), 2)
    model = build.model(build.conv(build.emit(reduction, [x], CHANNELS // 2, [ints(2, 3)])))
    assert_rewritten_exactly(model)
    assert operators(model) == ["Conv", reduction, "Conv"]


STAYS = {
    "a graph output": lambda b, x: (b.conv(x), x),
    "a grouped convolution": lambda b, x: (
        b.emit("Conv", [x], 8, [b.rng.normal(size=(8, 3, 1, 1))], group=4),
        b.conv(x),
    ),
    "an addition": lambda b, x: (b.emit("Add", [x, "input"], CHANNELS), b.conv(x)),
    "different weights for one channel": lambda b, x: (b.conv(b.depthwise(b.gather(x, [0, 0, 1]))),),
}


@pytest.mark.parametrize("name", STAYS)
def test_it_stays_where_a_reader_needs_the_order(name):
    build = Builder(4)
    model = build.model(*STAYS[name](build, build.shuffle("input", 3)))
    assert_rewritten_exactly(model)
    assert MIXERS & set(operators(model))


def test_a_transpose_of_the_plane_stays():
    build = Builder(5)
    turned = build.emit("Transpose", [build.relu("input")], CHANNELS, perm=[0, 1, 3, 2])
    model = build.model(build.conv(turned))
    assert_rewritten_exactly(model)
    assert "Transpose" in operators(model)


def test_batch_of_unknown_size():
    build = Builder(6)
    x = build.shuffle("input", 3)
    build.constants = {
        name: np.array([-1, *array[1:]], np.int64) if array.dtype == np.int64 else array
        for name, array in build.constants.items()
    }
    inputs = {"input": ("batch", CHANNELS, SIZE, SIZE)}
    nodes = [*build.nodes, node("Conv", [x, "weight"], "output")]
    constants = {**build.constants, "weight": build.rng.normal(size=(5, CHANNELS, 1, 1))}
    model = graph(nodes, inputs, ["output"], constants)
    assert_rewritten_exactly(model)


class ShuffleUnit(nn.Module):
    """split, branch, concatenate, shuffle (ShuffleNet V2, ECCV 2018); ``shuffle`` in either of the usual spellings."""

    def __init__(self, channels, spelling):
        super().__init__()
        half = channels // 2
        layers = [conv_norm(half, half, 1), nn.ReLU(), conv_norm(half, half, 3, groups=half), conv_norm(half, half, 1)]
        self.branch = nn.Sequential(*layers, nn.ReLU())
        self.spelling = spelling

    def forward(self, x):
        if self.spelling == "view":
            left, right = x.chunk(2, dim=1)
            x = torch.cat((left, self.branch(right)), 1)
            n, c, h, w = x.shape
            return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        n, c, h, w = x.shape
        pairs = x.reshape(n * c // 2, 2, h * w).permute(1, 0, 2).reshape(2, -1, c // 2, h, w)
        return torch.cat((pairs[0], self.branch(pairs[1])), 1)


@pytest.mark.parametrize("spelling", ["view", "pairs"])
def test_a_stage_of_shuffle_units(spelling):
    units = [ShuffleUnit(12, spelling) for _ in range(5)]
    module = randomise(nn.Sequential(conv_norm(3, 12, 3), *units, conv_norm(12, 8, 1)))
    model = capture(module, (torch.randn(1, 3, 6, 6),), input_names=["image"], output_names=["result"])
    model = cast(model, onnx.TensorProto.DOUBLE)
    assert_rewritten_exactly(model)
    assert not MIXERS & set(operators(model))
    assert all(len(item.inputs) <= 4 for item in model.graph if item.op_type == "Concat")


class Joined(nn.Module):
    """A layer whose channels are moved, and then joined with what no move has made."""

    def __init__(self, join, axis, moves):
        super().__init__()
        self.linear, self.join, self.axis, self.moves = nn.Linear(4, 4), join, axis, moves

    def forward(self, x):
        y = self.moves(self.linear(x))
        return self.join([y, -y], self.axis)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("join", [torch.cat, torch.stack])
@pytest.mark.parametrize(
    "moves",
    [
        lambda y: y.roll(1, 2).transpose(0, 1),
        lambda y: y.transpose(0, 1).flip(0),
        lambda y: y[:, [2, 0, 1, 3]].transpose(0, 1),
        lambda y: y.roll(1, 1),
    ],
)
def test_moved_channels_that_are_joined_with_others(moves, join, axis, batch):
    module, x = Joined(join, axis, moves).eval(), torch.randn(batch, 4, 4)
    model = optimize(capture(module, (x,), input_names=["x"], output_names=["y"]))
    made = evaluate(model, {"x": x.numpy()})["y"]
    np.testing.assert_allclose(made, module.double()(x.double()).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize(
    "moves",
    [
        lambda x: x[0, 1].reshape(-1),
        lambda x: x[0, 1].unsqueeze(0) + x[:, 2],
        lambda x: torch.kron(x[0, 0], x[0, 1]),
        lambda x: x.squeeze(0)[3].flatten() - x[0, 0].T.flatten(),
        lambda x: x[0].unbind(0)[2].view(2, 2, 4),
    ],
)
def test_single_planes_that_are_reshaped(moves):
    x = torch.randn(1, 4, 4, 4)

    class Moved(nn.Module):
        def forward(self, x):
            return moves(x)

    model = optimize(capture(Moved(), (x,), input_names=["x"], output_names=["y"]))
    np.testing.assert_allclose(evaluate(model, {"x": x.numpy()})["y"], moves(x.double()).numpy(), atol=1e-6)
