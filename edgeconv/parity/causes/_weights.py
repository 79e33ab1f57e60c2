"""Weights in another order, precision or scale: how one array of numbers came out of another, in words."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from edgeconv.core import Array
from edgeconv.graph.traits import Trait, having
from edgeconv.parity.causes._piece import Hypothesis, Layer, Piece
from edgeconv.parity.causes._rounding import halved

Move = tuple[str, Callable[[Array], Array]]
Near = Callable[[Array, Array], Array]
_AXES = "OIHW"
_NAMED = 3  # exchanges of slices that are listed one by one
_UNIT, _HALF_UNIT = 2.0**-22, 2.0**-10  # relative: two roundings of float32, and of float16
_ROUNDED = 0.5 + 2.0**-8  # between a product and the integer that it was rounded to
_FEW = 8  # changed numbers that still count as single ones
_LAYERS = having(Trait.LAYER)


def kernel_moves(kernel: Array) -> Iterator[Move]:
    """The ways in which a kernel (output, input, height, width) may be read wrongly, in words and as functions.

    Mistakes that people make, before general permutations: some of these have the same effect on square kernels.
    """
    if kernel.ndim == 4:
        yield "is rotated by 180 degrees", lambda array: array[..., ::-1, ::-1]
        yield "is mirrored left to right", lambda array: array[..., ::-1]
        yield "is mirrored upside down", lambda array: array[..., ::-1, :]
        if kernel.shape[2] == kernel.shape[3]:
            yield "is transposed (height and width exchanged)", lambda array: array.swapaxes(2, 3)
            yield "is rotated by 90 degrees", lambda array: np.rot90(array, 1, (2, 3))
            yield "is rotated by 90 degrees, the other way", lambda array: np.rot90(array, -1, (2, 3))
        if kernel.shape[1] == 3:
            yield "has its input channels in reverse order (RGB and BGR)", lambda array: array[:, ::-1]
    if kernel.ndim >= 2 and kernel.shape[0] == kernel.shape[1]:
        yield "is transposed (outputs and inputs exchanged)", lambda array: array.swapaxes(0, 1)
    if kernel.ndim in (3, 4):
        for order in itertools.permutations(range(kernel.ndim)):
            names = "".join(_AXES[axis] for axis in order)
            if list(order) != sorted(order):
                yield f"is read in another layout ({names} for {_AXES[: kernel.ndim]})", _misread(order)
    if kernel.ndim >= 2:
        yield "is upside down in its outputs", lambda array: array[::-1]
        yield "has its output channels permuted: each is its neighbor's", lambda array: np.roll(array, 1, 0)
        yield "has its output channels permuted: each is its other neighbor's", lambda array: np.roll(array, -1, 0)


def _misread(order: Sequence[int]) -> Callable[[Array], Array]:
    """Bytes in one order of axes, taken for those in another."""
    return lambda array: array.transpose(order).reshape(array.shape)


def misread_weights(piece: Piece) -> Iterator[Hypothesis]:
    """A runtime that reads the weights in another order, or leaves the bias out."""
    for at, layer in enumerate(piece.layers):
        if layer.operator not in _LAYERS:
            continue
        kernel = layer.operands[1]
        if kernel is not None and layer.is_constant(1) and kernel.ndim >= 2:
            for words, move in kernel_moves(kernel):
                if not np.array_equal(moved := move(kernel), kernel):
                    yield Hypothesis(f"the kernel of {layer.name} {words}", _with_operand(piece, at, 1, moved))
            groups = layer.attribute("group", 1)
            if layer.operator == "Conv" and 1 < groups < len(kernel):
                turned = kernel.reshape(groups, -1, *kernel.shape[1:])[::-1].reshape(kernel.shape)
                words = f"the kernel of {layer.name} has its {groups} groups in reverse order"
                yield Hypothesis(words, _with_operand(piece, at, 1, turned))
        bias = layer.operands[2] if len(layer.operands) > 2 else None
        if bias is not None:
            yield Hypothesis(f"the bias of {layer.name} is missing", _with_operand(piece, at, 2, np.zeros_like(bias)))
            yield Hypothesis(f"the bias of {layer.name} is added twice", _with_operand(piece, at, 2, 2 * bias))
        elif layer.operator in _LAYERS - having(Trait.WINDOWS):
            yield from _bias_added_behind(piece, at, layer)


def weights_of_others(piece: Piece, elsewhere: Mapping[str, Array]) -> Iterator[Hypothesis]:
    """A layer with the weights of another one."""
    for at, layer in enumerate(piece.layers):
        if layer.operator not in _LAYERS or not layer.is_constant(1):
            continue
        kernel, own = layer.operands[1], layer.node.inputs[1]
        for name, array in elsewhere.items():
            if kernel is not None and array.shape == kernel.shape and own is not None and own.name != name:
                words = f"{layer.name} has the weights {name}"
                yield Hypothesis(words, _with_operand(piece, at, 1, array.astype(np.float64)))


def _bias_added_behind(piece: Piece, at: int, layer: Layer) -> Iterator[Hypothesis]:
    """The addition of a constant behind a product, left out."""
    for behind in range(at + 1, len(piece.layers)):
        addition = piece.layers[behind]
        if addition.operator == "Add" and addition.constants():
            yield Hypothesis(
                f"the bias of {layer.name} is missing",
                lambda behind=behind, layer=layer: piece.after(behind, layer.results),  # type: ignore[misc]
            )


def _with_operand(piece: Piece, at: int, index: int, array: Array) -> Callable[[], Array]:
    return lambda: piece.again(at, {index: array})


def change_of(due: Array, actual: Array, step: Array | None = None) -> str:
    """How a constant was changed, in words that follow its name; empty where no rule knows.

    Args:
        due: the correct numbers, in the precision that they are stored in.
        actual: the numbers in the file, of the same shape.
        step: of numbers that are stored as integers, what one more is worth, as it broadcasts.
    """
    if not actual.any():
        return "is missing: all its numbers are zero"
    if due.dtype.kind == "f":
        for name, rounded in (("float16", halved(due)), ("bfloat16", _truncated(due)), ("bfloat16", _brain(due))):
            if np.array_equal(rounded, actual):
                return f"is rounded to {name}"
    # Of halves a unit nearer to zero is near to a factor, too; the factor is not the likelier one.
    if due.dtype == np.float16 and (words := _cut_off(due, actual, None)):
        return words
    unit = _HALF_UNIT if due.dtype == np.float16 else _UNIT
    scaled = partial(_scaled, near=lambda due, actual: np.abs(actual - due) <= unit * np.abs(due))
    # From what explains every number exactly to what only lists the changed ones.
    for rule in (_moved, scaled, _permuted, _shared, _clipped):
        if words := rule(due.astype(np.float64), actual.astype(np.float64)):
            return words
    # What was moved or scaled shows in integers where each channel's scale hides it from the real numbers.
    several = np.count_nonzero(due != actual) > 1
    words = "" if step is None or not several else _change_of_integers(np.rint(due / step), np.rint(actual / step))
    return words or _cut_off(due, actual, step) or _few(due, actual) or _zeroed(due, actual)


def _cut_off(due: Array, actual: Array, step: Array | None) -> str:
    """Numbers that are one unit nearer to zero, or lower, than the nearest, and the others right."""
    changed = due != actual
    unit = np.abs(np.spacing(np.abs(due))) if step is None else np.broadcast_to(step, due.shape)
    if due.dtype.kind != "f" or np.count_nonzero(changed) < 2:
        return ""
    for words, last in (("towards zero", np.sign(due)), ("down", np.ones(due.shape))):
        # A power of two is half a unit from the number below.
        near = np.abs((due - last * unit) - actual) <= unit / 4
        near |= (np.frexp(np.abs(due))[0] == 1 / 2) & (np.abs((due - last * unit / 2) - actual) <= unit / 8)
        if near[changed].all():
            return f"is rounded {words} in {int(np.count_nonzero(changed))} of {due.size} numbers"
    return ""


def _change_of_integers(due: Array, actual: Array) -> str:
    """The same for the integers that a constant is stored as.

    Scales per channel are computed anew from changed numbers, so the real numbers do not show that channels moved or
    were scaled, and the integers do.
    """
    largest = float(np.abs(actual).max(initial=0.0))

    def near(due: Array, actual: Array) -> Array:
        # A product beyond the largest integer saturated there: at 127 of one sign, and at -128 of the other.
        saturated = (np.abs(actual) >= largest - 1) & (np.abs(due) > np.abs(actual)) & (due * actual > 0)
        return np.asarray((np.abs(actual - due) <= _ROUNDED) | saturated)

    scaled = partial(_scaled, near=near)
    for rule in (_moved, _permuted, _clipped, scaled):
        if words := rule(due, actual):
            return words
    return ""


def _brain(array: Array) -> Array:
    """Rounded to bfloat16, ties away from zero: half a unit is added to the bits, and the lower 16 are cut off."""
    bits = array.astype(np.float32).view(np.uint32)
    return np.asarray(((bits + 0x8000) & np.uint32(0xFFFF0000)).view(np.float32), array.dtype)


def _truncated(array: Array) -> Array:
    """Cut off to bfloat16, as a copy of the upper 16 bits does."""
    return np.asarray((array.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32), array.dtype)


def _moved(due: Array, actual: Array) -> str:
    if due.ndim < 2 or not np.array_equal(np.sort(due, axis=None), np.sort(actual, axis=None)):
        return ""
    for words, move in kernel_moves(due):
        if np.array_equal(move(due), actual):
            return words
    return _flattened(due, actual) or _interleaved(due, actual)


def _flattened(due: Array, actual: Array) -> str:
    """The matrix of a fully connected layer whose image was flattened in another order (NHWC or NCHW)."""
    if due.ndim != 2:
        return ""
    for axis in (1, 0):
        count = due.shape[axis]
        for channels in (number for number in range(2, count) if count % number == 0):
            order = np.arange(count).reshape(channels, -1).T.reshape(-1)
            if np.array_equal(np.take(due, order, axis), actual):
                return f"is for an image flattened in another order ({channels} channels last, or first)"
    return ""


def _interleaved(due: Array, actual: Array) -> str:
    """Output channels rotated by one, or interleaved as a grouped convolution's or a channel shuffle's are."""
    count = len(due)
    if np.array_equal(np.roll(due, 1, 0), actual) or np.array_equal(np.roll(due, -1, 0), actual):
        return "has its output channels permuted: each is its neighbor's"
    for groups in (number for number in range(2, count) if count % number == 0):
        order = np.arange(count).reshape(groups, -1).T.reshape(-1)
        if np.array_equal(due[order], actual):
            return f"has its output channels permuted: {groups} groups are interleaved"
    return ""


def _permuted(due: Array, actual: Array) -> str:
    """Slices along one axis change places, or numbers do."""
    if not np.array_equal(np.sort(due, axis=None), np.sort(actual, axis=None)):
        return ""
    sides = (
        ("output channels", "input channels") if due.ndim in (2, 4) and min(due.shape[:2]) > 1 else ("channels",) * 2
    )
    for axis, name in zip(range(min(due.ndim, 2)), sides, strict=False):
        places = matched(np.moveaxis(due, axis, 0), np.moveaxis(actual, axis, 0), 0.0)
        if places is not None:
            return f"has its {name} permuted ({exchanges(places)})"
    return "has its numbers in another order"


def matched(due: Array, actual: Array, tolerance: float) -> list[int] | None:
    """For each place, the slice of `due` that stands there in `actual`; None where it is no permutation of them.

    Slices that match in their own place stay: equal ones elsewhere must not take part in an exchange.
    """
    first, second = due.reshape(len(due), -1), actual.reshape(len(actual), -1)
    if first.shape != second.shape:
        return None
    places = list(range(len(first)))
    wrong = [at for at in places if not _near(first[at], second[at], tolerance)]
    free = set(wrong)
    for at in wrong:
        place = next((item for item in sorted(free) if _near(first[item], second[at], tolerance)), None)
        if place is None:
            return None
        places[at] = place
        free.discard(place)
    return places if wrong else None


def _near(first: Array, second: Array, tolerance: float) -> bool:
    with np.errstate(invalid="ignore"):
        distance = np.abs(np.subtract(first, second, dtype=np.float64))
        return bool(np.all((first == second) | (distance <= tolerance)))


def exchanges(places: Sequence[int]) -> str:
    """Which slice stands where, in words: the first few."""
    moved = [(at, place) for at, place in enumerate(places) if at != place]
    named = ", ".join(f"{place} stands at {at}" for at, place in moved[:_NAMED])
    return f"{named}, and {len(moved) - _NAMED} more" if len(moved) > _NAMED else named


def _scaled(due: Array, actual: Array, *, near: Near) -> str:
    """All numbers, or all of some output channels, by a factor that their own rounding is not."""
    if near(due, actual).all():
        return ""
    factor = _factor(due, actual, near)
    if factor is not None:
        return f"is {factor:.6g} times what it should be"
    if due.ndim < 2:
        return ""
    for axis in dict.fromkeys((0, due.ndim - 1, 1)):
        pairs = zip(np.moveaxis(due, axis, 0), np.moveaxis(actual, axis, 0), strict=True)
        factors = [_factor(first, second, near) for first, second in pairs]
        changed = [at for at, item in enumerate(factors) if item != 1.0]
        if None in factors or not changed or due.size == due.shape[axis]:
            continue
        if len(changed) == 1:
            return f"is {factors[changed[0]]:.6g} times what it should be in channel {changed[0]}"
        return f"has another scale in {len(changed)} of {len(factors)} channels"
    return ""


def _factor(due: Array, actual: Array, near: Near) -> float | None:
    """The factor between two arrays, within what their format resolves; None where no single one explains all.

    By the largest number, which is exact for real ones, by least squares, which averages the rounding of integers, and
    by what each integer allows, which saturation does not move.
    """
    if np.array_equal(due, actual):
        return 1.0
    at = np.unravel_index(int(np.argmax(np.abs(due))), due.shape)
    if not due[at] or not np.isfinite(due).all() or not np.count_nonzero(due) > 2:
        return None
    factor = float(actual[at] / due[at])
    fitted = float(np.vdot(due, actual) / np.vdot(due, due))
    candidates = (factor, fitted, _between_roundings(due, actual))
    return next((item for item in candidates if item and near(item * due, actual).all()), None)


def _between_roundings(due: Array, actual: Array) -> float:
    """The factor in the middle of all those with which each product is rounded to the number that stands there.

    Those that saturated bound it from one side alone, which the others do better. Zero where there is none.
    """
    free = (due != 0) & (np.abs(actual) < np.abs(actual).max() - 1)
    if not free.any():
        return 0.0
    ends = np.sort((actual[free] + _ROUNDED * np.array([[-1.0], [1.0]])) / due[free], axis=0)
    low, high = float(ends[0].max()), float(ends[1].min())
    return (low + high) / 2 if low <= high else 0.0


def _few(due: Array, actual: Array) -> str:
    """A few numbers are others."""
    places = np.argwhere(due != actual)
    if len(places) > min(_FEW, due.size // 2) and due.size > 1:
        return ""
    place = tuple(int(index) for index in places[0])
    now, stated = float(actual[place]), float(due[place])
    what = f"{now:.9g} instead of {stated:.9g}"
    if due.size == 1:
        return f"is {what}"
    how = "changes its sign" if now == -stated else "is zero" if now == 0 else "is another"
    count = "one number" if len(places) == 1 else f"{len(places)} numbers, the first of which"
    return f"has {count} that {how} ({what} at {list(place)})"


def _shared(due: Array, actual: Array) -> str:
    """One number in the place of several: a slope per channel as one of all."""
    number = float(actual.reshape(-1)[0])
    if due.size < 2 or not number or (actual != number).any() or (due == due.reshape(-1)[0]).all():
        return ""
    whose = ", their mean" if abs(number - due.mean()) <= _UNIT * np.abs(due).max() else ""
    return f"has one number for all {due.size}: {number:.6g}{whose}"


def _clipped(due: Array, actual: Array) -> str:
    low, high = float(actual.min()), float(actual.max())
    if np.count_nonzero(actual != due) < 2:
        return ""
    return f"is clipped to {low:.6g} and {high:.6g}" if np.array_equal(np.clip(due, low, high), actual) else ""


def _zeroed(due: Array, actual: Array) -> str:
    changed = due != actual
    if actual[changed].any():
        return ""
    return f"has {int(np.count_nonzero(changed))} of {due.size} numbers set to zero"
