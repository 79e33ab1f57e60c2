"""With the recipe named, nothing that a folder stores decides: neither golden integers, nor layers, nor fixed inputs.

Members: a changed file beside golden integers that were changed to what it computes; layers that are said to have
passed; integers that were taken out; ``--set`` for a recipe and for an ``.onnx`` file, the same and another number,
none, and without a recipe; rewrites that the export left out, by its report, and such as there are none.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from flatbuffers import Builder
from onnx import TensorProto, helper, numpy_helper

from edgeconv.cli import run
from edgeconv.parity import Golden, golden_bytes, load_golden
from edgeconv.report import GOLDEN_SHA256, LEFT_OUT

RECIPE = """
name = "block"
[model]
factory = "edgeconv.nn:DepthwiseSeparableConv"
args = { in_channels = 3, out_channels = 8 }
seed = 0
[[inputs]]
name = "x"
shape = [1, 3, 16, 16]
[export]
formats = ["tflite"]
variants = ["int8"]
[parity]
devices = ["litert-reference"]
[[parity.random]]
count = 2
[[quantize.random]]
seed = 9
count = 4
"""
FILE, GOLDEN = "block.int8.tflite", "block.golden.safetensors"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("decides")
    (folder / "block.toml").write_text(RECIPE)
    assert run(["export", str(folder / "block.toml"), "--out", str(folder), "-q"]) == 0
    return folder / "block"


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    shutil.copy(good.parent / "block.toml", tmp_path)
    return Path(shutil.copytree(good, tmp_path / "block"))


def _parity(folder: Path, *options: str) -> int:
    return run(["parity", str(folder), "-q", *options])


def _with_recipe(folder: Path) -> int:
    return _parity(folder, "--recipe", str(folder.parent / "block.toml"))


def _spoilt(data: bytes) -> bytes:
    """The bias of the last convolution moved by as much as 4 steps of its output."""
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    graph = model.subgraphs[0]
    last = [op for op in graph.operators if isinstance(op.builtinOptions, schema.Conv2DOptionsT)][-1]
    bias, output = graph.tensors[last.inputs[2]], graph.tensors[last.outputs[0]]
    numbers = np.frombuffer(bytes(bytearray(model.buffers[bias.buffer].data)), np.int32).copy()
    numbers[0] += round(4 * output.quantization.scale[0] / bias.quantization.scale[0])
    model.buffers[bias.buffer].data = np.frombuffer(numbers.tobytes(), np.uint8)
    builder = Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _computed(data: bytes, golden: Golden) -> tuple[dict[str, np.ndarray], ...]:
    reference = OpResolverType.BUILTIN_REF
    interpreter = Interpreter(model_content=data, experimental_op_resolver_type=reference)
    interpreter.allocate_tensors()
    (name,) = golden.reference.outputs[0]
    results = []
    for sample in golden.samples:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], sample.inputs["x"].transpose(0, 2, 3, 1))
        interpreter.invoke()
        y = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
        results.append({name: y.transpose(0, 3, 1, 2).astype(np.float64)})
    return tuple(results)


def _planted(folder: Path, *, without_integers: bool = False) -> None:
    """A wrong file, and a record of it that agrees with itself."""
    golden = load_golden(folder / GOLDEN)
    spoilt = _spoilt((folder / FILE).read_bytes())
    stored = golden.integers["int8"]
    told = dataclasses.replace(stored, run=dataclasses.replace(stored.run, outputs=_computed(spoilt, golden)))
    data = golden_bytes(dataclasses.replace(golden, integers={} if without_integers else {"int8": told}))
    plain = json.loads((folder / "parity.json").read_text())
    plain["artifacts"][0]["sha256"] = hashlib.sha256(spoilt).hexdigest()
    plain["environment"][GOLDEN_SHA256] = hashlib.sha256(data).hexdigest()
    (folder / FILE).write_bytes(spoilt)
    (folder / GOLDEN).write_bytes(data)
    (folder / "parity.json").write_text(json.dumps(plain))


def test_the_untouched_folder_passes_by_the_recipe(folder: Path) -> None:
    before = json.loads((folder / "parity.json").read_text())
    assert _with_recipe(folder) == 0
    after = json.loads((folder / "parity.json").read_text())
    assert after["comparisons"][0]["layers"] == before["comparisons"][0]["layers"] != []


@pytest.mark.parametrize("without_integers", [False, True])
def test_changed_golden_integers_do_not_pass_a_wrong_file(folder: Path, without_integers: bool) -> None:
    _planted(folder, without_integers=without_integers)
    assert _parity(folder) == 0, json.loads((folder / "parity.json").read_text())["comparisons"][0]["reason"]
    assert _with_recipe(folder) == 1
    (row,) = json.loads((folder / "parity.json").read_text())["comparisons"]
    assert row["verdict"] == "fail"


def _by_an_ulp(path: Path) -> None:
    """The first weight of an .onnx file, in the next larger number."""
    model = onnx.load(path)
    weight = next(item for item in model.graph.initializer if len(item.dims) == 4)
    numbers = numpy_helper.to_array(weight).copy()
    numbers.flat[0] = np.nextafter(numbers.flat[0], np.float32(np.inf))
    weight.CopyFrom(numpy_helper.from_array(numbers, weight.name))
    onnx.save(model, path)


@pytest.mark.parametrize("of_file", [False, True])
def test_links_of_float_files_are_judged_anew(of_file: bool, tmp_path: Path) -> None:
    source = tmp_path / "block.toml"
    source.write_text(RECIPE)
    options = ("--variant", "fp32", "--format", "onnx", "--device", "onnxruntime", "-q")
    assert run(["export", str(source), "--out", str(tmp_path), *options]) == 0
    if of_file:
        source = tmp_path / "block" / "block.fp32.onnx"
        source = source.rename(tmp_path / "source.onnx")
        assert run(["export", str(source), "--out", str(tmp_path), *options]) == 0
    folder = tmp_path / source.stem
    assert _parity(folder, "--recipe", str(source)) == 0
    _by_an_ulp(folder / f"{source.stem}.fp32.onnx")
    plain = json.loads((folder / "parity.json").read_text())
    data = (folder / f"{source.stem}.fp32.onnx").read_bytes()
    plain["artifacts"][0]["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "parity.json").write_text(json.dumps(plain))
    assert _parity(folder) == 0, "one ulp is within what a runtime may be off"
    assert _parity(folder, "--recipe", str(source)) == 1
    links = {link["link"]: link for link in json.loads((folder / "parity.json").read_text())["artifacts"][0]["links"]}
    assert [links[name]["verdict"] for name in ("rewrites", "writing")] == ["pass", "fail"]
    assert "1 ulp" in links["writing"]["reason"]


NET = """from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__(); self.low, self.high = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3)
    def forward(self, x, sr):
        return self.low(x) if sr == 8000 else self.high(x)
"""
NET_RECIPE = """name = "block"
[model]
factory = "net:Net"
[[inputs]]
name = "x"
shape = [1, 3, 8, 8]
[[inputs]]
name = "sr"
shape = []
dtype = "int64"
[export]
formats = ["onnx"]
[parity]
devices = ["onnxruntime"]
"""


def test_a_recipe_with_an_input_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.py").write_text(NET)
    recipe = tmp_path / "block.toml"
    recipe.write_text(NET_RECIPE)
    assert run(["export", str(recipe), "--set", "sr=8000", "--out", str(tmp_path), "-q"]) == 0
    named = ("--recipe", str(recipe))
    assert _parity(tmp_path / "block", *named, "--set", "sr=8000") == 0
    assert _parity(tmp_path / "block", *named, "--set", "sr=16000") == 2
    assert "does not give these values" in capsys.readouterr().err
    assert _parity(tmp_path / "block", *named) == 2
    assert "--set" in capsys.readouterr().err
    assert _parity(tmp_path / "block", "--set", "sr=8000") == 2
    assert "name that with --recipe" in capsys.readouterr().err


def test_a_file_with_an_input_set(tmp_path: Path) -> None:
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Mul", ["x", "gain"], ["m"]), helper.make_node("Relu", ["m"], ["y"])]
    inputs = [value("x", TensorProto.FLOAT, [1, 4]), value("gain", TensorProto.FLOAT, [1])]
    graph = helper.make_graph(nodes, "g", inputs, [value("y", TensorProto.FLOAT, [1, 4])])
    path = tmp_path / "block.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    options = ("--set", "gain=0.5", "--device", "onnxruntime", "-q")
    assert run(["export", str(path), "--out", str(tmp_path), "--format", "onnx", *options]) == 0
    named = ("--recipe", str(path))
    assert _parity(tmp_path / "block", *named, "--set", "gain=0.5") == 0
    assert _parity(tmp_path / "block", *named, "--set", "gain=0.25") == 2


def test_rewrites_that_the_export_left_out_are_left_out_again(tmp_path: Path) -> None:
    recipe = tmp_path / "block.toml"
    recipe.write_text(RECIPE)
    skipped = [part for name in ("split-multipliers", "merge-chains") for part in ("--no-rewrite", name)]
    assert run(["export", str(recipe), "--out", str(tmp_path), "-q", *skipped]) == 0
    report = tmp_path / "block" / "parity.json"
    assert json.loads(report.read_text())["environment"][LEFT_OUT] == "merge-chains, split-multipliers"
    assert _with_recipe(tmp_path / "block") == 0
    assert json.loads(report.read_text())["environment"][LEFT_OUT] == "merge-chains, split-multipliers"
    report.write_text(report.read_text().replace("merge-chains, split", "fold-nothing, split"))
    assert _with_recipe(tmp_path / "block") == 2
