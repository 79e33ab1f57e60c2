"""The one file that runs on the other side: it loads a model into a runtime and computes what it is sent.

It needs Python 3.9 or newer, numpy and one runtime; nothing of edgeconv. It talks over stdin and stdout, so that a
process here, one behind ssh, one under qemu and one in a container all look alike::

    python agent.py RUNTIME [--threads N]

``RUNTIME`` is one of ``onnxruntime``, ``litert`` (XNNPACK), ``litert-reference`` (reference kernels),
``tflite-runtime`` (XNNPACK) and ``tflite-micro`` (the microcontrollers' kernels, interpreted on the host).

Frames, in both directions, all integers little-endian::

    offset  bytes  what
    0       4      b"ECA1": edgeconv agent protocol, version 1
    4       4      n, unsigned: the length of the header
    8       n      the header: a JSON object in UTF-8 with at least "type" and
                   "arrays": [{"name": str, "dtype": numpy's name, "shape": [int, ...]}, ...]
    8+n            the elements of these arrays one after another: C order, little-endian, no padding

The talk::

    agent -> host   hello    {"protocol": 1, "environment": {"runtime", "version", "python", "numpy", "machine", "cpu",
                              "instructions"}}
    host -> agent   load     {"tensors": [name, ...]}; arrays: one, of uint8: the bytes of the file
    agent -> host   loaded   {"inputs": [name, ...], "outputs": [name, ...], "facts": {name: text}}
    host -> agent   run      arrays: the inputs of one sample, in the layout of the file
    agent -> host   outputs  {"latency_ms": float}; arrays: the outputs, in the order of the file
    host -> agent   quit     the agent exits with 0; the end of its input does the same

Instead of any answer may come ``error {"reason": one line}``; the agent then waits for the next request, except that
``"missing": true`` (the runtime cannot be imported) comes in place of hello and is the last frame. A request is read
to its end before it is answered. Whatever a runtime prints goes to stderr and cannot get between the frames.
Where a load names tensors, which it need not, a runtime that can tell what is inside a file answers with these; where
it says ``"optimized": false``, onnxruntime computes every operator of the file by itself.
"""

from __future__ import annotations

# ruff: noqa: B905  (zip(strict=) came with Python 3.10, and devices have 3.9)
import argparse
import importlib
import json
import os
import platform
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np

PROTOCOL, MAGIC = 1, b"ECA1"
PREFIX = struct.Struct("<4sI")
# Of a frame, in bytes, and of the axes of an array (numpy's own limit was 32): what is more is no answer of an agent's.
HEADER_LIMIT = 1 << 20
PAYLOAD_LIMIT, RANK_LIMIT = 1 << 33, 32
# A copy of `edgeconv.core.DTYPES`, as nothing of edgeconv is there to be imported.
DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"
)  # fmt: skip

Named = list[tuple[str, "np.ndarray[Any, Any]"]]


class ProtocolError(Exception):
    """The bytes on the pipe are not a frame."""


class Frame(NamedTuple):
    """One message: its type, the further fields of its header, and its arrays by name, in order."""

    type: str
    fields: dict[str, Any]
    arrays: Named


# --- frames --------------------------------------------------------------------------------------------------------


def frame_parts(kind: str, fields: dict[str, Any] | None = None, arrays: Sequence[Any] = ()) -> list[Any]:
    """The byte buffers that make one frame, in order; the arrays are not copied where they are sound already.

    Raises:
        ProtocolError: an array has a dtype that frames cannot carry.
    """
    described, payloads = [], []
    for name, array in arrays:
        if array.dtype.name not in DTYPES:
            raise ProtocolError(f"{name!r} has dtype {array.dtype}, which a frame cannot carry")
        # A no-op on little-endian machines with C-ordered arrays.
        little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        described.append({"name": name, "dtype": array.dtype.name, "shape": list(array.shape)})
        payloads.append(_bytes_of(little))
    header = json.dumps(dict(fields or {}, type=kind, arrays=described)).encode("utf-8")
    return [PREFIX.pack(MAGIC, len(header)) + header, *payloads]


def read_frame(
    stream: BinaryIO, most: Callable[[], int] = lambda: PAYLOAD_LIMIT, parse: Callable[[str], Any] = json.loads
) -> Frame | None:
    """Reads one frame, whose header is parsed by ``parse``; None at the end of the stream.

    Raises:
        ProtocolError: what comes is not a frame, ends half-way, or has more than ``most()`` bytes of arrays.
    """
    prefix = _read_up_to(stream, PREFIX.size)
    if not prefix:
        return None
    if len(prefix) < PREFIX.size or prefix[:4] != MAGIC:
        raise ProtocolError(f"it begins {bytes(prefix)!r}")
    (_, length) = PREFIX.unpack(prefix)
    if length > HEADER_LIMIT:
        raise ProtocolError(f"a header of {length} bytes")
    header, described = _parse_header(_read_up_to(stream, length), length, most(), parse)
    arrays = []
    for name, dtype, shape in described:
        array = np.empty(shape, dtype)
        payload = _bytes_of(array)
        if _read_into(stream, payload) < len(payload):
            raise ProtocolError(f"array {name!r} ends half-way")
        arrays.append((name, array.astype(dtype.newbyteorder("="), copy=False)))
    return Frame(header.pop("type"), header, arrays)


def _bytes_of(array: Any) -> memoryview:
    """The elements of a C-contiguous array as bytes, without copying."""
    return memoryview(array.reshape(-1).view(np.uint8))


def _parse_header(data: bytearray, length: int, most: int, parse: Any) -> tuple[dict[str, Any], list[Any]]:
    """Checks a header before anything is allocated by what it says."""
    if len(data) < length:
        raise ProtocolError("a header that ends half-way")
    try:
        header = parse(bytes(data).decode("utf-8"))
        described, total = [], 0
        for entry in header.pop("arrays"):
            name, dtype, shape = entry["name"] + "", entry["dtype"], entry["shape"]  # a name is text
            if dtype not in DTYPES or not isinstance(shape, list) or len(shape) > RANK_LIMIT:
                raise ProtocolError(f"array {name!r:.80} of dtype {dtype!r:.80} and shape {shape!r:.80}")
            kind = np.dtype(dtype).newbyteorder("<")
            size = room = kind.itemsize
            for dimension in shape:  # by hand: numpy's product would overflow silently
                if type(dimension) is not int or dimension < 0:
                    raise ProtocolError(f"array {name!r:.80} of shape {shape!r:.80}")
                size, room = size * dimension, room * max(dimension, 1)  # numpy refuses also empty ones that are vast
            total += size if room <= PAYLOAD_LIMIT else room
            described.append((name, kind, tuple(shape)))
        header["type"].encode()  # it must be text
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProtocolError(f"a malformed header ({type(error).__name__})") from error
    if total > most:
        raise ProtocolError(f"arrays of {min(total, 1 << 64)} bytes, where at most {most} can come")
    return header, described


def _read_up_to(stream: BinaryIO, size: int) -> bytearray:
    data = bytearray(size)
    return data[: _read_into(stream, memoryview(data))]


def _read_into(stream: BinaryIO, view: memoryview) -> int:
    """Fills ``view`` from a stream whose reads may be short; returns how much came before its end."""
    done = 0
    while done < len(view):
        count = stream.readinto(view[done:])  # type: ignore[attr-defined]
        if not count:
            break
        done += count
    return done


# --- runtimes ------------------------------------------------------------------------------------------------------


class OnnxRuntime:
    """onnxruntime on the CPU, with its default graph optimizations."""

    def __init__(self, threads: int) -> None:
        import onnxruntime

        self._module = onnxruntime
        self.version = str(onnxruntime.__version__)
        self._threads = threads

    def load(self, model: bytes, optimized: bool = True, folder: str = "") -> tuple[list[str], list[str]]:
        options = self._module.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = self._threads, 1
        if not optimized:
            options.graph_optimization_level = self._module.GraphOptimizationLevel.ORT_DISABLE_ALL
        if folder:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", folder)
        session = self._session = self._module.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        ends = session.get_inputs(), session.get_outputs()
        self._inputs, self._outputs = ([node.name for node in nodes] for nodes in ends)
        return self._inputs, self._outputs

    def run(self, arrays: Named) -> tuple[float, Named]:
        feeds = dict(zip(self._inputs, matched(self._inputs, arrays)))
        start = time.perf_counter_ns()
        results = self._session.run(self._outputs, feeds)
        return (time.perf_counter_ns() - start) / 1e6, list(zip(self._outputs, results))


class LiteRt:
    """LiteRT as ai-edge-litert ships it: with the XNNPACK delegate."""

    package = "ai_edge_litert"

    def __init__(self, threads: int) -> None:
        self._module: Any = importlib.import_module(f"{self.package}.interpreter")
        self.version = _version_of(self.package.replace("_", "-"), sys.modules[self.package])
        self._options: dict[str, Any] = {"num_threads": threads}

    def load(self, model: bytes) -> tuple[list[str], list[str]]:
        self._interpreter: Any = None  # the one before goes first: it reads its weights out of the bytes it was given
        self._model = model
        self._interpreter = self._module.Interpreter(model_content=model, **self._options)
        self._interpreter.allocate_tensors()
        self._inputs = self._named(self._interpreter.get_input_details(), "get_input_details")
        self._outputs = self._named(self._interpreter.get_output_details(), "get_output_details")
        return [name for name, _ in self._inputs], [name for name, _ in self._outputs]

    def _named(self, details: Sequence[dict[str, Any]], method: str) -> list[tuple[str, dict[str, Any]]]:
        """Names tensors as the signature does, where there is one over these very tensors; else by their own names."""
        names = {detail["index"]: detail["name"] for detail in details}
        for key in self._interpreter.get_signature_list():
            signature = getattr(self._interpreter.get_signature_runner(key), method)()
            by_index = {detail["index"]: name for name, detail in signature.items()}
            if set(by_index) == set(names):
                names = by_index
                break
        return [(names[detail["index"]], detail) for detail in details]

    def run(self, arrays: Named) -> tuple[float, Named]:
        values = matched([name for name, _ in self._inputs], arrays)
        self._resize(values)
        for (_, detail), value in zip(self._inputs, values):
            self._interpreter.set_tensor(detail["index"], value)
        start = time.perf_counter_ns()
        self._interpreter.invoke()
        latency_ms = (time.perf_counter_ns() - start) / 1e6
        return latency_ms, [(name, self._interpreter.get_tensor(detail["index"])) for name, detail in self._outputs]

    def _resize(self, values: Sequence[Any]) -> None:
        """Gives inputs with open dimensions the shape of the sample; closed ones are left for set_tensor to refuse."""
        resized = False
        for (_, detail), value in zip(self._inputs, values):
            if -1 in detail["shape_signature"] and tuple(detail["shape"]) != value.shape:
                self._interpreter.resize_tensor_input(detail["index"], value.shape, strict=True)
                resized = True
        if resized:
            self._interpreter.allocate_tensors()
            self._inputs = [(name, new) for (name, _), new in zip(self._inputs, self._interpreter.get_input_details())]


class LiteRtReference(LiteRt):
    """LiteRT with its reference kernels and no delegate: slow and plain."""

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self._options["experimental_op_resolver_type"] = self._module.OpResolverType.BUILTIN_REF

    def load(self, model: bytes, tensors: Sequence[str] = ()) -> tuple[list[str], list[str]]:
        """With the names of tensors inside the file, runs give these in place of its outputs."""
        self._options["experimental_preserve_all_tensors"] = bool(tensors)
        inputs, outputs = super().load(model)
        if tensors:
            details = {detail["name"]: detail for detail in self._interpreter.get_tensor_details()}
            self._outputs = [(name, details[name]) for name in tensors]
        return inputs, list(tensors) or outputs


class TfliteRuntime(LiteRt):
    """The tflite-runtime package, which devices had before LiteRT: with the XNNPACK delegate."""

    package = "tflite_runtime"


class TfliteMicro:
    """TensorFlow Lite for Microcontrollers: its reference kernels, in one arena of memory whose size it tells."""

    _ARENA = 1 << 29  # bytes; only what is touched of it is really taken

    def __init__(self, threads: int) -> None:
        self._module: Any = importlib.import_module("tflite_micro.python.tflite_micro.runtime")
        self.version = _version_of("tflite-micro", sys.modules["tflite_micro"])

    def load(self, model: bytes) -> tuple[list[str], list[str]]:
        self._interpreter, _ = _printed(lambda: self._module.Interpreter.from_bytes(model, arena_size=self._ARENA))
        _, lines = _printed(self._interpreter.print_allocations)
        self.facts = {"arena_bytes": next(line.split()[-2] for line in lines if "total" in line)}
        graph = self._module.schema_fb.Model.GetRootAs(model, 0).Subgraphs(0)
        self._inputs = [str(at) for at in range(graph.InputsLength())]
        self._outputs = [str(at) for at in range(graph.OutputsLength())]
        return self._inputs, self._outputs

    def run(self, arrays: Named) -> tuple[float, Named]:
        for index, array in enumerate(matched(self._inputs, arrays)):
            self._interpreter.set_input(array, index)
        latency_ms, _ = _printed(self._timed)
        return latency_ms, [(name, self._interpreter.get_output(int(name))) for name in self._outputs]

    def _timed(self) -> float:
        start = time.perf_counter_ns()
        self._interpreter.invoke()
        return (time.perf_counter_ns() - start) / 1e6


def _printed(call: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What a call returns, and the lines that C++ code prints to descriptor 2 in it; a RuntimeError tells them, too."""
    stderr_copy = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            result, failure = call(), ""
        except RuntimeError as error:
            result, failure = None, str(error)
        os.dup2(stderr_copy, 2)
        os.close(stderr_copy)
        lines = os.pread(file.fileno(), 1 << 16, 0).decode("utf-8", "replace").splitlines()
    if failure:
        raise RuntimeError("; ".join([failure, *lines]))
    return result, lines


RUNTIMES: dict[str, Any] = {
    "onnxruntime": OnnxRuntime,
    "litert": LiteRt,
    "litert-reference": LiteRtReference,
    "tflite-runtime": TfliteRuntime,
    "tflite-micro": TfliteMicro,
}


def matched(names: Sequence[str], arrays: Named) -> list[Any]:
    """Puts named arrays into the order of ``names``; where the names differ, their own order counts.

    Raises:
        ValueError: there are more or fewer arrays than names.
    """
    by_name = dict(arrays)
    if set(by_name) == set(names):
        return [by_name[name] for name in names]
    if len(arrays) != len(names):
        raise ValueError(f"the file has inputs {list(names)}, but was given {list(by_name)}")
    return [array for _, array in arrays]


def machine_environment() -> dict[str, str]:
    """What this machine tells of itself: versions, the architecture, the CPU and its instructions."""
    cpu = _of_cpu("model name", "Model", "Hardware") or platform.processor() or "unknown"
    flags = set(_of_cpu("flags", "Features").split())
    machine = {"python": platform.python_version(), "numpy": np.__version__, "machine": platform.machine(), "cpu": cpu}
    return {**machine, "instructions": " ".join(name for name in _INSTRUCTIONS if name in flags) or "unknown"}


_INSTRUCTIONS = ("sse4_1", "avx2", "avx512bw", "avx_vnni", "avx512_vnni", "amx_int8", "asimd", "asimddp", "i8mm")


def _of_cpu(*keys: str) -> str:
    """The first of these lines of Linux's /proc/cpuinfo, which an emulator may pass on from its host."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:  # noqa: PTH123
            lines = (line.partition(":") for line in file)
            return next((value.strip() for key, _, value in lines if key.strip() in keys), "")
    except OSError:
        return ""


def _version_of(package: str, module: Any) -> str:
    from importlib import metadata  # a sixth of a start, and onnxruntime needs none of it

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # unpacked on PYTHONPATH without its metadata
        return str(getattr(module, "__version__", "unknown"))


# --- the talk ------------------------------------------------------------------------------------------------------


def one_line(error: BaseException, limit: int = 300) -> str:
    """An exception as one line of at most ``limit`` characters."""
    text = " ".join(str(error).split())
    line = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return line if len(line) <= limit else line[: limit - 1] + "…"


class Agent:
    """Serves one runtime over two byte streams."""

    def __init__(self, reader: BinaryIO, writer: BinaryIO) -> None:
        self._reader = reader
        self._writer = writer

    def serve(self, runtime_name: str, threads: int) -> int:
        """Says hello, then answers requests until quit or the end of input; returns the exit status."""
        try:
            runtime = RUNTIMES[runtime_name](threads)
        except Exception as error:  # noqa: BLE001 - whatever its import raises, the host must be told
            self._write(frame_parts("error", {"reason": one_line(error), "missing": True}))
            return 3
        environment = {"runtime": runtime_name, "version": runtime.version, "threads": str(threads)}
        environment.update(machine_environment())
        self._write(frame_parts("hello", {"protocol": PROTOCOL, "environment": environment}))
        while True:
            frame = read_frame(self._reader)
            if frame is None or frame.type == "quit":
                return 0
            self._answer(runtime, frame)
            del frame  # its arrays need not be in memory while the next request is waited for

    def _answer(self, runtime: Any, frame: Frame) -> None:
        try:
            if frame.type == "load":
                inputs, outputs = runtime.load(frame.arrays[0][1].tobytes(), **frame.fields)
                facts = getattr(runtime, "facts", {})
                parts = frame_parts("loaded", {"inputs": inputs, "outputs": outputs, "facts": facts})
            elif frame.type == "run":
                latency_ms, results = runtime.run(frame.arrays)
                parts = frame_parts("outputs", {"latency_ms": latency_ms}, results)
            else:
                raise ProtocolError(f"an unknown request {frame.type!r}")
        except Exception as error:  # noqa: BLE001 - whatever a runtime raises becomes an answer
            parts = frame_parts("error", {"reason": one_line(error)})
        self._write(parts)

    def _write(self, parts: Sequence[Any]) -> None:
        for part in parts:
            self._writer.write(part)
        self._writer.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """Parses the command line, takes the pipes away from the runtimes, and serves."""
    parser = argparse.ArgumentParser(description="Runs models for edgeconv over stdin and stdout.")
    parser.add_argument("runtime", choices=sorted(RUNTIMES))
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    reader = os.fdopen(os.dup(0), "rb")
    writer = os.fdopen(os.dup(1), "wb")
    # C++ code prints to descriptor 1 ("INFO: Created TensorFlow Lite XNNPACK delegate"); that must not meet a frame.
    os.dup2(2, 1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    try:
        return Agent(reader, writer).serve(options.runtime, options.threads)
    except BrokenPipeError:  # the host has gone; nobody is left to tell
        return 0


if __name__ == "__main__":
    sys.exit(main())
