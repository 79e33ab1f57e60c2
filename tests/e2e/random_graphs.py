"""``.onnx`` graphs by chance: any operator, constants, branches, outputs, odd names; the same for a seed.

A graph grows node by node. Each step of `random_operators` proposes nodes over the values so far; onnxruntime, without
any optimization, computes them at once, and what it refuses, or what is no use as data, is not taken.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

Array = npt.NDArray[Any]
MOST_ELEMENTS = 1 << 13
LARGEST = 300.0
OPSETS = (10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24)
_IR_VERSION = {**dict.fromkeys(range(10, 15), 7), **dict.fromkeys(range(15, 21), 8), 21: 10, 22: 10, 23: 11, 24: 11}

NAMES = (
    "x0", "x1", "c1", "c0", "x", "input", "output", "y", "\0x0", "\1c1", "\3x", "features.3.conv.2",
    "features/3/conv.2",
    "a:0", "a:0_1", "serving_default_x:0", "w_quantized", "x_quantized", "x_scale", "x_zero_point", "w.scale",
    "x0_quantized", "conv.1", "conv", "conv.2", "conv_1", "conv.weight", "conv.bias", "x.output", "x.half", "x.float",
    "y.half", "y.flat", "y.gemm", "a.reshape.shape", "batch", "N", "x.batch", "schicht_ß", "层", "two words",
    "a" * 300, "..", "/", "%5", "${HOME}", "name'quoted", 'name"double', "1", "42", "_v_1", "onnx::Conv_12", "\\0x0",
    "x_dequantized", "x.nhwc", "x.nchw", "tensor", "StatefulPartitionedCall:0", "PartitionedCall:1", "part0.weight",
)  # fmt: skip

"""What edgeconv, other exporters and runtimes call values themselves, and what few expect in a name."""


_ENDS = ("_scale", "_zero_point", "_quantized", ".1", "_1", ".half", ".weight")


@dataclass
class RandomGraph:
    """What grows.

    Attributes:
        rng: all chance of it.
        opset: that it is written in.
        arrays: every value of the main graph that has been computed, on the first inputs; constants are not among them.
        fixed: the constants by name.
        steps: the operators that were taken, in order.
    """

    rng: np.random.Generator
    opset: int
    arrays: dict[str, Array] = field(default_factory=dict)
    fixed: dict[str, Array] = field(default_factory=dict)
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    functions: list[onnx.FunctionProto] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    used: dict[str, None] = field(default_factory=dict)  # in order: the same names for a seed in every process
    _pending: list[onnx.NodeProto] = field(default_factory=list)
    _constants: dict[str, Array] = field(default_factory=dict)
    _as_nodes: set[str] = field(default_factory=set)
    _node_names: set[str] = field(default_factory=set)

    def pick(self, *choices: Any) -> Any:
        """One of them."""
        return choices[int(self.rng.integers(len(choices)))]

    def chance(self, share: float) -> bool:
        """True in this share of the cases."""
        return bool(self.rng.random() < share)

    def name(self) -> str:
        """One that is free: from `NAMES`, like a module's path, or plain."""
        while True:
            wanted = str(
                self.pick(
                    self.pick(*NAMES),
                    f"v{self.rng.integers(200)}",
                    f"layer{self.rng.integers(4)}.{self.rng.integers(4)}.conv",
                    f"{self.pick('x', 'c')}{self.rng.integers(30)}",
                    f"{self.pick(*self.used, 'v')}{self.pick(*_ENDS)}",
                )
            )
            if wanted not in self.used and len(wanted) < 600:
                self.used[wanted] = None
                return wanted

    def constant(self, array: Any, dtype: Any = None) -> str:
        """The name of a constant: one that is there already where it is equal, an initializer, or a Constant node."""
        value = np.asarray(array, dtype=dtype) if dtype is not None else np.asarray(array)
        if value.dtype == np.float64:
            value = value.astype(np.float32)
        known = {**self.fixed, **self._constants}
        for name, other in known.items():
            if other.dtype == value.dtype and other.shape == value.shape and np.array_equal(other, value):
                return name
        name = self.name()
        self._constants[name] = value
        if self.chance(0.4):
            self._as_nodes.add(name)
        return name

    def ints(self, values: Sequence[int]) -> str:
        """An int64 constant, as axes, shapes and pads are."""
        return self.constant(np.asarray(values, np.int64))

    def node(self, op_type: str, inputs: Sequence[str], outputs: int = 1, /, **attributes: Any) -> list[str]:
        """Proposes a node, to be computed by `take`; the names of its outputs."""
        names = [self.name() for _ in range(outputs)]
        stated = {key: value for key, value in attributes.items() if value is not None}
        self._pending.append(helper.make_node(op_type, list(inputs), names, self._node_name(), **stated))
        return names

    def propose(self, node: onnx.NodeProto) -> None:
        """As `node`, for a node with subgraphs or of a function."""
        self._pending.append(node)

    def proposed(self) -> str:
        """The operators that were proposed since the last `take`."""
        return "+".join(node.op_type for node in self._pending)

    def drop(self) -> None:
        """Takes back what was proposed since the last `take`."""
        self._pending.clear()
        self._constants.clear()

    def take(self, described: str) -> bool:
        """Computes what was proposed; whether it became part of the graph."""
        nodes, constants = list(self._pending), dict(self._constants)
        self.drop()
        if not nodes:
            return False
        read = {name for node in nodes for name in _read(node)}
        results = [name for node in nodes for name in node.output if name]
        feeds = {name: array for name, array in self.arrays.items() if name in read}
        known = {name: array for name, array in {**self.fixed, **constants}.items() if name in read}
        model = self._model(nodes, feeds, known, results)
        try:
            arrays = dict(zip(results, run_plain(model, feeds), strict=True))
        except Exception:  # noqa: BLE001  (onnxruntime's word on what is legal)
            return False
        if not all(_is_data(array) for array in arrays.values()):
            return False
        for name, array in constants.items():
            self.fixed[name] = array
            if name in self._as_nodes:
                tensor = numpy_helper.from_array(array, name)
                self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        self.nodes += nodes
        self.arrays |= arrays
        self.steps.append(described)
        return True

    def is_initializer(self, name: str) -> bool:
        """Whether a constant lies among the initializers."""
        return name not in self._as_nodes

    def _node_name(self) -> str:
        name = str(self.pick("", f"node{len(self.nodes) + len(self._pending)}", "x0", "conv", self.pick(*NAMES)))
        if name in self._node_names:  # onnxruntime wants them unique, and none for nodes without one
            return ""
        self._node_names.add(name)
        return name

    def _model(
        self,
        nodes: Sequence[onnx.NodeProto],
        feeds: Mapping[str, Array],
        known: Mapping[str, Array],
        results: Sequence[str],
    ) -> onnx.ModelProto:
        inputs = [declared(name, array.dtype, array.shape) for name, array in feeds.items()]
        outputs = [onnx.ValueInfoProto(name=name) for name in results]
        stored = [numpy_helper.from_array(array, name) for name, array in known.items()]
        graph = helper.make_graph(list(nodes), "step", inputs, outputs, stored)
        return self.wrapped(graph)

    def wrapped(self, graph: onnx.GraphProto) -> onnx.ModelProto:
        """A model of this opset, with the functions so far."""
        imports = [helper.make_opsetid("", self.opset)]
        if self.functions:
            imports.append(helper.make_opsetid("own", 1))
        version = max(_IR_VERSION[self.opset], 8 if self.functions else 0)
        return helper.make_model(graph, opset_imports=imports, functions=self.functions, ir_version=version)


@dataclass(frozen=True)
class DrawnGraph:
    """A model, what is fed to it, and what it is made of, for messages.

    Attributes:
        model: valid for onnx's checker and for onnxruntime.
        batches: the inputs of the test, and some more as calibration data.
        described: its opset and operators.
        floats: its values of float32 by name, as shapes of the first inputs.
    """

    model: onnx.ModelProto
    batches: list[dict[str, Array]]
    described: str
    floats: dict[str, tuple[int, ...]]


def declared(name: str, dtype: Any, shape: Sequence[int | str]) -> onnx.ValueInfoProto:
    """An input or output."""
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), list(shape))


def run_plain(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """On onnxruntime without optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    return [np.asarray(array) for array in session.run(None, dict(feeds))]


def drawn_graph(seed: int) -> DrawnGraph:
    """A graph and inputs for it."""
    attempt = 0
    while True:
        graph = _drawn_once(np.random.default_rng((70_000_000 + seed, attempt)))
        # onnxruntime infers some shapes wrongly (pools with auto_pad), and then takes the nodes but not the whole
        with contextlib.suppress(Exception):
            run_plain(graph.model, graph.batches[0])
            return graph
        attempt += 1


def _drawn_once(rng: np.random.Generator) -> DrawnGraph:
    from random_steps import STEPS, WEIGHTS

    graph = RandomGraph(rng, int(rng.choice(OPSETS)))
    batch_open = graph.chance(0.2)
    inputs = _inputs(graph)
    wanted, tries = int(rng.integers(3, 14)), 0
    while (len(graph.steps) < wanted and tries < 120) or not graph.steps:
        tries += 1
        kind = str(rng.choice(list(STEPS), p=WEIGHTS))
        graph.drop()
        # no form in this opset, or no value that it fits
        with contextlib.suppress(LookupError, ValueError):
            STEPS[kind](graph)
            graph.take(graph.proposed())
    graph.drop()
    return _closed(graph, inputs, batch_open)


def _inputs(graph: RandomGraph) -> list[str]:
    rng = graph.rng
    names: list[str] = []
    for number in range(int(graph.pick(1, 1, 1, 2, 3))):
        if number and graph.chance(0.5):
            shape: tuple[int, ...] = graph.arrays[names[0]].shape
        elif graph.chance(0.75):
            shape = (1, int(graph.pick(1, 2, 3, 4, 8)), *(int(side) for side in rng.integers(4, 13, 2)))
        else:
            shape = (1, *(int(side) for side in rng.integers(2, 10, int(graph.pick(1, 2, 2, 4)))))
        names.append(graph.name())
        graph.arrays[names[-1]] = rng.standard_normal(shape).astype(np.float32)
    return names


def _closed(graph: RandomGraph, inputs: Sequence[str], batch_open: bool) -> DrawnGraph:
    """The model: its outputs are values that nothing reads, some that are read, and at times an input."""
    read = {name for node in graph.nodes for name in _read(node)}
    results = [name for node in graph.nodes for name in node.output if name in graph.arrays]
    unread = [name for name in results if name not in read]
    outputs = unread[-int(graph.pick(1, 2, 3)) :] or results[-1:]  # the others are dead
    if graph.chance(0.25) and (between := [name for name in results if name in read and name not in outputs]):
        outputs.append(str(graph.pick(*between)))
    if graph.chance(0.04):
        outputs.append(inputs[0])
    if graph.chance(0.3):
        outputs = [outputs[int(at)] for at in graph.rng.permutation(len(outputs))]
    first = {name: graph.arrays[name] for name in inputs}
    others = [{name: _like(graph.rng, array) for name, array in first.items()} for _ in range(3)]
    stored = [numpy_helper.from_array(array, name) for name, array in graph.fixed.items() if graph.is_initializer(name)]
    for tensor in stored:
        if graph.chance(0.1):
            _unpacked(tensor)
    info = [declared(name, graph.arrays[name].dtype, graph.arrays[name].shape) for name in outputs]
    if graph.chance(0.15):
        for value in info:
            value.type.tensor_type.ClearField("shape")
    taken = [declared(name, array.dtype, array.shape) for name, array in first.items()]
    if graph.chance(0.1) and graph.opset < 15:  # as files of IR version 3 have it
        taken += [declared(tensor.name, graph.fixed[tensor.name].dtype, tensor.dims) for tensor in stored]
    body = helper.make_graph(
        graph.nodes, str(graph.pick("graph", "x0", "main graph", "torch_jit")), taken, info, stored
    )
    model = graph.wrapped(body)
    if batch_open:
        model = _with_open_batch(model, inputs, outputs, first)
    described = f"opset {graph.opset}: {', '.join(graph.steps)} -> {len(outputs)} outputs"
    floats = {name: array.shape for name, array in graph.arrays.items() if array.dtype == np.float32}
    return DrawnGraph(model, [first, *others], described, floats)


def _like(rng: np.random.Generator, array: Array) -> Array:
    return rng.standard_normal(array.shape).astype(np.float32)


def _with_open_batch(
    model: onnx.ModelProto, inputs: Sequence[str], outputs: Sequence[str], first: Mapping[str, Array]
) -> onnx.ModelProto:
    """The same with a batch that is open, where the graph carries one through; else as it is."""
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    for value in opened.graph.input:
        if value.name in inputs:
            value.type.tensor_type.shape.dim[0].dim_param = "N"
    for value in opened.graph.output:
        value.type.tensor_type.ClearField("shape")
    try:
        single = run_plain(opened, first)
        double = run_plain(opened, {name: np.concatenate([array, array[::-1] * 0.5]) for name, array in first.items()})
    except Exception:  # noqa: BLE001  (a shape inside is for one)
        return model
    carried = all(
        a.ndim and b.shape == (2 * a.shape[0], *a.shape[1:]) and np.allclose(a, b[: len(a)], atol=1e-4)
        for a, b in zip(single, double, strict=True)
    )
    return opened if carried else model


def _unpacked(tensor: TensorProto) -> None:
    """Numbers in the typed field instead of raw bytes."""
    array = numpy_helper.to_array(tensor)
    if array.dtype == np.float32:
        tensor.ClearField("raw_data")
        tensor.float_data.extend(float(number) for number in array.ravel())
    elif array.dtype == np.int64:
        tensor.ClearField("raw_data")
        tensor.int64_data.extend(int(number) for number in array.ravel())


def _read(node: onnx.NodeProto) -> set[str]:
    """What a node reads, inside of its branches too."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        if attribute.HasField("g"):
            made = {name for inner in attribute.g.node for name in inner.output}
            made |= {tensor.name for tensor in attribute.g.initializer}
            inside = {name for inner in attribute.g.node for name in _read(inner)}
            names |= (inside | {value.name for value in attribute.g.output}) - made
    return names


def _is_data(array: Array) -> bool:
    """Whether later steps, and a comparison, can make use of it."""
    if not 0 < array.size <= MOST_ELEMENTS:
        return False
    if array.dtype != np.float32:
        return array.dtype.kind in "biu"
    return bool(np.isfinite(array).all()) and float(np.abs(array).max()) < LARGEST
