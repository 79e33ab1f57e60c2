"""Every reader of what strangers wrote, with the mutants that it gets."""

from __future__ import annotations

import io
import json
import math
import random
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from array_mutants import bomb_of, npy_of, npz_of, safetensors_of
from chances import bytes_of
from foresight import unforeseen
from onnx_mutants import onnx_of
from pool import HIDDEN, Work
from seeds import PLANNED, RECIPE, WEIGHED, Seeds
from text_mutants import json_of, toml_of
from tflite_mutants import tflite_of

import edgeconv.cli
from edgeconv.core import Artifact, Sample, TensorSpec
from edgeconv.devices import Device, run_artifact
from edgeconv.devices.agent import ProtocolError, frame_parts, read_frame
from edgeconv.errors import EdgeconvError
from edgeconv.flow import journal
from edgeconv.parity import load_golden
from edgeconv.quantize import Plan
from edgeconv.recipe import load_recipe
from edgeconv.recipe.arrays import read_arrays
from edgeconv.recipe.weights import load_weights
from edgeconv.reference import tflite
from edgeconv.report import from_json

Mutant = tuple[bytes, Work]


def _cli(folder: Path, *arguments: str) -> int:
    """The command's exit code; what is behind its refusal is looked at."""
    refuse = edgeconv.cli._refuse

    def looked_at(message: str) -> int:
        _look(folder, sys.exception())
        return refuse(message)

    edgeconv.cli._refuse = looked_at
    return edgeconv.cli.run(arguments)


def _told(folder: Path, call: Callable[[], object]) -> int:
    """The exit code that a call would have as a command."""
    try:
        call()
    except EdgeconvError as error:
        _look(folder, error)
        print(f"edgeconv: error: {error}", file=sys.stderr)
        return 2
    return 0


def _look(folder: Path, error: BaseException | None) -> None:
    stack = unforeseen(error) if error is not None else ""
    if stack:
        (folder.parent / HIDDEN).write_text(stack, "utf-8", "backslashreplace")


def _onnx(seeds: Seeds, rng: random.Random) -> Mutant:
    data = onnx_of(rng)
    command = rng.choice((*(["export"],) * 8, ["inspect"], ["inspect", "--integer-only"]))

    def work(folder: Path) -> int:
        (folder / "in.onnx").write_bytes(data)
        (folder / "in.onnx.data").write_bytes(bytes(64))
        if command == ["export"]:
            return _cli(folder, "export", "in.onnx", "--out", "out", "--no-parity", "-q")
        return _cli(folder, *command, "in.onnx")

    return data, work


def _tflite(seeds: Seeds, rng: random.Random) -> Mutant:
    name = rng.choice(seeds.names())
    data = tflite_of(seeds.tflite[name], rng)
    kind = rng.random()
    options = rng.choice(([], ["--integer-only"], ["--json"]))

    def work(folder: Path) -> int:
        (folder / "in.tflite").write_bytes(data)
        if kind < 0.02:
            return _cli(folder, "bench", "in.tflite", "--rounds", "1", "--runs", "1", "--device", "litert", "-q")
        if kind < 0.04:
            seeds.copied(folder / "net", {name: data})
            return _cli(folder, "parity", "net", "--device", "litert", "-q")
        if kind > 0.6:
            return _told(folder, lambda: _read_back(folder / "in.tflite"))
        if kind < 0.3:
            from edgeconv.bench import read_file

            return _told(folder, lambda: read_file(folder / "in.tflite").sample())
        return _cli(folder, "inspect", "in.tflite", *options)

    return data, work


def _read_back(path: Path) -> None:
    """Read by the reference, and, where that takes no long time, evaluated."""
    graph = tflite.read(path)
    if sum(math.prod(tensor.shape) for tensor in graph.tensors) < 10**6:
        inputs = [graph.tensors[index] for index in graph.inputs]
        tflite.evaluate(graph, {tensor.name: np.zeros(tensor.shape, tensor.held_as) for tensor in inputs})


def _report(seeds: Seeds, rng: random.Random) -> Mutant:
    data = json_of(json.loads(json.dumps(seeds.report)), rng).encode("utf-8", "surrogatepass")
    data = bytes_of(data, rng) if rng.random() < 0.05 else data
    kind = rng.random()

    def work(folder: Path) -> int:
        if kind < 0.6:
            return _told(folder, lambda: from_json(data.decode("utf-8", "replace")))
        seeds.copied(folder / "net", {"parity.json": data})
        if kind < 0.8:
            (folder / "in.onnx").write_bytes(seeds.onnx)
            return _cli(folder, "export", "in.onnx", "--out", ".", "--format", "onnx", "--no-parity", "-q")
        return _cli(folder, "parity", "net", "--device", "onnxruntime", "-q")

    return data, work


def _plan(seeds: Seeds, rng: random.Random) -> Mutant:
    text = json_of(json.loads(json.dumps(seeds.plan)), rng)
    data = text.encode("utf-8", "surrogatepass")
    data = bytes_of(data, rng) if rng.random() < 0.05 else data
    whole = rng.random() < 0.3

    def work(folder: Path) -> int:
        if not whole:
            return _told(folder, lambda: Plan.from_json(data.decode("utf-8", "replace")))
        (folder / "net.plan.json").write_bytes(data)
        (folder / "net.toml").write_text(PLANNED)
        return _cli(folder, "export", "net.toml", "--out", "out", "--no-parity", "-q")

    return data, work


def _recipe(seeds: Seeds, rng: random.Random) -> Mutant:
    data = toml_of(rng.choice((RECIPE, RECIPE, PLANNED, WEIGHED)), rng).encode("utf-8", "surrogatepass")
    data = bytes_of(data, rng) if rng.random() < 0.05 else data
    whole = rng.random() < 0.15

    def work(folder: Path) -> int:
        (folder / "net.toml").write_bytes(data)
        (folder / "in.npz").write_bytes(seeds.arrays.read_bytes())
        (folder / "net.plan.json").write_text(json.dumps(seeds.plan))
        (folder / "net.safetensors").write_bytes(seeds.weights)
        if whole:
            return _cli(folder, "export", "net.toml", "--out", "out", "--no-parity", "-q")
        return _told(folder, lambda: load_recipe(folder / "net.toml"))

    return data, work


def _arrays(seeds: Seeds, rng: random.Random) -> Mutant:
    single = rng.random() < 0.4
    data = npy_of(rng) if single else bomb_of(rng) if rng.random() < 0.03 else npz_of(rng)
    whole = not single and rng.random() < 0.15

    def work(folder: Path) -> int:
        path = folder / ("in.npy" if single else "in.npz")
        path.write_bytes(data)
        if not whole:
            return _told(folder, lambda: read_arrays(path))
        (folder / "in.onnx").write_bytes(seeds.onnx)
        options = ("--samples", "in.npz", "--device", "onnxruntime", "--format", "onnx", "-q")
        return _cli(folder, "export", "in.onnx", "--out", "out", *options)

    return data, work


def _weights(seeds: Seeds, rng: random.Random) -> Mutant:
    data = safetensors_of(seeds.weights, rng)

    def work(folder: Path) -> int:
        from edgeconv.nn import DepthwiseSeparableConv

        path = folder / "net.safetensors"
        path.write_bytes(data)
        return _told(folder, lambda: load_weights(DepthwiseSeparableConv(3, 8), path))

    return data, work


def _golden(seeds: Seeds, rng: random.Random) -> Mutant:
    data = safetensors_of(seeds.golden, rng)
    whole = rng.random() < 0.15

    def work(folder: Path) -> int:
        if whole:
            seeds.copied(folder / "net", {"net.golden.safetensors": data})
            return _cli(folder, "parity", "net", "--device", "onnxruntime", "-q")
        path = folder / "net.golden.safetensors"
        path.write_bytes(data)
        return _told(folder, lambda: load_golden(path))

    return data, work


def _journal(seeds: Seeds, rng: random.Random) -> Mutant:
    files = {"net.onnx": "0" * 64, "parity.json": "1" * 64}
    plain = {"schema": 1, "staging": ".edgeconv-17-a1b2", "files": files, "discarded": {"old.onnx": "2" * 64}}
    data = json_of(plain, rng).encode("utf-8", "surrogatepass")
    data = bytes_of(data, rng) if rng.random() < 0.2 else data
    repeated = rng.random() < 0.5

    def work(folder: Path) -> int:
        (folder / "in.onnx").write_bytes(seeds.onnx)
        out = folder / "out" / "in"
        out.mkdir(parents=True)
        (out / journal.JOURNAL).write_bytes(data)
        (out / ".edgeconv-17-a1b2").mkdir()
        (out / ".edgeconv-17-a1b2" / "net.onnx").write_bytes(b"new")
        if repeated:
            return _cli(folder, "parity", str(out), "-q")
        return _cli(folder, "export", "in.onnx", "--out", "out", "--format", "onnx", "--no-parity", "-q")

    return data, work


def _frame(rng: random.Random) -> bytes:
    arrays = [("y", np.zeros((2, 3), np.float32))]
    parts = [bytes(part) for part in frame_parts("outputs", {"latency_ms": 1.0, "facts": {"a": "b"}}, arrays)]
    text = json_of(json.loads(parts[0][8:]), rng).encode("utf-8", "surrogatepass")
    length = len(text) if rng.random() < 0.95 else rng.choice((0, 1, 2**20, 2**32 - 1))
    whole = b"ECA1" + length.to_bytes(4, "little") + text + parts[1]
    return bytes_of(whole, rng) if rng.random() < 0.3 else whole


def _answer(seeds: Seeds, rng: random.Random) -> Mutant:
    data = _frame(rng)

    def work(folder: Path) -> int:
        try:
            read_frame(io.BytesIO(data), lambda: 2**20)
        except ProtocolError:
            return 1
        return 0

    return data, work


_TALK = """
import os, sys
sys.stdout.buffer.write(open(sys.argv[1], "rb").read())
sys.stdout.buffer.flush()
if sys.argv[2] == "waits":
    sys.stdin.buffer.read()
"""


def _talk(seeds: Seeds, rng: random.Random) -> Mutant:
    """A device whose whole talk was written before: hello, loaded, outputs, one of them changed."""
    hello = {"protocol": 1, "environment": {"runtime": "odd", "version": "1"}}
    answers = [
        ("hello", hello, []),
        ("loaded", {"inputs": ["x"], "outputs": ["y"], "facts": {"a": "b"}}, []),
        ("outputs", {"latency_ms": 1.0}, [("y", np.zeros((2, 3), np.float32))]),
    ]
    changed = rng.randrange(3)
    pieces = []
    for at, (kind, fields, arrays) in enumerate(answers):
        parts = [bytes(part) for part in frame_parts(kind, fields, arrays)]
        if at == changed:
            text = json_of(json.loads(parts[0][8:]), rng).encode("utf-8", "surrogatepass")
            parts[0] = b"ECA1" + len(text).to_bytes(4, "little") + text
        pieces += parts
    data, ending = b"".join(pieces), rng.choice(("waits", "ends"))

    def work(folder: Path) -> int:
        (folder / "talk").write_bytes(data)
        (folder / "double.onnx").write_bytes(b"whatever")
        spec = TensorSpec("x", (2, 3), "float32")
        artifact = Artifact(
            folder / "double.onnx", "onnx", "fp32", "nchw", "", (spec,), (TensorSpec("y", (2, 3), "float32"),)
        )
        command = [sys.executable, "-S", "-E", "-c", _TALK, str(folder / "talk"), ending]
        device = Device("odd", "odd", ("onnx",), lambda: command)
        samples = (Sample("s", {"x": np.zeros((2, 3), np.float32)}),)
        return _told(folder, lambda: run_artifact(device, artifact, samples, timeout_s=3.0))

    return data, work


READERS: Mapping[str, Callable[[Seeds, random.Random], Mutant]] = {
    "onnx": _onnx,
    "tflite": _tflite,
    "report": _report,
    "plan": _plan,
    "recipe": _recipe,
    "arrays": _arrays,
    "weights": _weights,
    "golden": _golden,
    "journal": _journal,
    "answer": _answer,
    "talk": _talk,
}
SHARES = ("onnx",) * 8 + ("tflite",) * 3 + tuple(name for name in READERS if name not in ("onnx", "tflite"))
