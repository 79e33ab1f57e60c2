"""Every message says what to do in the terms of whoever asked.

Members thought of: Python functions, recipes from Python, recipes and files from the command line; one and several
operators that a format lacks; operators of the model's own forward; errors of capture, of both emitters, of shapes.
"""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

import edgeconv
from edgeconv.cli import run
from edgeconv.errors import ONNX_ONLY, PAIR_SAFE, Caller, EdgeconvError, EmitError, telling

ROOT = Path(edgeconv.__file__).parent
_NET = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        y = self.inner(x)
        return torch.linalg.det(y), nn.functional.conv3d(y[:, None], y[:, None, :2, :2, :2])
"""
_RECIPE = """
name = "net"
[model]
factory = "wording_net:Net"
[[inputs]]
name = "x"
shape = [1, 3, 8, 8]
"""


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "wording_net.py").write_text(_NET)
    path = tmp_path / "net.toml"
    path.write_text(_RECIPE)
    return path


def test_each_caller_is_told_in_its_own_terms() -> None:
    assert "formats=" in str(ONNX_ONLY)
    with telling(Caller.RECIPE):
        assert str(ONNX_ONLY) == 'export formats = ["onnx"] only'
    with telling(Caller.COMMAND_LINE):
        assert (
            str(EmitError("it is wrong", where="file", hint=ONNX_ONLY))
            == "file: it is wrong; export with --format onnx"
        )
        with telling(Caller.RECIPE):  # the command line reads recipes by the same functions
            assert str(ONNX_ONLY) == "export with --format onnx"
        assert str(PAIR_SAFE) == "pair_safe = true in [quantize]"  # which has no flag
    assert "formats=" in str(ONNX_ONLY)


@pytest.mark.parametrize("name", ["1" * 50_000, "x " * 50_000, "/" + "y" * 5_000], ids=["digits", "words", "path"])
def test_what_a_file_names_at_length_is_told_in_one_line_that_can_be_read(name: str) -> None:
    error = EdgeconvError(f"the key {name!r} is not known", where=f"{name} in the plan", hint=f"leave out {name}")
    line = str(error)
    assert line.startswith("1" * 200 if name[0] == "1" else name[:200].strip()), "what it begins with is told"
    assert re.search("in the plan.*is not known.*leave out", line)
    assert len(line) < 3 * 4_100


def test_the_command_line_names_all_operators_that_tflite_lacks_and_its_flag(
    recipe: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", str(recipe), "--out", str(recipe.parent / "out"), "--no-parity"]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    for operator in ("Det", "Conv"):
        assert f"{operator} (made by the model's own forward, value" in line
    assert "export with --format onnx, or replace that part" in line


def test_a_recipe_read_from_python_is_told_its_key(recipe: Path) -> None:
    with pytest.raises(EdgeconvError, match=re.escape('export formats = ["onnx"] only')):
        edgeconv.export_recipe(edgeconv.load_recipe(recipe), recipe.parent / "out", prove=False)


def test_refusals_inside_operators_are_told_together(tmp_path: Path) -> None:
    class Twice(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            wide = x.double() + 1
            return wide.sum() + torch.linalg.det(x).double()

    with pytest.raises(EmitError) as caught:
        edgeconv.export(Twice(), (torch.zeros(5, 5),), tmp_path, name="m", formats="tflite")
    assert "Det" in str(caught.value)


def test_operators_that_torch_cannot_export_are_told_together(tmp_path: Path) -> None:
    class Spectrum(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            return torch.linalg.svdvals(x), torch.linalg.eigvalsh(x)

    with pytest.raises(EdgeconvError, match=r"torch operators aten\._linalg_svd, aten\._linalg_eigh have no ONNX form"):
        edgeconv.export(Spectrum(), (torch.zeros(3, 3),), tmp_path, name="m")


def test_a_file_with_open_shapes_is_told_by_flag_or_by_argument(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])],
        "g",
        [onnx.helper.make_tensor_value_info("x", 1, ["n", 3, "h", "w"])],
        [onnx.helper.make_tensor_value_info("y", 1, ["n", 3, "h", "w"])],
    )
    path = tmp_path / "open.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), path)
    with pytest.raises(EdgeconvError, match=re.escape("shapes={'x': (1, 3, <h>, <w>)}")):
        edgeconv.export_onnx(path, tmp_path / "out", name="open")
    assert run(["export", str(path), "--out", str(tmp_path / "out"), "--no-parity"]) == 2
    assert "--shape x=1,3,<h>,<w>" in capsys.readouterr().err


def test_no_message_sends_users_to_our_sources_or_tells_them_to_report() -> None:
    said = re.compile(r'"[^"\n]*(report the module|report it with the module|enter it in|edgeconv/reference)[^"\n]*"')
    found = [f"{path.name}: {match[0]}" for path in ROOT.rglob("*.py") for match in said.finditer(path.read_text())]
    assert found == []


def test_operators_of_a_file_that_cannot_be_converted_are_told_together(tmp_path: Path) -> None:
    nodes = [
        onnx.helper.make_node("RandomNormalLike", ["x"], ["a"], name="noise"),
        onnx.helper.make_node("NonZero", ["x"], ["b"], name="places"),
        onnx.helper.make_node("Unique", ["x"], ["c"], name="values"),
        onnx.helper.make_node("Cast", ["b"], ["d"], name="behind", to=1),
    ]
    inputs = [onnx.helper.make_tensor_value_info("x", 1, [1, 3])]
    outputs = [
        onnx.helper.make_tensor_value_info(name, 1, shape)
        for name, shape in (("a", [1, 3]), ("c", ["n"]), ("d", [2, "m"]))
    ]
    graph = onnx.helper.make_graph(nodes, "g", inputs, outputs)
    path = tmp_path / "m.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9), path)
    with pytest.raises(EdgeconvError) as caught:
        edgeconv.export_onnx(path, tmp_path / "out", name="m")
    told = str(caught.value)
    for words in ("RandomNormalLike draws random numbers", "NonZero has a shape", "; and 1 more; "):
        assert words in told
    assert "Cast" not in told  # which is right but for what it reads
