"""What `edgeconv bench` measures: real files on real runtimes, and devices whose numbers are known."""

from __future__ import annotations

import json
import sys
import textwrap
from pathlib import Path

import onnx
import pytest

from edgeconv.bench import Effort, bench, find_files, median_ratio, read_file, summary_of
from edgeconv.cli import run
from edgeconv.core import Verdict
from edgeconv.devices import AGENT, Device, find
from edgeconv.errors import EmitError

QUICK = Effort(rounds=2, runs=2)

# The real agent's talk around a runtime that each test writes; its latencies are what it says they are.
AGENT_WITH_RUNTIME = """
import importlib.util, os, signal, sys
import numpy as np
spec = importlib.util.spec_from_file_location("agent", {agent!r})
agent = importlib.util.module_from_spec(spec)
sys.modules["agent"] = agent
spec.loader.exec_module(agent)
class Runtime:
    version = "1.0"
    loads = runs = 0
    def __init__(self, threads): pass
    def load(self, model):
        self.loads, self.runs = self.loads + 1, 0
        return ["x"], ["y"]
    def run(self, arrays):
        self.runs += 1
        return self.latency_ms(), [("y", arrays[0][1])]
    def latency_ms(self): return 2.0
{changes}
agent.RUNTIMES["onnxruntime"] = Runtime
sys.exit(agent.main(["onnxruntime"]))
"""


def device(name: str, changes: str = "") -> Device:
    body = textwrap.indent(textwrap.dedent(changes), "    ")
    code = AGENT_WITH_RUNTIME.format(agent=str(AGENT), changes=body)
    return Device(name, name, ("onnx",), lambda: [sys.executable, "-c", code])


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    """The folder of an .onnx file whose batch is open."""
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ("batch", 3, 4, 5)) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Abs", ["x"], ["y"])], "identity", [x], [y])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "identity.onnx")
    return tmp_path


def test_an_exports_files_are_found_with_size_and_operators(dsconv_export: Path) -> None:
    files = {file.name: file for file in find_files(dsconv_export)}
    assert files["dsconv_3x64_224.fp32.tflite"].operators == 4
    assert files["dsconv_3x64_224.fp32.onnx"].operators == 4
    for name, file in files.items():
        assert file.size_bytes == (dsconv_export / name).stat().st_size
    below = find_files(dsconv_export.parent)
    assert {file.name for file in below} == {f"{dsconv_export.name}/{name}" for name in files}


def test_every_format_is_measured_on_its_runtime(dsconv_export: Path) -> None:
    rows = bench(find_files(dsconv_export), [find("onnxruntime"), find("litert")], effort=QUICK)
    assert {(row.file.artifact.format, row.device) for row in rows} == {("onnx", "onnxruntime"), ("tflite", "litert")}
    for row in rows:
        assert row.verdict is Verdict.PASS, row.reason
        assert row.latency is not None
        assert row.latency.runs == 4
        assert 0 < row.latency.min_ms <= row.latency.median_ms <= row.latency.p90_ms
        if sys.platform == "linux":
            # the output alone is 1x64x224x224 floats
            assert (row.peak_memory_bytes or 0) - (row.idle_memory_bytes or 0) > 64 * 224 * 224 * 4


def test_the_first_run_after_a_load_does_not_count(identity: Path) -> None:
    cold = device("cold", "def latency_ms(self): return 2.0 if self.runs > 1 else 100.0")
    (row,) = bench(find_files(identity), [cold], effort=Effort(rounds=3, runs=4))
    assert row.latency is not None
    assert (row.latency.median_ms, row.latency.p90_ms, row.latency.runs) == (2.0, 2.0, 12)


def test_slow_devices_get_fewer_runs() -> None:
    effort = Effort(runs=5, turn_ms=1000)
    assert [effort.runs_at(latency_ms) for latency_ms in (0.0, 10.0, 300.0, 4000.0)] == [5, 5, 3, 1]


def test_a_crash_is_a_row_and_the_others_are_measured(identity: Path) -> None:
    crashing = device("crashing", "def latency_ms(self): return 2.0 if self.loads < 3 else os.kill(os.getpid(), 9)")
    rows = bench(find_files(identity), [crashing, device("sound")], effort=Effort(rounds=3, runs=2))
    assert [row.verdict for row in rows] == [Verdict.FAIL, Verdict.PASS]
    assert "SIGKILL" in rows[0].reason
    assert rows[0].latency is None
    assert rows[1].latency is not None
    assert rows[1].latency.runs == 6


def test_what_is_not_installed_is_skipped_with_the_hint(identity: Path) -> None:
    missing = Device("missing", "missing", ("onnx",), lambda: ["no-such-command"])
    absent = Device("absent", "absent", ("onnx",), lambda: [sys.executable, "-S", "-I", str(AGENT), "onnxruntime"])
    broken = Device("broken", "broken", ("onnx",), lambda: [sys.executable, "-c", "print('nonsense', flush=True)"])
    rows = bench(find_files(identity), [missing, absent, broken], effort=QUICK)
    assert rows[0].verdict is Verdict.SKIPPED
    assert "no-such-command" in rows[0].reason
    assert rows[2].verdict is Verdict.FAIL
    assert all(row.reason and row.latency is None for row in rows)


def test_ratios_are_taken_pair_by_pair() -> None:
    # the machine slows down tenfold half-way: pairs do not care, medians of all would
    assert median_ratio([1, 1, 10], [2, 2, 20]) == 0.5
    with pytest.raises(ValueError, match="shorter"):
        median_ratio([1, 1], [1])
    assert summary_of([1, 2, 3, 4, 100]).median_ms == 3
    with pytest.raises(ValueError, match="no latency"):
        summary_of([])


@pytest.mark.parametrize("name", ["a.onnx", "a.tflite", "a.txt"])
def test_damaged_and_strange_files_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"\x08\x07nonsense and no model at all")
    with pytest.raises(EmitError):
        read_file(tmp_path / name)


def test_the_command_prints_rows_for_programs(identity: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", str(identity), "--rounds", "1", "--runs", "1", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    (row,) = document["rows"]
    assert (row["artifact"], row["device"], row["operators"]) == ("identity.onnx", "onnxruntime", 1)
    assert row["latency"]["runs"] == 1
    assert document["environment"]["device onnxruntime"]["threads"] == "1"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{empty}"], "no .onnx or .tflite file"),
        (["{folder}", "--device", "onnxruntim"], "did you mean onnxruntime"),
        (["{folder}", "--device", "litert"], "takes none of these files"),
        (["{folder}", "--rounds", "0"], "rounds"),
    ],
)
def test_mistakes_are_told_in_one_line(
    arguments: list[str],
    words: str,
    identity: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capfd: pytest.CaptureFixture[str],
) -> None:
    places = {"folder": str(identity), "empty": str(tmp_path_factory.mktemp("empty"))}
    assert run(["bench", *(argument.format(**places) for argument in arguments)]) == 2
    printed = capfd.readouterr().err.strip()
    assert words in printed
    assert len(printed.splitlines()) == 1
