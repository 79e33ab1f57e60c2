"""Files that other converters wrote are judged by a recipe or an .onnx file: read back, layer by layer, by outputs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from reproductions import shown
from torch import nn

import edgeconv
from edgeconv.cli import run
from edgeconv.core import TensorSpec
from edgeconv.core.verdicts import Link, LinkResult, Verdict
from edgeconv.errors import ParityError
from edgeconv.flow.borders import matched_specs
from edgeconv.flow.output import staged
from edgeconv.flow.record import read_report, write_report
from edgeconv.parity import load_golden
from edgeconv.parity.bounds import Arithmetic
from edgeconv.parity.chain import held_to_links
from edgeconv.parity.running._tflite import TfliteFile

SHAPE = (1, 3, 12, 12)
ENDS = ("image", "features", "scores")


class Network(nn.Module):
    """Two convolutions with BatchNorm around a sum, and an image and class scores as outputs."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(channels, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish())
        self.head = nn.Linear(8, 5)
        for layer in self.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean = torch.rand(8) - 0.5
                layer.running_var = torch.rand(8) + 0.5
        self.eval()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.stem(x)
        x = x + self.body(x)
        return x, self.head(x.mean((2, 3)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network as torch.onnx writes it, as another converter's .tflite, and its recipe."""
    path = tmp_path_factory.mktemp("foreign")
    x = torch.randn(SHAPE)
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["features", "scores"]}
    torch.onnx.export(Network(), (x,), path / "torch.onnx", dynamo=True, external_data=False, verbose=False, **names)
    edgeconv.export(Network(), (x,), path / "ours", name="net", formats="tflite", **names)
    (path / "theirs.tflite").write_bytes(_renamed((path / "ours" / "net.fp32.tflite").read_bytes()))
    (path / "network.py").write_text(Path(__file__).read_text())
    (path / "net.toml").write_text(_recipe(SHAPE))
    return path


def _recipe(shape: tuple[int, ...]) -> str:
    return f"""
name = "net"
[model]
factory = "network:Network"
args = {{ channels = {shape[1]} }}
[[inputs]]
name = "image"
shape = {list(shape)}
[outputs]
names = ["features", "scores"]
[parity]
devices = ["onnxruntime", "litert", "litert-reference"]
[[parity.random]]
seed = 0
count = 2
"""


def _renamed(data: bytes) -> bytes:
    """A file as a converter from TensorFlow leaves it: no metadata, no signature, and names of its own."""
    model = _unpacked(data)
    graph = model.subgraphs[0]
    for index, tensor in enumerate(graph.tensors):
        tensor.name = f"model/layer_{index}/{'weights' if model.buffers[tensor.buffer].data is not None else 'out'}"
    for index in graph.inputs:
        graph.tensors[index].name = "serving_default_keras_tensor:0"
    for at, index in enumerate(graph.outputs):
        graph.tensors[index].name = f"StatefulPartitionedCall_1:{at}"
    model.metadata, model.signatureDefs, model.description = [], [], "MLIR Converted."
    return _packed(model)


def _unpacked(data: bytes) -> Any:
    from ai_edge_litert import schema_py_generated as schema

    return schema.ModelT.InitFromPackedBuf(data, 0)


def _packed(model: Any) -> bytes:
    import flatbuffers

    builder = flatbuffers.Builder(1 << 16)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _judged(file: Path, out: Path, *options: str) -> dict[str, Any]:
    """The report, with the exit code beside it."""
    code = run(["parity", "--artifact", str(file), "--out", str(out), "--quiet", *options])
    report: dict[str, Any] = json.loads((out / "parity.json").read_text())
    return report | {"code": code}


def _link_3(report: dict[str, Any]) -> dict[str, Any]:
    (artifact,) = report["artifacts"]
    (link,) = artifact["links"]
    assert link["link"] == "writing"
    return dict(link)


@pytest.mark.parametrize(("name", "devices"), [("torch.onnx", 1), ("theirs.tflite", 2)])
def test_a_right_file_of_another_converter_passes_all_links(
    name: str, devices: int, folder: Path, tmp_path: Path
) -> None:
    report = _judged(folder / name, tmp_path, "--recipe", str(folder / "net.toml"))
    assert report["code"] == 0
    assert 0.001 < _link_3(report)["used"] < 0.5
    assert "constants" in _link_3(report)["reason"]
    running = [link for row in report["comparisons"] for link in row["links"]]
    assert [link["verdict"] for link in running if link["link"] == "running"] == ["pass"] * devices
    assert report["artifacts"][0]["coverage"]["counts"], "what the inputs reach of the module's graph"
    assert "trouble" in load_golden(tmp_path / report["golden"]).derived["fp32"]
    certificate = report["artifacts"][0]["certificate"]
    assert certificate["certain"] == certificate["samples"] == 2, "no correct runtime gives another class"
    assert 0 < certificate["error"] < certificate["margin"]
    assert run(["parity", str(tmp_path), "--quiet"]) == 0  # the folder can be proven again


def test_outputs_may_have_sizes_that_the_runtime_computes(folder: Path, tmp_path: Path) -> None:
    """TensorFlow's converter states them as 1, and as -1 in ``shape_signature``."""
    model = _unpacked((folder / "theirs.tflite").read_bytes())
    for index in model.subgraphs[0].outputs:
        tensor = model.subgraphs[0].tensors[index]
        *others, channels = tensor.shape
        tensor.shapeSignature, tensor.shape = [*([-1] * len(others)), channels], [*([1] * len(others)), channels]
    file = tmp_path / "theirs.tflite"
    file.write_bytes(_packed(model))
    report = _judged(file, tmp_path / "out", "--recipe", str(folder / "net.toml"))
    assert [row["verdict"] for row in report["comparisons"] if row["artifact"]] == ["pass"] * 4
    shapes = {output["name"]: output["shape"] for output in report["artifacts"][0]["outputs"]}
    assert shapes == {"features": [1, 6, 6, 8], "scores": [1, 5]}


def test_an_onnx_file_stands_in_the_place_of_the_recipe(folder: Path, tmp_path: Path) -> None:
    options = ("--against", str(folder / "torch.onnx"), "--device", "litert")
    report = _judged(folder / "theirs.tflite", tmp_path, *options)
    assert report["code"] == 0
    assert _link_3(report)["verdict"] == "pass"
    assert "serving_default_keras_tensor:0 is image in NHWC" in report["notes"][0]


def _fault(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The largest weight, changed by a ten-thousandth: far above what rounding explains."""
    faulty = array.copy()
    faulty.reshape(-1)[np.argmax(np.abs(faulty))] *= 1 + 1e-4
    return faulty


def test_one_weight_that_is_off_breaks_link_3_of_an_onnx_file(folder: Path, tmp_path: Path) -> None:
    model = onnx.load(folder / "torch.onnx")
    weights = max(model.graph.initializer, key=lambda item: int(np.prod(item.dims)))
    weights.CopyFrom(numpy_helper.from_array(_fault(numpy_helper.to_array(weights)), weights.name))
    onnx.save(model, tmp_path / "faulty.onnx")
    report = _judged(tmp_path / "faulty.onnx", tmp_path / "out", "--recipe", str(folder / "net.toml"))
    assert report["code"] == 1
    assert _link_3(report)["verdict"] == "fail"
    assert "times what rounding its constants explains" in _link_3(report)["reason"]


def test_one_weight_that_is_off_breaks_link_3_of_a_tflite_file(folder: Path, tmp_path: Path) -> None:
    model = _unpacked((folder / "theirs.tflite").read_bytes())
    buffer = max(model.buffers, key=lambda item: 0 if item.data is None else len(item.data))
    buffer.data = _fault(np.frombuffer(bytes(buffer.data), np.float32)).view(np.uint8)
    (tmp_path / "faulty.tflite").write_bytes(_packed(model))
    report = _judged(tmp_path / "faulty.tflite", tmp_path / "out", "--recipe", str(folder / "net.toml"))
    assert (report["code"], _link_3(report)["verdict"]) == (1, "fail")


def test_a_file_of_integers_is_judged_by_the_thresholds_of_its_variant(folder: Path, tmp_path: Path) -> None:
    data = [{"image": np.random.default_rng(seed).standard_normal(SHAPE).astype(np.float32)} for seed in range(4)]
    edgeconv.export(
        Network(),
        (torch.zeros(SHAPE),),
        tmp_path,
        name="net",
        formats="tflite",
        variants="int8",
        input_names=["image"],
        output_names=["features", "scores"],
        quantization=edgeconv.Quantization(batches=lambda: data),
    )
    (tmp_path / "theirs.tflite").write_bytes(_renamed((tmp_path / "net.int8.tflite").read_bytes()))
    report = _judged(tmp_path / "theirs.tflite", tmp_path / "out", "--recipe", str(folder / "net.toml"))
    link = _link_3(report)
    assert (report["code"], report["artifacts"][0]["variant"], link["verdict"]) == (0, "int8", "pass")
    assert link["sqnr_db"] > 20
    assert link["bound"] is None


def test_a_file_that_computes_in_halves_is_bounded_in_halves(folder: Path, tmp_path: Path) -> None:
    model = _unpacked((folder / "theirs.tflite").read_bytes())
    for tensor in model.subgraphs[0].tensors:
        buffer = model.buffers[tensor.buffer]
        if tensor.type == 0:  # FLOAT32
            tensor.type = 1
            if buffer.data is not None:
                buffer.data = np.frombuffer(bytes(buffer.data), np.float32).astype(np.float16).view(np.uint8)
    (tmp_path / "half.tflite").write_bytes(_packed(model))
    options = ("--recipe", str(folder / "net.toml"), "--device", "litert")
    report = _judged(tmp_path / "half.tflite", tmp_path / "out", *options)
    (link,) = [link for row in report["comparisons"] for link in row["links"]]
    assert (report["code"], link["verdict"], report["artifacts"][0]["variant"]) == (0, "pass", "fp16")
    assert link["used"] > 0.05


def test_halves_may_be_read_before_they_are_rounded(folder: Path) -> None:
    """XNNPACK computes what it has no kernels of halves for in float32, and rounds what it tells."""
    model = _unpacked((folder / "theirs.tflite").read_bytes())
    graph = model.subgraphs[0]
    (add,) = [item for item in graph.operators if model.operatorCodes[item.opcodeIndex].builtinCode == 0]
    for index in (*add.inputs, *add.outputs):
        graph.tensors[index].type = 1
    shape = tuple(graph.tensors[add.outputs[0]].shape)
    graph.operators, graph.inputs, graph.outputs = [add], list(add.inputs), list(add.outputs)
    file = TfliteFile(_packed(model), Arithmetic())
    generator = np.random.default_rng(0)
    a = generator.standard_normal(shape).astype(np.float32)
    b = (generator.standard_normal(shape) * 1e-3 - a).astype(np.float32)
    operands = [array.astype(np.float16) for array in (a, b)]
    (layer,) = file.judge(operands, [(a + b).astype(np.float16)], {}).layers
    assert layer.used > 1  # an input is what it is
    told = dict(zip([graph.tensors[index].name.decode() for index in add.inputs], operands, strict=True))
    (layer,) = file.judge(operands, [(a + b).astype(np.float16)], told).layers
    assert 0.1 < layer.used <= 1
    (layer,) = file.judge(operands, [(a + b + 0.01).astype(np.float16)], told).layers
    assert layer.used > 1


def test_a_layout_that_shapes_do_not_tell_is_asked_for(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shape = (1, 8, 8, 8)
    names: dict[str, Any] = {"input_names": ["image"], "output_names": ["features", "scores"]}
    edgeconv.export(Network(8), (torch.zeros(shape),), tmp_path, name="net", formats="tflite", **names)
    recipe = folder / "cube.toml"
    recipe.write_text(_recipe(shape))
    command = ["parity", "--artifact", str(tmp_path / "net.fp32.tflite"), "--recipe", str(recipe), "--device", "litert"]
    assert run([*command, "--out", str(tmp_path / "no")]) == 2
    told = capsys.readouterr().err
    assert "fits NCHW and NHWC; say which it is with --layout nhwc or --layout nchw" in told
    assert run([*command, "--out", str(tmp_path / "right"), "--layout", "nhwc"]) == 0
    assert run([*command, "--out", str(tmp_path / "wrong"), "--layout", "nchw"]) == 1


def test_a_folder_with_the_report_of_other_files_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--recipe", str(folder / "net.toml"), "--device", "litert", "--out", str(tmp_path)]
    assert run(["parity", "--artifact", str(folder / "theirs.tflite"), "--quiet", *options]) == 0
    before = (tmp_path / "parity.json").read_bytes()
    assert run(["parity", "--artifact", str(folder / "torch.onnx"), *options]) == 2
    assert "the report of other files lies here (theirs.tflite)" in capsys.readouterr().err
    assert (tmp_path / "parity.json").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "the folder of an export is missing"),
        (["--artifact", "x.tflite"], "by a recipe, into a folder"),
        ([".", "--layout", "nhwc"], "are about a file"),
        (["--artifact", "x.tflite", "--recipe", "r.toml", "--out", "o", "--match", "a"], "names no two"),
        (["--artifact", "x.tflite", "--recipe", "r.toml", "--out", "o", "--layout", "hwc"], "is no layout"),
    ],
)
def test_what_cannot_be_judged_is_told_in_one_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["parity", *arguments]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert len(said.splitlines()) == 1


def _matched(theirs: list[TensorSpec], ours: dict[str, tuple[int | str, ...]], **options: Any) -> list[tuple[str, str]]:
    choices = {"side": "output", "titles": {}, "stated": {}, "layout": "", "where": "f.tflite", **options}
    return [(spec.name, spec.layout) for spec in matched_specs(theirs, ours, **choices)]


def test_names_come_before_shapes_and_shapes_before_order() -> None:
    boxes, scores = TensorSpec("scores:0", (1, 10, 4), "float32"), TensorSpec("Identity", (1, 10, 4), "float32")
    ours: dict[str, tuple[int | str, ...]] = {"boxes": (1, 10, 4), "scores": (1, 10, 4)}
    assert _matched([boxes, scores], ours) == [("scores", "nchw"), ("boxes", "nchw")]
    other = [TensorSpec("a", (1, 10, 4), "float32"), TensorSpec("b", (1, 10, 4), "float32")]
    assert _matched(other, ours) == [("boxes", "nchw"), ("scores", "nchw")]
    assert _matched(other, ours, titles={"a": "scores"}) == [("scores", "nchw"), ("boxes", "nchw")]
    assert _matched(other, ours, stated={"b": "boxes"}) == [("scores", "nchw"), ("boxes", "nchw")]
    image = [TensorSpec("p", (1, 4, 6, 3), "float32"), TensorSpec("q", (1, 10, 4), "float32")]
    mixed: dict[str, tuple[int | str, ...]] = {"boxes": (1, 10, 4), "image": (1, 3, 4, 6)}
    assert _matched(image, mixed) == [("image", "nhwc"), ("boxes", "nchw")]


def test_a_file_of_another_network_is_refused() -> None:
    ours: dict[str, tuple[int | str, ...]] = {"scores": (1, 5)}
    with pytest.raises(ParityError, match=r"its output 'a' of shape \[1, 4\] is none of the module's: scores \[1, 5\]"):
        _matched([TensorSpec("a", (1, 4), "float32")], ours)
    with pytest.raises(ParityError, match="it has 2 outputs"):
        _matched([TensorSpec("a", (1, 5), "float32"), TensorSpec("b", (1, 5), "float32")], ours)


def test_a_runtimes_layer_is_shown_beside_the_file_with_a_recipe_too(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = str(folder / "net.toml")
    _judged(folder / "torch.onnx", tmp_path, "--recipe", recipe, "--device", "onnxruntime")
    report = read_report(tmp_path)
    layer = next(node.output[0] for node in onnx.load(folder / "torch.onnx").graph.node if node.op_type == "Conv")
    link = LinkResult(Link.RUNNING, Verdict.FAIL, where=layer, reason=f"layer {layer} is off")
    rows = [replace(row, links=(link,)) if row.artifact else row for row in report.comparisons]
    with staged(tmp_path) as staging:
        write_report(staging, replace(report, comparisons=held_to_links(rows, report.artifacts)))
    assert run(["bisect", str(tmp_path), "--recipe", recipe]) == 0
    told = capsys.readouterr().out
    assert f"torch.onnx: layer {layer}: link 4 (running) breaks" in told
    assert "the file's own, in float64" in told
    assert shown(tmp_path / "bisect" / "torch.onnx-layer.py") < 1e-5


def _relu6_dropped(model: Any) -> None:
    options = [operator.builtinOptions for operator in model.subgraphs[0].operators]
    next(item for item in options if getattr(item, "fusedActivationFunction", 0) == 3).fusedActivationFunction = 1


def _kernel_turned(model: Any) -> None:
    buffer = next(item for item in model.buffers if item.data is not None and len(item.data) == 8 * 8 * 9 * 4)
    kernel = np.frombuffer(bytes(buffer.data), np.float32).reshape(8, 3, 3, 8)
    buffer.data = np.frombuffer(kernel[:, ::-1, ::-1].tobytes(), np.uint8)


@pytest.mark.parametrize(
    ("plant", "words", "layer"),
    [
        (
            _relu6_dropped,  # no number of the sample is above 6
            (
                "times 16; the first layer that differs: CONV_2D",
                "cause: the clamp of Clip stem.2 holds [0, inf] instead of [0, 6]",
            ),
            "stem.1",
        ),
        (_kernel_turned, ("cause: the kernel of Conv body.1 is rotated by 180 degrees",), "body.1"),
    ],
)
def test_the_layer_and_the_cause_are_told_of_a_float_file(
    plant: Callable[[Any], None],
    words: tuple[str, ...],
    layer: str,
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = _unpacked((folder / "theirs.tflite").read_bytes())
    plant(model)
    (tmp_path / "faulty.tflite").write_bytes(_packed(model))
    report = _judged(tmp_path / "faulty.tflite", tmp_path / "out", "--recipe", str(folder / "net.toml"))
    assert (report["code"], _link_3(report)["verdict"]) == (1, "fail")
    assert all(part in _link_3(report)["reason"] for part in words), _link_3(report)
    # The file calls it by a name of its own; the module's leads to the same layer.
    command = ["bisect", str(tmp_path / "out"), "--recipe", str(folder / "net.toml")]
    assert run([*command, "--out", str(tmp_path / "first")]) == 0
    assert run([*command, "--layer", layer, "--out", str(tmp_path / "named")]) == 0
    assert capsys.readouterr().out.count(f"faulty.tflite: layer {_link_3(report)['where']}") == 2
    errors = [shown(tmp_path / name / "faulty.tflite-layer.py") for name in ("first", "named")]
    assert errors[0] == errors[1] > 0.5


@pytest.mark.parametrize(("layer", "least", "most"), [("body.1", 0.01, 10), ("stem.1", 0, 1e-5), ("stem", 0, 1e-5)])
def test_a_layer_is_cut_from_a_file_with_names_of_its_own(
    layer: str, least: float, most: float, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(folder / "torch.onnx")
    weights = max(model.graph.initializer, key=lambda item: int(np.prod(item.dims)))
    kernel = numpy_helper.to_array(weights)
    weights.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(kernel[..., ::-1]), weights.name))
    for node in model.graph.node:  # none of them is a name of the module's
        node.input[:] = [f"_{name}" if name not in ENDS else name for name in node.input]
        node.output[:] = [f"_{name}" if name not in ENDS else name for name in node.output]
    for item in model.graph.initializer:
        item.name = f"_{item.name}"
    del model.graph.value_info[:]
    onnx.save(model, tmp_path / "faulty.onnx")
    recipe, out = str(folder / "net.toml"), tmp_path / "out"
    assert _judged(tmp_path / "faulty.onnx", out, "--recipe", recipe, "--device", "onnxruntime")["code"] == 1
    assert run(["bisect", str(out), "--layer", layer]) == 2
    assert "a file of another converter has names of its own" in capsys.readouterr().err
    assert run(["bisect", str(out), "--layer", layer, "--recipe", recipe]) == 0
    assert least <= shown(out / "bisect" / "faulty.onnx-layer.py") <= most


@pytest.mark.parametrize(("operator", "code"), [("ArgMax", 0), ("ArgMin", 1)])
def test_classes_may_have_another_width_and_no_other_numbers(operator: str, code: int, tmp_path: Path) -> None:
    """torch's argmax is int64, and other converters write int32."""
    steps = {
        "ours": ("int64", "y = ArgMax<axis = 1>(c)"),
        "theirs": ("int32", f"a = {operator}<axis = 1>(c) y = Cast<to = 6>(a)"),
    }
    for name, (kind, last) in steps.items():
        text = f"""<ir_version: 9, opset_import: ["": 17]> g (float[1, 4, 6, 4] x) => ({kind}[1, 1, 6, 4] y)
            <float[4, 4, 1, 1] w = {{1, 2, 0, 1, 0, 1, 2, 3, 2, 0, 1, 0, 1, 1, 1, 2}}> {{ c = Conv(x, w) {last} }}"""
        onnx.save(onnx.parser.parse_model(text), tmp_path / f"{name}.onnx")
    options = ("--against", str(tmp_path / "ours.onnx"), "--device", "onnxruntime")
    assert _judged(tmp_path / "theirs.onnx", tmp_path / "out", *options)["code"] == code
