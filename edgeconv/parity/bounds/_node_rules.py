"""ONNX: which rule each operator has. A new operator is one row of `RULES`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgeconv.parity.bounds import _formulas as formulas
from edgeconv.parity.bounds import _node_attention, _node_integers, _node_places, _node_recurrent, _node_sums
from edgeconv.parity.bounds._bounded import Bounded, chosen, exact, stacked, widest
from edgeconv.parity.bounds._determinant import determinant
from edgeconv.parity.bounds._site import Rule, Site

# Elementwise


def _function(name: str) -> Rule:
    return lambda site: site.x().function(name)


def _sum(site: Site) -> Bounded:
    """A sum of any number of operands, in any order."""
    parts = [site.x(index) for index in range(len(site.values))]
    shape = np.broadcast_shapes(*(part.value.shape for part in parts))
    wide = [part.move(lambda array: np.broadcast_to(array, shape)) for part in parts]
    return stacked(wide, 0).sum(0, keepdims=False)


def _power(site: Site) -> Bounded:
    base, exponent = site.x(), site.x(1)
    result = formulas.power(base, exponent)
    is_root = exponent.value.size == 1 and float(exponent.value.reshape(-1)[0]) == 0.5
    return widest(result, base.function("sqrt")) if is_root else result


def _modulo(site: Site) -> Bounded:
    """C's fmod is exact; without ``fmod``, ONNX has no Mod of real numbers."""
    if not site.attribute("fmod", 0):
        raise site.unknown("of real numbers without fmod")
    return exact(site.x(), site.results[0])


# By the name of a Cast's target: the format, and half of its relative spacing, which is what rounding once may cost.
_FORMATS = {"FLOAT": ("float32", 2.0**-24), "FLOAT16": ("float16", 2.0**-11), "DOUBLE": ("float64", 0.0)}


def _cast(site: Site) -> Bounded:
    """A cast to real numbers: rounded to the target's format where it does not hold them."""
    stated = site.node.outputs[0].dtype or ir.DataType.UNDEFINED  # CastLike has no `to`
    kind = ir.DataType(site.attribute("to", 0)) if site.has("to") else stated
    target = kind.name
    if target not in _FORMATS:
        raise site.unknown(f"to {target.lower()}")
    (name, unit), value = _FORMATS[target], site.results[0]
    limits = np.finfo(name)
    # A conversion rounds halves below the smallest normal one, too; of float32 these may become 0.
    rounded = unit * np.abs(value) + float(limits.smallest_subnormal if name == "float16" else limits.smallest_normal)
    beyond = np.abs(value) > float(limits.max)
    own = np.where(value.astype(name) == value, 0.0, rounded)
    x = site.x()
    worst, likely = (
        np.where(beyond, np.inf, error + np.where(error > 0, rounded, own)) for error in (x.worst, x.likely)
    )
    return Bounded(value, worst, likely, site.arithmetic)


def _shrink(site: Site) -> Bounded:
    """Towards 0 by the bias outside of an interval, 0 inside: it jumps there, so its operand has to be known."""
    x, bias, bound = site.x(), site.number("bias", 0.0), site.number("lambd", 0.5)
    outside = np.abs(x.value) > bound
    moved = x + exact(x, np.where(x.value < 0, bias, -bias))
    return chosen(outside, moved, exact(x, np.zeros(x.value.shape)))


def _along_axis(function: Callable[[Bounded, int], Bounded]) -> Rule:
    """Along ``axis``; before opset 13, over all axes from it on together."""

    def rule(site: Site) -> Bounded:
        x = site.x()
        if site.opset >= 13:
            return function(x, site.axis(x.value.ndim, -1))
        axis, shape = site.axis(x.value.ndim, 1), x.value.shape
        return function(x.reshape(*shape[:axis], -1), -1).reshape(*shape)

    return rule


# Reductions


def _reduced(function: Callable[..., Bounded]) -> Rule:
    """Over the stated axes, or all; over none where the node says so."""

    def rule(site: Site) -> Bounded:
        x, keepdims = site.x(), bool(site.attribute("keepdims", 1))
        if not site.ints(1, "axes") and site.attribute("noop_with_empty_axes", 0):
            # Over an axis of one element: the function of each element by itself.
            wide = x.move(lambda array: array[..., None])
            return function(wide, (x.value.ndim,), keepdims=False)
        return function(x, site.axes(1), keepdims=keepdims)

    return rule


def _squares(x: Bounded, axes: Sequence[int], *, keepdims: bool) -> Bounded:
    return (x * x).sum(axes, keepdims=keepdims)


def _global_lp(site: Site) -> Bounded:
    p = site.attribute("p", 2)
    if p not in (1, 2):
        raise site.unknown(f"of p = {p}")
    return formulas.norm(site.x(), site.spatial, p)


# Normalizations


def _batch(site: Site) -> Bounded:
    if site.attribute("training_mode", 0):
        raise site.unknown("in training mode")
    scale, bias, mean, variance = (_column(site.x(index), site[0].ndim) for index in range(1, 5))
    return formulas.normalized(site.x(), mean, variance, site.number("epsilon", 1e-5), scale, bias)


def _column(x: Bounded, rank: int) -> Bounded:
    return x.reshape(-1, *[1] * (rank - 2))


def _instance(site: Site) -> Bounded:
    x, rank = site.x(), site[0].ndim
    scale, bias = (_column(site.x(index), rank) for index in (1, 2))
    return formulas.normalized(x, *formulas.moments(x, site.spatial), site.number("epsilon", 1e-5), scale, bias)


def _group(site: Site) -> Bounded:
    x, groups = site.x(), site.attribute("num_groups", 1)
    shape, size = x.value.shape, x.value.shape[1] // groups
    wide = x.reshape(shape[0], groups, size, -1)
    scale, bias = (
        item.reshape(groups, -1, 1).move(lambda array: np.broadcast_to(array, (groups, size, 1)))
        for item in (site.x(1), site.x(2))
    )
    mean, variance = formulas.moments(wide, (2, 3))
    return formulas.normalized(wide, mean, variance, site.number("epsilon", 1e-5), scale, bias).reshape(*shape)


def _layer(site: Site) -> tuple[Bounded | None, ...]:
    x, epsilon = site.x(), site.number("epsilon", 1e-5)
    mean, variance = formulas.moments(x, tuple(range(site.axis(x.value.ndim, -1), x.value.ndim)))
    y = formulas.normalized(x, mean, variance, epsilon, site.x(1), site.maybe(2))
    return y, mean, (variance + epsilon).inverse_root()


def _root_mean_square(site: Site) -> Bounded:
    x = site.x()
    axes = tuple(range(site.axis(x.value.ndim, -1), x.value.ndim))
    return formulas.root_mean_square(x, axes, site.number("epsilon", 1e-5)) * site.x(1)


def _mean_variance(site: Site) -> Bounded:
    axes = tuple(axis % site[0].ndim for axis in site.attribute("axes", [0, 2, 3]))
    x = site.x()
    mean, variance = formulas.moments(x, axes)
    return (x - mean) / (variance.root() + 1e-9)  # the epsilon of the operator's function body


RULES: Mapping[str, Rule] = {
    # Sums of products, resizing, sums at places, sampling, attention, recurrent layers, integers
    **_node_sums.RULES,
    **_node_places.RULES,
    **_node_attention.RULES,
    **_node_recurrent.RULES,
    **_node_integers.RULES,
    # Functions of each element
    **{name: _function(name.lower()) for name in ("Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Cos", "Cosh")},
    **{
        name: _function(name.lower()) for name in ("Erf", "Exp", "Log", "Sigmoid", "Sin", "Sinh", "Sqrt", "Tan", "Tanh")
    },
    "Softplus": _function("softplus"),
    "Reciprocal": lambda site: 1.0 / site.x(),
    # Arithmetic
    "Add": lambda site: site.x() + site.x(1),
    "Sub": lambda site: site.x() - site.x(1),
    "Mul": lambda site: site.x() * site.x(1),
    "Div": lambda site: site.x() / site.x(1),
    "Sum": _sum,
    "Mean": lambda site: _sum(site) / float(len(site.values)),
    "Pow": _power,
    "Mod": _modulo,
    "Cast": _cast,
    "CastLike": _cast,
    # Activations
    "Celu": lambda site: formulas.celu(site.x(), site.number("alpha", 1.0)),
    "Elu": lambda site: formulas.elu(site.x(), site.number("alpha", 1.0)),
    "Gelu": lambda site: formulas.gelu(site.x(), approximate=site.text("approximate", "none") == "tanh"),
    "HardSigmoid": lambda site: formulas.hard_sigmoid(site.x(), site.number("alpha", 0.2), site.number("beta", 0.5)),
    "HardSwish": lambda site: formulas.hard_swish(site.x()),
    "LeakyRelu": lambda site: formulas.leaky(site.x(), site.number("alpha", 0.01)),
    "LogSoftmax": _along_axis(formulas.log_softmax),
    "Mish": lambda site: formulas.mish(site.x()),
    "PRelu": lambda site: formulas.leaky(site.x(), site.x(1)),
    "Selu": lambda site: formulas.selu(
        site.x(), site.number("alpha", 1.67326319217681884765625), site.number("gamma", 1.05070102214813232421875)
    ),
    "Shrink": _shrink,
    "Softmax": _along_axis(formulas.softmax),
    "Softsign": lambda site: formulas.softsign(site.x()),
    "Swish": lambda site: formulas.swish(site.x(), site.number("alpha", 1.0)),
    # Matrices
    "Det": lambda site: determinant(site.x(), site.results[0]),
    # Reductions
    "GlobalAveragePool": lambda site: site.x().mean(site.spatial),
    "GlobalLpPool": _global_lp,
    "ReduceL1": _reduced(lambda x, axes, keepdims: formulas.norm(x, axes, 1, keepdims=keepdims)),
    "ReduceL2": _reduced(lambda x, axes, keepdims: formulas.norm(x, axes, 2, keepdims=keepdims)),
    "ReduceLogSum": _reduced(lambda x, axes, keepdims: x.sum(axes, keepdims=keepdims).function("log")),
    "ReduceLogSumExp": _reduced(formulas.log_sum_exp),
    "ReduceMean": _reduced(lambda x, axes, keepdims: x.mean(axes, keepdims=keepdims)),
    "ReduceProd": _reduced(formulas.product),
    "ReduceSum": _reduced(lambda x, axes, keepdims: x.sum(axes, keepdims=keepdims)),
    "ReduceSumSquare": _reduced(_squares),
    # Normalizations
    "BatchNormalization": _batch,
    "GroupNormalization": _group,
    "InstanceNormalization": _instance,
    "LayerNormalization": _layer,
    "LpNormalization": lambda site: formulas.unit_length(site.x(), site.axis(site[0].ndim, -1), site.attribute("p", 2)),
    "MeanVarianceNormalization": _mean_variance,
    "RMSNormalization": _root_mean_square,
}
"""By operator; those of which nothing is rounded have no row."""
_SEQUENCE = "its operand or result is a sequence, which no probe returns; exports have none"
WITHOUT_BOUND: Mapping[str, str] = {
    **dict.fromkeys(("ConcatFromSequence", "SequenceAt", "SequenceConstruct", "SequenceLength"), _SEQUENCE),
    "If": "it is a graph of its own, whose values no probe returns; exports have its branch in place of it",
    "SplitToSequence": _SEQUENCE,
}
"""Operators of the reference whose results are not judged, and why."""
