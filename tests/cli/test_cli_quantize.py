"""`edgeconv quantize`: what it refuses, in one line and before any work, and a target that holds."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import programs
import pytest
from digits import RECIPE as DIGITS
from digits import written

from edgeconv.cli import run

# Writing ReLU6 as ReLU changes what it computes so much that no number of layers in float makes up for it.
CLAMPED = """
import torch

def network():
    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU6(), torch.nn.Conv2d(8, 8, 1), torch.nn.ReLU6()]
    network = torch.nn.Sequential(*layers, torch.nn.Flatten(), torch.nn.Linear(288, 5)).eval()
    with torch.no_grad():
        layers[0].weight.mul_(20)
    return network
"""
RECIPE = """
name = "clamped"
[model]
factory = "clamped_cli_quantize:network"
[[inputs]]
name = "input"
shape = [1, 3, 8, 8]
[parity]
devices = ["onnxruntime"]
[[parity.random]]
seed = 1
count = 6
[quantize]
relu6_as_relu = true
[[quantize.random]]
seed = 2
count = 4
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended, and what it told."""

    code: int
    out: str
    err: str


@pytest.fixture
def quantize(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs the command in this process."""

    def command(*options: str, recipe: Path = DIGITS) -> Ended:
        capfd.readouterr()
        code = run(["quantize", str(recipe), "--out", str(tmp_path / "out"), *options])
        return Ended(code, *capfd.readouterr())

    return command


def program(tmp_path: Path, *options: str, recipe: Path) -> Ended:
    """Runs the real program."""
    command = ["quantize", str(recipe), "--out", str(tmp_path / "out"), *options]
    done = programs.run(command, timeout=300)
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    """The shipped recipe with a twentieth of its held-out images."""
    return written(tmp_path / "recipe", 18)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "no target is given; give --target-sqnr or --target-agreement"),
        (("--target-sqnr", "30", "--target-agreement", "0.9"), "both targets are given"),
        (("--target-sqnr", "500"), "--target-sqnr: it is 500; give one above 0 and at most 100"),
        (("--target-sqnr", "30", "--variant", "int8-weights"), "choose of int8, int16x8"),
    ],
)
def test_a_mistake_is_one_line(
    quantize: Callable[..., Ended], tmp_path: Path, options: tuple[str, ...], says: str
) -> None:
    done = quantize(*options)
    assert done.code == 2
    assert says in done.err
    assert len(done.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_quantized_file_has_no_layers_to_choose_of(quantize: Callable[..., Ended], tmp_path: Path) -> None:
    x = np.ones((1, 3, 4, 4), np.float32)
    scale, zero = (onnx.numpy_helper.from_array(array, name) for array, name in ((x.max(), "s"), (np.int8(0), "z")))
    nodes = [
        onnx.helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        onnx.helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    x_info, y_info = (onnx.helper.make_tensor_value_info(name, 1, x.shape) for name in "xy")
    graph = onnx.helper.make_graph(nodes, "quantized", [x_info], [y_info], [scale, zero])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)
    onnx.save(model, tmp_path / "quantized.onnx")
    recipe = tmp_path / "quantized.toml"
    recipe.write_text(
        'name = "quantized"\n[model]\nonnx = "quantized.onnx"\n[[quantize.random]]\nseed = 1\ncount = 4\n'
    )
    done = quantize("--target-sqnr", "30", recipe=recipe)
    assert done.code == 2
    assert done.err.splitlines() == ["edgeconv: error: target: the model is quantized already; give the float model"]
    assert not (tmp_path / "out").exists()


def test_a_target_holds_in_the_files(quantize: Callable[..., Ended], tmp_path: Path, digits: Path) -> None:
    devices = ("--device", "onnxruntime", "--device", "litert")
    done = quantize("--target-sqnr", "30", *devices, "--quiet", recipe=digits)
    assert done.code == 0, done.err
    report = json.loads((tmp_path / "out" / "digits_dsc" / "parity.json").read_text())
    assert {row["device"] for row in report["comparisons"]} == {"onnxruntime", "litert"}
    assert all(row["metrics"]["sqnr_db"] >= 30 for row in report["comparisons"])
    assert report["frontier"]


@pytest.fixture
def clamped(tmp_path: Path) -> Path:
    (tmp_path / "clamped_cli_quantize.py").write_text(CLAMPED)
    path = tmp_path / "clamped.toml"
    path.write_text(RECIPE)
    return path


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_a_target_out_of_reach_is_a_result_in_one_line(
    quantize: Callable[..., Ended], tmp_path: Path, clamped: Path, options: tuple[str, ...]
) -> None:
    """In this process, and once by the real program."""
    before = tmp_path / "out" / "clamped" / "clamped.int8.onnx"
    before.parent.mkdir(parents=True)
    before.write_bytes(b"of an earlier export")
    command = ("--target-sqnr", "30", *options)
    done = quantize(*command, recipe=clamped) if options else program(tmp_path, *command, recipe=clamped)
    assert done.code == 1
    (line,) = done.err.splitlines()
    assert line.startswith("edgeconv: failed: clamped: target: an SQNR of 30 dB cannot be reached: with every layer in")
    assert line.endswith("ask for less, or leave out relu6_as_relu")
    assert "--json" not in options or not done.out
    assert [path.name for path in before.parent.iterdir()] == [before.name]  # what was there stays whole
    assert before.read_bytes() == b"of an earlier export"


def test_a_target_that_no_device_judged_is_no_pass(
    quantize: Callable[..., Ended], tmp_path: Path, digits: Path
) -> None:
    done = quantize("--target-agreement", "0.9", "--device", "torch", "--quiet", recipe=digits)
    assert done.code == 1
    assert done.err.splitlines()[-1] == "edgeconv: failed: digits_dsc: nothing was compared"
    report = json.loads((tmp_path / "out" / "digits_dsc" / "parity.json").read_text())
    assert report["verdict"] == "fail"
    assert any(point["chosen"] for point in report["frontier"]["points"])
