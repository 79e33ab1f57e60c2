"""Runs TFLite bytes on LiteRT and compares with torch in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import onnx_ir as ir
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from edgeconv.capture import capture
from edgeconv.core import NHWC, Artifact, Emitted, Sample, Verdict
from edgeconv.devices import DEVICES, Session, start
from edgeconv.emit.tflite import to_tflite
from edgeconv.emit.tflite.integer import _forms
from edgeconv.quantize import apply, calibrate, make_plan
from edgeconv.rewrite import optimize

RESOLVERS = {"xnnpack": OpResolverType.AUTO, "reference": OpResolverType.BUILTIN_REF}


@dataclass(frozen=True)
class Ran:
    """What an interpreter made of a file: outputs in torch's layout, operator names in order, delegate partitions."""

    outputs: list[np.ndarray]
    operators: list[str]
    partitions: int


def graph_of(module: torch.nn.Module, *args: torch.Tensor, path: Literal["auto", "official"] = "auto") -> ir.Model:
    """The module as an ONNX graph, as it comes to the emitter; "official" asks for torch's own exporter."""
    names = [f"input{index}" for index in range(len(args))]
    return optimize(capture(module.eval(), args, input_names=names, output_names=[], path=path))


def run(emitted: Emitted, inputs: Sequence[np.ndarray], resolver: str = "xnnpack") -> Ran:
    """Runs a file once, single-threaded."""
    interpreter = Interpreter(
        model_content=emitted.data, experimental_op_resolver_type=RESOLVERS[resolver], num_threads=1
    )
    before = [detail["op_name"] for detail in interpreter._get_ops_details()]
    interpreter.allocate_tensors()
    after = [detail["op_name"] for detail in interpreter._get_ops_details()]
    for spec, detail, array in zip(emitted.inputs, interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], spec.to_file(array))
    interpreter.invoke()
    outputs = [
        spec.from_file(interpreter.get_tensor(detail["index"]))
        for spec, detail in zip(emitted.outputs, interpreter.get_output_details(), strict=True)
    ]
    return Ran(outputs, [name for name in before if name != "DELEGATE"], after.count("DELEGATE"))


def quantized(module: torch.nn.Module, x: np.ndarray, scheme: str = "int8") -> ir.Model:
    """The module's graph in the integers that calibration on ``x`` gives it."""
    graph = graph_of(module, torch.from_numpy(x))
    return apply(graph, make_plan(graph, calibrate(graph, [{"input0": x}]), scheme=scheme))


def in_integers(graph: ir.Model, io: str = "int8") -> Emitted:
    """The file of a quantized graph, with inputs and outputs of integers."""
    return to_tflite(graph, metadata={}, io=io)


def integers(emitted: Emitted, x: np.ndarray, resolver: str = "reference") -> tuple[np.ndarray, list[str]]:
    """The first output of a file in steps of its scale, and the names of its operators."""
    ran = run(emitted, [x], resolver)
    return steps_of(emitted, ran.outputs[0]), ran.operators


def steps_of(emitted: Emitted, output: np.ndarray) -> np.ndarray:
    """The first output of a file, in steps of its scale."""
    return np.rint(output / emitted.outputs[0].scale).astype(int)


def reference(module: torch.nn.Module, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
    """The module's results in float64."""
    with torch.no_grad():
        outputs = copy.deepcopy(module).double().eval()(*(_double(array) for array in inputs))
    return [output.numpy() for output in (outputs if isinstance(outputs, tuple | list) else (outputs,))]


def _double(array: np.ndarray) -> torch.Tensor:
    tensor = torch.from_numpy(array)
    return tensor.double() if tensor.is_floating_point() else tensor


def check(
    module: torch.nn.Module,
    *shapes: Sequence[int],
    atol: float = 1e-5,
    scale: float = 1.0,
    model: ir.Model | None = None,
    layouts: Sequence[str] = ("nhwc", "nchw"),
    resolvers: Sequence[str] = ("xnnpack", "reference"),
) -> dict[str, Ran]:
    """Emits the module in the layouts, runs it on the resolvers, compares with float64; returns XNNPACK's runs."""
    generator = np.random.default_rng(0)
    inputs = [(generator.standard_normal(shape) * scale).astype(np.float32) for shape in shapes]
    if model is None:
        model = graph_of(module, *(torch.from_numpy(array) for array in inputs))
    expected = reference(module, inputs)
    runs: dict[str, Ran] = {}
    for layout in layouts:
        emitted = to_tflite(model, layout=layout, metadata={"source": "test"})
        for resolver in resolvers:
            ran = run(emitted, inputs, resolver)
            for actual, exact in zip(ran.outputs, expected, strict=True):
                assert actual.shape == exact.shape
                np.testing.assert_allclose(
                    actual,
                    exact,
                    atol=atol * max(1.0, scale),
                    rtol=1e-5,
                    err_msg=f"{layout} {resolver} {ran.operators}",
                )
            if resolver == "xnnpack":
                runs[layout] = ran
    return runs


def node_of(
    operator: str,
    inputs: dict[str, np.ndarray],
    constants: Sequence[np.ndarray],
    shape: Sequence[int],
    **attributes: object,
) -> ir.Model:
    """A graph of one node, without an exporter: property tests need many."""
    values = [ir.val(name, ir.DataType.FLOAT, array.shape) for name, array in inputs.items()]
    weights = [
        ir.val(f"constant{index}", ir.DataType.from_numpy(array.dtype), array.shape, const_value=ir.tensor(array))
        for index, array in enumerate(constants)
    ]
    result = ir.val("output", ir.DataType.FLOAT, shape)
    node = ir.node(operator, [*values, *weights], attributes, outputs=[result])
    graph = ir.Graph(values, [result], nodes=[node], initializers=weights, opset_imports={"": 18}, name="one")
    return ir.Model(graph, ir_version=10)


class Function(torch.nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *args: torch.Tensor) -> object:
        return self.function(*args)


class Many:
    """Many functions of one input as one graph, emitted and run once per layout and resolver; checked one by one."""

    def __init__(
        self,
        table: dict[str, Callable[..., torch.Tensor]],
        shape: Sequence[int],
        scale: float = 1.0,
        path: Literal["auto", "official"] = "auto",
    ) -> None:
        module = Function(lambda x: tuple(function(x) for function in table.values()))
        inputs = [(np.random.default_rng(0).standard_normal(shape) * scale).astype(np.float32)]
        model = graph_of(module, torch.from_numpy(inputs[0]), path=path)
        self.scale, self.names, self.expected = scale, list(table), reference(module, inputs)
        files = {layout: to_tflite(model, layout=layout, metadata={}) for layout in ("nhwc", "nchw")}
        self.runs = {
            (layout, resolver): run(emitted, inputs, resolver)
            for layout, emitted in files.items()
            for resolver in RESOLVERS
        }

    def __call__(self, name: str) -> None:
        index = self.names.index(name)
        for key, ran in self.runs.items():
            actual, expected = ran.outputs[index], self.expected[index]
            assert actual.shape == expected.shape, key
            np.testing.assert_allclose(actual, expected, atol=1e-5 * self.scale, rtol=1e-5, err_msg=str(key))


class OldRuntime:
    """tflite-runtime 2.14, the oldest that is promised, in its own environment."""

    def __init__(self, session: Session, folder: Path) -> None:
        self.session, self.folder = session, folder

    def __call__(self, emitted: Emitted, inputs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Runs a file once; outputs in torch's layout."""
        path = self.folder / "model.tflite"
        path.write_bytes(emitted.data)
        artifact = Artifact(path, "tflite", "fp32", NHWC, "", emitted.inputs, emitted.outputs)
        sample = Sample("one", {spec.name: array for spec, array in zip(emitted.inputs, inputs, strict=True)})
        run = self.session.run(artifact, [sample], timeout_s=60)
        if run.verdict is Verdict.SKIPPED:
            pytest.skip(run.reason)
        assert run.verdict is Verdict.PASS, run.reason
        return [run.outputs[0][spec.name] for spec in emitted.outputs]


@pytest.fixture(scope="session")
def old_runtime(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OldRuntime]:
    """Runs files on tflite-runtime 2.14; skips where it is not installed."""
    with start(DEVICES["tflite-runtime"]) as session:
        yield OldRuntime(session, tmp_path_factory.mktemp("old"))


@pytest.fixture
def depthwise(monkeypatch: pytest.MonkeyPatch) -> Callable[[ir.Model], Emitted]:
    """Emits a graph with its depthwise convolutions as they are."""

    def emit(graph: ir.Model) -> Emitted:
        with monkeypatch.context() as context:
            context.delitem(_forms._FORMS, "DEPTHWISE_CONV_2D")  # type: ignore[arg-type]
            return in_integers(graph)

    return emit


@pytest.fixture(scope="session")
def tflite() -> type[_Tools]:
    """The tools above, for the tests of this directory."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return _Tools


class _Tools:
    check = staticmethod(check)
    check_all = Many
    graph_of = staticmethod(graph_of)
    run = staticmethod(run)
    node_of = staticmethod(node_of)
    quantized = staticmethod(quantized)
    in_integers = staticmethod(in_integers)
    integers = staticmethod(integers)
    steps_of = staticmethod(steps_of)
    reference = staticmethod(reference)
    to_tflite = staticmethod(to_tflite)
    Function = Function
    Ran = Ran
