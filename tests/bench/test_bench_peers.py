"""The bench beside the peers: what it makes of numbers, and that it runs (without the peers' gigabytes)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from networks import NETWORKS, SETS, chosen
from plot import svg
from results import best_ratio, markdown, speed_up, summarize
from runtimes import check
from tools import INT8, TOOLS

RUN = Path(__file__).with_name("run.py")


def _file(turns_ms: list[float], verdict: str = "ok") -> dict[str, Any]:
    return {
        "size_bytes": 1000,
        "operators": 3,
        "delegation": {"partitions": 1, "operators_outside": 0},
        "parity": {"verdict": verdict, "max_abs": 0.5, "max_output": 1.0, "reason": ""},
        "latency": {"median_ms": turns_ms[0], "turns_ms": turns_ms},
    }


@pytest.fixture
def document() -> dict[str, Any]:
    """One network: onnx2tf's file is fastest but wrong, litert-torch failed in its NHWC form."""
    tflite = {
        "edgeconv": _file([2.0, 20.0]),
        "litert-torch": _file([4.0, 40.0]),
        "litert-torch-nhwc": {"error": "RuntimeError: no"},
        "onnx2tf": _file([1.0, 10.0], "wrong"),
    }
    exports = {
        "edgeconv": {"seconds": [1.0, 3.0, 1.0], "versions": {"torch": "2"}, "peak_memory_bytes": 2**20},
        "torch.onnx": {"seconds": [4.0]},
        "litert-torch": {"seconds": [8.0]},
        "onnx2tf": {"error": "KeyError: <x\x00>"},
    }
    network = {"name": "net", "parallel_branches": True, "exports": exports, "files": {"tflite": tflite, "onnx": {}}}
    environment = {"cpu": "x", "cores": "2", "python": "3", "onnxruntime": "1", "ai-edge-litert": "2"}
    return {"networks": [network], "environment": environment, "seconds": 60.0}


def test_a_wrong_file_is_no_rival_and_is_named(document: dict[str, Any]) -> None:
    (network,) = document["networks"]
    assert best_ratio(network, "tflite") == ("litert-torch", 0.5)
    assert best_ratio(network, "onnx") is None
    text = markdown(document)
    assert "1.00 (wrong)" in text
    assert "the .tflite of onnx2tf is wrong: max |error| 5.0e-01" in text
    assert "the .tflite of litert-torch-nhwc does not run on LiteRT: RuntimeError: no" in text
    assert "onnx2tf failed: KeyError: \\<x?>" in text


def test_a_wrong_file_of_our_own_has_no_ratio(document: dict[str, Any]) -> None:
    (network,) = document["networks"]
    network["files"]["tflite"]["edgeconv"]["parity"]["verdict"] = "wrong"
    assert best_ratio(network, "tflite") is None
    assert "latency over the best peer" not in summarize(document)


def test_the_medians_of_whoever_makes_both_files_are_compared(document: dict[str, Any]) -> None:
    (network,) = document["networks"]
    assert speed_up(network, "litert-torch + torch.onnx") == 12.0
    assert speed_up(network, "onnx2tf + torch.onnx") is None
    assert "least 12.0" in summarize(document)


def test_the_picture_has_a_dot_for_every_right_file_and_pair(document: dict[str, Any]) -> None:
    picture = svg(document)
    assert picture.count("<title>") == 2
    assert "net, litert-torch: 2.00 times" in picture
    assert "net, litert-torch + torch.onnx: 12.00 times" in picture


def _with_int8(document: dict[str, Any]) -> dict[str, Any]:
    """An int8 .tflite that is twice as fast as the fp32 one, a quarter of its size and 21.25 dB; no .onnx."""
    (network,) = document["networks"]
    file = _file([1.0, 10.0]) | {"size_bytes": 250}
    file["parity"] |= {"verdict": "approximate", "sqnr_db": 21.25}
    file["delegation"] = {"partitions": 3, "operators_outside": 2, "outside": {"GELU": 2}}
    network["files"]["tflite"][INT8] = file
    network["exports"][INT8] = {
        "seconds": [2.5],
        "refusals": {"onnx": "net: <no> form"},
        "kept_float": {"a": "Erf has no integer form", "b": "Erf has no integer form", "c": "it was asked for"},
    }
    return document


def test_int8_files_stand_beside_fp32_and_not_among_the_peers(document: dict[str, Any]) -> None:
    before, picture = markdown(document), svg(document)
    assert "int8" not in before
    text = markdown(_with_int8(document))
    assert "| net † | 2000 | 1000 | **0.50** | - | - | - | 21.2, - | 0.25, - | 2.5 | 3 | 2 |" in text
    assert "What stays in float:\n\n- net †: 2 Erf has no integer form, 1 it was asked for" in text
    assert "What stays outside XNNPACK:\n\n- net †: 2 GELU" in text
    assert f"net: {INT8} makes no .onnx: net: \\<no> form" in text
    assert "LiteRT, int8 latency over fp32: geometric mean 0.50 over 1 of 1 networks" in text
    for heading in ("Latency on LiteRT: median ms, one thread", ".tflite files", "Export: both files"):
        assert _section(text, heading) == _section(before, heading)
    assert svg(document) == picture
    assert best_ratio(document["networks"][0], "tflite") == ("litert-torch", 0.5)
    assert f".tflite of {INT8}" not in text


def _section(text: str, heading: str) -> str:
    return text.split(f"## {heading}")[1].split("\n## ")[0]


def test_int8_that_computes_nonsense_has_no_ratio(document: dict[str, Any]) -> None:
    (network,) = _with_int8(document)["networks"]
    network["files"]["tflite"][INT8]["parity"] = {"verdict": "wrong", "reason": "NaN or infinite elements"}
    text = markdown(document)
    assert "| net † | 2000 | 1000 | - |" in text
    assert f"the .tflite of {INT8} is wrong: NaN or infinite elements" in text


@pytest.fixture
def absolute(tmp_path: Path) -> Path:
    """An .onnx file of one Abs."""
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, 3)) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Abs", ["x"], ["y"])], "absolute", [x], [y])
    onnx.save(
        onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9),
        tmp_path / "f.onnx",
    )
    return tmp_path


@pytest.mark.parametrize(
    ("x", "variant", "verdict"),
    [([1, -2, 3], "fp32", "wrong"), ([1, -2, 3], "int8", "approximate"), ([1, np.nan, 3], "int8", "wrong")],
)
def test_only_float_files_are_held_to_the_tolerance(absolute: Path, x: list[float], variant: str, verdict: str) -> None:
    values = np.asarray([x], np.float32)
    np.savez(absolute / "values.npz", x=values, y=np.abs(values.astype(np.float64)) / 1.1)  # a tenth off: 20 dB
    found = check({"file": str(absolute / "f.onnx"), "values": str(absolute / "values.npz"), "variant": variant})
    assert found["parity"]["verdict"] == verdict
    if np.isfinite(x).all():
        assert found["parity"]["sqnr_db"] == pytest.approx(20, abs=1e-4)


class _Determinant(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.linalg.det(self.conv(x))


def test_where_one_format_is_refused_the_other_is_made(tmp_path: Path) -> None:
    # TFLite has no Det; the .onnx file computes it in float
    made = TOOLS[INT8].load()(_Determinant().eval(), torch.zeros(1, 3, 8, 8), tmp_path)
    assert list(made.files) == ["onnx"]
    assert list(made.refusals) == ["tflite"]
    assert "Det" in made.refusals["tflite"]
    assert any("Det" in reason for reason in made.kept_float.values())
    operators = {node.op_type for node in onnx.load(made.files["onnx"]).graph.node}
    assert "QuantizeLinear" in operators


def test_networks_are_chosen_by_name_and_set() -> None:
    assert [network.name for network in chosen("repghost, quick repghost")] == ["repghost", *SETS["quick"]]
    assert set(SETS["quick"]) < set(SETS["full"]) == set(NETWORKS)
    with pytest.raises(KeyError, match="nearest: mobilenetv2_w1"):
        chosen("mobilenet_v2_w1")


@pytest.mark.parametrize(
    ("name", "millions", "norms"),
    # counted by hand from the papers' tables: every branch has its BatchNorm (RepVGG-A0: 22 blocks of 2 branches, and
    # 17 of them have the identity too)
    [("repvgg_a0", 9.11, 61), ("mobileone_s0", 5.29, 226), ("fastvit_t8", 4.03, 70), ("repghost", 3.37, 112)],
)
def test_branched_networks_are_as_trained(name: str, millions: float, norms: int) -> None:
    module = NETWORKS[name].build().eval()
    assert sum(parameter.numel() for parameter in module.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)
    assert sum(isinstance(layer, torch.nn.BatchNorm2d) for layer in module.modules()) == norms
    with torch.no_grad():
        assert module(torch.zeros(1, 3, 64, 64)).shape == (1, 1000)


@pytest.mark.slow
def test_the_bench_runs_without_peers(tmp_path: Path) -> None:
    options = ["--tools", f"edgeconv,{INT8}", "--networks", "digits_dsc", "--rounds", "2", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, str(RUN), *options], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    (network,) = json.loads((tmp_path / "bench.json").read_text())["networks"]
    assert network["exports"]["edgeconv"]["seconds"]
    for format_ in ("onnx", "tflite"):
        file = network["files"][format_]["edgeconv"]
        assert file["parity"]["verdict"] == "ok"
        assert len(file["latency"]["turns_ms"]) == 2
        int8 = network["files"][format_][INT8]
        assert int8["parity"]["verdict"] == "approximate"
        assert int8["parity"]["sqnr_db"] > 20
        assert len(int8["latency"]["turns_ms"]) == 2
    assert network["files"]["tflite"]["edgeconv"]["delegation"] == {
        "partitions": 1,
        "operators_outside": 0,
        "outside": {},
    }
    assert (tmp_path / "bench.svg").exists()
    assert (tmp_path / "bench.md").exists()
