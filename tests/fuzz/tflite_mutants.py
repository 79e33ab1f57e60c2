"""Mutants of `.tflite` files: fields changed through the schema's objects, and offsets changed in the bytes."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from chances import FLOATS, NUMBERS, RAW_WORDS, bytes_of

_OPTIONS = sorted(name for name in vars(schema) if name.endswith("OptionsT"))
_INDICES = (-1, -2, 0, 1, 10**6, 2**31 - 1, -(2**31))


def tflite_of(data: bytes, rng: random.Random) -> bytes:
    """A file with one to four things wrong."""
    kind = rng.random()
    if kind < 0.6:
        changed = _by_schema(data, rng)
    elif kind < 0.9:
        changed = data
    else:
        return bytes_of(data, rng)
    return _by_offsets(changed, rng) if kind > 0.5 else changed


def _by_schema(data: bytes, rng: random.Random) -> bytes:
    """Changes that the schema's writer takes; it refuses numbers that a field cannot hold."""
    for _ in range(20):
        model = schema.ModelT.InitFromPackedBuf(data, 0)
        for _ in range(rng.randint(1, 4)):
            rng.choice(_CHANGES)(model, rng)
        builder = flatbuffers.Builder(1024)
        try:
            builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        except (TypeError, ValueError, AttributeError, struct.error, OverflowError, IndexError):
            continue
        return bytes(builder.Output())
    return data


def _graph(model: Any, rng: random.Random) -> Any:
    return rng.choice(model.subgraphs) if model.subgraphs else schema.SubGraphT()


def _tensor(model: Any, rng: random.Random) -> None:
    tensors = _graph(model, rng).tensors
    if not tensors:
        return
    tensor = rng.choice(tensors)
    kind = rng.randrange(6)
    if kind == 0:
        tensor.type = rng.choice((*range(21), 99, 127, -1))
    elif kind == 1:
        tensor.shape = _sizes(tensor.shape, rng)
    elif kind == 2:
        tensor.shapeSignature = _sizes(tensor.shape, rng)
    elif kind == 3:
        tensor.buffer = rng.choice((0, 1, len(model.buffers or ()), 2**32 - 1, 2**31))
    elif kind == 4:
        tensor.name = rng.choice((*RAW_WORDS, None, rng.choice(tensors).name, b"a" * 70_000))
    else:
        tensor.isVariable = not tensor.isVariable


def _sizes(shape: Any, rng: random.Random) -> Any:
    sizes = [] if shape is None else [int(size) for size in shape]
    kind = rng.randrange(4)
    if kind == 0 or not sizes:
        return rng.choice((None, np.zeros(0, np.int32), [2**31 - 1] * 4, [1] * 40, [-1, -1]))
    if kind == 1:
        return sizes[1:]
    sizes[rng.randrange(len(sizes))] = rng.choice((0, 1, -1, 2**31 - 1, -(2**31), 10**6))
    return sizes


def _wiring(model: Any, rng: random.Random) -> None:
    graph = _graph(model, rng)
    holder = rng.choice((graph, *(graph.operators or ())))
    side = rng.choice(("inputs", "outputs"))
    indices = getattr(holder, side)
    changed = [] if indices is None else [int(index) for index in indices]
    kind = rng.randrange(4)
    if kind == 0 and changed:
        changed[rng.randrange(len(changed))] = rng.choice((*_INDICES, rng.randrange(60)))
    elif kind == 1 and changed:
        del changed[rng.randrange(len(changed))]
    elif kind == 2:
        changed.append(rng.choice(_INDICES))
    setattr(holder, side, None if kind == 3 else changed)


def _operator(model: Any, rng: random.Random) -> None:
    operators = _graph(model, rng).operators
    if not operators:
        return
    operator = rng.choice(operators)
    kind = rng.randrange(4)
    if kind == 0:
        operator.opcodeIndex = rng.choice((0, 1, len(model.operatorCodes or ()), 2**32 - 1))
    elif kind == 1:
        name = rng.choice(_OPTIONS)
        number = getattr(schema.BuiltinOptions, name[:-1], 0)
        operator.builtinOptionsType, operator.builtinOptions = number, getattr(schema, name)() if number else None
    elif kind == 2 and operator.builtinOptions is not None:
        _any_field(operator.builtinOptions, rng)
    else:
        rng.choice((lambda: operators.append(operator), lambda: operators.remove(operator), operators.reverse))()


def _code(model: Any, rng: random.Random) -> None:
    if not model.operatorCodes:
        return
    code = rng.choice(model.operatorCodes)
    kind = rng.randrange(4)
    if kind == 0:
        code.builtinCode = rng.choice((*range(0, 210, 7), 32, 127, 2**31 - 1, -1))
    elif kind == 1:
        code.deprecatedBuiltinCode = rng.choice((0, 32, 127, -1, -128))
    elif kind == 2:
        code.customCode = rng.choice(RAW_WORDS)
        code.builtinCode = code.deprecatedBuiltinCode = 32
    else:
        code.version = rng.choice((0, -1, 99, 2**31 - 1))


def _buffer(model: Any, rng: random.Random) -> None:
    if not model.buffers:
        return
    buffer = rng.choice(model.buffers)
    kind = rng.randrange(4)
    data = b"" if buffer.data is None else bytes(bytearray(buffer.data))
    if kind == 0:
        buffer.data = None
    elif kind == 1:
        buffer.data = np.frombuffer(data[: rng.randrange(len(data) + 1)], np.uint8)
    elif kind == 2:
        buffer.offset, buffer.size = rng.choice((1, 2**40, 2**64 - 1, 16)), rng.choice((1, 2**40, 2**64 - 1, 16))
    else:
        del model.buffers[rng.randrange(len(model.buffers))]


def _quantization(model: Any, rng: random.Random) -> None:
    tensors = _graph(model, rng).tensors
    if not tensors:
        return
    tensor = rng.choice(tensors)
    tensor.quantization = tensor.quantization or schema.QuantizationParametersT()
    parameters = tensor.quantization
    kind = rng.randrange(4)
    if kind == 0:
        parameters.scale = rng.choice((None, [], [rng.choice(FLOATS)], [0.1, 0.2], [0.1] * 1000))
    elif kind == 1:
        parameters.zeroPoint = rng.choice((None, [], [rng.choice((0, 300, 2**62, -(2**63)))], [0, 1]))
    elif kind == 2:
        parameters.quantizedDimension = rng.choice((0, 1, -1, 4, 2**31 - 1))
    else:
        parameters.min, parameters.max = [rng.choice(FLOATS)], [rng.choice(FLOATS)]


def _counts(model: Any, rng: random.Random) -> None:
    kind = rng.randrange(6)
    if kind == 0:
        model.subgraphs = rng.choice((None, []))
    elif kind == 1 and model.subgraphs:
        model.subgraphs = model.subgraphs * rng.choice((2, 50))
    elif kind == 2 and model.subgraphs:
        setattr(_graph(model, rng), rng.choice(("tensors", "operators", "inputs", "outputs", "name")), None)
    elif kind == 3:
        setattr(model, rng.choice(("buffers", "operatorCodes", "metadata", "signatureDefs", "description")), None)
    elif kind == 4:
        model.version = rng.choice((0, 1, 2, 4, 2**32 - 1))
    else:
        model.metadataBuffer = [rng.choice(_INDICES)]


def _metadata(model: Any, rng: random.Random) -> None:
    if rng.random() < 0.5:
        entry = schema.MetadataT()
        entry.name, entry.buffer = rng.choice(RAW_WORDS), rng.choice((0, 1, 10**6, 2**32 - 1))
        model.metadata = [*(model.metadata or ()), entry] * rng.choice((1, 1, 2000))
    elif model.signatureDefs:
        signature = rng.choice(model.signatureDefs)
        signature.subgraphIndex = rng.choice((0, 1, 2**32 - 1))
        for entry in signature.inputs or ():
            entry.tensorIndex, entry.name = rng.choice((0, 1, 2**32 - 1)), rng.choice((None, *RAW_WORDS))


def _any_field(table: Any, rng: random.Random) -> None:
    names = list(vars(table))
    if names:
        setattr(table, rng.choice(names), rng.choice((*NUMBERS, *FLOATS, None, True)))


_CHANGES = (
    *(_tensor, _tensor, _tensor, _wiring, _wiring, _wiring, _operator, _operator),
    *(_code, _buffer, _buffer, _quantization, _quantization, _counts, _metadata),
)


def _by_offsets(data: bytes, rng: random.Random) -> bytes:
    """Changes to vtables, to offsets and to lengths of vectors, which a writer would never make."""
    changed = bytearray(data)
    places = list(_tables(data))
    for _ in range(rng.randint(1, 3)):
        table = rng.choice(places)
        vtable = table - struct.unpack_from("<i", data, table)[0]
        size = struct.unpack_from("<H", data, vtable)[0]
        slot = vtable + rng.randrange(0, max(2, size), 2)
        kind = rng.randrange(4)
        if kind == 0:
            struct.pack_into("<H", changed, slot, rng.choice((0, 1, 2, 4, 8, 65535, 65534, 300)))
        elif kind == 1:
            struct.pack_into("<i", changed, table, rng.choice((0, 4, -4, 2**31 - 1, -(2**31), table)))
        else:
            field = table + struct.unpack_from("<H", data, slot)[0]
            target = field + (struct.unpack_from("<I", data, field)[0] if field + 4 <= len(data) else 0)
            at = field if kind == 2 or target + 4 > len(data) else target
            if at + 4 <= len(data):
                struct.pack_into("<I", changed, at, rng.choice((0, 1, 4, 2**31, 2**32 - 1, 2**30, 10**5, 65536)))
    if rng.random() < 0.1:
        struct.pack_into("<I", changed, 0, rng.choice((0, 4, 2**31, 2**32 - 1, len(data), len(data) - 2)))
    return bytes(changed)


def _tables(data: bytes) -> Iterator[int]:
    """Where the tables of a sound file lie."""
    model = schema.Model.GetRootAs(data, 0)
    yield model._tab.Pos
    for kind in ("OperatorCodes", "Subgraphs", "Buffers", "Metadata", "SignatureDefs"):
        for at in range(getattr(model, f"{kind}Length")()):
            item = getattr(model, kind)(at)
            yield item._tab.Pos
            for inner in ("Tensors", "Operators", "Inputs", "Outputs"):
                for index in range(getattr(item, f"{inner}Length", lambda: 0)()):
                    table = getattr(item, inner)(index)
                    if not hasattr(table, "_tab"):
                        break
                    yield table._tab.Pos
                    quantization = getattr(table, "Quantization", lambda: None)()
                    if quantization is not None:
                        yield quantization._tab.Pos
