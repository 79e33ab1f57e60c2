"""``.onnx`` files in, files for devices out; and batches that stay open, from files and from modules."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from calibration_noise import Noise
from onnx import TensorProto, helper
from onnxruntime.quantization import QuantFormat, quantize_static
from torch import nn

import edgeconv
from edgeconv.cli import run
from edgeconv.flow.inspection.integers_tflite import float_parts_of_tflite

BOTH = ("onnxruntime", "litert")
NAMED = ("--device", "onnxruntime", "--device", "litert")
X = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Every layer of a small classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.wide = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.cat([x, nn.functional.max_pool2d(self.wide(x), 3, 1, 1)], 1)
        return torch.softmax(self.head(x.view(x.shape[0], 16, -1).mean(2)), 1)


def _net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network as torch's two exporters write it."""
    folder = tmp_path_factory.mktemp("files")
    names: dict[str, Any] = {"input_names": ["x"], "output_names": ["y"], "verbose": False}
    for opset in (13, 17, 20):
        old: dict[str, Any] = {"dynamo": False, "opset_version": opset, **names}
        torch.onnx.export(_net(), (X,), str(folder / f"fixed_{opset}.onnx"), **old)
        axes = {"x": {0: "images"}, "y": {0: "images"}}
        torch.onnx.export(_net(), (X,), str(folder / f"open_{opset}.onnx"), dynamic_axes=axes, **old)
    new: dict[str, Any] = {"dynamo": True, "opset_version": 20, **names}
    batch = torch.export.Dim("batch")
    torch.onnx.export(_net(), (X,), str(folder / "open_new.onnx"), dynamic_shapes={"x": {0: batch}}, **new)
    torch.onnx.export(_net(), (X,), str(folder / "fixed_new.onnx"), external_data=True, **new)
    return folder


def _shape(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


@pytest.mark.parametrize(
    "name",
    [
        "fixed_13",
        pytest.param("fixed_20", marks=pytest.mark.slow),
        "fixed_new",
        pytest.param("open_13", marks=pytest.mark.slow),
        "open_17",
        "open_new",
    ],
)
def test_what_torch_wrote(files: Path, tmp_path: Path, name: str) -> None:
    result = edgeconv.export_onnx(files / f"{name}.onnx", tmp_path, name="net", devices=BOTH)
    assert result.report is not None
    assert [(row.artifact, row.device, row.verdict.value) for row in result.report.comparisons] == [
        ("", "source (onnxruntime)", "pass"),
        ("net.fp32.onnx", "onnxruntime", "pass"),
        ("net.fp32.tflite", "litert", "pass"),
    ]
    symbol: int | str = 1 if name.startswith("fixed") else "batch" if name == "open_new" else "images"
    made = onnx.load(result.artifacts[0].path)
    assert _shape(made.graph.input[0]) == [symbol, 3, 16, 16]
    assert _shape(made.graph.output[0]) == [symbol, 5]
    assert (made.graph.input[0].name, made.graph.output[0].name) == ("x", "y")
    samples = [sample.sample for sample in result.report.comparisons[1].samples]
    assert samples == ["random-0-scale-1", *(["batch of 3"] if name.startswith("open") else [])]


_SIZES = (("x", 2048), ("y", 8))


def _large_sums(path: Path, factor: float = 1.0) -> Path:
    """A file of a convolution of random weights, whose sums of 18,432 float32 leave the default tolerance anywhere."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size, 12, 12]) for name, size in _SIZES)
    weight = np.random.default_rng(0).standard_normal((8, 2048, 3, 3)) * factor
    stored = onnx.numpy_helper.from_array(weight.astype(np.float32), "w")
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"], pads=[1] * 4)], "g", [x], [y], [stored])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_file_whose_float32_is_beyond_the_default_tolerance_is_right(tmp_path: Path) -> None:
    result = edgeconv.export_onnx(_large_sums(tmp_path / "g.onnx"), tmp_path / "out", name="g", devices=BOTH)
    assert result.report is not None
    own = result.report.comparisons[0]
    assert own.artifact == ""
    assert "times the default tolerance, and within" in own.reason
    assert [row.verdict.value for row in result.report.comparisons] == ["pass"] * 3


def test_a_wrong_reading_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file itself is run: were its graph read wrongly, its own row would fail. Here a weight is 2e-4 too large."""
    path, other = _large_sums(tmp_path / "g.onnx"), _large_sums(tmp_path / "other.onnx", 1 + 2e-4).read_bytes()
    monkeypatch.setattr("edgeconv.capture.onnx_file._read.OnnxFile.comparable", other)
    result = edgeconv.export_onnx(path, tmp_path / "out", name="g", devices="onnxruntime")
    assert result.report is not None
    assert [row.verdict.value for row in result.report.comparisons] == ["fail", "pass"]
    assert result.report.comparisons[0].artifact == ""
    assert result.report.verdict is edgeconv.Verdict.FAIL


def test_a_group_normalization(tmp_path: Path) -> None:
    """Which onnx infers no shape of, and TFLite has no operator for; behind it is a layer that needs the shape."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4, 6, 6]) for name in "xy")
    pieces = [helper.make_node("GroupNormalization", ["x", "s", "b"], ["n"], num_groups=2)]
    pieces += [helper.make_node("AveragePool", ["n"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1])]
    weights = [helper.make_tensor(name, TensorProto.FLOAT, [4], [0.5, 1.0, 2.0, 3.0]) for name in "sb"]
    graph = helper.make_graph(pieces, "g", [x], [y], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), tmp_path / "g.onnx")
    result = edgeconv.export_onnx(tmp_path / "g.onnx", tmp_path / "out", name="g", devices=BOTH)
    assert result.report is not None
    assert [row.verdict.value for row in result.report.comparisons] == ["pass"] * 3


def test_an_input_that_is_an_output(tmp_path: Path) -> None:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y, x])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8), tmp_path / "g.onnx")
    result = edgeconv.export_onnx(tmp_path / "g.onnx", tmp_path / "out", name="g", devices=BOTH)
    assert result.report is not None
    assert [(row.output, row.verdict.value) for row in result.report.comparisons] == [
        ("y", "pass"),
        ("x.output", "pass"),
    ] * 3
    assert "the output 'x' is named 'x.output' in the files" in result.notes[0], "whoever runs them names it"


def test_our_own_file_again_gives_the_same_numbers(tmp_path: Path) -> None:
    first = edgeconv.export(_net(), (X,), tmp_path / "a", name="net", formats="onnx").artifacts[0].path
    second = edgeconv.export_onnx(first, tmp_path / "b", name="net", formats="onnx").artifacts[0].path
    outputs = [onnxruntime.InferenceSession(path).run(None, {"x": X.numpy()})[0] for path in (first, second)]
    np.testing.assert_array_equal(*outputs)
    nodes = [[(node.op_type, node.name) for node in onnx.load(path).graph.node] for path in (first, second)]
    assert nodes[0] == nodes[1]


def test_the_command_line(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = str(files / "open_17.onnx"), tmp_path / "out"
    assert run(["export", source, "--out", str(out), *NAMED, "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)
    assert result["recipe"] == "open_17"
    assert result["report"]["source"]["source"].startswith("open_17.onnx, opset 17, sha256 ")
    folder = out / "open_17"
    assert run(["parity", str(folder), "-q"]) == 0
    assert run(["parity", str(folder), "--recipe", source, "-q"]) == 0
    rows = json.loads((folder / "parity.json").read_text())["comparisons"]
    assert [row["device"] for row in rows] == ["source (onnxruntime)", "onnxruntime", "litert"]
    capsys.readouterr()
    assert run(["inspect", str(folder / "open_17.fp32.onnx")]) == 0
    assert "['images', 3, 16, 16]" in capsys.readouterr().out


def test_a_fixed_batch_and_own_samples(files: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", x=np.random.default_rng(0).random((4, 3, 16, 16), np.float32))
    options = ["--shape", "x=2, 3 ,16, 16", "--samples", str(tmp_path / "mine.npz"), "-q"]
    assert run(["export", str(files / "open_17.onnx"), "--out", str(tmp_path), *options, *NAMED]) == 0
    report = json.loads((tmp_path / "open_17" / "parity.json").read_text())
    assert [sample["sample"] for sample in report["comparisons"][0]["samples"]] == ["mine[0]", "mine[1]"]
    assert _shape(onnx.load(tmp_path / "open_17" / "open_17.fp32.onnx").graph.input[0]) == [2, 3, 16, 16]


def test_parity_of_a_file_that_leaves_more_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = str(tmp_path / "wide.onnx"), tmp_path / "out"
    axes = {"x": {0: "images", 2: "height", 3: "width"}}
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    torch.onnx.export(net, (X,), source, input_names=["x"], dynamic_axes=axes, dynamo=False, opset_version=17)
    shape = ["--shape", "x=1,3,16,16"]
    assert run(["export", source, "--out", str(out), *shape, *NAMED, "-q"]) == 0
    capsys.readouterr()
    assert run(["parity", str(out), "--recipe", source, "-q"]) == 2
    assert "--shape" in capsys.readouterr().err
    assert run(["parity", str(out), "--recipe", source, *shape, "-q"]) == 0
    assert run(["parity", str(out), *shape, "-q"]) == 2
    assert "name the file with --recipe" in capsys.readouterr().err


@pytest.fixture(scope="module")
def quantized(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network as onnxruntime's quantizer writes it."""
    path, noise = tmp_path_factory.mktemp("quantised") / "ready.onnx", Noise("x", (1, 3, 16, 16), seed=0)
    # 7 bits: right on processors without VNNI, too, where the sum of two products saturates at 16 bits.
    options = {"quant_format": QuantFormat.QDQ, "per_channel": True, "reduce_range": True}
    quantize_static(str(files / "fixed_17.onnx"), str(path), noise, **options)
    return path


def test_a_quantized_file_is_its_own_variant(quantized: Path, tmp_path: Path) -> None:
    assert run(["export", str(quantized), "--out", str(tmp_path), *NAMED, "-q"]) == 0
    folder = tmp_path / "ready"
    assert {path.name for path in folder.glob("*.int8.*")} == {"ready.int8.onnx", "ready.int8.tflite"}
    assert not list(folder.glob("*.fp32.*"))
    parts = float_parts_of_tflite((folder / "ready.int8.tflite").read_bytes())
    # Integers take other steps in front of the join, and the softmax has other steps than the prescribed ones.
    rescaled = ["DEQUANTIZE", "QUANTIZE"]
    assert [part.split(" of ")[0] for part in parts] == [*rescaled, *rescaled, "DEQUANTIZE", "SOFTMAX", "QUANTIZE"]
    rows = json.loads((folder / "parity.json").read_text())["comparisons"]
    assert len({json.dumps(row["tolerance"]) for row in rows}) == 1  # its own row is no float's either
    assert run(["parity", str(folder), "--recipe", str(quantized), "-q"]) == 0


def test_a_quantized_file_of_integers_alone(quantized: Path, tmp_path: Path) -> None:
    integers = edgeconv.Quantization(keep_roundings=True)
    edgeconv.export_onnx(quantized, tmp_path, name="ready", formats="tflite", quantization=integers)
    assert float_parts_of_tflite((tmp_path / "ready.int8.tflite").read_bytes()) == []


def test_a_quantized_file_from_python(quantized: Path, tmp_path: Path) -> None:
    result = edgeconv.export_onnx(quantized, tmp_path, name="ready", devices=BOTH)
    assert {artifact.variant for artifact in result.artifacts} == {"int8"}
    assert result.report is not None
    assert result.report.verdict is edgeconv.Verdict.PASS


@pytest.mark.parametrize("variant", ["fp32", "fp16", "int8-weights"])
def test_a_quantized_file_has_no_other_variant(
    quantized: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], variant: str
) -> None:
    assert run(["export", str(quantized), "--out", str(tmp_path), "--variant", variant, *NAMED, "-q"]) == 2
    assert f"{variant}: the model is quantized already; ask for --variant int8" in capsys.readouterr().err
    assert not (tmp_path / "ready").exists()


def test_a_recipe_names_a_file(files: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        f'name = "mine"\n[model]\nonnx = "{files / "open_13.onnx"}"\n'
        '[export]\nformats = ["onnx"]\nopset = 16\n'
        '[parity]\ndevices = ["onnxruntime"]\n[[parity.random]]\ncount = 2\nscale = 3.0\n'
    )
    result = edgeconv.export_recipe(edgeconv.load_recipe(recipe), tmp_path / "out")
    assert result.report is not None
    assert result.report.verdict is edgeconv.Verdict.PASS
    assert len(result.report.comparisons[0].samples) == 3
    assert onnx.load(result.artifacts[0].path).opset_import[0].version == 16


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{files}/none.onnx"], "there is no such file"),
        (["{files}"], "is a folder"),
        (["{files}/open_17.onnx", "--shape", "z=1,3,16,16"], "it has no input 'z'; its inputs are x"),
        (["{files}/open_17.onnx", "--shape", "x"], "--shape: 'x' names no input"),
        (["{files}/open_17.onnx", "--shape", "x=1,3,16,16", "--shape", "x=2,3,16,16"], "two shapes are given for 'x'"),
        (["{files}/open_17.onnx", "--shape", "x=1,3,16"], "3 dimensions"),
        (["{files}/open_17.onnx", "--shape", "x=1,3,-16,16"], "shape[2]"),
        (["{files}/open_17.onnx", "--shape", "x=1,3,h,16"], "symbolic dimension 'h'"),
        (["{files}/open_17.onnx", "--shape", "x=9999999,3,16,16"], "MiB"),
        (["{files}/open_17.onnx", "{files}/fixed_13.onnx", "--shape", "x=1,3,16,16"], "about one .onnx file"),
        (["{files}/open_17.onnx", "--samples", "none.npz"], "none.npz'; correct the path"),
        (["{files}/open_17.onnx", "--device", "torch"], "torch runs modules"),
    ],
)
def test_mistakes_are_one_line(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    given = [argument.replace("{files}", str(files)) for argument in arguments]
    assert run(["export", *given, "--out", str(tmp_path / "out"), "-q"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
    assert says in told.err
    assert not (tmp_path / "out").exists()


def test_cost_is_about_modules(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "mine.toml"
    recipe.write_text(f'name = "mine"\n[model]\nonnx = "{files / "open_13.onnx"}"\n')
    assert run(["cost", str(recipe)]) == 2
    assert "counts the layers of a module" in capsys.readouterr().err


def test_a_module_with_an_open_batch(tmp_path: Path) -> None:
    result = edgeconv.export(_net(), (X,), tmp_path, name="net", dynamic_batch=True, devices=BOTH)
    assert result.report is not None
    assert result.report.verdict is edgeconv.Verdict.PASS
    assert [sample.sample for sample in result.report.comparisons[0].samples] == ["args", "batch of 3"]
    session = onnxruntime.InferenceSession(result.artifacts[0].path)
    many = torch.randn(7, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        np.testing.assert_allclose(session.run(None, {"x": many.numpy()})[0], _net()(many), atol=1e-6)


def test_samples_of_several_batches(tmp_path: Path) -> None:
    samples = [edgeconv.Sample(f"of {n}", {"x": np.zeros((n, 3, 16, 16), np.float32)}) for n in (1, 4)]
    options: dict[str, Any] = {"name": "net", "formats": "onnx", "devices": "onnxruntime"}
    result = edgeconv.export(_net(), (X,), tmp_path, dynamic_batch="x", samples=samples, **options)
    assert result.report is not None
    assert [sample.sample for sample in result.report.comparisons[0].samples] == ["of 1", "of 4"]
    assert run(["parity", str(tmp_path), "-q"]) == 0
    with pytest.raises(edgeconv.ParityError, match=r"sample of 4, input x: it is float32 \(4, 3, 16, 16\)"):
        edgeconv.export(_net(), (X,), tmp_path, samples=samples, **options)
    with pytest.raises(edgeconv.CaptureError, match="dynamic_batch: 'image' is no input"):
        edgeconv.export(_net(), (X,), tmp_path, dynamic_batch=("image",), **options)


def test_a_recipe_with_an_open_batch(tmp_path: Path) -> None:
    recipe = tmp_path / "block.toml"
    recipe.write_text(
        'name = "block"\n[model]\nfactory = "edgeconv.nn:DepthwiseSeparableConv"\n'
        "args = { in_channels = 3, out_channels = 4 }\n[model.warmup]\n"
        '[[inputs]]\nname = "image"\nshape = ["images", 3, 16, 16]\n[parity]\ndevices = ["onnxruntime", "litert"]\n'
    )
    result = edgeconv.export_recipe(edgeconv.load_recipe(recipe), tmp_path / "out")
    assert result.report is not None
    assert result.report.verdict is edgeconv.Verdict.PASS
    assert result.artifacts[0].inputs[0].shape == ("images", 3, 16, 16)
    assert len(result.report.comparisons[0].samples) == 2
