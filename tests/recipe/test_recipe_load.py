"""Reading a recipe: what it means, and the one line that each mistake gets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from edgeconv.core import Tolerance
from edgeconv.errors import RecipeError
from edgeconv.recipe import load_recipe

SMALL = """
name = "small"
[model]
factory = "edgeconv.nn:DepthwiseSeparableConv"
args = { in_channels = 3, out_channels = 4, kernel_size = [3, 5] }
[[inputs]]
name = "input"
shape = [1, 3, 8, 8]
"""


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str) -> Path:
        path = tmp_path / "small.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_defaults_are_what_an_export_needs(write) -> None:
    recipe = load_recipe(write(SMALL))
    assert recipe.export.formats == ("onnx", "tflite")
    assert recipe.export.variants == ("fp32",)
    assert recipe.export.tflite_layouts == ("nhwc",)
    assert recipe.export.opset == 18
    assert recipe.parity.devices is None
    assert recipe.parity.tolerance == Tolerance(atol=1e-5, rtol=1e-5, max_abs=None)
    assert recipe.outputs == ()
    assert recipe.inputs[0].dtype == "float32"
    assert recipe.model.args["kernel_size"] == (3, 5)


def test_everything_that_is_written_arrives(write) -> None:
    recipe = load_recipe(
        write(
            SMALL
            + """
[outputs]
names = ["a", "b"]
[export]
formats = ["onnx"]
tflite_layouts = ["nchw", "nhwc"]
opset = 13
[parity]
devices = ["torch"]
timeout_s = 7
tolerance = { atol = 1e-6, rtol = 0, max_abs = 2e-6 }
[[parity.random]]
seed = 3
scale = 10
[preprocessing]
resize = [8, 9]
mean = [1, 2.5, 3]
"""
        )
    )
    assert recipe.outputs == ("a", "b")
    assert recipe.export.formats == ("onnx",)
    assert recipe.export.opset == 13
    assert recipe.parity.tolerance == Tolerance(atol=1e-6, rtol=0.0, max_abs=2e-6)
    assert (recipe.parity.random[0].seed, recipe.parity.random[0].scale) == (3, 10.0)
    assert recipe.preprocessing is not None
    assert recipe.preprocessing.resize == (8, 9)
    assert recipe.preprocessing.to_json().startswith('{"center_crop": null, "colour": "rgb"')


def test_the_source_tells_the_module_and_hides_the_folder(tmp_path: Path, write) -> None:
    absolute = SMALL.replace("[[inputs]]", f'weights = "{tmp_path}/w.safetensors"\n[[inputs]]')
    source = load_recipe(write(absolute)).source
    assert "edgeconv.nn:DepthwiseSeparableConv(in_channels=3, out_channels=4, kernel_size=(3, 5))" in source
    assert "weights w.safetensors" in source
    assert str(tmp_path) not in source


def test_a_recipe_is_frozen(write) -> None:
    recipe = load_recipe(write(SMALL))
    with pytest.raises(ValueError, match="frozen"):
        recipe.name = "other"  # type: ignore[misc]


BAD = {
    "unknown key at the top": (SMALL.replace("name", "nane", 1), "unknown key 'nane'; did you mean 'name'?"),
    "unknown key in a table": (SMALL + "dtipe = 'float32'", "inputs[0]: unknown key 'dtipe'; did you mean 'dtype'?"),
    "unknown key in a nested table": (
        SMALL + "[parity]\ntolerance = { max_ab = 1.0 }",
        "parity.tolerance: unknown key 'max_ab'; did you mean 'max_abs'?",
    ),
    "the recipe's own place": (SMALL.replace("[model]", "path = 'x'\n[model]"), "unknown key 'path'"),
    "missing table": ("name = 'x'\n[[inputs]]\nname = 'input'\nshape = [1]", "model: is required; add it"),
    "missing key": (SMALL.replace('name = "small"', ""), "name: is required"),
    "no inputs": (SMALL[: SMALL.index("[[inputs]]")], "inputs: is required"),
    "a string for a number": (SMALL.replace("[1, 3, 8, 8]", '[1, 3, "8 x", 8]'), "inputs[0].shape[2]"),
    "a negative dimension": (SMALL.replace("[1, 3, 8, 8]", "[1, 3, -8, 8]"), "inputs[0].shape[2]"),
    "a boolean dimension": (SMALL.replace("[1, 3, 8, 8]", "[true, 3, 8, 8]"), "inputs[0].shape[0]"),
    "a symbolic dimension": (SMALL.replace("[1, 3, 8, 8]", '["batch", 3, "h", 8]'), "symbolic dimension 'h'"),
    "two batches": (
        SMALL.replace("[1, 3, 8, 8]", '["n", 3, 8, 8]') + '[[inputs]]\nname = "z"\nshape = ["m", 2]\n',
        "two names, 'm' and 'n'",
    ),
    "neither module nor file": (SMALL.replace("factory =", "weights ="), "neither factory nor onnx"),
    "a module and a file": (SMALL.replace("[model]", '[model]\nonnx = "a.onnx"'), "onnx and factory exclude"),
    "names for a file's outputs": (
        'name = "a"\n[model]\nonnx = "a.onnx"\n[outputs]\nnames = ["y"]\n',
        "the outputs of an .onnx file have names",
    ),
    "unknown dtype": (SMALL + 'dtype = "flaot32"', "unknown dtype 'flaot32'; did you mean 'float32'?"),
    "unknown format": (SMALL + '[export]\nformats = ["tflit"]', "unknown format 'tflit'; did you mean 'tflite'?"),
    "unknown variant": (SMALL + '[export]\nvariants = ["int4"]', "unknown variant 'int4'; did you mean 'int8'?"),
    "unknown layout": (SMALL + '[export]\ntflite_layouts = ["nwhc"]', "unknown layout 'nwhc'; did you mean"),
    "a format twice": (SMALL + '[export]\nformats = ["onnx", "onnx"]', "'onnx' stands twice"),
    "opset too old": (SMALL + "[export]\nopset = 9", "export.opset"),
    "no factory path": (SMALL.replace("edgeconv.nn:Depth", "Depth"), "model.factory"),
    "an artifact name with a slash": (SMALL.replace('"small"', '"../small"'), "name"),
    "an output named like the input": (SMALL + '[outputs]\nnames = ["input"]', "'input' stands twice"),
    "infinite tolerance": (SMALL + "[parity]\ntolerance = { atol = inf }", "parity.tolerance.atol"),
    "negative timeout": (SMALL + "[parity]\ntimeout_s = -1", "parity.timeout_s"),
    "images without preprocessing": (SMALL + '[[parity.images]]\nfiles = ["a.png"]', "[preprocessing]"),
    "too few labels": (
        SMALL + '[[parity.images]]\nfiles = ["a.png", "b.png"]\nlabels = [1]\n[preprocessing]',
        "parity.images[0]: 1 labels for 2 files",
    ),
    "keys of an npy": (SMALL + '[[parity.arrays]]\nfile = "a.npy"\nkey = "x"', "parity.arrays[0]: a .npy file has no"),
    "mean of other channels": (SMALL + "[preprocessing]\nmean = [0.5, 0.5]", "preprocessing: mean has 2 values"),
    "weights and a warm-up": (
        SMALL.replace("[[inputs]]", "weights = 'w.pt'\n[model.warmup]\n[[inputs]]"),
        "model: weights and warmup exclude each other",
    ),
    "two mistakes": (
        SMALL + "[export]\nopset = 'x'\n[parity]\ntimeout_s = 0",
        'export.opset: should be an integer, not "x" (also wrong: parity.timeout_s)',
    ),
    "a huge dimension": (
        SMALL.replace("[1, 3, 8, 8]", "[1, 3, 8, 99999999999999999999]"),
        "inputs[0].shape[3]: is an integer of more than 64 bits",
    ),
    "a huge input": (
        SMALL.replace("[1, 3, 8, 8]", "[1, 3, 1000000, 1000000]"),
        "the inputs would take 1.144e+07 MiB; use smaller shapes: at most 1024 MiB",
    ),
    "a huge input of the largest dimensions": (
        SMALL.replace("[1, 3, 8, 8]", f"{[2**31 - 1] * 8}"),
        "the inputs would take",
    ),
    "several inputs, huge together": (
        SMALL.replace("[1, 3, 8, 8]", "[1, 3, 8192, 8192]") + "[[inputs]]\nname = 'b'\nshape = [1, 3, 8192, 8192]",
        "the inputs would take 1536 MiB",
    ),
    "too many dimensions": (SMALL.replace("[1, 3, 8, 8]", f"{[1] * 9}"), "inputs[0].shape: has more than 8 items"),
    "a thousand digits": (
        SMALL.replace("[1, 3, 8, 8]", f"[{'9' * 5000}]"),
        "a value out of range: an integer of more than 4,300",
    ),
    "endless noise": (SMALL + "[[parity.random]]\ncount = 1000000000", "parity.random[0].count: should be at most"),
    "noise of many gigabytes": (
        SMALL.replace("[1, 3, 8, 8]", "[1, 3, 4096, 4096]") + "[[parity.random]]\ncount = 100",
        "the samples of parity.random would take 1.92e+04 MiB; lower their counts",
    ),
    "a warm-up of many gigabytes": (
        SMALL.replace("[1, 3, 8, 8]", "[1, 3, 4096, 4096]") + "[model.warmup]\nbatch_size = 100",
        "a batch of model.warmup would take",
    ),
    "an endless warm-up": (SMALL + "[model.warmup]\nbatches = 1000000000", "model.warmup.batches: should be at most"),
    "a huge resize": (SMALL + "[preprocessing]\nresize = 1000000", "preprocessing.resize: should be at most 16384"),
    "a huge crop": (
        SMALL + "[preprocessing]\ncenter_crop = [8, 1000000]",
        "preprocessing.center_crop[1]: should be at most 16384, not 1000000",
    ),
    "an incomplete pair": (SMALL + "[preprocessing]\nresize = [8]", "preprocessing.resize[1]: is required"),
    "a text for a size": (SMALL + '[preprocessing]\nresize = "8"', 'resize: should be an integer, not "8"'),
    "an endless time": (
        SMALL + "[parity]\ntimeout_s = 1e308",
        "parity.timeout_s: should be at most 86400.0, not 1e+308",
    ),
    "no time at all": (SMALL + "[parity]\ntimeout_s = nan", "parity.timeout_s"),
    "nested lists": (SMALL.replace("[3, 5]", "[" * 2000 + "]" * 2000), "nested more than 16 deep"),
    "nested keys": (SMALL + "[" + "a." * 3000 + "b]", "nested more than 16 deep"),
    "a negative label": (
        SMALL + '[[parity.images]]\nfiles = ["a.png"]\nlabels = [-1]\n[preprocessing]',
        "parity.images[0].labels[0]: should be at least 0, not -1",
    ),
    "a label that is no integer": (
        SMALL + '[[parity.images]]\nfiles = ["a.png"]\nlabels = [1.0]\n[preprocessing]',
        "parity.images[0].labels[0]: should be an integer, not 1.0",
    ),
    "a number for a list": (SMALL.replace("[1, 3, 8, 8]", "3"), "inputs[0].shape: should be a list, not 3"),
    "a number for a table": (SMALL + "[parity]\ntolerance = 3", "parity.tolerance: should be a table, not 3"),
    "a list for a table": (SMALL + "[parity]\ntolerance = [1]", "parity.tolerance: should be a table, not [1]"),
    "a text for a list of tables": (SMALL + '[parity]\nrandom = "x"', 'parity.random: should be a list, not "x"'),
    "a table for a list of tables": (SMALL + "[parity.random]\nseed = 1", "parity.random: should be a list, not {"),
    "no formats": (
        SMALL + "[export]\nformats = []",
        "export.formats: has 0 items and needs at least 1; give at least one",
    ),
    "a text for a switch of numbers": (
        SMALL + "[model.warmup]\nseed = true",
        "model.warmup.seed: should be an integer",
    ),
    "a name with NUL": (SMALL.replace('"input"', '"in\\u0000put"'), "inputs[0].name: 'in\\x00put' cannot be used"),
    "a name with an escape": (SMALL.replace('"input"', '"\\u001b[31m"'), "inputs[0].name: '\\x1b[31m' cannot be used"),
    "a file name with NUL": (
        SMALL.replace("[[inputs]]", 'weights = "\\u0000.pt"\n[[inputs]]'),
        "model.weights: '\\x00.pt'",
    ),
    "a long name": (SMALL.replace('"small"', f'"{"a" * 300}"'), "name: has 300 characters; use at most 128"),
    "a long input name": (SMALL.replace('"input"', f'"{"a" * 2000}"'), "inputs[0].name: has 2000 characters"),
    "a blank input name": (SMALL.replace('"input"', '" "'), "inputs[0].name: ' ' cannot be used"),
    "a long unknown key": (SMALL + f"{'a' * 5000} = 1", "aaa...; "),
    "braces in a key": (SMALL + "'{hint}' = 1", "unknown key '{hint}'"),
    "broken TOML": (SMALL + "[export", "is not TOML"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_mistake_gets_one_line_with_its_place(write, case: str) -> None:
    text, expected = BAD[case]
    path = write(text)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    message = str(caught.value)
    assert expected in message
    assert message.startswith(str(path))
    assert message.isprintable()
    assert len(message) < 600
    assert caught.value.hint
    assert "instance of" not in message
    assert "tuple" not in message


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    path = tmp_path / "notepad.toml"
    path.write_bytes(b"\xef\xbb\xbf" + SMALL.replace("\n", "\r\n").encode())
    assert load_recipe(path).name == "small"


def test_limits_are_reached_without_a_refusal(write) -> None:
    text = SMALL.replace('"small"', f'"{"a" * 128}"').replace("[1, 3, 8, 8]", "[1, 1, 16384, 16384]")
    recipe = load_recipe(write(text + "[parity]\ntimeout_s = 86400\n[preprocessing]\nresize = 16384"))
    assert recipe.inputs[0].size_bytes == 2**30
    assert recipe.parity.timeout_s == 86400


def test_a_file_that_never_ends_is_not_read_to_its_end(tmp_path: Path) -> None:
    big = tmp_path / "big.toml"
    big.write_bytes(b"# " + b"x" * 2**20)
    for path in (big, Path("/dev/zero")):
        with pytest.raises(RecipeError, match="larger than 1 MiB"):
            load_recipe(path)


def test_a_missing_file_and_a_folder_and_binary_are_refused(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe\x00name")
    for path in (tmp_path / "nothing.toml", tmp_path, binary, tmp_path / ("x" * 300), tmp_path / "nul\0.toml"):
        with pytest.raises(RecipeError) as caught:
            load_recipe(path)
        assert str(caught.value).startswith(str(path).replace("\x00", "\\x00"))
        assert caught.value.hint


def test_reading_a_recipe_does_not_import_torch(write) -> None:
    code = (
        "import sys; from pathlib import Path; from edgeconv.recipe import load_recipe;"
        f"load_recipe(Path({str(write(SMALL))!r})); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("value", "told"),
    [('"a"', 'model.fixed.y: should be a number, not "a"; correct'), ("[1]", "model.fixed.y: should be a number, not")],
)
def test_a_fixed_value_that_is_no_number_is_told_by_its_own_name(value: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(
        f'name = "x"\n[model]\nfactory = "a:b"\nfixed = {{ y = {value} }}\n[[inputs]]\nname = "x"\nshape = [1]\n'
    )
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert told in str(caught.value)
    assert "also wrong" not in str(caught.value)


def test_fixed_numbers_keep_their_kind(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    fixed = "a = true, b = 16000, c = 0.5"
    path.write_text(
        f'name = "x"\n[model]\nfactory = "a:b"\nfixed = {{ {fixed} }}\n[[inputs]]\nname = "x"\nshape = [1]\n'
    )
    assert repr(load_recipe(path).model.fixed) == "{'a': True, 'b': 16000, 'c': 0.5}"
