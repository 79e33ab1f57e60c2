"""One file for every batch size: captured at 2, run at 1, 3 and 1 again, in the same session."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from ai_edge_litert.interpreter import Interpreter
from batch_networks import NETWORKS
from onnx import helper, numpy_helper
from torch import Tensor

import edgeconv
from edgeconv.bench import find_files
from edgeconv.capture import capture
from edgeconv.cli import run as run_command
from edgeconv.core import NHWC, Artifact, Emitted, Sample, TensorSpec, Verdict
from edgeconv.devices import DEVICES, ENVIRONMENTS, Session, install, start
from edgeconv.emit.onnx import to_onnx
from edgeconv.emit.tflite import to_tflite
from edgeconv.flow.source import TorchSource
from edgeconv.reference import evaluate
from edgeconv.rewrite import optimize
from edgeconv.rewrite.open_batch import free_batch

BATCHES = (1, 3, 1)
BOTH = ("onnxruntime", "litert")
RUNNERS = {"onnx": ("onnxruntime",), "tflite": ("litert", "litert-reference", "tflite-runtime")}


@dataclass(frozen=True)
class Case:
    module: torch.nn.Module
    shape: tuple[int, ...]
    captured: dict[int, ir.Model]
    model: ir.Model
    samples: tuple[Sample, ...]
    wanted: tuple[np.ndarray, ...]


def graph_of(module: torch.nn.Module, batch: int, shape: tuple[int, ...]) -> ir.Model:
    return capture(module, (torch.randn(batch, *shape),), input_names=["x"], output_names=["y"])


# The largest has no operator that the others lack.
_NETWORKS = [pytest.param(name, marks=pytest.mark.slow if name == "mobilenet" else []) for name in NETWORKS]


@pytest.fixture(scope="module", params=_NETWORKS)
def case(request: pytest.FixtureRequest) -> Case:
    torch.manual_seed(0)
    make, shape = NETWORKS[request.param]
    module = make().eval()
    double = copy.deepcopy(module).double()
    inputs = [torch.randn(batch, *shape) for batch in BATCHES]
    with torch.no_grad():
        wanted = tuple(double(x.double()).numpy() for x in inputs)
    samples = tuple(Sample(f"s{index}", {"x": x.numpy()}) for index, x in enumerate(inputs))
    captured = {batch: graph_of(module, batch, shape) for batch in {2, *BATCHES}}
    model = free_batch(optimize(captured[2].clone()), inputs=["x"])
    return Case(module, shape, captured, model, samples, wanted)


@pytest.fixture(scope="module")
def sessions() -> Iterator[dict[str, Session]]:
    for name in ENVIRONMENTS:
        install(name)
    opened = {name: start(DEVICES[name]) for names in RUNNERS.values() for name in names}
    yield opened
    for session in opened.values():
        session.close()


def test_the_reference_equals_torch_at_every_batch(case: Case) -> None:
    """Without the rewrites that round folded weights to float32, torch's float64 is met; with them, at any batch."""
    plain = free_batch(case.captured[2].clone(), inputs=["x"])
    static = {batch: optimize(case.captured[batch].clone()) for batch in set(BATCHES)}
    for sample, wanted in zip(case.samples, case.wanted, strict=True):
        found = evaluate(plain, sample.inputs)["y"]
        assert found.shape == wanted.shape
        np.testing.assert_allclose(found, wanted, rtol=1e-10, atol=1e-10 * np.abs(wanted).max())
        optimized = evaluate(case.model, sample.inputs)["y"]
        expected = evaluate(static[len(sample.inputs["x"])], sample.inputs)["y"]
        np.testing.assert_allclose(optimized, expected, rtol=1e-10, atol=1e-10 * np.abs(wanted).max())


@pytest.mark.parametrize("form", RUNNERS)
def test_the_file_runs_at_every_batch(case: Case, form: str, sessions: dict[str, Session], tmp_path: Path) -> None:
    emitted = {"onnx": to_onnx, "tflite": to_tflite}[form](case.model, metadata={})
    assert [spec.shape[0] for spec in (*emitted.inputs, *emitted.outputs)] == ["batch", "batch"]
    assert all(isinstance(size, int) for spec in emitted.inputs for size in spec.shape[1:])
    artifact = written(emitted, tmp_path / f"net.{form}", form)
    for name in RUNNERS[form]:
        run = sessions[name].run(artifact, case.samples, timeout_s=120)
        assert (run.verdict, run.reason) == (Verdict.PASS, ""), name
        for outputs, wanted in zip(run.outputs, case.wanted, strict=True):
            assert outputs["y"].shape == wanted.shape
            np.testing.assert_allclose(outputs["y"], wanted, rtol=1e-5, atol=1e-5, err_msg=name)


def written(emitted: Emitted, path: Path, form: str) -> Artifact:
    path.write_bytes(emitted.data)
    return Artifact(path, form, "fp32", emitted.inputs[0].layout, "", emitted.inputs, emitted.outputs)


def operators(interpreter: Interpreter) -> list[str]:
    return [detail["op_name"] for detail in interpreter._get_ops_details()]


def test_xnnpack_takes_the_file_in_no_more_parts_than_the_static_one_and_again_after_a_resize(case: Case) -> None:
    static = to_tflite(optimize(case.captured[1].clone()), metadata={})
    parts = []
    for emitted in (static, to_tflite(case.model, metadata={})):
        interpreter = Interpreter(model_content=emitted.data, num_threads=1)
        interpreter.allocate_tensors()
        parts.append(operators(interpreter).count("DELEGATE"))
    index = interpreter.get_input_details()[0]["index"]
    interpreter.resize_tensor_input(index, [3, *interpreter.get_input_details()[0]["shape"][1:]], strict=True)
    interpreter.allocate_tensors()
    assert operators(interpreter).count("DELEGATE") == parts[1] <= parts[0]


@pytest.mark.parametrize(
    "name",
    [
        "dsconv",
        pytest.param("mobilenet", marks=pytest.mark.slow),
        pytest.param("efficientnet", marks=pytest.mark.slow),
        "shufflenet",
    ],
)
def test_a_convolutional_network_has_the_operators_of_the_static_file(name: str) -> None:
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    module = make().eval()
    models = [optimize(graph_of(module, 1, shape)), free_batch(optimize(graph_of(module, 2, shape)), inputs=["x"])]
    found = []
    for model in models:
        interpreter = Interpreter(model_content=to_tflite(model, metadata={}).data, num_threads=1)
        found.append([name.replace("STRIDED_SLICE", "SLICE") for name in operators(interpreter)])
    assert found[0] == found[1]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    make, shape = NETWORKS["dsconv"]
    model = free_batch(optimize(graph_of(make().eval(), 2, shape)), inputs=["x"])
    for form, emit in {"onnx": to_onnx, "tflite": to_tflite}.items():
        written(emit(model, metadata={}), tmp_path / f"net.{form}", form)
    return tmp_path


def test_inspect_shows_the_open_dimension(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    for form in RUNNERS:
        assert run_command(["inspect", str(folder / f"net.{form}"), "--json"]) == 0
        described = json.loads(capsys.readouterr().out)
        shown[form] = described["inputs"]["x"], described["outputs"]["y"]
    assert shown == {
        "onnx": ("float ['batch', 3, 16, 16]", "float ['batch', 16, 16, 16]"),
        "tflite": ("float32 ['?', 16, 16, 3]", "float32 ['?', 16, 16, 16]"),
    }


def test_bench_measures_one_image(folder: Path) -> None:
    samples = {file.name: file.sample().inputs["x"].shape for file in find_files(folder)}
    assert samples == {"net.onnx": (1, 3, 16, 16), "net.tflite": (1, 16, 16, 3)}


@pytest.mark.parametrize("name", RUNNERS["tflite"])
def test_a_sample_whose_other_dimensions_do_not_fit_fails(folder: Path, name: str) -> None:
    specs = [
        TensorSpec("x", ("batch", 16, 16, 3), "float32", NHWC),
        TensorSpec("y", ("batch", 16, 16, 16), "float32", NHWC),
    ]
    artifact = Artifact(folder / "net.tflite", "tflite", "fp32", NHWC, "", (specs[0],), (specs[1],))
    good, bad = (Sample("one", {"x": np.ones((2, 3, side, 16), np.float32)}) for side in (16, 12))
    with start(DEVICES[name]) as session:
        run = session.run(artifact, [bad], timeout_s=60)
        assert run.verdict is Verdict.FAIL
        assert "cannot run sample 'one'" in run.reason
        assert session.run(artifact, [good], timeout_s=60).verdict is Verdict.PASS


@pytest.mark.parametrize("name", _NETWORKS)
def test_networks_are_one_graph_at_every_batch(name: str) -> None:
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    source = TorchSource(make().eval(), (torch.randn(1, *shape),), ("x",), batched=("x",))
    assert source.graph().graph.inputs[0].shape == ir.Shape([11, *shape])


class Head(torch.nn.Module):
    """What a function makes of the batch size, behind a convolution."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.tail = torch.nn.Conv2d(3, 11, 1), Tail(function)

    def forward(self, x: Tensor) -> Tensor:
        return self.tail(self.stem(x))


class Tail(torch.nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def _one_image(x: Tensor) -> Tensor:
    assert x.shape[0] == 1, "one at a time"
    return x


def _not_two(x: Tensor) -> Tensor:
    if x.shape[0] == 2:
        raise ValueError("two of them")
    return x


MODULES: dict[str, tuple[Callable[[Tensor], Tensor], type[edgeconv.EdgeconvError], str]] = {
    "divided": (
        lambda x: x.mean((2, 3)) / x.shape[0],
        edgeconv.RewriteError,
        "tail: Div takes a constant that is made from the batch size (11 with a batch of 11, 2 with one of 2)",
    ),
    "weighted": (
        lambda x: x.mean((2, 3)) @ torch.ones(11, x.shape[0]).sum(1, keepdim=True),
        edgeconv.RewriteError,
        "tail: MatMul takes a constant that is made from the batch size",
    ),
    "mixed": (lambda x: x - x.mean(0), edgeconv.RewriteError, "tail: ReduceMean works along the batch"),
    "asserted": (_one_image, edgeconv.CaptureError, "a batch of 1 works, and with one of 11 forward failed"),
    "raised": (_not_two, edgeconv.CaptureError, "tail: a batch of 11 works, and with one of 2 forward failed"),
}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_that_depends_on_the_batch_size_is_refused_before_anything_is_written(
    name: str, tmp_path: Path
) -> None:
    function, error, says = MODULES[name]
    with pytest.raises(error) as caught:
        edgeconv.export(Head(function), (torch.randn(1, 3, 4, 4),), tmp_path / "out", name="n", dynamic_batch=True)
    assert says in str(caught.value)
    assert "export with a fixed batch: no dynamic_batch, or, to export_onnx, a number in front" in caught.value.hint
    assert not (tmp_path / "out").exists()
    fixed = edgeconv.export(Head(function), (torch.randn(1, 3, 4, 4),), tmp_path / "out", name="n")
    assert len(fixed.artifacts) == 2


def test_a_module_of_clips_of_four_is_told_that_its_own_batch_works(tmp_path: Path) -> None:
    head = Head(lambda x: x.reshape(-1, 4, *x.shape[1:]).mean(1).repeat_interleave(4, 0))
    with pytest.raises(edgeconv.CaptureError, match="a batch of 8 works, and with one of 11 forward failed"):
        edgeconv.export(head, (torch.randn(8, 3, 4, 4),), tmp_path, name="n", dynamic_batch=True)


def test_a_mistake_that_has_nothing_to_do_with_the_batch_is_told_as_without_one(tmp_path: Path) -> None:
    errors = []
    head = Head(lambda x: x.reshape(-1, 7, 13))
    for open_batch in (False, True):
        with pytest.raises(edgeconv.CaptureError) as caught:
            edgeconv.export(head, (torch.randn(1, 3, 4, 4),), tmp_path, name="n", dynamic_batch=open_batch)
        errors.append((caught.value.where, caught.value.what.split(":")[0], caught.value.hint))
    assert errors[0] == errors[1]


def _file(path: Path, nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray]) -> Path:
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 4])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]), path)
    return path


def test_a_file_that_divides_by_its_batch_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "first"], ["count"]),
        helper.make_node("Cast", ["count"], ["number"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Div", ["x", "number"], ["y"], name="mean"),
    ]
    path = _file(tmp_path / "net.onnx", nodes, {"first": np.array(0, np.int64)})
    with pytest.raises(edgeconv.RewriteError, match=r"^mean: Div takes a constant .*11 with a batch of 11, 2 with one"):
        edgeconv.export_onnx(path, tmp_path / "out", name="net")
    assert not (tmp_path / "out").exists()
    result = edgeconv.export_onnx(path, tmp_path / "out", name="net", shapes={"x": (2, 4)}, devices=BOTH)
    assert result.report is not None
    assert result.report.verdict is Verdict.PASS


def test_a_file_with_operators_that_only_the_rewrites_replace_stays_open(tmp_path: Path) -> None:
    """Sequences have no rule for an open batch; the rewrites make a Split of them."""
    nodes = [
        helper.make_node("SplitToSequence", ["x", "two"], ["parts"], axis=1),
        helper.make_node("SequenceAt", ["parts", "zero"], ["a"]),
        helper.make_node("SequenceAt", ["parts", "one"], ["b"]),
        helper.make_node("Sub", ["a", "b"], ["y"]),
    ]
    constants = {name: np.array(at, np.int64) for at, name in enumerate(("zero", "one", "two"))}
    path = _file(tmp_path / "net.onnx", nodes, constants)
    result = edgeconv.export_onnx(path, tmp_path / "out", name="net", devices=BOTH)
    assert result.report is not None
    assert [(row.verdict, row.reason) for row in result.report.comparisons] == [(Verdict.PASS, "")] * 3
    assert result.artifacts[0].inputs[0].shape == ("N", 4)
