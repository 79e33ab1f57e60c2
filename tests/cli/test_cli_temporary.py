"""No temporary file stays, however a command ends.

Members thought of: an ordinary end, an error, an end of the process that runs no clean-up (os._exit, SIGKILL, a crash);
folders of other processes and links of such a name, which are nobody's business; what onnxruntime keeps to report its
use, of the command's own process, of its devices, and of calibrations and simplifications from Python.
"""

from __future__ import annotations

import os
from pathlib import Path

import onnx
import programs
import pytest
from onnx import TensorProto, helper

CODE = """
import os, signal, sys, tempfile
tempfile.tempdir = None  # the process that this one is a fork of has looked it up
from edgeconv.cli._supervisor import supervised
from edgeconv.flow.output import temporary

def work():
    with temporary() as folder:
        (folder / "large").write_text("x")
        assert str(folder.parent) == os.environ["TMPDIR"]
        assert list(folder.parent.glob(f"edgeconv-{os.getpid()}-*")) == [folder]
        os.symlink(os.environ["VICTIM"], folder.parent / f"edgeconv-{os.getpid()}-link")
        END
    return 0

sys.exit(supervised(work))
"""


@pytest.mark.parametrize(
    ("end", "code"),
    [("pass", 0), ("os._exit(0)", 2), ("os.kill(os.getpid(), signal.SIGKILL)", 2), ("os.abort()", 2)],
)
def test_temporary_folders_go_however_the_process_ends(end: str, code: int, tmp_path: Path) -> None:
    temporary, victim = tmp_path / "temporary", tmp_path / "victim"
    (temporary / f"edgeconv-{os.getpid()}-another").mkdir(parents=True)
    victim.mkdir()
    (victim / "file").write_text("precious")
    environment = {**os.environ, "TMPDIR": str(temporary), "VICTIM": str(victim)}
    done = programs.run(CODE.replace("END", end), code=True, env=environment)
    assert done.returncode == code, done
    assert done.stderr.count("\n") == (code == 2)
    left = [path for path in temporary.iterdir() if not path.is_symlink()]
    assert left == [temporary / f"edgeconv-{os.getpid()}-another"]
    assert (victim / "file").read_text() == "precious"


def test_the_home_folder_stays_as_it_is(tmp_path: Path) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    (tmp_path / "home").mkdir()
    environment = {**os.environ, "HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "home")}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    environment.pop("XDG_CACHE_HOME", None)
    command = ["export", str(tmp_path / "net.onnx"), "--out", str(tmp_path / "out"), "--format", "onnx", "-q"]
    command += ["--device", "onnxruntime"]
    done = programs.run(command, fresh=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert list((tmp_path / "home").rglob("*")) == []


SILENT = """
import os
import numpy as np, onnx_ir as ir
from edgeconv.emit.onnx._onnxsim import onnxsim
from edgeconv.quantize import calibrate
IMPORT
x = ir.val("x", ir.DataType.FLOAT, [1, 4])
y = ir.val("y", ir.DataType.FLOAT, [1, 4])
graph = ir.Graph([x], [y], nodes=[ir.node("Relu", [x], outputs=[y])], opset_imports={"": 18}, name="g")
ACT
print(os.environ["ORT_DISABLE_TELEMETRY"])
"""
CALIBRATE = "calibrate(ir.Model(graph, ir_version=10), [{'x': np.ones((1, 4), np.float32)}])"


@pytest.mark.parametrize("act", [CALIBRATE, "onnxsim()"])
@pytest.mark.parametrize("stated", [None, "0"])
def test_sessions_of_python_report_nothing(act: str, stated: str | None, tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    if stated is not None:
        environment["ORT_DISABLE_TELEMETRY"] = stated  # who wants the reports
    code = SILENT.replace("IMPORT", "import sys; assert 'onnxruntime' not in sys.modules").replace("ACT", act)
    done = programs.run(code, code=True, fresh=True, env=environment)
    assert (done.returncode, done.stdout) == (0, f"{stated or '1'}\n"), done.stderr
    assert stated is not None or list(tmp_path.rglob("*")) == []
