"""Every variant of a trained classifier, from its recipe to the verdict of every device."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import flatbuffers
import numpy as np
import pytest
import torch
from ai_edge_litert import schema_py_generated as schema
from digits import RECIPE, written

import edgeconv
from edgeconv.cli import run
from edgeconv.core import Comparison, Fidelity, Verdict
from edgeconv.devices import ENVIRONMENTS
from edgeconv.devices._environments import python_of
from edgeconv.errors import DeviceError, EdgeconvError
from edgeconv.flow.pipeline import ExportResult

IMAGES = 30  # of 360, which test_e2e_shipped_recipes judges
VARIANTS = ("fp16", "int8", "int8-weights", "int16x8")
TFLITE = ("litert", "litert-reference", "tflite-runtime")


def _installed(name: str) -> bool:
    try:
        return python_of(ENVIRONMENTS[name]).exists()
    except DeviceError:
        return False


MICRO = _installed("tflite-micro")
DEVICES = ("onnxruntime", *TFLITE, *(("tflite-micro",) if MICRO else ()))


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ExportResult]:
    """The folder and the result of all variants on all devices; only read it."""
    out = tmp_path_factory.mktemp("digits")
    recipe = edgeconv.load_recipe(written(tmp_path_factory.mktemp("recipe") / "digits", IMAGES))
    return out, edgeconv.export_recipe(recipe, out, devices=DEVICES, variants=VARIANTS, c_array=True)


def _rows(result: ExportResult, variant: str, device: str | None = None) -> list[Comparison]:
    assert result.report is not None
    files = {artifact.path.name for artifact in result.artifacts if artifact.variant == variant}
    return [row for row in result.report.comparisons if row.artifact in files and device in (None, row.device)]


def test_each_variant_is_within_its_bound_everywhere(exported: tuple[Path, ExportResult]) -> None:
    _, result = exported
    assert result.report is not None
    assert result.report.verdict is Verdict.PASS
    for variant in VARIANTS:
        judged = {row.device for row in _rows(result, variant) if row.verdict is Verdict.PASS}
        expected = set(TFLITE) | ({"onnxruntime"} if variant != "int16x8" else set())
        assert judged - {"tflite-micro"} == expected
        assert all(isinstance(row.tolerance, Fidelity) for row in _rows(result, variant))


@pytest.mark.parametrize("device", ["onnxruntime", *TFLITE, "tflite-micro"])
def test_int8_tells_unseen_digits_apart_as_floats_do(device: str, exported: tuple[Path, ExportResult]) -> None:
    if device == "tflite-micro" and not MICRO:
        pytest.skip("edgeconv devices --install tflite-micro")
    (row,) = _rows(exported[1], "int8", device)
    assert row.top1["labelled"] == IMAGES
    assert row.top1["reference"] / IMAGES > 0.98
    assert row.top1["correct"] == row.top1["reference"]


@pytest.mark.skipif(not MICRO, reason="edgeconv devices --install tflite-micro")
def test_microcontrollers_tell_their_arena_and_refuse_what_they_have_no_kernels_for(
    exported: tuple[Path, ExportResult],
) -> None:
    arenas = {}
    for variant in VARIANTS:
        (row,) = _rows(exported[1], variant, "tflite-micro")
        arenas[variant] = row.arena_bytes
        skipped = variant in ("fp16", "int8-weights")
        assert row.verdict is (Verdict.SKIPPED if skipped else Verdict.PASS)
        assert ("not for " + variant in row.reason) == skipped
    assert arenas["fp16"] is arenas["int8-weights"] is None
    assert 10_000 < arenas["int8"] < arenas["int16x8"] < 40_000


def test_quantized_rows_count_steps_from_the_graphs_integers(exported: tuple[Path, ExportResult]) -> None:
    # TFLite's kernels round products twice, which makes a step in about 5 % of the elements of each of the 19 layers.
    for variant in ("int8", "int16x8"):
        for row in _rows(exported[1], variant):
            assert sum(row.lsb.values()) == IMAGES * 10
            assert max(map(abs, row.lsb)) <= (1 if row.device == "onnxruntime" else 16)
    assert not any(row.lsb for row in _rows(exported[1], "fp16"))


def test_layers_on_reference_kernels_are_within_one_step_each(exported: tuple[Path, ExportResult]) -> None:
    for variant in ("int8", "int16x8"):
        for row in _rows(exported[1], variant):
            if row.device != "litert-reference":
                assert row.layers == ()
                continue
            assert {"input", "logits"} <= {layer.name for layer in row.layers}
            assert len(row.layers) == 21
            assert max(layer.largest for layer in row.layers) == 1
            assert all(layer.most == 0 for layer in row.layers)
    assert not any(row.layers for variant in ("fp16", "int8-weights") for row in _rows(exported[1], variant))


def test_files_of_fewer_bits_are_smaller(exported: tuple[Path, ExportResult], tmp_path: Path) -> None:
    floats = edgeconv.export_recipe(edgeconv.load_recipe(RECIPE), tmp_path, prove=False)
    files = (*floats.artifacts, *exported[1].artifacts)
    sizes = {(item.variant, item.format): item.size_bytes or 0 for item in files}
    for format_ in ("onnx", "tflite"):
        assert sizes["fp16", format_] <= 0.6 * sizes["fp32", format_]
        # 30 000 weights only: names and scales weigh half as much
        assert sizes["int8", format_] <= 0.52 * sizes["fp32", format_]
    assert sizes["int8", "tflite"] <= 0.4 * sizes["fp32", "tflite"]


def test_only_the_integer_files_are_integer_only(
    exported: tuple[Path, ExportResult], capsys: pytest.CaptureFixture[str]
) -> None:
    integer = {("int8", "tflite"), ("int8", "onnx"), ("int16x8", "tflite")}
    for item in exported[1].artifacts:
        code = run(["inspect", "--integer-only", str(item.path)])
        assert code == (0 if (item.variant, item.format) in integer else 1), item.path.name
    capsys.readouterr()


def _int8_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if ".int8." in path.name}


def test_the_same_bytes_in_another_folder_from_the_plan_and_in_another_company(
    exported: tuple[Path, ExportResult], tmp_path: Path
) -> None:
    first = _int8_files(exported[0])
    assert sorted(first) == [f"digits_dsc.int8.{end}" for end in ("cc", "h", "onnx", "plan.json", "tflite")]
    again = tmp_path / "again"
    edgeconv.export_recipe(edgeconv.load_recipe(RECIPE), str(again), variants=["int8"], prove=False, c_array=True)
    assert _int8_files(again) == first

    recipes = tmp_path / "recipes"
    recipes.mkdir()
    for name in ("digits_dsc.safetensors", "digits_holdout.npz", "digits_calibration.npz"):
        shutil.copy(RECIPE.with_name(name), recipes)
    (recipes / "edited.plan.json").write_bytes(first["digits_dsc.int8.plan.json"])
    text = RECIPE.read_text() + '\n[quantize]\nplan = "edited.plan.json"\n'
    (recipes / "digits_dsc.toml").write_text(text)
    planned = tmp_path / "planned"
    fed_back = edgeconv.load_recipe(recipes / "digits_dsc.toml")
    edgeconv.export_recipe(fed_back, planned, variants=["int8"], prove=False, c_array=True)
    assert _int8_files(planned) == first


def _rewritten(data: bytes, change: Callable[[schema.ModelT], None]) -> bytes:
    model = schema.ModelT.InitFromPackedBuf(data, 0)
    change(model)
    builder = flatbuffers.Builder(len(data))
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _other_bias(model: schema.ModelT) -> None:
    """Of one class: 20 steps of the output."""
    graph = model.subgraphs[0]
    last = next(each for each in reversed(graph.operators) if len(each.inputs) == 3)
    images, weights, bias = (graph.tensors[at] for at in last.inputs)
    step = graph.tensors[last.outputs[0]].quantization.scale[0]
    values = np.frombuffer(bytes(model.buffers[bias.buffer].data), np.int32).copy()
    values[3] += round(20 * step / (images.quantization.scale[0] * weights.quantization.scale[-1]))
    model.buffers[bias.buffer].data = np.frombuffer(values.tobytes(), np.uint8)


def _other_zero_point(model: schema.ModelT) -> None:
    """Of an activation in the middle: the positive half is cut off."""
    graph = model.subgraphs[0]
    graph.tensors[graph.operators[4].outputs[0]].quantization.zeroPoint = [127]


def _nothing(model: schema.ModelT) -> None:
    pass


@pytest.mark.parametrize(
    ("change", "code"),
    [(_nothing, 0), (_other_bias, 1), (_other_zero_point, 1)],
    ids=["unchanged", "bias", "zero point"],
)
def test_parity_judges_quantized_files_again_and_a_wrong_number_fails(
    change: Callable[[schema.ModelT], None],
    code: int,
    exported: tuple[Path, ExportResult],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "digits"
    shutil.copytree(exported[0], folder)
    (artifact,) = (item for item in exported[1].artifacts if item.path.name == "digits_dsc.int8.tflite")
    (folder / artifact.path.name).write_bytes(_rewritten(artifact.path.read_bytes(), change))
    command = ["parity", str(folder), "--device", "litert-reference", "--quiet"]
    assert run(command) == 2  # its checksum is another
    capsys.readouterr()
    text = (folder / "parity.json").read_text()
    changed = hashlib.sha256((folder / artifact.path.name).read_bytes()).hexdigest()
    (folder / "parity.json").write_text(text.replace(artifact.sha256, changed))
    assert run(command) == code
    told = capsys.readouterr().err
    rows = json.loads((folder / "parity.json").read_text())["comparisons"]
    (row,) = (row for row in rows if (row["artifact"], row["device"]) == (artifact.path.name, "litert-reference"))
    assert row["tolerance"]["accuracy_drop"] == 0.5  # still the recipe's bound, not that of floats
    assert row["verdict"] == ("fail" if code else "pass")
    assert ("SQNR is" in told) == bool(code)
    assert max(map(abs, map(int, row["lsb"]))) >= (20 if code else 1)
    assert len(row["layers"]) == 21  # of the export: the file is said to be the same


class _Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.act = torch.nn.LeakyReLU(0.1)
        self.fc = torch.nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.act(self.conv(x)).mean((2, 3)))


EXAMPLE = torch.ones(1, 3, 12, 12)


def _batches() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    return [{"x": rng.standard_normal((1, 3, 12, 12)).astype(np.float32)} for _ in range(6)]


@pytest.mark.parametrize("io", ["int8", "uint8"])
def test_from_python_with_integers_at_the_border(tmp_path: Path, io: str) -> None:
    sample = edgeconv.Sample("unseen", {"x": np.random.default_rng(1).standard_normal((1, 3, 12, 12), np.float32)})
    result = edgeconv.export(
        _Net(),
        (EXAMPLE,),
        tmp_path,
        name="net",
        variants=("int8",),
        quantization=edgeconv.Quantization(batches=_batches, io=io),
        devices=DEVICES,
        samples=[sample],
        c_array=True,
    )
    assert result.report is not None
    assert result.report.verdict is Verdict.PASS
    files = {item.format: item for item in result.artifacts}
    spec = files["tflite"].inputs[0]
    assert (spec.dtype, spec.layout, spec.shape) == (io, "nhwc", (1, 12, 12, 3))
    assert files["onnx"].inputs[0].dtype == files["onnx"].outputs[0].dtype == "uint8"
    assert files["tflite"].outputs[0].dtype == io
    plan = json.loads((tmp_path / "net.int8.plan.json").read_text())["tensors"]["x"]
    assert spec.scale == pytest.approx(plan["scale"], rel=1e-7)
    assert spec.zero_point == plan["zero_point"] + (128 if io == "uint8" else 0)
    header, source = ((tmp_path / f"net.int8.{end}").read_text() for end in ("h", "cc"))
    assert f"/* x: {io} [1, 12, 12, 3] NHWC, real = net_int8_input0_scale" in header
    numbers = source.split("net_int8_input0[432] = {")[1].split("}")[0].replace(",", " ").split()
    assert list(map(int, numbers)) == spec.to_file(sample.inputs["x"]).reshape(-1).tolist()


def test_int8_with_an_open_batch(tmp_path: Path) -> None:
    result = edgeconv.export(
        _Net(),
        (EXAMPLE,),
        tmp_path,
        name="net",
        variants="int8",
        quantization=edgeconv.Quantization(batches=_batches),
        dynamic_batch=True,
        devices=("onnxruntime", "litert"),
        samples=[
            edgeconv.Sample("unseen", {"x": np.random.default_rng(1).standard_normal((1, 3, 12, 12), np.float32)})
        ],
    )
    assert result.report is not None
    assert result.report.verdict is Verdict.PASS
    assert {len(row.samples) for row in result.report.comparisons} == {2}  # one of another batch was added
    assert all(item.inputs[0].shape[0] == "batch" for item in result.artifacts)


def test_c_source_as_a_recipe_asks_for_it(tmp_path: Path) -> None:
    recipe = tmp_path / "block.toml"
    recipe.write_text(
        'name = "block"\n[model]\nfactory = "edgeconv.nn:DepthwiseSeparableConv"\n'
        "args = { in_channels = 3, out_channels = 4 }\n"
        '[[inputs]]\nname = "x"\nshape = [1, 3, 8, 8]\n[export]\nformats = ["tflite"]\nc_array = true\n'
    )
    assert run(["export", str(recipe), "--no-parity", "--out", str(tmp_path), "--quiet"]) == 0
    folder = tmp_path / "block"
    assert {path.name for path in folder.iterdir()} == {"block.fp32.tflite", "block.fp32.h", "block.fp32.cc"}
    header = (folder / "block.fp32.h").read_text()
    assert f"block_fp32_model[{(folder / 'block.fp32.tflite').stat().st_size}];" in header


def test_an_export_without_c_source_takes_away_that_of_an_earlier_file(tmp_path: Path) -> None:
    def export(*, c_array: bool) -> set[str]:
        edgeconv.export(_Net(), (EXAMPLE,), tmp_path, name="net", c_array=c_array, formats="tflite")
        return {path.name for path in tmp_path.iterdir()}

    (tmp_path / "mine.h").write_text("int mine;\n")
    assert export(c_array=True) == {"mine.h", "net.fp32.tflite", "net.fp32.h", "net.fp32.cc"}
    assert export(c_array=False) == {"mine.h", "net.fp32.tflite"}


def _raises() -> list[dict[str, np.ndarray]]:
    raise ZeroDivisionError("of the user's own")


def _edited(field: str) -> str:
    plan = {"schema": 1, "scheme": "int8", "kept_float": {}, "tensors": {}, "weights": {}}
    values = {
        "tensors": {"dtype": "int8", "scale": 0.1, "zero_point": 0},
        "weights": {"axis": None, "scales": [0.1]},
        "kept_float": "it was asked for",
    }
    return json.dumps({**plan, field: {"conv.99": values[field]}})


@pytest.mark.parametrize(
    ("quantization", "options", "says"),
    [
        ({"batches": None}, {}, r"there is no calibration data; pass Quantization\(batches=\.\.\.\)"),
        ({"observer": "minmax"}, {}, "observer: 'minmax' is not known; choose of min-max, "),
        ({"rounding": "adaround"}, {}, "rounding: 'adaround' is not known; choose of nearest, "),
        ({"io": "int4"}, {}, "io: 'int4' is not known; choose of float32, int8, uint8"),
        ({"keep_float": ("conv.99",)}, {}, "keep_float: no operator makes 'conv.99'"),
        ({"keep_float": "conv"}, {}, r"keep_float: it is one string; write \('conv',\)"),
        ({"plan": _edited("tensors")}, {}, "plan, tensors: .*conv.99"),
        ({"plan": _edited("weights")}, {}, "plan, weights: .*conv.99"),
        ({"plan": _edited("kept_float")}, {}, "plan, kept_float: .*conv.99"),
        ({"plan": "{"}, {}, "plan: it is no JSON"),
        ({"batches": [{}]}, {}, "batches: it is a list, .* batches=lambda: data"),
        ({"batches": _raises}, {}, "it raised ZeroDivisionError after 0 batches: of the user's own"),
        ({"batches": lambda: [{"x": EXAMPLE}]}, {}, "batch 1 holds a Tensor; give arrays of numpy"),
        ({"batches": lambda: [EXAMPLE.numpy()]}, {}, "give mappings from input names to arrays"),
        ({}, {"variants": "int16x8", "formats": "onnx"}, 'int16x8 is made of TFLite only, .* add "tflite" to formats'),
        ({}, {"c_array": True, "formats": "onnx"}, 'the C source is made of TFLite only, .* add "tflite" to formats'),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(
    quantization: dict[str, object], options: dict[str, object], says: str, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    asked = {"batches": _batches, **quantization}
    with pytest.raises(EdgeconvError, match=says) as caught:
        edgeconv.export(
            _Net(),
            (EXAMPLE,),
            out,
            **{"name": "net", "variants": "int8", **options},  # type: ignore[arg-type]
            quantization=edgeconv.Quantization(**asked),  # type: ignore[arg-type]
        )
    assert "\n" not in str(caught.value)
    assert not out.exists()


def test_c_source_of_onnx_alone_is_refused_on_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["export", str(RECIPE), "--format", "onnx", "--c-array", "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err.strip()
    assert "the C source is made of TFLite only" in told
    assert not list(tmp_path.iterdir())
