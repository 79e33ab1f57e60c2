"""What the model's code raises where nobody expects it is told in one line; what is ours stays a bug of ours.

Members thought of: `modules`, `named_parameters`, `forward` as a property, hooks; constants of 4 TB by strides of 0;
memory that is not there, torch's, numpy's, Python's and the loader's; sizes of inputs that nobody could make, measured
and counted.
"""

from __future__ import annotations

import errno
from pathlib import Path

import onnx
import pytest

from edgeconv.cli import run
from edgeconv.cli._blame import blame

RECIPE = """
name = "net"
[model]
factory = "blamed_net:Net"
[[inputs]]
name = "x"
shape = [1, 3, 8, 8]
"""
RAISES = "raise ValueError('x')"
CODES = {
    f"class Net(nn.Conv2d):\n    def __init__(self): super().__init__(3, 4, 3)\n    def modules(self): {RAISES}": (
        "the module's code raised ValueError: x (blamed_net.py, line 5, in modules); fix that code"
    ),
    f"class Net(nn.Module):\n    @property\n    def forward(self): {RAISES}": "ValueError: x",
    "class Net(nn.Module):\n    def forward(self, x): return (torch.zeros(1).expand(10**6, 10**6) + x.sum()).sum()": (
        "a constant of 1e+12 elements"
    ),
}


@pytest.mark.parametrize("code", list(CODES))
@pytest.mark.parametrize("verb", ["export", "cost"])
def test_an_error_of_the_modules_code_is_one_line(
    verb: str, code: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "net.toml").write_text(RECIPE)
    (tmp_path / "blamed_net.py").write_text(f"import torch\nfrom torch import nn\n{code}\n")
    options = ["--out", str(tmp_path / "out"), "--no-parity", "-q"] if verb == "export" else []
    assert run([verb, str(tmp_path / "net.toml"), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert (CODES[code] if verb == "export" else "edgeconv: error: ") in line


def test_a_bug_of_ours_is_nobody_elses() -> None:
    with pytest.raises(AttributeError) as caught:
        blame(None)  # type: ignore[arg-type]  (raises in ours)
    assert blame(caught.value) == ""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: 4 TB"),
        ImportError("libXau.so.6: failed to map segment from shared object"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_memory_is_the_machines(error: Exception) -> None:
    assert blame(error).startswith("there is not enough memory")


@pytest.mark.parametrize("shape", [[-1, 3], [2**20, 2**20]])
def test_inputs_that_nobody_could_make_are_not_measured(
    shape: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = (onnx.helper.make_tensor_value_info(name, 1, shape) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "m.onnx")
    assert run(["bench", str(tmp_path / "m.onnx"), "--rounds", "1", "--device", "onnxruntime", "-q"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
