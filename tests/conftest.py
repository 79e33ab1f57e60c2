"""What the whole suite shares: how it is spread over processes, and real exports, made once.

`make test` runs two worker processes (pytest-xdist, `-n 2 --dist loadgroup`); plain `pytest` runs the same in one.

- A worker takes a whole file at a time, so that what a file's fixtures make is made once. `_DEAREST` are started first,
  so that no long file is left to one worker at the end.
- Tests that hold real processes to seconds of the clock, or send them signals, are one group across files and never
  run side by side: `pytestmark = pytest.mark.xdist_group("clock")`. Their names then end in "@clock".
- What files of several groups read is made by `made_once`: the first worker that asks makes it in a folder that all
  share, while the others wait. Tests only read it, or copy it.
- A worker computes on one thread, and torch does in the programs that it starts: four threads on two cores wait for
  each other, those of onnxruntime for as long again as they compute.
- Every worker imports every file: what is dear is made in fixtures and tests, not at import or in parameters.
- Our devices are forks of a process that has loaded their runtime (`programs.py`), but in the tests of devices.
- Of parameters that cross independent axes, `make test` runs a diagonal and `make test-all` the rest (`crossed.py`).
- Each test begins with the same random numbers, whatever ran before it in its worker.
- Everything else must not matter: no fixed paths or ports, no order, parameters with the same names in every process.
"""

from __future__ import annotations

import fcntl
import gc
import os
import random
import signal
from collections.abc import Callable
from copy import copy
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import one_thread  # noqa: F401  # isort: skip  (before numpy, which reads how many threads it may use when it is loaded)

import numpy as np
import programs
import pytest
from hypothesis import settings

import edgeconv

if TYPE_CHECKING:
    from xdist.scheduler import LoadScopeScheduling

ROOT = Path(edgeconv.__file__).parents[1]
# A busy machine is slow for reasons that no test is about: how long an example takes fails none of them.
settings.register_profile("edgeconv", settings(), deadline=None)
settings.load_profile("edgeconv")
WORKER = "PYTEST_XDIST_WORKER"  # pytest-xdist sets it, in workers only
# Folders that take longest, in the order in which they begin.
_DEAREST = ("e2e", "cli", "zoo", "contract", "house", "devices", "bench")


def _compute_on_one_thread() -> None:
    """Onnxruntime has to be told by each session; torch and numpy are told by `one_thread`."""
    import onnxruntime

    class OnOneThread(onnxruntime.InferenceSession):
        def __init__(self, model: Any, sess_options: Any = None, *rest: Any, **options: Any) -> None:
            sess_options = sess_options or onnxruntime.SessionOptions()
            sess_options.intra_op_num_threads = sess_options.intra_op_num_threads or 1
            super().__init__(model, sess_options, *rest, **options)

    onnxruntime.InferenceSession = OnOneThread


def _read_torchs_operators_once() -> None:
    """`torch.onnx.export` parses the source of its 500 functions in every call, which takes most of a small export."""
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    read = cache(ONNXRegistry.from_torchlib)

    def from_torchlib(opset_version: int = read().opset_version) -> ONNXRegistry:
        registry = copy(read(opset_version))
        registry.functions = {name: list(functions) for name, functions in registry.functions.items()}
        return registry

    ONNXRegistry.from_torchlib = staticmethod(from_torchlib)


def _decompose_without_repetition() -> None:
    """`run_decompositions` lists torch's operators 26 times, and evaluates the same annotation 11,000 times."""
    import typing

    import torch._ops
    from torch._export import utils

    torch._ops.Callable = typing.Callable  # its subscripts are cached; those of collections.abc are not
    utils._materialize_cpp_cia_ops = cache(utils._materialize_cpp_cia_ops)
    utils._collect_all_valid_cia_ops_for_aten_namespace = cache(utils._collect_all_valid_cia_ops_for_aten_namespace)


if WORKER in os.environ:
    gc.disable()  # until everything is imported
    _compute_on_one_thread()
    _read_torchs_operators_once()
    _decompose_without_repetition()

# In the background of a shell, or under nohup, programs start with signals ignored, and so would those under test.
for _number, _usual in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(_number) is signal.SIG_IGN:
        signal.signal(_number, _usual)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Seeds what modules and inputs are drawn with: which tests a worker ran before must not change a figure."""
    import torch

    programs.fork_devices(item.path.parent.name != "devices")
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> LoadScopeScheduling | None:
    """With `--dist loadgroup`: a group is what the mark says, otherwise the file, and groups begin in order."""
    if config.getoption("dist") != "loadgroup":
        return None
    from xdist.scheduler import LoadGroupScheduling

    class GroupOrFile(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return str(super()._split_scope(nodeid)).partition("::")[0]

    config.option.loadscopereorder = False  # by number of tests, which says little here
    return GroupOrFile(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In a worker, puts the dearest folders first."""
    if WORKER in os.environ:
        places = {ROOT / "tests" / folder: place for place, folder in enumerate(_DEAREST)}
        items.sort(key=lambda item: places.get(item.path.parent, len(places)))


def pytest_collection_finish() -> None:
    """In a worker, what is there now is no garbage, and is not looked through again; the rest is, a tenth as often."""
    if WORKER in os.environ:
        gc.freeze()
        gc.set_threshold(5_000, 10, 20)
        gc.enable()


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], object]) -> Path:
    """A folder that ``make`` has filled, one for all workers of this run; only read it."""
    base = factory.getbasetemp()
    folder = (base.parent if WORKER in os.environ else base) / f"made-once-{name}"
    finished = folder.with_suffix(".finished")
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not finished.exists():
            make(folder)
            finished.touch()
    return folder


@pytest.fixture(scope="session")
def dsconv_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole `edgeconv export` of the leading case, proven on every device; only read it."""
    from edgeconv.cli import run

    def export(folder: Path) -> None:
        recipe = ROOT / "models" / "dsconv_3x64_224.toml"
        assert run(["export", str(recipe), "--out", str(folder), "--quiet"]) == 0

    return made_once(tmp_path_factory, "dsconv", export) / "dsconv_3x64_224"


@pytest.fixture(scope="session")
def without_cpuid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copies of the runtimes that `processors.hidden.environment_of` answers for; only read them."""
    from processors.hidden import environment_of

    return made_once(tmp_path_factory, "processors", lambda folder: environment_of("avx2", folder))
