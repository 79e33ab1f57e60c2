"""The roundings that a source states itself: fake quantizations of a module, a program's or a file's operators."""

from __future__ import annotations

import itertools
import operator
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from edgeconv.core import Array, Sample
from edgeconv.core.affine import spread
from edgeconv.flow.source import OnnxSource, Source, TorchSource
from edgeconv.parity.quantizing import StatedRounding

_ACTIVATIONS = ("int8", "uint8", "int16", "uint16")
_QUANTIZATION = ("QuantizeLinear", "DequantizeLinear")
_CALL_NUMBER = re.compile(r"@\d+$")  # of a module that is called again
_ROUNDS = tuple(f"quantized_decomposed.quantize_per_tensor.{overload}" for overload in ("default", "tensor", "tensor2"))
_READS = ("quantized_decomposed.dequantize_per_channel.default",)
_READS_WHOLE = ("quantized_decomposed.dequantize_per_tensor.default",)
_WEIGHT = "weight_fake_quant"  # torch.ao's name of it in each module with a weight


def stated_of(source: Source, sample: Sample, captured: ir.Model | None = None) -> Sequence[StatedRounding]:
    """What each fake quantization of a module states that a sample reaches, and operators of a program or a file.

    Args:
        source: that was captured.
        sample: that its modules are called with.
        captured: the source's graph: what it lacks is left out where it changes no output of the source, as a head for
            training does.
    """
    if isinstance(source, TorchSource):
        stated = _of_module(source, sample)
        missing = [] if captured is None else [item for item in stated if _lacks(captured, item)]
        unused = [item for item in missing if not _changes_outputs(source, sample, item)]
        return [item for item in stated if item not in unused]
    return _of_file(source) if isinstance(source, OnnxSource) and source.variant else ()


def _of_module(source: TorchSource, sample: Sample) -> Sequence[StatedRounding]:
    parts = {path: part for path, part in source.module.named_modules() if _rounds(part)}
    if not parts:
        return _of_graph(source.module)
    # In float64, as capture folds constants: of a largest weight of 127.5 steps float32 makes 127 or 128.
    _, results = source.values_of_modules(sample, "float64")
    calls = [(name, _CALL_NUMBER.sub("", name)) for name in results]
    return [_of_part(name, parts[path], results[name]) for name, path in calls if path in parts]


def _lacks(captured: ir.Model, item: StatedRounding) -> bool:
    return item.integers is None and not item.named_in(captured)


def _changes_outputs(source: TorchSource, sample: Sample, item: StatedRounding) -> bool:
    """Whether another result of a fake quantization makes another output of the module."""
    path, call = _CALL_NUMBER.sub("", item.name), _CALL_NUMBER.search(item.name)
    parts, calls = dict(source.module.named_modules()), itertools.count()
    if path not in parts:  # a program's, of which nothing is left out
        return True

    def moved(_module: Any, _inputs: Any, result: Any) -> Any:
        return 1 - result if next(calls) == int(call[0][1:] if call else 0) else result

    before = source.values_of_modules(sample, "float64")[0]
    hook = parts[path].register_forward_hook(moved)
    try:
        after = source.values_of_modules(sample, "float64")[0]
    finally:
        hook.remove()
    return any(not np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(before, after, strict=True))


def _of_graph(module: Any) -> Sequence[StatedRounding]:
    """What the operators of a program of pt2e state, whose graph a module runs; of a graph inside of others nothing.

    Captured values have the operation's name, numbered in the graph's order; a node's own name is another one in a
    module that was just converted and in a program that was saved.
    """
    import torch

    nodes = module.graph.nodes if isinstance(module, torch.fx.GraphModule) else ()
    computed = [node for node in nodes if _is_called(node, _ROUNDS) and node.args[0].op != "get_attr"]
    stored = [node for node in nodes if _is_called(node, _READS) and _data_of(module, node) is not None]
    stated = [_of_computed(name, node) for name, node in zip(_numbered("quantize_per_tensor"), computed, strict=False)]
    of_weights = zip(_numbered("dequantize_per_channel"), stored, strict=False)
    weights = [_of_stored(name, module, node) for name, node in of_weights]
    whole = [node for node in nodes if _is_called(node, _READS_WHOLE) and _data_of(module, node) is not None]
    return [item for item in stated if item is not None] + weights + [_of_whole(module, node) for node in whole]


def _numbered(operation: str) -> Iterator[str]:
    return itertools.chain([operation], (f"{operation}_{number}" for number in itertools.count(1)))


def _is_called(node: Any, operators: tuple[str, ...]) -> bool:
    """Whether it is one of these operators, all of whose arguments were given by position."""
    return node.op == "call_function" and str(node.target) in operators and not node.kwargs and bool(node.users)


def _of_computed(name: str, node: Any) -> StatedRounding | None:
    """A ``quantize_per_tensor`` of what is computed; None of one by tensors."""
    _, scale, zero, low, high, _ = node.args
    if not isinstance(scale, float):
        return None
    return StatedRounding(name, (float(np.float32(scale)),), (int(zero),), (int(low), int(high)))


def _data_of(module: Any, node: Any) -> Array | None:
    """The integers of 8 bits that a ``dequantize_per_…`` reads; None of computed ones, and of biases."""
    import torch

    if any(isinstance(item, torch.fx.Node) and item.op != "get_attr" for item in node.args[:3]):
        return None
    data = operator.attrgetter(node.args[0].target)(module).detach().cpu().numpy()
    return data if data.dtype in (np.int8, np.uint8) else None


def _of_whole(module: Any, node: Any) -> StatedRounding:
    """The ``dequantize_per_tensor`` of integers that the module holds, which values of a graph are not named after."""
    data, (scale, zero, low, high) = _data_of(module, node), node.args[1:5]
    assert data is not None  # `_of_graph` chose these
    integers = data.astype(np.int64) - int(zero)
    return StatedRounding(str(node.args[0].target), (float(np.float32(scale)),), (int(zero),), (low, high), integers)


def _of_stored(name: str, module: Any, node: Any) -> StatedRounding:
    """The ``dequantize_per_channel`` of integers that the module holds."""
    data, (scales, zeros) = (
        _data_of(module, node),
        (operator.attrgetter(item.target)(module) for item in node.args[1:3]),
    )
    assert data is not None  # `_of_graph` chose these
    axis, low, high = (int(number) for number in node.args[3:6])
    points = zeros.detach().cpu().numpy()
    integers = data.astype(np.int64) - spread(points, axis, data.ndim).astype(np.int64)
    steps = tuple(scales.detach().cpu().numpy().astype(np.float32).tolist())
    return StatedRounding(name, steps, tuple(map(int, points)), (low, high), integers, axis)


def _rounds(part: Any) -> bool:
    """Whether it is a fake quantization that rounds by numbers that it does not compute.

    Of torch.ao or torchao, of learned scales (LSQ), or what stands for the integers of a converted module.
    """
    return bool(getattr(part, "fake_quant_enabled", (True,))[0]) and (_is_learned(part) or _has_numbers(part))


def _has_numbers(part: Any) -> bool:
    return all(hasattr(part, name) for name in ("scale", "zero_point", "is_per_channel", "ch_axis", "quant_min"))


def _is_learned(part: Any) -> bool:
    """Whether it is a ``_LearnableFakeQuantize``, whose scale and zero point are real numbers."""
    return all(hasattr(part, name) for name in ("learning_enabled", "qscheme", "eps", "quant_min"))


def _of_part(name: str, part: Any, result: Array) -> StatedRounding:
    scales, zeros = (tensor.detach().cpu().reshape(-1).numpy() for tensor in (part.scale, part.zero_point))
    observer = getattr(part, "activation_post_process", part)  # FakeQuantize rounds to its limits
    limits = int(observer.quant_min), int(observer.quant_max)
    axis = int(part.ch_axis) if scales.size > 1 else 0
    if _is_learned(part):
        scales = np.maximum(scales, part.eps.cpu().numpy())
        is_symmetric = "symmetric" in str(part.qscheme)
        zeros = np.zeros_like(zeros) if is_symmetric else np.rint(zeros).clip(*limits)
    points, integers = tuple(int(zero) for zero in zeros), None
    if _CALL_NUMBER.sub("", name).rpartition(".")[2] == _WEIGHT:
        integers = np.rint(result / spread(scales, axis, result.ndim)).astype(np.int64)
    return StatedRounding(name, tuple(scales.astype(np.float32).tolist()), points, limits, integers, axis)


def _of_file(source: OnnxSource) -> Sequence[StatedRounding]:
    import onnx
    from onnx import numpy_helper

    graph = onnx.load_from_string(source.file.comparable).graph
    stored = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    if not _is_in_pairs(graph, stored):
        return ()
    computed = _computed(graph, stored)
    stated, numbers = list[StatedRounding](), dict[str, tuple[bytes, bytes]]()
    for node in graph.node:
        operands = [stored.get(name) for name in node.input]
        if node.op_type not in _QUANTIZATION or len(operands) < 2 or operands[1] is None:
            continue
        data, scale = operands[0], operands[1].astype(np.float32)
        zero = operands[2] if len(operands) > 2 and operands[2] is not None else np.zeros(scale.shape, np.uint8)
        if zero.dtype.name not in _ACTIVATIONS or (data is not None and data.dtype != zero.dtype):
            continue  # biases, and constants that are rounded in the file
        own = scale.tobytes(), zero.tobytes()
        if data is None and node.op_type == "DequantizeLinear":
            if numbers.get(node.input[0], own) != own:
                return ()  # it reads other numbers than it has written, which is the file's own affair
            continue
        numbers[node.output[0]] = own
        if data is None and node.output[0] not in computed:
            continue
        axis = next((attribute.i for attribute in node.attribute if attribute.name == "axis"), 1)
        integers = None
        if data is not None:
            axis %= max(data.ndim, 1)
            integers = data.astype(np.int64) - spread(zero, axis, data.ndim).astype(np.int64)
        limits = int(np.iinfo(zero.dtype).min), int(np.iinfo(zero.dtype).max)
        points, scales = tuple(map(int, zero.reshape(-1))), tuple(scale.reshape(-1).tolist())
        stated.append(StatedRounding(node.output[0], scales, points, limits, integers, axis))
    return stated


def _is_in_pairs(graph: Any, stored: Collection[str]) -> bool:
    """Whether its integers are constants, or written by QuantizeLinear and read by DequantizeLinear alone.

    What moves or computes integers themselves is spelled out by capture, with roundings that have other names.
    """
    others = ("Integer", "QLinear", "DynamicQuantize")
    if any(node.domain not in ("", "ai.onnx") or any(part in node.op_type for part in others) for node in graph.node):
        return False
    written = {node.output[0] for node in graph.node if node.op_type == "QuantizeLinear"}
    readers = [node for node in graph.node if written.intersection(node.input)]
    read = [node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"]
    return all(node.op_type == "DequantizeLinear" for node in readers) and {*read} <= written | {*stored}


def _computed(graph: Any, stored: Collection[str]) -> frozenset[str]:
    """The values that follow from an input and lead to an output; capture folds or drops all others."""
    following = {item.name for item in graph.input} - {*stored}
    for node in graph.node:
        if following.intersection(_read(node)) or "Random" in node.op_type:
            following.update(node.output)
    leading = {item.name for item in graph.output}
    for node in reversed(graph.node):
        if leading.intersection(node.output):
            leading.update(_read(node))
    return frozenset(following & leading)


def _read(node: Any) -> set[str]:
    """What a node reads, in the graphs inside of it, too."""
    inner = [item for attribute in node.attribute for graph in (attribute.g, *attribute.graphs) for item in graph.node]
    outputs = {item.name for attribute in node.attribute for item in attribute.g.output}
    return {*node.input, *outputs}.union(*map(_read, inner))
