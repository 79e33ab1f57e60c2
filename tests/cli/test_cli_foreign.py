"""Whatever the module's code does to the process, the command ends with 2 and one line, or writes where it was told to.

Members thought of: a factory, a forward, an import, a calibration generator that call os._exit (also with 0), kill
themselves, abort, overflow the stack, divide by zero in C, raise exceptions that are no Exception (also
KeyboardInterrupt and GeneratorExit), never return in Python, in C, and while catching everything or ignoring signals;
that change the folder, default dtype and device, gradients, the file mask, the environment, signal handlers, streams;
that print, also through C, and at the end of the program; that leave a thread which never ends; that fork and return
twice, close the standard streams or all files, forbid imports, enter autocast, make errors of warnings,
replace functions that write files and print.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import programs
import pytest

RECIPE = """
name = "foreign"
[model]
factory = "foreign_code:make"
[[inputs]]
name = "x"
shape = [1, 3, 8, 8]
[export]
formats = ["onnx"]
{more}
"""
MODULE = """
import atexit, builtins, ctypes, gc, json, os, pathlib, signal, sys, threading, time, warnings
import numpy, torch
from torch import nn

class Odd(BaseException):
    pass

def odd():
    {code}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
    def forward(self, x):
        {forward}
        return self.conv(x)

def make():
    {factory}
    return Net()

def batches():
    yield numpy.zeros((1, 3, 8, 8), numpy.float32)
    {generator}
"""
PLACES = ("factory", "forward", "generator")


def _export(
    folder: Path, code: str, place: str, *options: str, timeout_s: float = 120.0
) -> subprocess.CompletedProcess[str]:
    calls = {name: "odd()" if name == place else "pass" for name in PLACES}
    (folder / "foreign_code.py").write_text(MODULE.format(code=code, **calls))
    more = '[quantize]\ngenerator = "foreign_code:batches"\n' if place == "generator" else ""
    (folder / "foreign.toml").write_text(RECIPE.format(more=more))
    if place == "generator":
        options = (*options, "--variant", "int8")
    command = ["export", "foreign.toml", "--out", "out", "--no-parity", *options]
    # Where it forbids imports, edgeconv has most of its own still to make.
    return programs.run(command, cwd=folder, timeout=timeout_s, fresh="sys.modules" in code)


ENDS = {
    "os._exit(0)": "ended the process",
    "os._exit(3)": "ended the process",
    "os.kill(os.getpid(), signal.SIGKILL)": "SIGKILL",
    "os.abort()": "SIGABRT",
    "ctypes.string_at(0)": "SIGSEGV",
    "raise Odd('no\\x1b[2J end')": "Odd",
    "raise KeyboardInterrupt": "KeyboardInterrupt",
    "raise GeneratorExit": "GeneratorExit",
    "sys.exit(0)": "sys.exit",
    "sys.modules.clear()": "raised AttributeError",
}


@pytest.mark.parametrize(
    ("code", "place"),
    [(code, "factory") for code in ENDS]
    + [(code, "forward") for code in ("os._exit(0)", "os.abort()", "raise Odd")]
    + [(code, "generator") for code in ("os._exit(0)", "raise Odd")],
)
def test_the_end_of_the_process_is_told(code: str, place: str, tmp_path: Path) -> None:
    done = _export(tmp_path, code, place, "--json")
    assert done.returncode == 2, done
    assert done.stdout == ""
    last = done.stderr.splitlines()[-1]
    assert last.startswith("edgeconv: error: ")
    assert ENDS.get(code, "Odd") in last
    assert last.isprintable()
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("code", "place"),
    [
        ("time.sleep(600)", "factory"),
        pytest.param("time.sleep(600)", "forward", marks=pytest.mark.slow),
        pytest.param("time.sleep(600)", "generator", marks=pytest.mark.slow),
        ("signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32)); time.sleep(600)", "factory"),
        pytest.param("ctypes.CDLL(None).pause(); ctypes.CDLL(None).sleep(600)", "factory", marks=pytest.mark.slow),
    ],
)
def test_a_limit_ends_what_never_returns(code: str, place: str, tmp_path: Path) -> None:
    started = time.monotonic()
    done = _export(tmp_path, code, place, "--timeout", "2", "-q")
    assert done.returncode == 2, done
    assert done.stderr.splitlines()[-1].startswith("edgeconv: error: not done within the 2 s of --timeout")
    assert time.monotonic() - started < 40
    assert not (tmp_path / "out").exists()


SWALLOWED = """
    try:
        os.kill(os.getpid(), signal.{name})
        time.sleep(1)
    except BaseException:
        {then}
"""


@pytest.mark.parametrize(
    ("name", "then", "code"),
    [
        ("SIGINT", "pass", 130),
        ("SIGINT", "raise AssertionError('cut short')", 130),
        ("SIGTERM", "pass", 143),
    ],
)
@pytest.mark.parametrize("options", [(), ("-q",)])
def test_a_signal_that_is_swallowed_ends_it_all_the_same(
    name: str, then: str, code: int, options: tuple[str, ...], tmp_path: Path
) -> None:
    """By callbacks of native code, destructors, and clean-ups that fail as they are cut short."""
    done = _export(tmp_path, SWALLOWED.format(name=name, then=then), "factory", *options)
    assert done.returncode == code, done
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("edgeconv: interrupted;" if name == "SIGINT" else "edgeconv: terminated;")
    assert not (tmp_path / "out").exists()


CHANGES = (
    "os.mkdir('elsewhere'); os.chdir('elsewhere'); os.rename('../elsewhere', '../moved')",
    "torch.set_grad_enabled(True); torch.use_deterministic_algorithms(True); numpy.seterr(all='raise'); gc.disable()",
    "os.umask(0o777); os.environ.clear()",
    "sys.stdout = open(os.devnull, 'w')",
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    "print('noise'); ctypes.CDLL(None).puts(b'noise'); os.system('echo noise'); sys.__stdout__.write('noise')",
    "atexit.register(print, 'noise'); atexit.register(os.write, 1, b'noise')",
    "threading.Thread(target=time.sleep, args=(600,)).start()",
    "os.fork()",
    "sys.stdout.close(); sys.stderr.close(); sys.modules['hashlib'] = None; warnings.simplefilter('error')",
    "os.replace = os.rename = lambda *_: None; builtins.print = builtins.open = json.dumps = os.replace",
)


@pytest.mark.parametrize("code", CHANGES)
def test_what_it_changes_is_put_back(code: str, tmp_path: Path) -> None:
    done = _export(tmp_path, code, "factory", "--json", timeout_s=90)
    assert done.returncode == 0, done
    (result,) = json.loads(done.stdout)
    assert [item["file"] for item in result["artifacts"]] == ["foreign.fp32.onnx"]
    assert (tmp_path / "out/foreign/foreign.fp32.onnx").stat().st_size > 500
    assert (tmp_path / "out/foreign/foreign.fp32.onnx").stat().st_mode & 0o600 == 0o600


def test_a_command_whose_files_are_closed_says_so(tmp_path: Path) -> None:
    """Its result cannot be printed any more, and its end not be told to the process that waits for it."""
    done = _export(tmp_path, "os.closerange(3, 4096)", "factory", "--json")
    assert done.returncode == 2, done
    (told,) = done.stderr.splitlines()
    assert "or closed files of the command's; fix it" in told
    assert done.stdout == ""


def test_settings_are_put_back(tmp_path: Path) -> None:
    import gc
    import warnings

    import numpy as np
    import torch

    from edgeconv.recipe.foreign import state_restored

    before = (Path.cwd(), torch.get_default_dtype(), torch.get_default_device(), np.geterr(), os.umask(0o022))
    os.umask(before[-1])
    with state_restored():
        os.chdir(tmp_path)
        torch.set_default_dtype(torch.float64)
        torch.set_default_device("meta")
        np.seterr(all="raise")
        os.umask(0o777)
        gc.disable()
        torch.autocast("cpu", torch.float16).__enter__()
        warnings.simplefilter("error", FutureWarning)
        sys.modules.pop("json")
    after = (Path.cwd(), torch.get_default_dtype(), torch.get_default_device(), np.geterr(), os.umask(0o022))
    os.umask(before[-1])
    assert after == before
    assert gc.isenabled()
    assert (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")) == (False, torch.bfloat16)
    assert ("error", None, FutureWarning, None, 0) not in warnings.filters
    assert sys.modules["json"] is json
    assert torch.zeros(1).device.type == "cpu"
