"""A session with a device: hello, then load and run, for any number of artifacts."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np

from edgeconv.core import DTYPES, Array, Artifact, IntegerTensor, Run, Sample, TensorSpec, Verdict
from edgeconv.devices._integer_probe import INTEGER_KERNELS, integer_probe, read_probe
from edgeconv.devices._process import AgentProcess, Deadline, NotInstalledError, device_line
from edgeconv.devices.agent import PAYLOAD_LIMIT, PROTOCOL, Frame, ProtocolError, matched
from edgeconv.errors import DeviceError

_SLACK_BYTES = 1 << 20  # beyond the declared size, so that an undeclared output is received and named in the error
_UNKNOWN_BYTES = 1 << 31  # limit for outputs whose shape does not follow from the inputs
_LONGEST_MS = 1e9  # twelve days: no inference takes that long
_MOST_FACTS = 64  # each is a line of the report

_Spec = TypeVar("_Spec", TensorSpec, IntegerTensor)


class Session:
    """A device that has been started. Starting costs next to nothing; the first answer waits for the runtime.

    It takes any number of artifacts, one after another. After a crash or a time-out `alive` is False and every
    further run fails.

    Args:
        device: the device's name.
        command: what speaks the agent protocol on its stdin and stdout.

    Raises:
        DeviceError: there is no such command.
    """

    def __init__(self, device: str, command: Sequence[str]) -> None:
        self.device = device
        self._process = AgentProcess(command)
        self._environment: Mapping[str, str] | None = None
        self._gone: DeviceError | None = None

    @property
    def alive(self) -> bool:
        """Whether it can take another artifact."""
        return self._process.alive

    @property
    def pid(self) -> int:
        """The process id of the device's command."""
        return self._process.pid

    def hello(self, timeout_s: float) -> Mapping[str, str]:
        """Waits until the device is ready and returns what it tells of itself (runtime, version, cpu, …).

        Raises:
            DeviceError: it is not installed, does not answer within ``timeout_s`` or speaks another protocol.
        """
        return self._hello(Deadline(timeout_s))

    def run(self, artifact: Artifact, samples: Sequence[Sample], *, timeout_s: float, optimized: bool = True) -> Run:
        """Runs an artifact on samples; ``timeout_s`` bounds the whole of it, the wait for hello included.

        With ``optimized`` False the runtime, if it can, computes every operator of the file by itself.

        Never raises for what a runtime or a file does: that is a Run with verdict FAIL (SKIPPED where the runtime is
        not installed) and a reason.
        """
        limit = Deadline(timeout_s)
        run = Run(self.device, artifact.path.name, ())
        try:
            run = replace(run, environment=self._hello(limit))
            results, facts, arena = self._run(artifact, samples, limit, optimized)
            facts = {**self._kernels(artifact, limit), **facts}
            run = replace(run, environment={**run.environment, **facts}, arena_bytes=arena)
        except NotInstalledError as error:
            return replace(run, verdict=Verdict.SKIPPED, reason=str(error))
        except DeviceError as error:
            return replace(run, verdict=Verdict.FAIL, reason=str(error))
        except MemoryError:
            return replace(run, verdict=Verdict.FAIL, reason="out of memory on the host")
        outputs, latencies = zip(*results, strict=True) if results else ((), ())
        return replace(run, outputs=outputs, latency_ms=latencies)

    def run_intermediates(
        self, artifact: Artifact, samples: Sequence[Sample], *, timeout_s: float
    ) -> tuple[Mapping[str, Array], ...]:
        """The integers of the tensors inside an artifact: by name, in the file's layout, one mapping per sample.

        Raises:
            DeviceError: the runtime refuses the file, cannot tell them, crashes or hangs, or tells other ones.
        """
        limit = Deadline(timeout_s)
        self._hello(limit)
        self._load(artifact, limit, tensors=[tensor.name for tensor in artifact.intermediates])
        integers = []
        for sample in samples:
            arrays = file_inputs(artifact, sample)
            most = most_bytes(artifact, artifact.intermediates, arrays)
            frame = self._ask("run", "outputs", arrays, limit, f"cannot run sample {sample.name!r}", most)
            integers.append({spec.name: array for spec, array in _declared(artifact.intermediates, frame.arrays)})
        return tuple(integers)

    def run_probe(
        self, artifact: Artifact, probe: bytes | None, sample: Sample, *, outputs: int, timeout_s: float
    ) -> tuple[Array, ...]:
        """All outputs of a copy of an artifact that has more of them: in its order and layout.

        Args:
            artifact: whose inputs the copy has.
            probe: the copy's bytes; None for that of the last call, which the device still holds.
            sample: as for `run`.
            outputs: how many the copy has.
            timeout_s: as for `run`.

        Raises:
            DeviceError: the runtime refuses it, crashes or hangs, or returns more or fewer.
        """
        limit = Deadline(timeout_s)
        self._hello(limit)
        if probe is not None:
            self._load_bytes(artifact, np.frombuffer(probe, np.uint8), limit, outputs)
        failure = f"cannot run sample {sample.name!r}"
        frame = self._ask("run", "outputs", file_inputs(artifact, sample), limit, failure, _UNKNOWN_BYTES)
        if len(frame.arrays) != outputs:
            raise DeviceError(f"returned {len(frame.arrays)} outputs, the file declares {outputs}")
        return tuple(array for _, array in frame.arrays)

    def close(self) -> None:
        """Ends the device's process; harmless when it has ended."""
        self._process.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hello(self, limit: Deadline) -> Mapping[str, str]:
        if self._environment is None:
            self._require_alive()
            try:
                frame = self._process.receive(limit)
                self._environment = self._check_hello(frame)
            except DeviceError as error:
                self._gone = error
                self._process.close()
                raise
        return self._environment

    def _check_hello(self, frame: Frame) -> Mapping[str, str]:
        if frame.type == "error":
            reason = f"its runtime cannot be loaded ({_reason(frame)})"
            is_missing = frame.fields.get("missing") is True
            raise NotInstalledError(reason, hint="install it") if is_missing else DeviceError(reason)
        protocol, environment = frame.fields.get("protocol"), frame.fields.get("environment")
        if frame.type != "hello" or type(protocol) is not int or protocol != PROTOCOL:
            what = f"speaks protocol {device_line(protocol):.40}, and not {PROTOCOL}"
            raise DeviceError(what, hint="copy the agent.py of this edgeconv to it")
        return _text_facts(environment, "environment")

    def _require_alive(self) -> None:
        if not self._process.alive:
            raise self._gone or DeviceError("its process has ended")

    def _run(
        self, artifact: Artifact, samples: Sequence[Sample], limit: Deadline, optimized: bool
    ) -> tuple[list[tuple[Mapping[str, Array], float]], Mapping[str, str], int | None]:
        """The outputs and latencies, what the runtime tells of itself and the file, and the arena that it needs."""
        inputs = [file_inputs(artifact, sample) for sample in samples]
        fields = {} if optimized else {"optimized": False}
        facts = _text_facts(self._load(artifact, limit, **fields).fields.get("facts", {}), "facts")
        results = []
        for sample, arrays in zip(samples, inputs, strict=True):
            most = most_bytes(artifact, artifact.outputs, arrays)
            frame = self._ask("run", "outputs", arrays, limit, f"cannot run sample {sample.name!r}", most)
            results.append((checked_outputs(artifact, frame.arrays), _latency_ms(frame)))
        arena = facts.pop("arena_bytes", "")  # the file's own: what tells of a device is the same for all files
        return results, facts, int(arena) if arena.isdecimal() and len(arena) < 19 else None

    def _kernels(self, artifact: Artifact, limit: Deadline) -> Mapping[str, str]:
        """The result of the integer probe, for int8 ``.onnx`` files on a device that can compute it."""
        if artifact.format != "onnx" or artifact.variant not in ("int8", "int8-mixed"):
            return {}
        file, inputs = integer_probe()
        # A device whose runtime refuses the probe may be right with every file: nothing is known of its kernels then.
        try:
            self._ask("load", "loaded", [("model", np.frombuffer(file, np.uint8))], limit, "cannot load the probe")
            frame = self._ask("run", "outputs", list(inputs.items()), limit, "cannot run the probe", _SLACK_BYTES)
        except DeviceError:
            if not self.alive:
                raise
            return {}
        return {INTEGER_KERNELS: read_probe([array for _, array in frame.arrays])}

    def _load(self, artifact: Artifact, limit: Deadline, **fields: Any) -> Frame:
        from edgeconv.core.named_files import open_regular  # which takes longer than to list devices

        try:
            with open_regular(artifact.path) as file:  # a pipe would be waited for
                data = np.frombuffer(file.read(), np.uint8)
        except OSError as error:
            raise DeviceError(f"cannot read {artifact.path.name}: {error.strerror or error}") from error
        outputs = artifact.intermediates if "tensors" in fields else artifact.outputs
        return self._load_bytes(artifact, data, limit, len(outputs), **fields)

    def _load_bytes(self, artifact: Artifact, data: Array, limit: Deadline, outputs: int, **fields: Any) -> Frame:
        if artifact.data_sha256 is not None:  # gigabytes, which are not sent
            fields["folder"] = str(artifact.path.parent.resolve())
        frame = self._ask("load", "loaded", [("model", data)], limit, "cannot load the file", **fields)
        for side, count in (("inputs", len(artifact.inputs)), ("outputs", outputs)):
            _check_names(frame.fields.get(side), side, count)
        return frame

    def _ask(
        self,
        kind: str,
        answer: str,
        arrays: Sequence[tuple[str, Array]],
        limit: Deadline,
        failure: str,
        most: int = 0,
        **fields: Any,
    ) -> Frame:
        self._require_alive()
        try:
            frame = self._process.request(kind, fields, arrays, limit, most)
        except ProtocolError as error:
            raise DeviceError(str(error)) from error
        except DeviceError as error:
            self._gone = DeviceError(f"{error.what} (during an earlier run)")
            raise
        if frame.type == "error":
            raise DeviceError(f"{failure}: {_reason(frame)}")
        if frame.type != answer:
            raise DeviceError(f"answered {kind!r} with {device_line(frame.type)!r}")
        return frame


def file_inputs(artifact: Artifact, sample: Sample) -> list[tuple[str, Array]]:
    """A sample's arrays as the file wants them: in its order, dtypes and layout, under its names.

    Raises:
        DeviceError: an array is missing, or cannot be cast without changing its kind (float to int).
    """
    names = [spec.name for spec in artifact.inputs]
    try:
        arrays = matched(names, list(sample.inputs.items()))
    except ValueError as error:
        raise DeviceError(f"sample {sample.name!r}: {error}") from error
    return [(spec.name, _cast(spec, array, sample.name)) for spec, array in zip(artifact.inputs, arrays, strict=True)]


def _cast(spec: TensorSpec, array: Array, sample: str) -> Array:
    dtype = spec.dtype if spec.scale is None else "float32"  # real numbers, which the spec quantizes
    if spec.dtype not in DTYPES or not np.can_cast(array.dtype, dtype, casting="same_kind"):
        raise DeviceError(f"sample {sample!r}: input {spec.name!r} is {array.dtype}, the file wants {spec.dtype}")
    if array.ndim != len(spec.shape):
        what = f"sample {sample!r}: input {spec.name!r} has shape {array.shape}, the file wants {spec.shape}"
        raise DeviceError(what)
    return spec.to_file(array.astype(dtype, copy=False))


def checked_outputs(artifact: Artifact, arrays: list[tuple[str, Array]]) -> Mapping[str, Array]:
    """A device's outputs by the file's names, in torch's layout, checked against what the file declares.

    Raises:
        DeviceError: their number, a dtype or a shape is another.
    """
    return {spec.name: spec.from_file(array) for spec, array in _declared(artifact.outputs, arrays)}


def _declared(specs: Sequence[_Spec], arrays: list[tuple[str, Array]]) -> Iterator[tuple[_Spec, Array]]:
    """Pairs each declared tensor with the array that came for it, checked against the declaration.

    Raises:
        DeviceError: their number, a dtype or a shape is another.
    """
    if len(arrays) != len(specs):
        raise DeviceError(f"returned {len(arrays)} outputs, the file declares {len(specs)}")
    if len(dict(arrays)) < len(arrays):
        raise DeviceError(f"returned {len(arrays)} outputs under {len(dict(arrays))} names")
    for spec, array in zip(specs, matched([spec.name for spec in specs], arrays), strict=True):
        if array.dtype.name != spec.dtype or not _fits(array.shape, spec.shape):
            received, declared = f"{array.dtype} {array.shape}", f"{spec.dtype} {spec.shape}"
            raise DeviceError(f"output {spec.name!r} came as {received}, the file declares {declared}")
        yield spec, array


def _fits(shape: tuple[int, ...], declared: tuple[int | str, ...]) -> bool:
    """Whether a shape is the declared one, whose symbolic dimensions stand for one number each."""
    bound: dict[Any, int] = {}
    return len(shape) == len(declared) and all(
        size == (bound.setdefault(want, size) if isinstance(want, str) else want)
        for size, want in zip(shape, declared, strict=True)
    )


def _check_names(names: object, side: str, count: int) -> None:
    """Makes sure that a device has found as many inputs or outputs in the file as the file has.

    Raises:
        DeviceError: what it answered is no list of names, or more or fewer than there are.
    """
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DeviceError(f"told the {side} of the file as {device_line(names):.80}, and not as names")
    if len(names) != count:
        raise DeviceError(f"found {len(names)} {side} in the file, which declares {count}")


def _reason(frame: Frame) -> str:
    """The reason of an error frame, in the device's own words."""
    reason = frame.fields.get("reason")
    return (device_line(reason) if reason is not None else "") or "it gave no reason"


def _latency_ms(frame: Frame) -> float:
    value = frame.fields.get("latency_ms")
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _LONGEST_MS:
        raise DeviceError(f"answered with the latency {device_line(value):.40}")
    return float(value)


def _text_facts(facts: object, what: str) -> dict[str, str]:
    """A device's facts about itself or a file, as short lines by name.

    Raises:
        DeviceError: they are no mapping of words and numbers, or an endless one.
    """
    if not isinstance(facts, dict) or len(facts) > _MOST_FACTS or not all(map(_is_word, facts.values())):
        raise DeviceError(f"told its {what} as {device_line(facts):.80}, and not as a few words by name")
    return {device_line(key): device_line(value) for key, value in facts.items()}


def _is_word(value: object) -> bool:
    """Whether a fact is text or a number of a size that anything has."""
    return isinstance(value, str | float) or (isinstance(value, int) and abs(value) < 2**64)


def most_bytes(
    artifact: Artifact, specs: Sequence[TensorSpec] | Sequence[IntegerTensor], arrays: Sequence[tuple[str, Array]]
) -> int:
    """The most bytes that an answer may have: of the declared tensors, open dimensions as these inputs have them."""
    sizes = {
        dim: size
        for spec, (_, array) in zip(artifact.inputs, arrays, strict=True)
        for dim, size in zip(spec.shape, array.shape, strict=True)
        if isinstance(dim, str)
    }
    total = _SLACK_BYTES
    for spec in specs:
        dims = [sizes.get(dim) if isinstance(dim, str) else dim for dim in spec.shape]
        if any(dim is None for dim in dims) or spec.dtype not in DTYPES:
            return _UNKNOWN_BYTES
        total += np.dtype(spec.dtype).itemsize * math.prod(dim or 0 for dim in dims)
    return min(total, PAYLOAD_LIMIT)
