"""Random small networks through the whole table: what the rewrites do to each other's work."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from rewrite_graphs import assert_rewritten_exactly, batch_norm, graph, node

CHANNELS, SIZE = 4, 8


class Network:
    """Appends layers that all map [2, CHANNELS, h, w] to the same number of channels."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes, self.constants, self.values = [], {}, ["input"]

    def add(self, kind: str, back: int) -> None:
        source, output = self.values[-1 - back % len(self.values)], f"value{len(self.values)}"
        getattr(self, f"_{kind}")(source, output)
        self.values.append(output)

    def constant(self, name: str, array: np.ndarray) -> str:
        self.constants[name] = array
        return name

    def weight(self, output: str, *shape: int) -> str:
        return self.constant(f"{output}.weight", self.rng.normal(size=shape) / np.sqrt(np.prod(shape[1:])))

    def _conv(self, source, output):
        bias = self.constant(f"{output}.bias", self.rng.normal(size=CHANNELS))
        weight = self.weight(output, CHANNELS, CHANNELS, 1, 1)
        self.nodes.append(node("Conv", [source, weight, bias], output))

    def _padded(self, source, output):
        weight = self.weight(output, CHANNELS, 1, 3, 3)
        self.nodes.append(node("Conv", [source, weight], output, group=CHANNELS, pads=[1] * 4))

    def _deconv(self, source, output):
        weight = self.weight(output, CHANNELS, CHANNELS // 2, 1, 1)
        self.nodes.append(node("ConvTranspose", [source, weight], output, group=2))

    def _norm(self, source, output):
        for name in ("weight", "bias", "running_mean"):
            self.constant(f"{output}.{name}", self.rng.normal(size=CHANNELS))
        self.constant(f"{output}.running_var", self.rng.uniform(0.25, 4, size=CHANNELS))
        self.nodes.append(batch_norm(source, output, output))

    def _scale(self, source, output):
        self.nodes.append(
            node("Mul", [self.constant(f"{output}.c", self.rng.normal(size=(CHANNELS, 1, 1))), source], output)
        )

    def _shift(self, source, output):
        self.nodes.append(node("Sub", [self.constant(f"{output}.c", np.array(self.rng.normal())), source], output))

    def _pad(self, source, output):
        amounts = self.constant(f"{output}.pads", np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64))
        self.nodes.append(node("Pad", [source, amounts], f"{output}.padded"))
        weight = self.weight(output, CHANNELS, CHANNELS, 3, 3)
        self.nodes.append(node("Conv", [f"{output}.padded", weight], output))

    def _mixed(self, source, output):
        """Half of the channels through one convolution, half through another, as in a mixed depthwise convolution."""
        halves = [f"{output}.half{index}" for index in range(2)]
        weights = [self.weight(half, CHANNELS // 2, CHANNELS, 1, 1) for half in halves]
        self.nodes += [node("Conv", [source, weight], half) for weight, half in zip(weights, halves, strict=True)]
        self.nodes.append(node("Concat", halves, output, axis=1))

    def _average(self, source, output):
        self.nodes.append(node("AveragePool", [source], output, kernel_shape=[3, 3], pads=[1] * 4))

    def _relu(self, source, output):
        self.nodes.append(node("Relu", [source], output))

    def _identity(self, source, output):
        self.nodes.append(node("Identity", [source], output))

    def _shuffle(self, source, output):
        order = self.constant(f"{output}.order", self.rng.permutation(CHANNELS))
        self.nodes.append(node("Gather", [source, order], output, axis=1))

    def _branches(self, source, output):
        """3x3 + 1x1 - scale, all of one value."""
        dense, point = (
            self.weight(f"{output}.a", CHANNELS, CHANNELS, 3, 3),
            self.weight(f"{output}.b", CHANNELS, 2, 1, 1),
        )
        scale = self.constant(f"{output}.scale", self.rng.normal(size=(CHANNELS, 1, 1)))
        self.nodes += [
            node("Conv", [source, dense], f"{output}.dense", pads=[1] * 4),
            node("Conv", [source, point], f"{output}.point", group=2),
            node("Mul", [source, scale], f"{output}.scaled"),
            node("Add", [f"{output}.dense", f"{output}.point"], f"{output}.sum"),
            node("Sub", [f"{output}.sum", f"{output}.scaled"], output),
        ]

    def _residual(self, source, output):
        self.nodes.append(node("Add", [source, self.values[0 if source != "input" else -1]], output))


KINDS = [name[1:] for name in vars(Network) if name.startswith("_") and not name.startswith("__")]
LAYERS = st.lists(st.tuples(st.sampled_from(KINDS), st.sampled_from([0, 0, 0, 1, 2])), min_size=2, max_size=10)


@settings(deadline=None, max_examples=60)
@given(layers=LAYERS, seed=st.integers(0, 2**16), early=st.booleans())
def test_networks_compute_the_same_afterwards(layers, seed, early):
    network = Network(seed)
    for kind, back in layers:
        network.add(kind, back)
    outputs = [network.values[-1]]
    if early and len(network.values) > 3:
        outputs.insert(0, network.values[2])
    model = graph(network.nodes, {"input": (2, CHANNELS, SIZE, SIZE)}, outputs, network.constants)
    assert_rewritten_exactly(model, seed)
