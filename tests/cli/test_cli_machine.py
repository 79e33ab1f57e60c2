"""What the machine lacks is told as that, whichever stage runs into it, and never as a fault of the model or the file.

Members thought of: open files (of the process and of the system), processes, threads, room for temporary files, a
quota, a folder for them at all; each in a factory, in a forward, while a device starts, before the command's own child
does; a process by whatever call, and what says the same of a stream or a lock; a working folder that was removed; an
output folder whose name no system takes.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import onnx
import programs
import pytest
from onnx import TensorProto, helper

from edgeconv.cli import run
from edgeconv.cli._blame import lacking
from edgeconv.core import Artifact, Sample, Verdict
from edgeconv.devices import Device, run_artifact

RECIPE = """
name = "net"
[model]
factory = "lacking_net:{factory}"
[[inputs]]
name = "x"
shape = [1, 3]
"""
NET = """
import os, torch
from torch import nn

def make():
    raise {error}

class Net(nn.Module):
    def forward(self, x):
        raise {error}
"""
TEMPORARY = "[Errno 2] No usable temporary directory found in ['/tmp']"
LACKS = {
    f"OSError({errno.EMFILE}, 'Too many open files')": "too many files are open; raise the limit (ulimit -n)",
    f"OSError({errno.ENFILE}, 'Too many open files in system')": "too many files are open; raise",
    f"OSError({errno.EDQUOT}, 'Disk quota exceeded', '/tmp/x')": "cannot write /tmp/x: Disk quota exceeded; make room",
    f"FileNotFoundError({errno.ENOENT}, {TEMPORARY!r})": "no folder for temporary files can be written; name one",
    'RuntimeError("can\'t start new thread")': "no further thread can be started; raise the limits",
}


@pytest.mark.parametrize("error", list(LACKS))
@pytest.mark.parametrize("factory", ["make", "Net"])
def test_no_model_is_blamed(factory: str, error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.toml").write_text(RECIPE.format(factory=factory))
    (tmp_path / "lacking_net.py").write_text(NET.format(error=error))
    assert run(["export", str(tmp_path / "net.toml"), "--out", str(tmp_path / "out"), "--no-parity", "-q"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert LACKS[error] in line
    assert "forward failed" not in line
    assert not (tmp_path / "out").exists()


def _refused(*_: object, **__: object) -> None:
    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


STARTS: dict[str, tuple[str, Callable[[], object]]] = {
    "Popen": ("subprocess._fork_exec", lambda: subprocess.Popen(["true"], close_fds=True, cwd="/")),
    "posix_spawn": ("os.posix_spawn", lambda: subprocess.Popen(["/bin/true"], close_fds=False)),
    "run": ("subprocess._fork_exec", lambda: subprocess.run(["true"], check=True, cwd="/")),
    "multiprocessing": ("os.fork", lambda: multiprocessing.get_context("fork").Process().start()),
    "spawned": ("_posixsubprocess.fork_exec", lambda: multiprocessing.get_context("spawn").Process().start()),
    "pty": ("os.forkpty", lambda: __import__("pty").fork()),
}


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("name", list(STARTS))
def test_a_process_that_cannot_be_started(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place, start = STARTS[name]
    with monkeypatch.context() as patch:
        patch.setattr(place, _refused)
        if name == "pty":
            patch.setattr("os.fork", _refused)
        with pytest.raises(BlockingIOError) as caught:
            start()
    assert lacking(caught.value) == "no further process can be started; end others, or raise the limit (ulimit -u)"


def test_a_stream_that_has_nothing_is_no_process() -> None:
    reader, _ = os.pipe()
    os.set_blocking(reader, False)
    with pytest.raises(BlockingIOError) as caught:
        os.read(reader, 1)
    assert lacking(caught.value) == ""
    fork = partial(os.read, reader, 1)  # a built-in function as os.fork is, which has no frame
    with pytest.raises(BlockingIOError) as caught:
        fork()
    assert "process" in lacking(caught.value)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EAGAIN, errno.ENOMEM])
def test_no_device_is_blamed(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def popen(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(subprocess, "Popen", popen)
    device = Device("odd", "odd", ("onnx",), lambda: [sys.executable])
    artifact = Artifact(tmp_path / "a.onnx", "onnx", "fp32", "nchw", "", (), ())
    result = run_artifact(device, artifact, [Sample("s", {})], timeout_s=5)
    assert result.verdict is Verdict.FAIL
    assert "this machine lacks files, processes or memory" in result.reason
    assert "command" not in result.reason


@pytest.mark.parametrize(("call", "words"), [("pipe", "too many files are open"), ("fork", "no further process")])
def test_the_command_itself_cannot_start(call: str, words: str) -> None:
    number = errno.EMFILE if call == "pipe" else errno.EAGAIN
    code = (
        f"import os\ndef fail(): raise OSError({number}, 'x')\nos.{call} = fail\n"
        "from edgeconv.cli._supervisor import supervised\nprint(supervised(lambda: 0))\n"
    )
    done = programs.run(code, code=True)
    assert (done.returncode, done.stdout) == (0, "2\n"), done
    assert done.stderr.startswith(f"edgeconv: error: {words}")
    assert done.stderr.count("\n") == 1


def test_a_working_folder_that_is_gone(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    code = "import os\nos.rmdir(os.getcwd())\nfrom edgeconv.cli import run\nprint(run(['operators']))\n"
    done = programs.run(code, code=True, cwd=tmp_path / "gone")
    assert done.stdout == "2\n", done
    assert done.stderr.startswith("edgeconv: error: the working folder is gone (No such file or directory);")


def test_a_name_that_is_too_long_is_the_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", values[:1], values[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, tmp_path / "net.onnx")
    out = tmp_path / ("a" * 300)
    assert run(["export", str(tmp_path / "net.onnx"), "--out", str(out), "--no-parity", "-q"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        "/net: cannot write here: File name too long; choose another folder with --out, or make room and check its"
        " permissions"
    )
