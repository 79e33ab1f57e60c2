"""TFLite operators: their operands with errors, and which of them round nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

import numpy as np

from edgeconv.errors import ParityError
from edgeconv.parity.bounds._arithmetic import FLOAT32, Arithmetic, Array
from edgeconv.parity.bounds._bound import Bound, bound_of, carried_over, either
from edgeconv.parity.bounds._bounded import Bounded
from edgeconv.parity.bounds._kernels_apart import kernels_apart
from edgeconv.parity.bounds._tflite_kinds import CARRIED, CLAMPED_SUMS, JUMPS, NOTHING_ROUNDED, ONE_STEP
from edgeconv.parity.bounds._tflite_rules import RULES
from edgeconv.parity.bounds._tflite_site import CLAMPS, Site
from edgeconv.reference.tflite import Operator, TfliteGraph, evaluate_operator
from edgeconv.reference.tflite._call import Call


def of_tflite(
    graph: TfliteGraph,
    operator: Operator,
    values: Mapping[int, Array],
    *,
    arithmetic: Arithmetic = FLOAT32,
    errors: Mapping[int, Bound] = MappingProxyType({}),
) -> tuple[Bound, ...]:
    """How far any correct evaluation of an operator may lie from the exact one, given its own operands.

    Args:
        graph: of `edgeconv.reference.tflite.read`.
        operator: one of its operators.
        values: of its inputs, by the index of the tensor, in the file's layout, as the runtime had them.
        arithmetic: what the runtime computes in. ``xnnpack`` and ``any`` round quantized results once, in float32: at
            most one step from the reference kernels, which ``tflite`` is held to where these are specified exactly.
        errors: of real numbers that the runtime did not return, how far it may have had others, by the index of the
            tensor: they are carried on.

    Returns:
        One `Bound` per result; of quantized ones in steps.

    Raises:
        ParityError: the operator, or a form of it, has no bound.
        EmitError: `evaluate_operator` refuses it.
    """
    bounds = _bounds_of(graph, operator, values, arithmetic, errors)
    # CalculateActivationRange (kernels/kernel_util.h): without a clamp, kernels clamp to the range of finite numbers.
    # So do the products of POW, which has no activation.
    saturates = "fused_activation_function" in operator.options or operator.name == "POW"
    return tuple(bound.saturating() for bound in bounds) if saturates else bounds


def _bounds_of(
    graph: TfliteGraph,
    operator: Operator,
    values: Mapping[int, Array],
    arithmetic: Arithmetic,
    errors: Mapping[int, Bound],
) -> tuple[Bound, ...]:
    results, unclamped = _evaluated(graph, operator, values)
    call = Call.of(graph.tensors, operator, values)
    # 1. Operands that have errors already: these go through the operator, or no bound is known.
    carried = {at: error for at, error in errors.items() if error.has_errors}
    if carried and operator.name in CARRIED and all(result.dtype.kind == "f" for result in results):

        def evaluate(offsets: Mapping[int, Array]) -> Sequence[Array]:
            shifted = {at: values[at] + offset for at, offset in offsets.items()}
            return evaluate_operator(graph, operator, {**values, **shifted})

        return carried_over(results, carried, evaluate)
    if errors and (operator.name in NOTHING_ROUNDED or results[0].dtype.kind != "f"):
        raise ParityError(f"no error is carried through {operator.name}", where=call.result.name)
    # 2. A jump (a comparison, a rounding) may lie between the operands and what the runtime reads of them.
    if operator.name in JUMPS and not call.quantized:
        read = {index: arithmetic.read(values[index]) for index in operator.inputs if index in values}
        if any(read[index] is not values[index] for index in read):
            again = evaluate_operator(graph, operator, {**values, **read})
            return tuple(either(*pair) for pair in zip(results, again, strict=True))
    # 3. Nothing is rounded, or integers are, by whole steps; else the operator's own rule.
    if operator.name in NOTHING_ROUNDED and not (call.quantized and _rescales(call)):
        return tuple(bound_of(result, None) for result in results)
    if all(result.dtype.kind != "f" for result in results):
        steps = _steps(call, arithmetic)
        return tuple(bound_of(result, steps) for result in results)
    if operator.name not in RULES:
        what = f"no error bound is known for {operator.name}"
        raise ParityError(what, where=call.result.name, hint="judge its outputs")
    site = Site(graph, values, call, arithmetic, results, errors, unclamped)
    with np.errstate(all="ignore"):
        return (bound_of(results[0], site.activated(RULES[operator.name](site)).stored()),)


def _evaluated(
    graph: TfliteGraph, operator: Operator, values: Mapping[int, Array]
) -> tuple[tuple[Array, ...], Array | None]:
    """The results, and of sums of products in real numbers what they clamp."""
    result = graph.tensors[operator.outputs[0]]
    if operator.name not in CLAMPED_SUMS or not result.floating:
        return evaluate_operator(graph, operator, values), None
    number = operator.options.get("fused_activation_function", 0)
    if not isinstance(number, int) or number not in CLAMPS:
        return evaluate_operator(graph, operator, values), None
    bare = replace(operator, options={**operator.options, "fused_activation_function": 0})
    (total,) = evaluate_operator(graph, bare, values)
    return (total if not number else np.clip(total, *CLAMPS[number]),), total


def _rescales(call: Call) -> bool:
    """Whether operand and result have scales of their own, so that moved elements are rounded."""
    first = call.sources[0]
    return first is not None and first.quantization != call.result.quantization


def _steps(call: Call, arithmetic: Arithmetic) -> Bounded | None:
    """Of integers: none where nothing is quantized, or the runtime is held to the reference kernels' arithmetic."""
    exactly = arithmetic.runtime == "tflite" and call.operator.name not in ONE_STEP
    if not call.quantized or exactly:
        return None
    step = np.ones(()) + kernels_apart(call)
    if call.operator.name == "QUANTIZE" and call.source(0).floating:
        step = np.where(np.isnan(call[0]), np.inf, step)  # no integer stands for it: a kernel casts it to any
    return Bounded(step, step, step, arithmetic)
