"""What came of a random network: right, refused with a reason, or wrong; in every file, on the runtimes."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt

from edgeconv import EdgeconvError, ExportResult
from edgeconv.core import Artifact

Array = npt.NDArray[Any]
Export = Callable[[Path, Sequence[str], Sequence[str]], ExportResult]
"""Exports into a folder, in these formats and variants."""

FORMATS, VARIANTS = ("onnx", "tflite"), ("fp32", "fp16", "int8")
_LEAST_DB = {"fp32": 90.0, "fp16": 30.0}
"""Of each output's own power, unless the network itself gives less at that precision; see `Expected`."""
_INT8_DB, _INT8_SLACK_DB = 25.0, 4.0
_SLOWEST_S = 120.0
_UNFORESEEN = "cannot be converted ("  # an exception that blames the file, and that nobody foresaw: a bug


@dataclass(frozen=True)
class Expected:
    """What a network gives.

    Attributes:
        outputs: as float64 computes them.
        plain_db: per variant and output, what the network loses of itself at that precision, without any rewrite: below
            the usual bound where it is ill conditioned, as a comparison close to equality is.
        alternatives: per output what another evaluator gives that differs: to compute either is right, as where
            float32 leaves only its own noise of equal numbers less their mean.
    """

    outputs: Sequence[Array]
    plain_db: Mapping[str, Sequence[float]] = field(default_factory=dict)
    alternatives: Mapping[int, Array] = field(default_factory=dict)

    def nearest_db(self, computed: Array, output: int) -> float:
        """How near a result is to an output, or to its alternative."""
        others = [self.alternatives[output]] if output in self.alternatives else []
        return max(decibels(expected, computed) for expected in (self.outputs[output], *others))

    def least_db(self, variant: str, output: int) -> float:
        """What an output has to reach."""
        own = self.plain_db.get(variant)
        return min(_LEAST_DB[variant], np.inf if own is None else own[output] - 10.0)


@dataclass
class Outcome:
    """Of one network.

    Attributes:
        seed: of it.
        described: its steps.
        right: files that compute it.
        refused: reason by format and variant; the names and numbers in it are left out.
        wrong: one line per finding.
        int8_db: the least that an output of an int8 file has.
    """

    seed: int
    described: str
    right: int = 0
    refused: dict[str, str] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    int8_db: float = float("inf")


def decibels(expected: Array, computed: Array) -> float:
    """The signal's power over the error's; -inf where a number is none."""
    if expected.shape != computed.shape:
        return -np.inf
    error = float(np.square(expected.astype(np.float64) - computed.astype(np.float64)).sum())
    if not np.isfinite(error):
        return -np.inf
    return 10 * float(np.log10(max(float(np.square(expected.astype(np.float64)).sum()), 1e-12) / max(error, 1e-30)))


def run_file(artifact: Artifact, feeds: Mapping[str, Array]) -> list[Array]:
    """On onnxruntime or LiteRT in this process; in torch's layout and as real numbers.

    Args:
        artifact: the file.
        feeds: by the names of the inputs.
    """
    stored = {spec.name: spec.to_file(feeds[spec.name]) for spec in artifact.inputs}
    if artifact.format == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 4, 1
        session = onnxruntime.InferenceSession(artifact.path, options)
        results = session.run([spec.name for spec in artifact.outputs], stored)
    else:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(artifact.path), num_threads=1)
        for details in interpreter.get_input_details():
            shape = next(a.shape for name, a in stored.items() if _is_called(details["name"], name))
            if tuple(details["shape"]) != shape:
                interpreter.resize_tensor_input(details["index"], shape)
        by_name = interpreter.get_signature_runner()(**stored)
        results = [by_name[spec.name] for spec in artifact.outputs]
    return [spec.from_file(np.asarray(array)) for spec, array in zip(artifact.outputs, results, strict=True)]


def _is_called(tensor: str, name: str) -> bool:
    return tensor in (name, f"serving_default_{name}:0")


def judged(seed: int, described: str, export: Export, feeds: Sequence[Array], expected: Expected) -> Outcome:
    """Exports a network in every way, runs the files and compares.

    What is refused in one format or variant is tried in the others by itself.
    """
    outcome = Outcome(seed, described)
    with TemporaryDirectory() as folder:
        artifacts = _exported(outcome, export, Path(folder))
        by_variant: dict[str, list[list[Array]]] = {}
        for artifact in artifacts:
            try:
                inputs = {spec.name: array for spec, array in zip(artifact.inputs, feeds, strict=True)}
                results = run_file(artifact, inputs)
            except Exception as error:  # noqa: BLE001  (whatever a runtime raises is a finding)
                outcome.wrong.append(f"{artifact.format} {artifact.variant}: the runtime says {str(error)[:300]}")
                continue
            by_variant.setdefault(artifact.variant, []).append(results)
            faults = _faults(artifact.variant, results, expected)
            outcome.wrong += [f"{artifact.format} {artifact.variant}: {fault}" for fault in faults]
            outcome.right += not faults
        integers = by_variant.get("int8", [])
        for results in integers:
            outcome.int8_db = min([outcome.int8_db, *map(decibels, expected.outputs, results)])
        if len(integers) == 2:
            outcome.wrong += _disagreements(integers[0], integers[1], expected.outputs)
    return outcome


def _exported(outcome: Outcome, export: Export, folder: Path) -> list[Artifact]:
    try:
        return list(export(folder / "all", FORMATS, VARIANTS).artifacts)
    except EdgeconvError:
        pass
    except Exception as error:  # noqa: BLE001  (a traceback for the user)
        outcome.wrong.append(f"traceback: {type(error).__name__}: {str(error)[:200]}")
    artifacts: list[Artifact] = []
    for form in FORMATS:
        whole = _tried(outcome, export, folder, form, VARIANTS, told=False)
        parts = [_tried(outcome, export, folder, form, ("fp32",), told=True)] if whole is None else [whole]
        if whole is None and parts[0] is None:  # for a reason that the other variants share
            reason = outcome.refused.get(f"{form} fp32")
            outcome.refused |= {f"{form} {variant}": reason for variant in VARIANTS} if reason else {}
        elif whole is None:
            parts += [_tried(outcome, export, folder, form, (variant,), told=True) for variant in VARIANTS[1:]]
        artifacts += [artifact for part in parts for artifact in part or ()]
    return artifacts


def _tried(
    outcome: Outcome, export: Export, folder: Path, form: str, variants: Sequence[str], *, told: bool
) -> list[Artifact] | None:
    where = f"{form} {'-'.join(variants)}"
    try:
        return list(export(folder / where, (form,), variants).artifacts)
    except EdgeconvError as error:
        if _UNFORESEEN in str(error):
            outcome.wrong.append(f"{where}: {str(error)[:300]}")
        elif told:
            outcome.refused[where] = reason_of(error)
    except Exception as error:  # noqa: BLE001  (a traceback for the user)
        outcome.wrong.append(f"{where}: traceback: {type(error).__name__}: {str(error)[:200]}")
    return None


def _faults(variant: str, results: Sequence[Array], expected: Expected) -> list[str]:
    faults = []
    for number, (a, b) in enumerate(zip(expected.outputs, results, strict=True)):
        if a.shape != b.shape:
            faults.append(f"output {number} has shape {b.shape}, not {a.shape}")
        elif not np.isfinite(b).all():
            if np.isfinite(expected.least_db("fp16", number)):
                faults.append(f"output {number} is not finite")
        elif variant in _LEAST_DB and (db := expected.nearest_db(b, number)) < expected.least_db(variant, number):
            faults.append(f"output {number} has {db:.1f} dB of {expected.least_db(variant, number):.1f}")
    return faults


def _disagreements(onnx: Sequence[Array], tflite: Sequence[Array], expected: Sequence[Array]) -> list[str]:
    """For int8 no bound holds for every network: its two files must agree with one another."""
    faults = []
    for number, (a, b, real) in enumerate(zip(onnx, tflite, expected, strict=True)):
        if a.shape != b.shape:
            continue
        both_db, loss_db = decibels(a, b), min(decibels(real, a), decibels(real, b))
        if both_db < min(_INT8_DB, loss_db) - _INT8_SLACK_DB:
            faults.append(f"int8: output {number} differs between the formats: {both_db:.1f} dB, loss {loss_db:.1f} dB")
    return faults


def reason_of(error: EdgeconvError) -> str:
    """What a refusal says, without names and numbers, so that equal ones can be counted."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"", "'…'", error.what)
    return re.sub(r"-?\d+(\.\d+)?(e-?\d+)?", "N", text)[:400]


def sweep(seeds: Iterable[int], one: Callable[[int], Outcome], log: Path | None = None) -> list[Outcome]:
    """Each seed in a process of its own, so that a runtime that aborts is a finding, too; prints what came of them.

    Args:
        seeds: of the networks.
        one: tries one of them.
        log: a file to which each outcome is added as it comes, one JSON object a line.
    """
    outcomes = []
    for seed in seeds:
        outcomes.append(_apart(seed, one))
        if log is not None:
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(outcomes[-1])) + "\n")
    print(summary(outcomes))
    return outcomes


def summary(outcomes: Sequence[Outcome]) -> str:
    """The counts: networks that are right, refused by reason, and wrong."""
    refused = Counter(line for outcome in outcomes for line in _by_reason(outcome))
    wrong = [outcome for outcome in outcomes if outcome.wrong]
    partly = [outcome for outcome in outcomes if outcome.refused and not outcome.wrong]
    lines = [
        f"{len(outcomes)} networks: {len(outcomes) - len(wrong) - len(partly)} right in every file, "
        f"{len(partly)} refused in one or more, {len(wrong)} wrong; "
        f"{sum(outcome.right for outcome in outcomes)} files are right",
        *(f"{count:6} refused: {reason}" for reason, count in refused.most_common()),
        *(f"  wrong: seed {each.seed}: {'; '.join(each.wrong)} ({each.described})" for each in wrong),
    ]
    return "\n".join(lines)


def _by_reason(outcome: Outcome) -> list[str]:
    places: dict[str, list[str]] = {}
    for where, reasons in outcome.refused.items():
        for reason in reasons.split("; "):
            places.setdefault(reason, []).append(where)
    whole = {form: [f"{form} {variant}" for variant in VARIANTS] for form in FORMATS}
    lines = []
    for reason, found in places.items():
        names = [form for form, every in whole.items() if set(every) <= set(found)]
        names += [place for place in dict.fromkeys(found) if place.split()[0] not in names]
        lines.append(f"{reason} [{', '.join(names)}]")
    return lines


def _apart(seed: int, one: Callable[[int], Outcome]) -> Outcome:
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        code = 1
        try:
            os.close(reader)
            os.write(2, b"")
            data = json.dumps(asdict(one(seed))).encode()
            with os.fdopen(writer, "wb") as file:
                file.write(data)
            code = 0
        except BaseException as error:  # noqa: BLE001  (told to the parent)
            with os.fdopen(writer, "wb") as file:
                file.write(json.dumps(asdict(Outcome(seed, "", wrong=[f"test: {error!r}"[:400]]))).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    data, until = b"", time.monotonic() + _SLOWEST_S
    while select.select([reader], [], [], max(0.0, until - time.monotonic()))[0]:
        part = os.read(reader, 1 << 16)
        if not part:
            break
        data += part
    else:
        os.kill(pid, signal.SIGKILL)
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) or not data:
        how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
        return Outcome(seed, "", wrong=[f"the process ended with {how}"])
    return Outcome(**json.loads(data))
