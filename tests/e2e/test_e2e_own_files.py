"""A file that edgeconv wrote, judged alone by its recipe: whatever no other converter would owe, it does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from ai_edge_litert import schema_py_generated as schema
from flatbuffers import Builder
from onnx import numpy_helper

from edgeconv.cli import run
from edgeconv.core import Array
from edgeconv.parity.writing._contents import Contents

RECIPE = """
name = "block"
[model]
factory = "edgeconv.nn:DepthwiseSeparableConv"
args = {{ in_channels = 3, out_channels = 8, stride = 2 }}
seed = {seed}
[[inputs]]
name = "x"
shape = [1, 3, 12, 12]
[parity]
devices = ["litert-reference"]
[[parity.random]]
count = 2
[[quantize.random]]
seed = 9
count = 4
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("own")
    for name, seed in (("block", 0), ("other", 1)):
        (path / f"{name}.toml").write_text(RECIPE.format(seed=seed))
    options = ("--no-parity", "-q", "--variant", "fp32", "--variant", "int8")
    assert run(["export", str(path / "block.toml"), "--out", str(path), *options]) == 0
    return path / "block"


def _judged(file: Path, recipe: Path, out: Path) -> tuple[int, dict[str, dict[str, Any]]]:
    """The exit code, and the links of the file by name."""
    device = "onnxruntime" if file.suffix == ".onnx" else "litert-reference"
    options = ("--recipe", str(recipe), "--out", str(out), "--device", device, "-q")
    code = run(["parity", "--artifact", str(file), *options])
    (artifact,) = json.loads((out / "parity.json").read_text())["artifacts"]
    return code, {link["link"]: link for link in artifact["links"]}


@pytest.mark.parametrize("name", ["block.fp32.onnx", "block.int8.tflite"])
def test_a_right_file_has_all_links(name: str, folder: Path, tmp_path: Path) -> None:
    code, links = _judged(folder / name, folder.parent / "block.toml", tmp_path)
    assert code == 0
    assert {name: link["verdict"] for name, link in links.items()} == dict.fromkeys(
        ("rewrites", "rounding", "writing"), "pass"
    )
    assert "it is what edgeconv writes of this recipe" in links["writing"]["reason"]


def _ulp(model: Any) -> None:
    weight = next(item for item in model.graph.initializer if len(item.dims) == 4)
    numbers = numpy_helper.to_array(weight).copy()
    numbers.flat[0] = np.nextafter(numbers.flat[0], np.float32(np.inf))
    weight.CopyFrom(numpy_helper.from_array(numbers, weight.name))


def _inside(model: Any) -> Any:
    """The quantization of a tensor between two layers."""
    graph = model.subgraphs[0]
    return graph.tensors[graph.operators[-2].inputs[0]].quantization


def _scale(model: Any) -> None:
    quantization = _inside(model)
    quantization.scale = np.array(quantization.scale, np.float32) * np.float32(1.01)


def _zero_point(model: Any) -> None:
    quantization = _inside(model)
    quantization.zeroPoint = np.array(quantization.zeroPoint, np.int64) + 1


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("block.fp32.onnx", _ulp),
        ("block.int8.tflite", _scale),
        ("block.int8.tflite", _zero_point),
    ],
)
def test_what_another_converter_may_choose_is_held_to_the_recipe(
    name: str, fault: Callable[[Any], None], folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / f"theirs{Path(name).suffix}"
    if file.suffix == ".onnx":
        model = onnx.load(folder / name)
        fault(model)
        onnx.save(model, file)
    else:
        unpacked = schema.ModelT.InitFromPackedBuf((folder / name).read_bytes(), 0)
        fault(unpacked)
        builder = Builder()
        builder.Finish(unpacked.Pack(builder), b"TFL3")
        file.write_bytes(bytes(builder.Output()))
    code, links = _judged(file, folder.parent / "block.toml", tmp_path / "out")
    assert (code, links["writing"]["verdict"], links["rewrites"]["verdict"]) == (1, "fail", "pass")


def test_a_file_of_another_module_is_judged_as_any_converters(folder: Path, tmp_path: Path) -> None:
    code, links = _judged(folder / "block.fp32.onnx", folder.parent / "other.toml", tmp_path)
    assert (code, list(links)) == (1, ["writing"])
    assert "edgeconv wrote it, and of something else than this recipe says" in links["writing"]["reason"]


def test_integers_at_the_borders_of_an_onnx_file_stand_for_real_numbers(tmp_path: Path) -> None:
    (tmp_path / "block.toml").write_text(RECIPE.format(seed=0) + '[quantize]\nio = "uint8"\n')
    options = ("--no-parity", "-q", "--variant", "int8", "--format", "onnx")
    assert run(["export", str(tmp_path / "block.toml"), "--out", str(tmp_path), *options]) == 0
    model = onnx.load(tmp_path / "block" / "block.int8.onnx")
    model.producer_name = "another"
    onnx.save(model, tmp_path / "theirs.onnx")
    code, links = _judged(tmp_path / "theirs.onnx", tmp_path / "block.toml", tmp_path / "out")
    assert (code, list(links), links["writing"]["verdict"]) == (0, ["writing"], "pass")


def _numbers(*changed: int, types: str = "int8") -> dict[str, tuple[Array, ...]]:
    return {f"w{at}": (np.full(3, at in changed, types),) for at in range(12)}


@pytest.mark.parametrize(
    ("contents", "told"),
    [
        (Contents(_numbers(), _numbers()), ""),
        (Contents(_numbers(1, 2, 3, 4), _numbers(5)), ""),
        (Contents(_numbers(1, 2, 3, 4, 5), {}), "5 of its 12 constants have other numbers"),
        (Contents(_numbers(), _numbers(*range(7))), "7 of its 12 scales have other numbers"),
        (Contents(_numbers(types="int16"), {}), "24 of its constants have other names or types"),
    ],
)
def test_a_file_with_a_few_other_numbers_is_the_same(contents: Contents, told: str) -> None:
    assert contents.beside(Contents(_numbers(), _numbers())).unlike == told
