"""Runs one exporter on one network, in the exporter's own environment: ``python tools.py JOB.json RESULT.json``.

The clock runs from a module in memory to the file on disk. Imports are warm, and so is the exporter itself: it has
exported one small convolution before, in the same process, so that what it builds once does not count.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

CALIBRATION_BATCHES = 4
ROUNDING = "nearest"
"""How int8 files are made: few batches of noise and no tuning of weights, which change no latency.

MobileNetV2, one core: 1.4 s beside 3.8 s with edgeconv's default rounding; at most 7.5 s for any network, cold.
"""


@dataclass(frozen=True)
class Made:
    """What an export made.

    Attributes:
        files: by format.
        refusals: why there is no file of a format that was tried, by format.
        kept_float: operators that an int8 file computes in float, by the name of their output, and why.
    """

    files: Mapping[str, Path]
    refusals: Mapping[str, str] = field(default_factory=dict)
    kept_float: Mapping[str, str] = field(default_factory=dict)


Export = Callable[[Any, Any, Path], Made]
"""(module, or the path of an .onnx file; input; folder) to what it made."""


def _edgeconv() -> Export:
    import edgeconv

    def export(module: Any, x: Any, folder: Path) -> Made:
        result = edgeconv.export(module, (x,), folder, name="edgeconv", input_names=("input",))
        return Made({artifact.format: artifact.path for artifact in result.artifacts})

    return export


def _edgeconv_int8() -> Export:
    import edgeconv

    def write(module: Any, x: Any, folder: Path, *formats: str) -> Made:
        try:
            result = edgeconv.export(
                module,
                (x,),
                folder,
                name="edgeconv",
                formats=formats,
                variants="int8",
                input_names=("input",),
                quantization=edgeconv.Quantization(batches=lambda: _noise(tuple(x.shape)), rounding=ROUNDING),
            )
        except edgeconv.EdgeconvError as error:
            return Made({}, dict.fromkeys(formats, str(error)))
        plan = json.loads((folder / "edgeconv.int8.plan.json").read_text())
        return Made({artifact.format: artifact.path for artifact in result.artifacts}, kept_float=plan["kept_float"])

    def export(module: Any, x: Any, folder: Path) -> Made:
        both = write(module, x, folder, "onnx", "tflite")
        if not both.refusals:
            return both
        # One calibration does for both. Where that is refused, each is made by itself, or has its own reason.
        onnx, tflite = (write(module, x, folder / format_, format_) for format_ in ("onnx", "tflite"))
        return Made(
            {**onnx.files, **tflite.files},
            {**onnx.refusals, **tflite.refusals},
            {**onnx.kept_float, **tflite.kept_float},
        )

    return export


def _noise(shape: tuple[int, ...]) -> Iterator[dict[str, Any]]:
    """Calibration data like the input that files are judged on, but not that input."""
    import numpy as np

    generator = np.random.default_rng(2)
    for _ in range(CALIBRATION_BATCHES):
        yield {"input": generator.standard_normal(shape, dtype=np.float32)}


def _torch_onnx() -> Export:
    import onnx
    import onnxsim
    import torch

    def export(module: Any, x: Any, folder: Path) -> Made:
        path = folder / "torch_onnx.onnx"
        program = torch.onnx.export(
            module, (x,), dynamo=True, optimize=True, input_names=["input"], output_names=["output"], verbose=False
        )
        if program is None:
            raise RuntimeError("torch.onnx returned nothing")
        simplified, sound = onnxsim.simplify(program.model_proto)
        if not sound:
            raise RuntimeError("onnxsim's own check failed")
        onnx.save(simplified, path)
        return Made({"onnx": path})

    return export


def _litert_torch() -> Export:
    import litert_torch  # type: ignore[import-not-found]

    def export(module: Any, x: Any, folder: Path) -> Made:
        path = folder / "litert_torch.tflite"
        litert_torch.convert(module, (x,)).export(str(path))
        return Made({"tflite": path})

    return export


def _litert_torch_nhwc() -> Export:
    import litert_torch

    def export(module: Any, x: Any, folder: Path) -> Made:
        path = folder / "litert_torch_nhwc.tflite"
        outputs = [0] if module(x).dim() == 4 else None
        channels_last = litert_torch.to_channel_last_io(module, args=[0], outputs=outputs)
        litert_torch.convert(channels_last, (x.permute(0, 2, 3, 1).contiguous(),)).export(str(path))
        return Made({"tflite": path})

    return export


def _onnx2tf() -> Export:
    import onnx2tf  # type: ignore[import-not-found]

    def export(source: Any, x: Any, folder: Path) -> Made:
        onnx2tf.convert(
            input_onnx_file_path=str(source),
            output_folder_path=str(folder),
            copy_onnx_input_output_names_to_tflite=True,
            non_verbose=True,
        )
        return Made({"tflite": next(folder.glob("*_float32.tflite"))})

    return export


@dataclass(frozen=True)
class Tool:
    """An exporter.

    Attributes:
        name: as tables write it.
        environment: a key of `environments.ENVIRONMENTS`; empty for the project's own.
        formats: what it makes.
        load: imports it and returns what exports.
        source: the tool whose .onnx file it takes instead of a module; empty for a module.
        packages: whose versions the results state.
        variant: of its files; only those of fp32 compute what the module computes, and are compared with the peers'.
    """

    name: str
    environment: str
    formats: tuple[str, ...]
    load: Callable[[], Export]
    source: str = ""
    packages: tuple[str, ...] = ()
    variant: str = "fp32"


OURS, INT8 = "edgeconv", "edgeconv-int8"
TOOLS: dict[str, Tool] = {
    tool.name: tool
    for tool in (
        Tool(OURS, "", ("onnx", "tflite"), _edgeconv, packages=("torch", "onnxsim")),
        Tool(INT8, "", ("onnx", "tflite"), _edgeconv_int8, packages=("torch", "onnxsim"), variant="int8"),
        Tool("torch.onnx", "torch.onnx", ("onnx",), _torch_onnx, packages=("torch", "onnxscript", "onnxsim")),
        Tool("litert-torch", "litert-torch", ("tflite",), _litert_torch, packages=("litert-torch", "torch")),
        Tool("litert-torch-nhwc", "litert-torch", ("tflite",), _litert_torch_nhwc, packages=("litert-torch", "torch")),
        Tool("onnx2tf", "onnx2tf", ("tflite",), _onnx2tf, source="torch.onnx", packages=("onnx2tf",)),
    )
}


def _memory_bytes(field: str) -> int | None:
    """``VmRSS`` or ``VmHWM`` of this process; None where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


def _forget_peak() -> None:
    """Makes the peak begin at what is in use now (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _module(job: dict[str, Any]) -> Any:
    import torch
    from networks import NETWORKS
    from safetensors.torch import load_file

    module = NETWORKS[job["network"]].build()
    module.load_state_dict(load_file(job["weights"]))
    return module.eval(), torch.zeros(NETWORKS[job["network"]].shape)


def _small_module() -> Any:
    import torch

    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()).eval(), torch.zeros(1, 3, 16, 16)


def _timed(export: Export, what: Any, x: Any, folder: Path) -> tuple[float, Made]:
    folder.mkdir(parents=True, exist_ok=True)
    start_ns = time.perf_counter_ns()
    made = export(what, x, folder)
    return (time.perf_counter_ns() - start_ns) / 1e9, made


def _run(job: dict[str, Any]) -> dict[str, Any]:
    tool, out = TOOLS[job["tool"]], Path(job["out"])
    export = tool.load()
    takes_onnx = bool(tool.source)
    small, small_x = (job["small_source"], None) if takes_onnx else _small_module()
    first_s, made_of_small = _timed(export, small, small_x, out / "small")
    what, x = (job["source"], None) if takes_onnx else _module(job)
    before = _memory_bytes("VmRSS")
    _forget_peak()
    seconds, made = _timed(export, what, x, out)
    peak = _memory_bytes("VmHWM")
    times = [seconds]
    while len(times) < job["repeats"] and sum(times) < job["repeat_budget_s"]:
        with tempfile.TemporaryDirectory() as folder:
            times.append(_timed(export, what, x, Path(folder))[0])
    return {
        "seconds": times,
        "first_seconds": first_s,
        "memory_before_bytes": before,
        "peak_memory_bytes": peak,
        "files": {format_: str(path) for format_, path in made.files.items()},
        "small_files": {format_: str(path) for format_, path in made_of_small.files.items()},
        "refusals": dict(made.refusals),
        "kept_float": dict(made.kept_float),
        "versions": {package: metadata.version(package) for package in tool.packages},
    }


def main(job_path: str, result_path: str) -> None:
    """Does one job; whatever an exporter raises is its result."""
    try:
        result = _run(json.loads(Path(job_path).read_text()))
    except Exception as error:  # noqa: BLE001 - a peer that fails gets a row with its reason
        lines = " ".join(str(error).split())
        result = {"error": f"{type(error).__name__}: {lines}"[:300]}
    Path(result_path).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
