"""Runs files of any exporter on one runtime per format, single thread, in a process of its own.

``python runtimes.py check JOB.json RESULT.json``: one file: does it load, is it right, what is in it.
``python runtimes.py race JOB.json RESULT.json``: several files of one format in turns, A B A B.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from edgeconv.bench import read_file, summary_of
from edgeconv.core import Tolerance
from edgeconv.parity import metrics

_SETTLING_RUNS = 1
_SITTINGS = 5
_TURN_MS = 8.0
_WRONG = 1e-3  # of the largest output: no rounding does that


class Loaded(Protocol):
    """A file in a runtime."""

    def invoke(self, x: Any) -> Any:
        """Runs it once on an NCHW input and returns its output in torch's layout."""

    def ready(self, x: Any) -> Callable[[], object]:
        """What runs it once on `x`, with everything prepared that need not be timed."""


class Onnx:
    """onnxruntime on one core."""

    def __init__(self, path: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def invoke(self, x: Any) -> Any:
        return self._session.run(None, {self._input: x})[0]

    def ready(self, x: Any) -> Callable[[], object]:
        feeds = {self._input: x}
        return lambda: self._session.run(None, feeds)


class Tflite:
    """LiteRT with XNNPACK and one thread; the input goes in in the layout that the file has."""

    def __init__(self, path: str) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.interpreter = Interpreter(path, num_threads=1)
        self.interpreter.allocate_tensors()
        (self._input,) = self.interpreter.get_input_details()
        self._output = self.interpreter.get_output_details()[0]

    def invoke(self, x: Any) -> Any:
        self.ready(x)()
        return self.interpreter.get_tensor(self._output["index"])

    def ready(self, x: Any) -> Callable[[], object]:
        shape = tuple(self._input["shape"])
        last = np.ascontiguousarray(x.transpose(0, 2, 3, 1))
        self.interpreter.set_tensor(self._input["index"], last if shape == last.shape else x)
        invoke: Callable[[], object] = self.interpreter.invoke
        return invoke

    def delegation(self) -> dict[str, Any]:
        """How many parts of the graph XNNPACK took, how many operators it left outside of them, and which."""
        details = self.interpreter._get_ops_details()
        inside = [item for item in details if item["op_name"] == "DELEGATE"]
        makers = {index: item for item in details for index in item["outputs"]}
        makers |= {index: item for item in inside for index in item["outputs"]}
        # Delegated operators stay listed; what is still run is what the outputs need.
        open_tensors = [item["index"] for item in self.interpreter.get_output_details()]
        needed: dict[int, str] = {}
        while open_tensors:
            maker = makers.get(open_tensors.pop())
            if maker is not None and maker["index"] not in needed:
                needed[maker["index"]] = maker["op_name"]
                open_tensors += [index for index in maker["inputs"] if index >= 0]
        outside = Counter(op for op in needed.values() if op != "DELEGATE")
        return {"partitions": len(inside), "operators_outside": outside.total(), "outside": dict(outside)}


RUNTIMES: dict[str, type[Onnx] | type[Tflite]] = {"onnx": Onnx, "tflite": Tflite}


def _format(path: str) -> str:
    return Path(path).suffix.removeprefix(".")


def _in_torchs_layout(output: Any, shape: Sequence[int]) -> Any:
    return output.transpose(0, 3, 1, 2) if output.ndim == 4 and output.shape != tuple(shape) else output


def _parity(output: Any, reference: Any, variant: str) -> dict[str, Any]:
    """``verdict``: ``ok`` within edgeconv's default tolerance, ``loose`` beyond it, ``wrong`` far from it.

    Only fp32 files are held to that. What is quantized is ``approximate``, and ``sqnr_db`` says how near it comes.
    """
    output = _in_torchs_layout(output, reference.shape)
    if output.shape != reference.shape:
        return {"verdict": "wrong", "reason": f"shape {output.shape} instead of {reference.shape}"}
    if not np.isfinite(output).all():
        return {"verdict": "wrong", "reason": "NaN or infinite elements"}
    error, size, bound = np.abs(output - reference), np.abs(reference), Tolerance()
    largest = float(size.max())
    if variant != "fp32":
        verdict = "approximate"
    elif error.max() > _WRONG * largest:
        verdict = "wrong"
    else:
        verdict = "ok" if (error <= bound.atol + bound.rtol * size).all() else "loose"
    numbers = {"max_abs": float(error.max()), "max_output": largest, "sqnr_db": metrics(output, reference).sqnr_db}
    return {"verdict": verdict, "reason": "", **numbers}


def check(job: dict[str, Any]) -> dict[str, Any]:
    """Size, operators, delegation and parity of one file."""
    file = read_file(Path(job["file"]))
    values = np.load(job["values"])
    loaded = RUNTIMES[_format(job["file"])](job["file"])
    return {
        "size_bytes": file.size_bytes,
        "operators": file.operators,
        "delegation": loaded.delegation() if isinstance(loaded, Tflite) else None,
        "parity": _parity(loaded.invoke(values["x"]), values["y"], job["variant"]),
    }


def race(job: dict[str, Any]) -> dict[str, Any]:
    """Turns of every file: one run that does not count, then some whose median is the turn's latency.

    The files are loaded anew several times, in another order each time: where a runtime's memory happens to lie makes
    one and the same file up to a tenth faster or slower for as long as it stays loaded.
    """
    x = np.load(job["values"])["x"]
    names = list(job["files"])
    turns: dict[str, list[float]] = {name: [] for name in names}
    sittings = min(_SITTINGS, math.ceil(job["rounds"] / 2))
    for sitting in range(sittings):
        first = sitting % max(1, len(names))
        order = {name: job["files"][name] for name in names[first:] + names[:first]}
        _sit(order, x, turns, rounds=math.ceil(job["rounds"] / sittings), seconds=job["seconds"] / sittings)
    return {
        name: {**{key: value for key, value in vars(summary_of(values)).items() if key != "runs"}, "turns_ms": values}
        for name, values in turns.items()
    }


def _sit(files: dict[str, str], x: Any, turns: dict[str, list[float]], *, rounds: int, seconds: float) -> None:
    """Loads the files and appends their turns, as many for each."""
    kept = {name: RUNTIMES[_format(path)](path) for name, path in files.items()}
    racers = {name: loaded.ready(x) for name, loaded in kept.items()}
    counts = {name: _runs_of_a_turn(run) for name, run in racers.items()}
    end_s = time.monotonic() + seconds
    for index in range(rounds):
        for name in racers if index % 2 == 0 else reversed(racers):
            turns[name].append(_turn(racers[name], counts[name]))
        if time.monotonic() > end_s and index % 2 == 1:
            break


def _runs_of_a_turn(run: Callable[[], object]) -> int:
    run()
    return max(3, min(200, math.ceil(_TURN_MS / max(_once_ms(run), 1e-3))))


def _turn(run: Callable[[], object], count: int) -> float:
    for _ in range(_SETTLING_RUNS):
        run()
    return float(np.median([_once_ms(run) for _ in range(count)]))


def _once_ms(run: Callable[[], object]) -> float:
    start_ns = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - start_ns) / 1e6


def main(verb: str, job_path: str, result_path: str) -> None:
    """Does one job; what a runtime raises is its result."""
    verbs = {"check": check, "race": race}
    try:
        result = verbs[verb](json.loads(Path(job_path).read_text()))
    except Exception as error:  # noqa: BLE001 - a file that a runtime refuses gets a row with the reason
        lines = " ".join(str(error).split())
        result = {"error": f"{type(error).__name__}: {lines}"[:300]}
    Path(result_path).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
