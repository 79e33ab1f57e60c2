"""`make fuzz`: mutants of everything that is read, each in a process of its own; counts, and what was found.

Nothing may end in a traceback, a signal, a hang over 10 s or more than 4 GiB. What does is saved with what was printed.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from mutations import bytes_of, json_of, onnx_of, toml_of
from pool import Outcome, Work, run_all

import edgeconv
import edgeconv.cli
import edgeconv.pipeline
from edgeconv.devices.agent import ProtocolError, frame_parts, read_frame
from edgeconv.errors import EdgeconvError
from edgeconv.nn import DepthwiseSeparableConv
from edgeconv.quantize import Plan
from edgeconv.recipe import load_recipe

RECIPE = """name = "net"
[model]
factory = "edgeconv.nn:DepthwiseSeparableConv"
args = { in_channels = 3, out_channels = 8 }
seed = 0
[model.warmup]
seed = 1
batches = 2
[[inputs]]
name = "input"
shape = [1, 3, 8, 8]
dtype = "float32"
[export]
formats = ["onnx", "tflite"]
variants = ["fp32"]
[parity]
devices = ["onnxruntime"]
timeout_s = 60.0
[[parity.random]]
seed = 0
count = 2
[parity.tolerance]
atol = 1e-5
"""
Mutant = tuple[bytes, Work]


def _cli(*arguments: str) -> int:
    return edgeconv.cli.run(arguments)


def _told(call: Callable[[], object]) -> int:
    try:
        call()
    except EdgeconvError as error:
        print(f"edgeconv: error: {error}", file=sys.stderr)
        return 2
    return 0


class Seeds:
    """What the mutants are made of: one real export."""

    def __init__(self, folder: Path) -> None:
        module, x = DepthwiseSeparableConv(3, 8).eval(), torch.ones(1, 3, 8, 8)
        data = edgeconv.Quantization(batches=lambda: [{"x": x.numpy() * scale} for scale in (0.5, 1.0, 2.0)])
        edgeconv.export(
            module,
            (x,),
            folder,
            name="net",
            variants=("fp32", "int8"),
            input_names=["x"],
            quantization=data,
            devices=("onnxruntime",),
        )
        self.folder = folder
        self.report = json.loads((folder / "parity.json").read_text())
        self.plan = json.loads((folder / "net.int8.plan.json").read_text())
        self.tflite = [path.read_bytes() for path in sorted(folder.glob("*.tflite"))]
        self.onnx = (folder / "net.fp32.onnx").read_bytes()


def _onnx(seeds: Seeds, rng: random.Random) -> Mutant:
    data = onnx_of(rng)

    def work(folder: Path) -> int:
        (folder / "in.onnx").write_bytes(data)
        return _cli("export", "in.onnx", "--out", "out", "--no-parity", "-q")

    return data, work


def _tflite(seeds: Seeds, rng: random.Random) -> Mutant:
    data = bytes_of(rng.choice(seeds.tflite), rng)

    def work(folder: Path) -> int:
        (folder / "in.tflite").write_bytes(data)
        return _cli("inspect", "in.tflite", *rng.choice(([], ["--integer-only"], ["--json"])))

    return data, work


def _report(seeds: Seeds, rng: random.Random) -> Mutant:
    data = json_of(json.loads(json.dumps(seeds.report)), rng).encode()

    def work(folder: Path) -> int:
        shutil.copytree(seeds.folder, folder / "net")
        (folder / "net" / "parity.json").write_bytes(data)
        return _cli("parity", "net", "-q")

    return data, work


def _plan(seeds: Seeds, rng: random.Random) -> Mutant:
    text = json_of(json.loads(json.dumps(seeds.plan)), rng)
    return text.encode(), lambda folder: _told(lambda: Plan.from_json(text))


def _recipe(seeds: Seeds, rng: random.Random) -> Mutant:
    text = toml_of(RECIPE, rng)

    def work(folder: Path) -> int:
        (folder / "net.toml").write_text(text)
        return _told(lambda: load_recipe(folder / "net.toml"))

    return text.encode(), work


def _npz(seeds: Seeds, rng: random.Random) -> Mutant:
    file = io.BytesIO()
    dtype = rng.choice(("float32", "float64", "int64", "complex64", "float16", "U3"))
    shape = rng.choice(((2, 3, 8, 8), (0, 3, 8, 8), (3, 8, 8), (), (1, 3, 8, 9)))
    np.savez(file, **{rng.choice(("x", "y", "")): np.zeros(shape).astype(dtype)})
    data = bytes_of(file.getvalue(), rng) if rng.random() < 0.7 else file.getvalue()

    def work(folder: Path) -> int:
        (folder / "in.onnx").write_bytes(seeds.onnx)
        (folder / "in.npz").write_bytes(data)
        options = ("--samples", "in.npz", "--device", "onnxruntime", "--format", "onnx", "-q")
        return _cli("export", "in.onnx", "--out", "out", *options)

    return data, work


def _answer(seeds: Seeds, rng: random.Random) -> Mutant:
    arrays = [("y", np.zeros((2, 3), np.float32))]
    parts = [bytes(part) for part in frame_parts("outputs", {"latency_ms": 1.0, "facts": {"a": "b"}}, arrays)]
    header = json.loads(parts[0][8:])
    text = json_of(header, rng).encode()
    whole = b"ECA1" + len(text).to_bytes(4, "little") + text + parts[1]
    data = bytes_of(whole, rng) if rng.random() < 0.4 else whole

    def work(folder: Path) -> int:
        try:
            read_frame(io.BytesIO(data), lambda: 2**20)
        except ProtocolError:
            return 1
        return 0

    return data, work


READERS: Mapping[str, Callable[[Seeds, random.Random], Mutant]] = {
    "onnx": _onnx,
    "tflite": _tflite,
    "report": _report,
    "plan": _plan,
    "recipe": _recipe,
    "npz": _npz,
    "answer": _answer,
}
_SHARES = ("onnx",) * 6 + ("tflite", "report", "plan", "recipe", "npz", "answer")


def _inputs(
    seeds: Seeds, names: tuple[str, ...], seed: int, until: float, kept: dict[str, bytes]
) -> Iterator[tuple[str, Work]]:
    for number in itertools.count(seed):
        if time.monotonic() >= until:
            return
        reader = names[number % len(names)]
        data, work = READERS[reader](seeds, random.Random(f"{reader} {number}"))
        name = f"{reader}-{number}"
        kept[name] = data
        yield name, work


def _save(out: Path, outcome: Outcome, data: bytes) -> None:
    out.mkdir(parents=True, exist_ok=True)
    (out / outcome.name).write_bytes(data)
    (out / f"{outcome.name}.txt").write_text(f"{outcome.fault}\n{outcome.told}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("artifacts/fuzz"))
    parser.add_argument("--readers", nargs="*", choices=list(READERS), default=_SHARES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    counts: Counter[str] = Counter()
    kept: dict[str, bytes] = {}
    found = 0
    with tempfile.TemporaryDirectory(prefix="edgeconv-fuzz-") as folder:
        seeds = Seeds(Path(folder) / "net")
        inputs = _inputs(seeds, tuple(options.readers), options.seed, time.monotonic() + options.seconds, kept)
        for outcome in run_all(inputs, processes=options.processes):
            reader, data = outcome.name.split("-")[0], kept.pop(outcome.name)
            counts[f"{reader}: {'FAULT' if outcome.fault else f'exit {outcome.code}'}"] += 1
            if outcome.fault:
                found += 1
                _save(options.out, outcome, data)
                print(f"{outcome.name}: {outcome.fault}", flush=True)
    for what, count in sorted(counts.items()):
        print(f"{count:8,}  {what}")
    print(f"{sum(counts.values()):,} inputs, {found} faults{f', saved in {options.out}' if found else ''}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
