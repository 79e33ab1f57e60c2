"""A fault that is planted into a stage of the flow breaks that stage's link: exit code 1, and a line that says where.

Rewrites, both writers and a runtime are made wrong one after the other, and the recipe is exported by the command line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import numpy_helper
from planted_stages import fold_without_eps, reading_other_numbers, with_other_numbers

import edgeconv.rewrite
from edgeconv import core
from edgeconv.cli import run
from edgeconv.devices import find
from edgeconv.emit import onnx as onnx_emitter
from edgeconv.emit.tflite.lower._lowering import Lowering
from edgeconv.flow import judge
from edgeconv.rewrite import Rewrite

RECIPE = """
name = "net"
[model]
factory = "edgeconv.nn:MobileNetDSC"
args = { num_classes = 10, stem_channels = 8, blocks = [[16, 2], [16, 1]] }
[model.warmup]
seed = 1
[[inputs]]
name = "input"
shape = [1, 3, 32, 32]
[export]
formats = ["FORMAT"]
[parity]
devices = ["DEVICE"]
"""


class _Proof:
    """What the command line and its report say of an export."""

    def __init__(self, folder: Path, format_: str, capsys: pytest.CaptureFixture[str]) -> None:
        recipe = RECIPE.replace("FORMAT", format_).replace("DEVICE", "onnxruntime" if format_ == "onnx" else "litert")
        (folder / "net.toml").write_text(recipe)
        self.code = run(["export", str(folder / "net.toml"), "--out", str(folder / "out")])
        self.told = "".join(capsys.readouterr())
        self.report: dict[str, Any] = json.loads((folder / "out/net/parity.json").read_text())

    def broken(self) -> dict[str, dict[str, Any]]:
        """The links that do not hold, of the file and of its rows."""
        (artifact,) = self.report["artifacts"]
        rows = [row for row in self.report["comparisons"] if row["artifact"]]
        links = [*artifact["links"], *(link for row in rows for link in row["links"])]
        return {link["link"]: link for link in links if link["verdict"] == "fail"}

    def reason(self) -> str:
        """Why the file's row fails, in one line."""
        (row,) = [row for row in self.report["comparisons"] if row["artifact"]]
        assert row["verdict"] == self.report["verdict"] == "fail"
        assert self.code == 1
        assert "\n" not in row["reason"]
        return str(row["reason"])


def _another_slope(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last pass of the table changes an attribute of a layer in the middle, by a thousandth."""
    right = edgeconv.rewrite._run

    def wrong(rewrite: Rewrite, model: ir.Model) -> bool:
        modified = right(rewrite, model)
        if rewrite.name == "remove-unused":
            second = [node for node in model.graph if node.op_type == "LeakyRelu"][1]
            second.attributes["alpha"] = ir.AttrFloat32("alpha", 0.1001)
        return modified

    monkeypatch.setattr(edgeconv.rewrite, "_run", wrong)


@pytest.mark.parametrize(
    ("plant", "rewrite", "layer", "cause"),
    [
        (fold_without_eps, "fold-batch-norm", "stem.1", "the eps of BatchNormalization stem.1 is 0 instead of 1e-05"),
        (_another_slope, "remove-unused", "features.0.depthwise.2", "(slope|alpha).* is 0.1001.* instead of 0.1"),
    ],
)
def test_a_wrong_rewrite_breaks_link_1(
    plant: Callable[[pytest.MonkeyPatch], None],
    rewrite: str,
    layer: str,
    cause: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plant(monkeypatch)
    proof = _Proof(tmp_path, "onnx", capsys)
    reason = proof.reason()
    assert f"link 1 (rewrites) breaks: {layer} is " in reason
    assert f"; without the rewrite {rewrite} the link holds" in reason
    assert re.search(f"cause: .*{cause}", reason), reason
    assert list(proof.broken()) == ["rewrites"], "the file says what the wrong graph says"
    assert f"link 1 (rewrites) breaks: {layer}" in proof.told


def _writer_of_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    right = onnx_emitter.to_onnx

    def wrong(*arguments: Any, **options: Any) -> core.Emitted:
        emitted = right(*arguments, **options)
        return replace(emitted, data=with_other_numbers(emitted.data, [10, 16], moved))

    def moved(array: core.Array) -> None:
        array[3, 5] = np.nextafter(array[3, 5], np.float32(np.inf))

    monkeypatch.setattr(onnx_emitter, "to_onnx", wrong)


def _writer_of_tflite(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Lowering.emit

    def wrong(low: Lowering, operator: str, *arguments: Any, **options: Any) -> Any:
        if "alpha" in options:
            options["alpha"] = 0.1001
        return right(low, operator, *arguments, **options)

    monkeypatch.setattr(Lowering, "emit", wrong)


@pytest.mark.parametrize(
    ("format_", "plant", "layer", "words"),
    [
        ("onnx", _writer_of_onnx, "classifier", r"1 of 160 numbers is not .* \(1 ulp\)"),
        ("tflite", _writer_of_tflite, "stem.2", r"cause: the slope of LeakyRelu stem\.2 is 0\.1001"),
    ],
)
def test_a_wrong_writer_breaks_link_3(
    format_: str,
    plant: Callable[[pytest.MonkeyPatch], None],
    layer: str,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    plant(monkeypatch)
    proof = _Proof(tmp_path, format_, capsys)
    reason = proof.reason()
    assert re.search(rf"link 3 \(writing\) breaks: .*{re.escape(layer)}", reason), reason
    assert re.search(words, reason), reason
    assert "writing" in proof.broken()
    assert "rewrites" not in proof.broken()
    assert "link 3 (writing) breaks" in proof.told


@pytest.mark.parametrize(
    ("operator", "options", "words"),
    [
        ("RandomUniformLike", {}, "the file has RandomUniformLike, and the graph has not"),
        ("Transpose", {"perm": [0, 1]}, "the file cannot be evaluated: planted: Transpose"),
    ],
)
def test_an_operator_that_no_reference_computes_breaks_link_3(
    operator: str,
    options: dict[str, Any],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    right = onnx_emitter.to_onnx

    def wrong(*arguments: Any, **settings: Any) -> core.Emitted:
        emitted = right(*arguments, **settings)
        model = onnx.load_from_string(emitted.data)
        at = next(index for index, node in enumerate(model.graph.node) if node.op_type == "LeakyRelu")
        node = model.graph.node[at]
        model.graph.node.insert(at, onnx.helper.make_node(operator, list(node.input), ["planted"], **options))
        model.graph.node[at + 1].input[0] = "planted"
        return replace(emitted, data=model.SerializeToString())

    monkeypatch.setattr(onnx_emitter, "to_onnx", wrong)
    proof = _Proof(tmp_path, "onnx", capsys)
    assert proof.code == 1
    reason = proof.broken()["writing"]["reason"]
    assert re.search(words, reason), reason


def test_a_wrong_runtime_breaks_link_4(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "right").mkdir()
    right = _Proof(tmp_path / "right", "onnx", capsys)
    assert right.code == 0
    assert not right.broken()
    graph = onnx.load(tmp_path / "right/out/net/net.fp32.onnx").graph
    weight = next(numpy_helper.to_array(item) for item in graph.initializer if list(item.dims) == [16, 8, 1, 1])
    faulty = reading_other_numbers(find("onnxruntime"), weight, weight[::-1], tmp_path)
    monkeypatch.setattr(judge, "find", lambda name: faulty)
    proof = _Proof(tmp_path, "onnx", capsys)
    reason = proof.reason()
    assert "link 4 (running) breaks: layer features.0.pointwise." in reason
    assert "cause: the kernel of Conv features.0.pointwise.1 is upside down in its outputs" in reason
    assert list(proof.broken()) == ["running"]
    assert "link 4 (running) breaks" in proof.told
