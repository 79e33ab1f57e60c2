"""Functions of one int8 number, computed on the real numbers that the integers stand for.

Of operators that read nothing but each other's result, or the integers that the first one reads, from 8 bits to 8 bits,
XNNPACK makes one table when the file is loaded, floats in between or not, of ten operators at most
(xnn_subgraph_fuse_unary_quantized_into_lut in subgraph.c): DEQUANTIZE, a few operators and QUANTIZE take as long as a
copy. Functions that read a number twice are two such tables and their sum, where of each number one is zero; a gate of
0 and 1 and the product with the number, where they pick; or else the same operators as in floats, of which no table is
made, in the delegate between the two. Kernels of integers for them lie outside of the delegate, and cut the graph in
two; so do comparisons.

Between two 1x1 convolutions of 56x56x64, in ms (LiteRT 2.3, one thread, AMD EPYC with VNNI; without a function 0.06,
and 0.1 are the two layers and a copy): kernels of integers and this of Gelu 0.14 and 0.11, Exp 0.14 and 0.11, Abs 1.02
and 0.11, Softplus 0.55 and 0.11, Sqrt 0.56 and 0.11, Sin 0.56 and 0.11. Floats, a look-up by GATHER or comparisons, and
this:

| function | floats | before | this | as |
|---|---:|---:|---:|---|
| ELU, SELU, CELU | 0.33 | 0.59 | 0.13 | a sum |
| Softshrink | 0.42 | 1.26 | 0.14 | a sum |
| Hardshrink | 0.33 | 0.65 | 0.11 | a gate |
| Threshold to 0 | 0.32 | 0.74 | 0.11 | a gate |
| Threshold to another number | 0.31 | 0.70 | 0.13 | a gate, and a sum |
| Reciprocal, of 1 + magnitude | 0.22 | 0.59 | 0.11 | a chain |
| Mish | 0.30 | 0.58 | 0.23 | floats |
| Erf | 0.44 | 0.59 | 0.38 | floats |
| Sinh | 0.51 | 0.98 | 0.43 | floats |
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from edgeconv.core import Array
from edgeconv.core.affine import limits_of
from edgeconv.emit.tflite._graph import Graph, Operator, Tensor
from edgeconv.emit.tflite._quantization import Quantization, of_interval
from edgeconv.emit.tflite.integer._chains import Chain, Step, chains_of, computed
from edgeconv.emit.tflite.integer._rules import TABLE

_OFF = 2.0**-7  # of a step of the result: nearer than that both round to one integer, but for what is a tie
_MOST_STEPS = 2.0**30  # from zero, of floats that are to be rounded: old kernels round to int32 before they saturate
_GELU = "GELU"
_FLOAT = np.dtype(np.float32)


def in_floats(graph: Graph, operator: Operator) -> list[Operator]:
    """The operator between a DEQUANTIZE and a QUANTIZE; none where it has no such form, or that gives other integers.

    Args:
        graph: for constants.
        operator: of int8.
    """
    chains = [_saturated(chain, operator) for chain in chains_of(operator)]
    if chains and _gives(chains, operator):
        return _sum_of(graph, operator, chains)
    if operator.code == _GELU:  # finite everywhere
        return _between(operator, [Operator(_GELU, operator.inputs, operator.outputs, operator.options)])
    if operator.code == TABLE and operator.options["floats"] and _is_near(operator):
        return _between(operator, operator.options["floats"])
    return []


def images_of(operator: Operator) -> Array:
    """Of each integer that a look-up reads, from the least on, the real number that it becomes, as far as steps go."""
    least, greatest = parameters_of(operator.outputs[0]).interval
    images = operator.options["function"](_numbers(operator))
    return np.asarray(np.clip(np.nan_to_num(images, nan=0.0, posinf=greatest, neginf=least), least, greatest))


def _sum_of(graph: Graph, operator: Operator, chains: Sequence[Chain]) -> list[Operator]:
    """The chains, each with the result's own steps, and their sum where there are several."""
    result = operator.outputs[0]
    if len(chains) == 1:
        return _chain(graph, operator, chains[0], result)
    parts = [_integers(f"{result.name}/part", result, parameters_of(result)) for _ in chains]
    written = [_chain(graph, operator, chain, part) for chain, part in zip(chains, parts, strict=True)]
    return [part for operators in written for part in operators] + [Operator("ADD", parts, [result])]


def _chain(graph: Graph, operator: Operator, chain: Chain, result: Tensor) -> list[Operator]:
    """DEQUANTIZE, the steps, QUANTIZE; of a gate, MUL by the integers themselves, and other steps for the product."""
    source = operator.inputs[0]
    read = Tensor(f"{result.name}/real", source.shape, _FLOAT)
    operators = [Operator("DEQUANTIZE", [source], [read])]
    for step in chain.steps:
        following = Tensor(f"{result.name}/{step.code.lower()}", source.shape, _FLOAT)
        operands = [read] if step.number is None else [read, _number(graph, step.number, following)]
        operators.append(Operator(step.code, operands[::-1] if step.code == "DIV" else operands, [following]))
        read = following
    if not chain.gates:
        return [*operators, Operator("QUANTIZE", [read], [result])]
    gate = _integers(f"{result.name}/gate", source, of_interval(0.0, 1.0, "int8"))
    operators.append(Operator("QUANTIZE", [read], [gate]))
    steps = parameters_of(source)
    if steps == parameters_of(result):
        return [*operators, Operator("MUL", [source, gate], [result])]
    # In its own steps the product is exact. The reference kernel of MUL rounds twice.
    product = _integers(f"{result.name}/product", source, steps)
    again = Tensor(f"{result.name}/again", source.shape, _FLOAT)
    ends = [Operator("DEQUANTIZE", [product], [again]), Operator("QUANTIZE", [again], [result])]
    return [*operators, Operator("MUL", [source, gate], [product]), *ends]


def _between(operator: Operator, floats: Sequence[Operator]) -> list[Operator]:
    """Operators on floats, which read the operator's operand and end in its result, between DEQUANTIZE and QUANTIZE."""
    source, result = operator.inputs[0], operator.outputs[0]
    real = Tensor(f"{result.name}/real", source.shape, _FLOAT)
    others = {floats[0].inputs[0]: real, floats[-1].outputs[0]: Tensor(f"{result.name}/float", result.shape, _FLOAT)}
    written = [Operator("DEQUANTIZE", [source], [real])]
    for step in floats:
        # Shapes are those of today: what comes after lowering may have given the operand fewer axes.
        for tensor in step.outputs:
            others.setdefault(tensor, Tensor(tensor.name, source.shape, tensor.dtype))
        operands = [others.get(tensor, tensor) for tensor in step.inputs]
        written.append(Operator(step.code, operands, [others[tensor] for tensor in step.outputs], step.options))
    return [*written, Operator("QUANTIZE", [others[floats[-1].outputs[0]]], [result])]


def _saturated(chain: Chain, operator: Operator) -> Chain:
    """A chain that ends in the result's range, where it leaves that so far that a kernel could not round it."""
    values, parameters = computed(chain.steps, _numbers(operator)), parameters_of(operator.outputs[0])
    most = _MOST_STEPS * parameters.scale[0]
    ends = zip(("MAXIMUM", "MINIMUM"), parameters.interval, (values.min() < -most, values.max() > most), strict=True)
    return chain._replace(steps=(*chain.steps, *(Step(code, end) for code, end, is_beyond in ends if is_beyond)))


def _gives(chains: Sequence[Chain], operator: Operator) -> bool:
    """Whether the steps are finite for all integers, and give those of the look-up; one chain for each of them.

    A gate that is never open makes a constant, and a scale of 0 to 1 would say too much of it.
    """
    numbers = _numbers(operator)
    values = [computed(chain.steps, numbers) for chain in chains]
    if any(chain.gates and not gate.any() for chain, gate in zip(chains, values, strict=True)):
        return False
    parts = [gate * numbers if chain.gates else gate for chain, gate in zip(chains, values, strict=True)]
    parameters = parameters_of(operator.outputs[0])
    if not all(np.isfinite(part).all() for part in parts) or (np.count_nonzero(parts, axis=0) > 1).any():
        return False
    if operator.code != TABLE:
        return True
    off = np.abs(np.clip(np.sum(parts, axis=0), *parameters.interval) - images_of(operator))
    return bool(off.max() <= _OFF * parameters.scale[0])


def _is_near(operator: Operator) -> bool:
    """Whether all integers have images, and none so large that a kernel could not round them."""
    images = operator.options["function"](_numbers(operator))
    return bool(
        np.isfinite(images).all() and np.abs(images).max() <= _MOST_STEPS * parameters_of(operator.outputs[0]).scale[0]
    )


def _integers(name: str, like: Tensor, steps: Quantization) -> Tensor:
    return Tensor(name, like.shape, np.dtype(steps.dtype), quantization=steps)


def _number(graph: Graph, number: float, tensor: Tensor) -> Tensor:
    return graph.constant(np.full((1,) if tensor.shape else (), number, np.float32), f"{tensor.name}/by")


def _numbers(operator: Operator) -> Array:
    parameters = parameters_of(operator.inputs[0])
    lowest, highest = limits_of(parameters.dtype)
    return np.asarray(parameters.dequantized(np.arange(lowest, highest + 1)), np.float32)


def parameters_of(tensor: Tensor) -> Quantization:
    """Of a tensor of an integer operator."""
    assert tensor.quantization is not None  # the operator is integer
    return tensor.quantization
