"""`edgeconv bisect`: a broken layer as a model of its own, in which the fault stays, and a script that shows it."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from reproductions import shown
from torch import nn

import edgeconv
from edgeconv.cli import run
from edgeconv.core import Artifact, Sample
from edgeconv.core.verdicts import Link, LinkResult, Verdict
from edgeconv.devices import file_inputs
from edgeconv.flow.cut import open_layers
from edgeconv.flow.output import staged
from edgeconv.flow.record import read_report, write_report
from edgeconv.parity import load_golden
from edgeconv.parity.chain import held_to_links
from edgeconv.reference import tflite
from edgeconv.report import Report, from_json

RECIPE = """
name = "block"
[model]
factory = "edgeconv.nn:DepthwiseSeparableConv"
args = { in_channels = 3, out_channels = 8 }
[[inputs]]
name = "input"
shape = [1, 3, 16, 20]
[outputs]
names = ["output"]
[parity]
devices = ["onnxruntime", "litert"]
[[parity.random]]
seed = 0
"""
LAYER = "depthwise_norm"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "block.toml").write_text(RECIPE)
    assert run(["export", str(tmp_path / "block.toml"), "--out", str(tmp_path), "-q"]) == 0
    return tmp_path / "block"


def mark(folder: Path, link: LinkResult) -> None:
    """Enters files as they are now into the report of a folder, with a link of each: of its own, or of its rows."""
    report = read_report_of(folder)
    of_file = link.link is Link.WRITING
    artifacts = [renewed(item, folder, (link,) if of_file else ()) for item in report.artifacts]
    rows = [replace(row, links=() if of_file else (link,)) for row in report.comparisons]
    with staged(folder) as staging:
        write_report(staging, replace(report, artifacts=tuple(artifacts), comparisons=held_to_links(rows, artifacts)))


def renewed(artifact: Artifact, folder: Path, links: tuple[LinkResult, ...]) -> Artifact:
    return replace(artifact, sha256=hashlib.sha256((folder / artifact.path.name).read_bytes()).hexdigest(), links=links)


def read_report_of(folder: Path) -> Report:
    """Without a look at its files, which were changed."""
    return from_json((folder / "parity.json").read_text())


def mirror_kernel(folder: Path) -> None:
    """The depthwise kernel of both files, mirrored: the fault that is to be found."""
    path = folder / "block.fp32.onnx"
    model = onnx.load(path)
    tensor = next(item for item in model.graph.initializer if list(item.dims) == [3, 1, 3, 3])
    kernel = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(kernel[..., ::-1]), tensor.name))
    onnx.save(model, path)
    path = folder / "block.fp32.tflite"
    data, (constant,) = (
        path.read_bytes(),
        [
            np.asarray(item.data)
            for item in tflite.read(path).tensors
            if item.data is not None and item.shape == (1, 3, 3, 3)
        ],
    )
    path.write_bytes(data.replace(constant.tobytes(), np.ascontiguousarray(constant[:, :, ::-1]).tobytes()))


def broken_layer(folder: Path) -> str:
    """The name of the depthwise convolution's result."""
    graph = tflite.read(folder / "block.fp32.tflite")
    (name,) = [graph.tensors[item.outputs[0]].name for item in graph.operators if item.name == "DEPTHWISE_CONV_2D"]
    return name


def test_nothing_is_broken(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bisect", str(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no layer of its files is broken" in line
    assert not (folder / "bisect").exists()


def test_no_file_has_the_layer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bisect", str(folder), "--layer", "nowhere"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "no file has a layer 'nowhere'" in line
    assert not (folder / "bisect").exists()


def test_a_fault_of_the_files_is_shown_beside_the_graph(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    layer = broken_layer(folder)
    mirror_kernel(folder)
    mark(folder, LinkResult(Link.WRITING, Verdict.FAIL, where=layer, reason=f"{layer} is beyond its bound"))
    assert run(["bisect", str(folder)]) == 2
    assert "--recipe" in capsys.readouterr().err
    recipe = folder.parent / "block.toml"
    assert run(["bisect", str(folder), "--recipe", str(recipe), "--out", str(folder / "b")]) == 0
    told = capsys.readouterr().out
    assert f"layer {layer}: link 3 (writing) breaks: {layer} is beyond its bound" in told
    scripts = sorted((folder / "b").glob("*.py"))
    assert [path.name for path in scripts] == ["block.fp32.onnx-layer.py", "block.fp32.tflite-layer.py"]
    assert all(shown(script) > 0.1 for script in scripts)
    read_report(folder)


def test_a_runtimes_layer_is_shown_beside_the_file(folder: Path) -> None:
    layer = broken_layer(folder)
    mark(folder, LinkResult(Link.RUNNING, Verdict.FAIL, where=layer, reason=f"layer {layer}, input random-0-scale-1"))
    assert run(["bisect", str(folder), "-q"]) == 0
    for script in (folder / "bisect").glob("*.py"):
        assert "edgeconv" not in script.read_text()
        assert len(script.read_text().splitlines()) <= 18
        assert shown(script) < 1e-5


def test_weights_elsewhere_are_not_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "block.fp32.onnx"
    model = onnx.load(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    path.write_bytes(model.SerializeToString())
    mark(folder, LinkResult(Link.RUNNING, Verdict.PASS))
    (folder.parent / "secret").write_bytes(bytes(4000))
    assert run(["bisect", str(folder), "--layer", broken_layer(folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "lies in a file that is not its own" in line


def test_each_layer_alone_computes_what_it_does_in_the_file(tmp_path: Path) -> None:
    """In float32, halves and integers, in both formats: but for the rounding of its operands as they are stored."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 3, 1, 1, groups=8)]
    module = nn.Sequential(*layers, nn.Sigmoid(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
    x = torch.randn(1, 3, 16, 16)
    quantization = edgeconv.Quantization(lambda: [{"input": x.numpy()}])
    options = {"variants": ("fp32", "fp16", "int8"), "quantization": quantization, "devices": ("onnxruntime",)}
    result = edgeconv.export(module, (x,), tmp_path, name="net", **options)
    (sample, *_) = load_golden(tmp_path / result.report.golden).samples
    assert all(compared_layers(artifact, sample) >= 4 for artifact in result.artifacts)


def compared_layers(artifact: Artifact, sample: Sample) -> int:
    file = open_layers(artifact.path, artifact.path.read_bytes())
    count = 0
    for layer in file.results:
        borders = [name for name in file.returned if name != layer]
        names = file.operands(layer, borders)
        if not names:  # of constants alone
            continue
        values = file.values([array for _, array in file_inputs(artifact, sample)], [*names, layer])
        operands = {name: file.stored(name, values[name]) for name in names}
        alone = open_layers(artifact.path, file.cut(layer, operands)).values(list(operands.values()), [layer])[layer]
        assert list(operands) == list(open_layers(artifact.path, file.cut(layer, operands)).inputs)
        rounding = 2.0**-9 if artifact.variant == "fp16" else 2.0**-21  # of the operands, as the file stores them
        assert np.max(np.abs(alone - values[layer])) <= rounding * np.max(np.abs(values[layer])), layer
        count += 1
    return count


@pytest.mark.parametrize("name", ["block.fp32.onnx", "block.fp32.tflite"])
def test_a_damaged_file_is_told_in_one_line(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 3 : len(data) // 3 + 200] = bytes(range(200))
    (folder / name).write_bytes(data)
    mark(folder, LinkResult(Link.RUNNING, Verdict.PASS))
    code = run(["bisect", str(folder), "--layer", "nowhere", "-q"])
    (line,) = capsys.readouterr().err.splitlines()
    assert code == 2
    assert line.startswith("edgeconv: error: ")


@pytest.mark.parametrize(
    ("stated", "other"),
    [("out_channels = 8", "out_channels = 9"), ('"input"', '"x"'), ("16, 20", "18, 20"), ('["output"]', '["y"]')],
    ids=["module", "input", "shape", "output"],
)
def test_a_recipe_of_something_else_is_refused(
    stated: str, other: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = folder.parent / "other.toml"
    recipe.write_text(RECIPE.replace(stated, other))
    assert run(["bisect", str(folder), "--layer", "output", "--recipe", str(recipe)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "the recipe's model does not" in line
    assert "give the recipe that the folder was exported from" in line


def test_a_recipe_of_other_samples_is_taken(folder: Path) -> None:
    recipe = folder.parent / "other.toml"
    recipe.write_text(RECIPE.replace("seed = 0", "seed = 1"))
    assert run(["bisect", str(folder), "--layer", "output", "--recipe", str(recipe), "-q"]) == 0


@pytest.mark.parametrize("verb", [["parity"], ["bisect", "--layer", "output"]], ids=["parity", "bisect"])
def test_a_file_in_the_place_of_a_recipe_says_nothing_of_integers(
    verb: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, out = folder / "block.fp32.onnx", folder.parent / "again"
    devices = ["--device", "onnxruntime", "--device", "litert"]
    assert run(["export", str(file), "--out", str(out), "--variant", "int8-weights", *devices, "-q"]) == 0
    assert run([*verb, str(out / "block.fp32"), "--recipe", str(file), "-q"]) == 0
    assert not capsys.readouterr().err
