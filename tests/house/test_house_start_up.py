"""What each verb leaves alone when it starts: torch takes a second and 200 MB, sympy a quarter, numpy a tenth.

Verbs thought of: importing edgeconv, `--help` of the program and of a verb, `--version`, `completion`, `init`,
`inspect` of both formats, `devices`, exports of an .onnx file to both formats, with a file that calculates shapes and
moves weights, `parity` and `bench` of what was exported.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgeconv.cli import run

# Packages that are dear to import, beside what only tests need.
HEAVY = (
    *("torch", "onnxruntime", "onnxscript", "onnxsim", "onnx", "onnx_ir", "ai_edge_litert", "numpy", "scipy"),
    *("pydantic", "jinja2", "PIL", "rich", "safetensors", "uv", "sympy.core"),
)
# Rooms of ours, of which a package whose names come on first use is no part.
ROOMS = ("bench", "devices", "emit.onnx", "parity", "quantize", "report", "rewrite.open_batch")
_CODE = """
import json, sys
from edgeconv.cli import run
from edgeconv.cli._deferred import defer_sympy
defer_sympy()  # as `main` does
code = run(sys.argv[1:])
print(json.dumps([code, list(sys.modules)]), file=sys.stderr)
"""


def _modules(*arguments: str) -> set[str]:
    """The modules that a command line has imported, in a process of its own."""
    command = [sys.executable, "-c", _CODE, *arguments]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    code, names = json.loads(done.stderr.splitlines()[-1])
    assert code == 0, done.stderr
    return set(names)


def _imported(*arguments: str) -> set[str]:
    """The heavy packages among `_modules`."""
    return _modules(*arguments) & set(HEAVY)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as exporters write them: its Reshape is calculated from the input's shape, a weight is moved."""
    weight = np.random.default_rng(0).normal(size=(3, 3, 3, 4)).astype(np.float32)
    constants = {"kernel": weight, "zero": np.array(0), "tail": np.array([-1]), "axes": np.array([0])}
    nodes = [
        helper.make_node("Transpose", ["kernel"], ["weight"], perm=[3, 0, 1, 2]),
        helper.make_node("Conv", ["x", "weight"], ["convolved"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["convolved"], ["rectified"]),
        helper.make_node("Shape", ["rectified"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "zero"], ["batch"]),
        helper.make_node("Unsqueeze", ["batch", "axes"], ["batches"]),
        helper.make_node("Concat", ["batches", "tail"], ["shape"], axis=0),
        helper.make_node("Reshape", ["rectified", "shape"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 256])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    path = tmp_path_factory.mktemp("start-up") / "network.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return path


def test_importing_edgeconv_imports_nothing_heavy() -> None:
    code = f"import edgeconv, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


@pytest.mark.parametrize(
    "arguments", [("--help",), ("--version",), ("export", "--help"), ("bench", "--help"), ("completion", "bash")]
)
def test_help_imports_nothing_heavy(arguments: tuple[str, ...]) -> None:
    assert _imported(*arguments) <= {"pydantic"}  # typer's, where it reads an option's value


def test_a_recipe_is_written_without_torch(tmp_path: Path) -> None:
    out = ("--out", str(tmp_path / "net.toml"))
    assert _imported("init", "nets:Net", "--shape", "x=1,3,8,8", *out) <= {"pydantic", "numpy"}


def test_listing_the_devices_imports_no_runtime() -> None:
    assert _imported("devices") <= {"pydantic", "numpy", "rich"}


def test_inspecting_a_file_imports_its_format_alone(network: Path, tmp_path: Path) -> None:
    assert _imported("inspect", str(network)) <= {"pydantic", "numpy", "onnx"}
    out = ("--out", str(tmp_path), "--no-parity", "--quiet")
    assert run(["export", str(network), "--format", "tflite", *out]) == 0
    assert _imported("inspect", str(tmp_path / "network" / "network.fp32.tflite")) <= {
        *("pydantic", "numpy", "ai_edge_litert")
    }


def test_an_onnx_file_becomes_tflite_without_torch_and_runtimes(network: Path, tmp_path: Path) -> None:
    imported = _imported("export", str(network), "--format", "tflite", "--no-parity", "--out", str(tmp_path))
    assert imported <= {"numpy", "pydantic", "onnx", "onnx_ir", "ai_edge_litert"}  # the last holds the schema


def test_an_export_without_proof_leaves_the_rooms_of_other_exports_alone(network: Path, tmp_path: Path) -> None:
    """Half of the package proves, quantizes or measures; what is not compiled yet takes half a second more."""
    modules = _modules("export", str(network), "--format", "tflite", "--no-parity", "--out", str(tmp_path))
    assert {room for room in ROOMS for name in modules if name.startswith(f"edgeconv.{room}.")} == set()
    unused = {f"edgeconv.flow.{name}" for name in ("prove", "judge", "half_range", "target_points")}
    assert modules & {"edgeconv.emit.tflite.integer._convert", *unused} == set()


def test_sympy_comes_where_dimensions_are_calculated_with() -> None:
    code = (
        "from edgeconv.cli._deferred import defer_sympy; defer_sympy(); import sys, onnx_ir as ir;"
        "batch = ir.SymbolicDim('batch'); shape = ir.Shape([batch, 3]); before = 'sympy.core' in sys.modules;"
        "print(before, (batch * 8).evaluate({'batch': 2}), 'sympy.core' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).split() == ["False", "16", "True"]


def test_an_onnx_file_becomes_both_formats_without_torch(network: Path, tmp_path: Path) -> None:
    variants = ("--variant", "fp32", "--variant", "fp16", "--variant", "int8-weights")
    imported = _imported("export", str(network), "--no-parity", "--out", str(tmp_path), *variants)
    assert "torch" not in imported
    assert not imported & {"jinja2", "PIL", "safetensors", "uv", "onnxscript"}


def test_what_was_proven_is_proven_again_and_measured_without_torch(network: Path, tmp_path: Path) -> None:
    """Of ``.tflite`` files: the layers of ``.onnx`` files are judged by the reference, whose engine is torch."""
    device = ("--device", "litert", "--quiet")
    assert run(["export", str(network), "--format", "tflite", "--out", str(tmp_path), *device]) == 0
    assert "torch" not in _imported("parity", str(tmp_path / "network"), *device)
    once = ("--rounds", "1", "--runs", "1")
    assert "torch" not in _imported("bench", str(tmp_path / "network"), *device, *once)
