"""Whatever a caller of the Python functions passes in place of an argument, one line names the argument.

Members thought of: None, text for paths and lists, bytes, numbers of numpy and torch, bool for numbers and numbers for
bool, NaN, infinite and negative numbers, lists, sets, generators, mappings, nested and doubled names, capitals and
slips of known names, classes, functions, files and protos for modules, tensors of every kind that no file takes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

import edgeconv
from edgeconv.core import Fidelity, Sample, Tolerance
from edgeconv.core.search_target import Target
from edgeconv.errors import CaptureError, EdgeconvError
from edgeconv.flow.variants import Quantization

X = torch.zeros(1, 3, 8, 8)
NAN = float("nan")
_RECIPE = """
name = "net"
[model]
factory = "torch.nn:ReLU"
[[inputs]]
name = "x"
shape = [1, 3, 8, 8]
"""


def _net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()


def _told(call: Callable[[], object], words: str) -> None:
    with pytest.raises(EdgeconvError, match=re.escape(words)) as caught:
        call()
    assert len(str(caught.value).splitlines()) == 1


def _double(x: torch.Tensor) -> torch.Tensor:
    return x * 2


MODULES: dict[str, tuple[Any, str]] = {
    "nothing": (None, "module: it is None, not a torch.nn.Module; pass the module itself"),
    "class": (nn.ReLU, "module: it is the class ReLU, not a torch.nn.Module; pass an instance: ReLU(…)"),
    "function": (_double, "wrap it in a torch.nn.Module whose forward calls it"),
    "partial": (functools.partial(_double), "module: it is a partial, not a torch.nn.Module; wrap it"),
    "onnx file": ("net.onnx", "module: it is a str, not a torch.nn.Module; give the path to edgeconv.export_onnx"),
    "onnx path": (Path("net.ONNX"), "give the path to edgeconv.export_onnx"),
    "checkpoint": ("net.pth", "build the module, load these weights into it, and pass the module"),
    "program file": ("net.pt2", "pass what torch.export.load makes of it"),
    "recipe file": ("net.toml", "edgeconv.export_recipe(edgeconv.load_recipe(path), out)"),
    "proto": (onnx.ModelProto(), "it is a ModelProto, not a torch.nn.Module; save it with onnx.save, and give"),
    "weights": (_net().state_dict(), "weights alone compute nothing: build the module, call load_state_dict"),
    "list": ([_net()], "module: it is a list, not a torch.nn.Module"),
    "tensor": (X, "module: it is a Tensor, not a torch.nn.Module"),
}


@pytest.mark.parametrize("kind", MODULES)
def test_what_is_no_module_is_named(kind: str, tmp_path: Path) -> None:
    module, words = MODULES[kind]
    _told(lambda: edgeconv.export(module, (X,), tmp_path / "out", name="m"), words)
    assert not (tmp_path / "out").exists()


TENSORS: dict[str, tuple[Callable[[], Any], str]] = {
    "complex": (lambda: (X.to(torch.complex64),), "args[0]: it is complex, and files have no complex type"),
    "sparse": (lambda: (X.to_sparse(),), "args[0]: it is a sparse tensor"),
    "quantized": (lambda: (torch.quantize_per_tensor(X, 0.1, 0, torch.qint8),), "args[0]: it is a quantized tensor"),
    "nested": (lambda: (torch.nested.nested_tensor([X[0], X[0]]),), "args[0]: it is a nested tensor"),
    "meta": (lambda: (X.to("meta"),), "args[0]: it is a tensor without data (meta, fake)"),
    "empty": (lambda: (X[:0],), "args[0]: it is a tensor without elements, of shape (0, 3, 8, 8)"),
    "float8": (lambda: (X.to(torch.float8_e4m3fn),), "args[0]: it is a tensor of torch.float8_e4m3fn"),
    "uint16": (lambda: (X.to(torch.uint16),), "args[0]: it is a tensor of torch.uint16"),
    "array": (lambda: (X.numpy(),), "args[0]: it is an ndarray, not a tensor; pass torch.from_numpy"),
    "shape": (
        lambda: (1, 3, 8, 8),
        "there is no tensor among the arguments; pass an example input: (torch.zeros(1, 3",
    ),
    "inside": (lambda: ({"a": [X, X.to_sparse()]},), "args[0]['a'][1]: it is a sparse tensor"),
    "none": (lambda: (), "args: there is no tensor among the arguments"),
    "many": (lambda: (X, X), "args: forward(input) cannot be called so: too many positional arguments"),
    "set": (lambda: {X}, "args: it is a set, not a tuple; write (x,)"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", TENSORS)
def test_tensors_that_no_file_takes_are_named(kind: str, tmp_path: Path) -> None:
    args, words = TENSORS[kind]
    _told(lambda: edgeconv.export(nn.ReLU(), args(), tmp_path / "out", name="m"), words)


def test_keywords_that_forward_does_not_take(tmp_path: Path) -> None:
    class Masked(nn.Module):
        def forward(self, x: torch.Tensor, *, mask: torch.Tensor) -> torch.Tensor:
            return x * mask

    out = tmp_path / "out"
    _told(lambda: edgeconv.export(Masked(), (X,), out, name="m"), "only in kwargs={'mask': …}")
    _told(lambda: edgeconv.export(Masked(), (X,), out, name="m", kwargs={"mas": X}), "did you mean 'mask'?")
    _told(lambda: edgeconv.export(Masked(), (X,), out, name="m", kwargs={1: X}), "kwargs: its key 1 is an int")
    assert edgeconv.export(Masked(), (X,), out, name="m", kwargs={"mask": X}).artifacts


CHOICES: list[tuple[str, Any, str]] = [
    ("formats", None, "formats: it is None; choose of onnx, tflite"),
    ("formats", 3, "formats: it is an int; choose of onnx, tflite"),
    ("formats", "ONNX", "formats: 'ONNX' is not known; choose of onnx, tflite; did you mean 'onnx'?"),
    ("formats", b"onnx", "formats: it is bytes; choose of"),
    ("formats", {"onnx": 1}, "formats: it is a dict; choose of"),
    ("formats", [["onnx"]], "formats: it holds a list; choose of"),
    ("formats", ["onnx", "onnx"], "formats: 'onnx' stands twice"),
    ("formats", (), "formats: nothing is asked for; choose of"),
    (
        "variants",
        "float16",
        "variants: 'float16' is not known; choose of fp32, fp16, int8, int8-mixed, int8-weights, int16x8; did",
    ),
    ("variants", "int8_weights", "did you mean 'int8-weights'?"),
    ("tflite_layout", "NHWC", "tflite_layout: 'NHWC' is not known; choose of nhwc, nchw; did you mean 'nhwc'?"),
    ("opset", "18", "opset: it is '18'; give an integer from 13 to 24"),
    ("opset", 18.0, "opset: it is 18.0; give an integer"),
    ("opset", True, "opset: it is True; give an integer"),
    ("opset", 12, "opset: it is 12; give an integer from 13 to 24"),
    ("opset", NAN, "opset: it is nan; give an integer"),
    ("input_names", 3, "input_names: it is an int; give a name, or a list of names"),
    ("input_names", {"a"}, "input_names: it is a set, which has no order"),
    ("input_names", [None], "input_names: it holds None"),
    ("input_names", ["a\nb"], "input_names: 'a\\nb' has characters that cannot be printed"),
    ("input_names", ["\udcff"], "input_names: '\\udcff' has characters that cannot be printed"),
    ("input_names", [" "], "input_names: a name is empty"),
    ("output_names", ["a", "a"], "output_names: 'a' stands twice"),
    ("dynamic_batch", 1, "dynamic_batch: it is an int; give True, or the names of the inputs"),
    ("dynamic_batch", "y", "dynamic_batch: 'y' is no input; the inputs are input"),
    ("quantization", None, "quantization: it is None; pass an edgeconv.Quantization"),
    ("quantization", {"observer": "mse"}, "quantization: it is a dict; pass an edgeconv.Quantization"),
    ("quantization", Quantization, "quantization: it is the class Quantization; pass"),
    ("c_array", "no", "c_array: it is 'no'; give True or False"),
    ("c_array", 1, "c_array: it is 1; give True or False"),
    (
        "skip_rewrites",
        "fold_batchnorm",
        "skip_rewrites: there is no rewrite 'fold_batchnorm'; did you mean 'fold-",
    ),
    ("skip_rewrites", 3, "skip_rewrites: it is an int; give a name"),
    ("devices", "onxruntime", "devices: unknown device 'onxruntime'; did you mean onnxruntime"),
    ("devices", torch.device("cpu"), "devices: it is a device; give a name"),
    ("devices", ["onnxruntime"] * 2, "devices: 'onnxruntime' stands twice"),
    ("samples", 3, "samples: it is an int; give a list of edgeconv.Sample"),
    ("samples", X.numpy(), "samples: it is an ndarray; give a list of edgeconv.Sample"),
    ("samples", [{"input": X.numpy()}], "samples[0]: it is a dict; give a list of edgeconv.Sample"),
    ("samples", [Sample("s", {}, variants=("int9",))], "sample 's', variants: 'int9' is not known"),
    ("samples", [Sample("s", {})] * 2, "samples: 's' stands twice"),
    ("progress", print, "progress: it is a builtin_function_or_method; give an object with the methods of"),
    ("name", None, "name: None cannot begin a file name"),
    ("out", None, "out: it is None; give a folder, as text or a pathlib.Path"),
    ("out", b"x", "out: it is bytes; give a folder"),
    ("out", "", "out: it is empty; give a folder"),
    ("out", "a\0b", "a\\x00b: it holds a zero byte; give a folder"),
    ("out", "x" * 300, "cannot write here: File name too long"),
]


@pytest.mark.parametrize(("argument", "value", "words"), CHOICES)
def test_arguments_of_export(argument: str, value: Any, words: str, tmp_path: Path) -> None:
    given = {"out": tmp_path / "out", "name": "m", argument: value}
    _told(lambda: edgeconv.export(nn.ReLU(), (X,), given.pop("out"), **given), words)
    assert not (tmp_path / "out").exists()


def test_integers_that_python_does_not_write(tmp_path: Path) -> None:
    """More than 4,300 digits: their repr raises."""
    out, huge = tmp_path / "out", 10**5000
    _told(lambda: edgeconv.export(nn.ReLU(), (X,), out, name="m", opset=huge), "opset: it is an int; give an integer")
    _told(lambda: edgeconv.export(nn.ReLU(), (X,), out, name="m", kwargs={huge: X}), "its key an int is an int")
    _told(lambda: edgeconv.export(nn.ReLU(), (X,), out, name="m", c_array=huge), "c_array: it is an int; give True")


def test_forms_that_say_the_same(tmp_path: Path) -> None:
    def files(**given: Any) -> list[str]:
        result = edgeconv.export(nn.ReLU(), (X,), str(tmp_path / "out"), name="m", **given)
        return [artifact.path.name for artifact in result.artifacts]

    plain = files(formats=("onnx", "tflite"), variants=("fp16", "fp32"))
    assert files(formats={"tflite", "onnx"}, variants={"fp32", "fp16"}) == plain  # a set has no order: that of names
    assert files(formats=(name for name in ("onnx", "tflite")), variants=np.array(["fp16", "fp32"])) == plain
    assert files(formats="onnx", opset=np.int64(18), c_array=np.False_, devices=None, samples=None, output_names=None)
    assert files(formats="onnx", dynamic_batch=np.True_, skip_rewrites="fold-batch-norm", input_names=iter(["a"]))


FILE_ARGUMENTS: list[tuple[str, Any, str]] = [
    ("path", None, "path: it is None; give the path of an .onnx file"),
    ("path", onnx.ModelProto(), "path: it is a ModelProto; save it with onnx.save, and give the path"),
    ("path", nn.ReLU(), "path: it is a ReLU; give the path"),
    ("shapes", [1, 3, 8, 8], "shapes: it is a list; write shapes={name: (1, 3, 224, 224)}"),
    ("shapes", {"x": 3}, "input 'x': its shape is an int; write shapes={'x': (1, 3, 8, 8)}"),
    ("shapes", {"x": None}, "input 'x': its shape is None"),
    ("shapes", {"x": "1,3,8,8"}, "input 'x': its shape is a str"),
    ("shapes", {"x": (1.5, 3, 8, 8)}, "input 'x': a dimension of its shape is 1.5"),
    ("shapes", {"x": (None, 3, 8, 8)}, "input 'x': a dimension of its shape is None"),
    ("shapes", {"x": (True, 3, 8, 8)}, "input 'x': a dimension of its shape is True"),
    ("shapes", {"x": ("", 3, 8, 8)}, "input 'x': a dimension of its shape is ''"),
    ("shapes", {"x": ("1", 3, 8, 8)}, "or a name for a batch that stays open"),
    ("shapes", {"x": (10**30, 3, 8, 8)}, "input 'x', a dimension: it is 1"),
    ("fixed", [1], "fixed: it is a list; write {name: number}"),
    ("fixed", {"x": "1"}, "input 'x': it is '1'; give a finite number"),
    ("fixed", {"x": X}, "input 'x': it is a Tensor; give a finite number"),
    ("fixed", {"x": NAN}, "input 'x': it is nan; give a finite number"),
    ("opset", "18", "opset: it is '18'"),
    ("quantization", None, "quantization: it is None"),
    ("progress", 3, "progress: it is an int"),
]


@pytest.fixture(scope="module")
def open_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("open")
    edgeconv.export(
        nn.ReLU(), (X,), folder, name="m", formats="onnx", input_names="x", output_names="y", dynamic_batch=True
    )
    return folder / "m.fp32.onnx"


@pytest.mark.parametrize(("argument", "value", "words"), FILE_ARGUMENTS)
def test_arguments_of_export_onnx(argument: str, value: Any, words: str, open_file: Path, tmp_path: Path) -> None:
    given = {"path": open_file, "name": "m", argument: value}
    _told(lambda: edgeconv.export_onnx(given.pop("path"), tmp_path / "out", **given), words)
    assert not (tmp_path / "out").exists()


def test_integers_of_numpy_and_torch_are_sizes(open_file: Path, tmp_path: Path) -> None:
    for sizes in (np.array([2, 3, 8, 8]), torch.tensor([2, 3, 8, 8]), torch.Size([2, 3, 8, 8]), iter([2, 3, 8, 8])):
        result = edgeconv.export_onnx(open_file, tmp_path, name="m", shapes={"x": sizes}, formats="onnx")
        assert result.artifacts[0].inputs[0].shape == (2, 3, 8, 8)


RECIPE_ARGUMENTS: list[tuple[str, Any, str]] = [
    ("recipe", "net.toml", "recipe: it is a str; pass what edgeconv.load_recipe(path) gives"),
    ("recipe", None, "recipe: it is None; pass what edgeconv.load_recipe(path) gives"),
    ("formats", ["onx"], "formats: 'onx' is not known"),  # a caller's argument, and no key of the recipe
    ("formats", [], "formats: nothing is asked for"),
    ("variants", 3, "variants: it is an int"),
    ("devices", ["onxruntime"], "devices: unknown device 'onxruntime'"),
    ("devices", [], "devices: none is named; name one, or export with prove=False"),
    ("devices", [None], "devices: it holds None"),
    ("prove", "no", "prove: it is 'no'; give True or False"),
    ("c_array", 2, "c_array: it is 2; give True or False"),
    ("skip_rewrites", ["fold"], "skip_rewrites: there is no rewrite 'fold'"),
    ("target", 20.0, "target: it is a float; give edgeconv.quantize.Target(sqnr_db=…)"),
    ("progress", 3, "progress: it is an int"),
    ("out", 3, "out: it is an int"),
]


@pytest.mark.parametrize(("argument", "value", "words"), RECIPE_ARGUMENTS)
def test_arguments_of_export_recipe(argument: str, value: Any, words: str, tmp_path: Path) -> None:
    path = tmp_path / "net.toml"
    path.write_text(_RECIPE)
    given = {"recipe": edgeconv.load_recipe(str(path)), "out": tmp_path / "out", argument: value}
    _told(lambda: edgeconv.export_recipe(given.pop("recipe"), given.pop("out"), **given), words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", [None, 3, b"x", [], "", "a\0b"])
def test_paths_of_load_recipe(path: Any) -> None:
    _told(lambda: edgeconv.load_recipe(path), "give the path of a .toml file")


VALUES: list[tuple[Callable[..., Any], dict[str, Any], str]] = [
    (Quantization, {"batches": []}, "batches: it is a list, which cannot be called anew"),
    (
        Quantization,
        {"observer": "MSE"},
        "observer: 'MSE' is not known; choose of min-max, percentile, mse, entropy;",
    ),
    (Quantization, {"per_channel": "no"}, "per_channel: it is 'no'; give True or False"),
    (Quantization, {"equalize": None}, "equalize: it is None; give True or False"),
    (Quantization, {"iterations": -1}, "iterations: it is -1; give an integer from 1 to 100000"),
    (Quantization, {"iterations": 1.5}, "iterations: it is 1.5; give an integer"),
    (Quantization, {"iterations": True}, "iterations: it is True; give an integer"),
    (Quantization, {"keep_float": 3}, "keep_float: it is an int; give names"),
    (Quantization, {"keep_float": [3]}, "keep_float: it holds an int; give names"),
    (Quantization, {"plan": Path("p.json")}, "plan: it is a PosixPath; give its text"),
    (Quantization, {"target": 20.0}, "target: it is a float; give quantize.Target(sqnr_db=…)"),
    (Quantization, {"judged": 3}, "judged: it is an int; give a function"),
    (Target, {"sqnr_db": "20"}, "sqnr_db: it is '20'; give a finite number"),
    (Target, {"sqnr_db": True}, "sqnr_db: it is True; give a finite number"),
    (Target, {"agreement": [1]}, "agreement: it is a list; give a finite number"),
    (Sample, {"name": None, "inputs": {}}, "Sample: its name is None"),
    (Sample, {"name": "s", "inputs": None}, "sample 's', inputs: it is None; give a dict of arrays"),
    (Sample, {"name": "s", "inputs": X.numpy()}, "sample 's', inputs: it is an ndarray; give a dict of arrays"),
    (Sample, {"name": "s", "inputs": {}, "scale": NAN}, "sample 's', scale: it is nan; give a finite number from 0 up"),
    (Sample, {"name": "s", "inputs": {}, "label": "cat"}, "sample 's', label: it is 'cat'; give an integer"),
    (Tolerance, {"atol": -1}, "Tolerance, atol: it is -1; give a finite number from 0 up"),
    (Tolerance, {"rtol": NAN}, "Tolerance, rtol: it is nan"),
    (Tolerance, {"max_abs": "1"}, "Tolerance, max_abs: it is '1'"),
    (Fidelity, {"cosine": 1.5}, "Fidelity, cosine: it is 1.5; give a number from -1 to 1"),
    (Fidelity, {"lsb": 1.5}, "Fidelity, lsb: it is 1.5; give an integer"),
    (Fidelity, {"sqnr_db": float("inf")}, "Fidelity, sqnr_db: it is inf; give a finite number"),
]


@pytest.mark.parametrize(("kind", "given", "words"), VALUES)
def test_values_that_are_passed_on(kind: Callable[..., Any], given: dict[str, Any], words: str) -> None:
    _told(lambda: kind(**given), words)


_PATH = Path("net.toml")
RECIPES: list[tuple[dict[str, Any], str]] = [
    ({}, "Recipe: name: is required (also wrong: model, path); add it"),
    ({"name": "n"}, "Recipe: path: is required"),
    ({"name": 3, "path": _PATH, "model": {"onnx": "n.onnx"}}, "Recipe: name: should be a string, not 3"),
    ({"name": "n", "path": "net.toml", "model": {"onnx": "n.onnx"}}, "Recipe: path: should be a Path, not"),
    ({"name": "n", "path": _PATH, "model": {"factory": "torch.nn:ReLU"}}, "inputs: is required; add an [[inputs]]"),
    ({"name": "n", "path": _PATH, "model": {"onnx": "n.onnx"}, "nane": 1}, "unknown key 'nane'; did you mean 'name'?"),
    ({"name": "n", "path": _PATH, "model": {"onnx": "n.onnx"}, "inputs": 3}, "Recipe: inputs: should be a list"),
    ({"name": "n", "path": _PATH, "model": {"onnx": 3}}, "Recipe: model.onnx: should be a string"),
    ({"name": "n", "path": _PATH, "model": None}, "Recipe: model: should be a table"),
]


@pytest.mark.parametrize(("fields", "words"), RECIPES)
def test_recipes_that_are_made_by_hand(fields: dict[str, Any], words: str) -> None:
    _told(lambda: edgeconv.Recipe(**fields), words)


def test_a_recipe_takes_named_fields() -> None:
    _told(lambda: edgeconv.Recipe("net.toml"), "Recipe: it takes named fields, and got a str")  # type: ignore[misc,call-arg]
    made = edgeconv.Recipe(name="n", path=_PATH, model={"onnx": "n.onnx"})  # type: ignore[arg-type]
    assert made.model.onnx == "n.onnx"


def test_no_device_is_needed_without_a_proof(tmp_path: Path) -> None:
    (tmp_path / "net.toml").write_text(_RECIPE)
    recipe = edgeconv.load_recipe(tmp_path / "net.toml")
    assert edgeconv.export_recipe(recipe, tmp_path / "out", devices=(), prove=False, formats=["onnx"]).report is None


@pytest.mark.parametrize("variants", [(), [], None, np.array([]), iter(()), set(), ["fp32"], np.array(["fp32"])])
def test_variants_of_a_file_that_are_not_stated(variants: Any, open_file: Path, tmp_path: Path) -> None:
    shapes = {"x": (1, 3, 8, 8)}
    given: dict[str, Any] = {"name": "m", "formats": "onnx", "shapes": shapes, "variants": variants}
    result = edgeconv.export_onnx(open_file, tmp_path / "out", **given)
    assert [item.variant for item in result.artifacts] == ["fp32"]


def test_numbers_of_other_libraries_become_plain() -> None:
    assert type(Tolerance(atol=np.float32(0.5)).atol) is float
    assert type(Target(sqnr_db=torch.tensor(20.0)).sqnr_db) is float
    assert type(Quantization(iterations=np.int64(3)).iterations) is int
    assert Quantization(keep_float=["a", "b"]).keep_float == ("a", "b")
    assert Sample("s", {}, variants="int8").variants == ("int8",)


def test_the_module_is_told_of_its_own_arguments(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match="check the shapes and dtypes of args, and run"):
        edgeconv.export(_net(), (X[:, :2],), tmp_path, name="m")


@pytest.mark.parametrize("proof", [{}, {"devices": ["onnxruntime"]}], ids=["unproved", "proved"])
def test_an_output_that_is_always_empty_is_refused_by_name(proof: dict[str, Any], tmp_path: Path) -> None:
    """No comparison of it could fail; of a file, the metrics broke over it after everything had been written."""

    class Empty(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x.relu(), x[:, :0]

    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Slice", ["x", "zero", "zero", "one"], ["none"])]
    places = [numpy_helper.from_array(np.array([at]), name) for at, name in enumerate(("zero", "one"))]
    x, *outputs = (
        helper.make_tensor_value_info(name, 1, s) for name, s in (("x", [1, 3]), ("y", None), ("none", None))
    )
    model = helper.make_model(
        helper.make_graph(nodes, "g", [x], outputs, places), opset_imports=[helper.make_opsetid("", 18)]
    )
    model.ir_version = 8
    onnx.save(model, tmp_path / "m.onnx")
    for export in (
        lambda: edgeconv.export(Empty(), (X,), tmp_path / "out", name="m", output_names=("y", "none"), **proof),
        lambda: edgeconv.export_onnx(tmp_path / "m.onnx", tmp_path / "out", name="m", **proof),
    ):
        _told(export, "its output 'none' has the shape")
        assert not (tmp_path / "out").exists()
