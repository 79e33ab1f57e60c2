"""Causes: of each kind of fault, the right hypothesis explains what was computed, and nothing else is told."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest

from edgeconv.core import Array
from edgeconv.parity.causes import Evidence, Piece, cause_of, change_of_constant
from edgeconv.parity.causes._constants import _in_the_graphs_order
from edgeconv.reference import evaluate_node

RNG = np.random.default_rng(0)
IMAGE, SQUARE = RNG.normal(size=(1, 3, 8, 6)), RNG.normal(size=(1, 3, 6, 6))
KERNEL, BIAS = RNG.normal(size=(4, 3, 3, 3)), RNG.normal(size=4)


def piece_of(op_type: str, operands: Sequence[Array], stored: Sequence[int] = (), **attributes: Any) -> Piece:
    """One layer; the operands at these places are constants of float32 (integers: as they are)."""
    values = [ir.Value(name=f"x{at}") for at in range(len(operands))]
    for at in stored:
        array = operands[at].astype(np.float32) if operands[at].dtype.kind == "f" else operands[at]
        values[at].const_value = ir.tensor(array)
        ir.Graph([], [], nodes=[], initializers=[values[at]])
    node = ir.node(op_type, values, attributes, num_outputs=1)
    node.outputs[0].name = "layer.0"
    return Piece([node], dict(zip(values, operands, strict=True)), node.outputs[0], 18)


def convolution(image: Array = IMAGE, **attributes: Any) -> Piece:
    weights = [array.astype(np.float32).astype(np.float64) for array in (KERNEL, BIAS)]
    return piece_of("Conv", [image, *weights], (1, 2), **{"pads": [1, 1, 1, 1], **attributes})


def computed(op_type: str, *operands: Array, **attributes: Any) -> Array:
    node = ir.node(op_type, [ir.Value() for _ in operands], attributes, num_outputs=1)
    return evaluate_node(node, operands, opset=18)[0]


def wrong(kernel: Array = KERNEL, bias: Array = BIAS, image: Array = IMAGE, **attributes: Any) -> Array:
    weights = [array.astype(np.float32).astype(np.float64) for array in (kernel, bias)]
    return computed("Conv", image, *weights, **{"pads": [1, 1, 1, 1], **attributes})


def resized(mode: str) -> Piece:
    operands = [IMAGE, np.empty(0), np.array([1.0, 1.0, 2.0, 2.0])]
    return piece_of("Resize", operands, (1, 2), mode="linear", coordinate_transformation_mode=mode)


SLOPED, CLAMPED, SUBTRACTED = (
    piece_of("LeakyRelu", [IMAGE], alpha=0.1),
    piece_of("Clip", [4 * IMAGE, np.array(0.0), np.array(6.0)], (1, 2)),
    piece_of("Sub", [IMAGE, IMAGE[:, ::-1] + 1]),
)
NORM = [IMAGE, *(RNG.uniform(0.5, 1.5, 3) for _ in range(4))]
NORMED = piece_of("BatchNormalization", NORM, (1, 2, 3, 4), epsilon=1e-3)
WIDE = RNG.normal(size=(1, 5, 4, 3))
TURNED = RNG.normal(size=(3, 4, 3, 3)).astype(np.float32).astype(np.float64)
SPREAD: dict[str, Any] = {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}
PAIRS = RNG.normal(size=(8, 2, 3, 3)).astype(np.float32).astype(np.float64)
GRU = [
    RNG.normal(size=shape).astype(np.float32).astype(np.float64) for shape in ((4, 1, 3), (1, 6, 3), (1, 6, 2), (1, 12))
]
FAULTS: dict[str, tuple[Piece, Array, str]] = {
    "rotated": (convolution(), wrong(KERNEL[..., ::-1, ::-1]), "rotated by 180 degrees"),
    "transposed": (convolution(), wrong(KERNEL.swapaxes(2, 3)), "height and width exchanged"),
    "kernel's layout": (convolution(), wrong(KERNEL.transpose(0, 2, 3, 1).reshape(KERNEL.shape)), "OHWI for OIHW"),
    "bgr": (convolution(), wrong(image=IMAGE[:, ::-1]), "RGB and BGR"),
    "channels": (convolution(), wrong()[:, [0, 2, 1, 3]], "permuted (2 stands at 1, 1 stands at 2)"),
    "padding": (convolution(), wrong(pads=[2, 1, 0, 1]), "the padding of Conv layer.0 is [2, 1] before"),
    "padding's value": (
        convolution(),
        wrong(image=np.pad(IMAGE, ((0, 0), (0, 0), (1, 1), (1, 1)), constant_values=0.25), pads=[0] * 4),
        "holds 0.25 instead of zeros",
    ),
    "phase": (
        convolution(strides=[2, 2]),
        wrong(pads=[0, 0, 1, 1], strides=[2, 2]),
        "another phase of its stride), which is what SAME means",
    ),
    "dilation": (convolution(), wrong(pads=[2, 2, 2, 2], dilations=[2, 2]), "dilation of Conv layer.0 is [2, 2]"),
    "bias missing": (convolution(), wrong(bias=0 * BIAS), "the bias of Conv layer.0 is missing"),
    "layout": (
        convolution(),
        wrong(image=IMAGE.transpose(0, 2, 3, 1).reshape(IMAGE.shape)),
        "(N, H, W, C) is taken for (N, C, H, W)",
    ),
    "sides": (convolution(SQUARE), wrong(image=SQUARE.swapaxes(2, 3)), "height and width exchanged"),
    "scale": (convolution(), 1.5 * wrong(), "the result is scaled by 1.5"),
    "slope": (SLOPED, np.where(IMAGE > 0, IMAGE, np.float32(0.3) * IMAGE), "the slope of LeakyRelu layer.0 is 0.3"),
    "clamp missing": (CLAMPED, np.maximum(4 * IMAGE, 0), "holds [0, inf] instead of [0, 6]"),
    "clamp": (CLAMPED, np.clip(4 * IMAGE, 0, 5), "holds [0, 5] instead of [0, 6]"),
    "exchanged": (SUBTRACTED, IMAGE[:, ::-1] + 1 - IMAGE, "in another order"),
    "eps": (NORMED, computed("BatchNormalization", *NORM, epsilon=0.0125), "the eps of BatchNormalization"),
    "eps of others": (
        piece_of("LayerNormalization", [0.01 * IMAGE, np.ones(6), np.zeros(6)], (1, 2), epsilon=1e-3),
        computed("LayerNormalization", 0.01 * IMAGE, np.ones(6), np.zeros(6), epsilon=1e-12),
        "the eps of LayerNormalization layer.0 is 1e-12 instead of 0.001",
    ),
    "norm missing": (NORMED, IMAGE, "BatchNormalization layer.0 is left out"),
    "norm twice": (
        NORMED,
        computed("BatchNormalization", NORMED.expected, *NORM[1:], epsilon=1e-3),
        "BatchNormalization layer.0 is applied twice",
    ),
    "resize": (resized("half_pixel"), resized("align_corners").expected, "align_corners instead of half_pixel"),
    "softmax": (piece_of("Softmax", [IMAGE], axis=1), computed("Softmax", IMAGE, axis=3), "along axis 3 instead of 1"),
    "operand's channels": (convolution(), wrong(image=IMAGE[:, [1, 0, 2]]), "has its channels 0 and 1 exchanged"),
    "operand's neighbors": (convolution(), wrong(image=IMAGE[:, [2, 0, 1]]), "channels each in its neighbor's place"),
    "quarter turn": (convolution(), wrong(np.rot90(KERNEL, 1, (2, 3))), "the kernel of Conv layer.0 is rotated by 90"),
    "join": (
        piece_of("Concat", [IMAGE, 2 * IMAGE], axis=1),
        np.concatenate([IMAGE, 2 * IMAGE], 2).reshape(1, 6, 8, 6),
        "Concat layer.0 is along axis 2 instead of 1",
    ),
    "not moved": (
        piece_of("Transpose", [IMAGE], perm=[0, 2, 3, 1]),
        IMAGE.reshape(1, 8, 6, 3),
        "its numbers are taken in their order",
    ),
    "transposed layer's channels": (
        piece_of("ConvTranspose", [IMAGE, TURNED], (1,), **SPREAD),
        computed("ConvTranspose", IMAGE[:, [0, 2, 1]], TURNED, **SPREAD),
        "the operand of ConvTranspose layer.0 has its channels 1 and 2 exchanged",
    ),
    "a term's channels": (
        piece_of("Add", [WIDE, 3 * WIDE[..., ::-1]]),
        WIDE[:, [0, 4, 2, 3, 1]] + 3 * WIDE[..., ::-1],
        "operand 0 of Add layer.0 has its channels 1 and 4 exchanged",
    ),
    "reset": (
        piece_of("GRU", GRU, (1, 2, 3), hidden_size=2, linear_before_reset=1),
        computed("GRU", *GRU, hidden_size=2, linear_before_reset=0),
        "applies its reset gate in front of the product instead of behind it",
    ),
    "twice": (piece_of("Sigmoid", [IMAGE]), 1 / (1 + np.exp(-1 / (1 + np.exp(-IMAGE)))), "layer.0 is applied twice"),
    "causal dilation": (
        piece_of("Conv", [IMAGE, KERNEL], (1,), pads=[4, 0, 0, 0], dilations=[2, 1]),
        computed("Conv", IMAGE, KERNEL, pads=[2, 0, 0, 0]),
        "the dilation of Conv layer.0 is [1, 1] instead of [2, 1]",
    ),
    "norm of magnitudes": (
        piece_of("ReduceL2", [IMAGE, np.array([1])], (1,), keepdims=1),
        np.abs(IMAGE).sum(1, keepdims=True),
        "is computed as ReduceL1",
    ),
    "selu": (piece_of("Elu", [IMAGE]), computed("Selu", IMAGE), "Elu layer.0 is computed as Selu"),
    "groups": (
        piece_of("Conv", [WIDE[:, :4], PAIRS], (1,), group=2),
        computed("Conv", WIDE[:, :4], PAIRS[[4, 5, 6, 7, 0, 1, 2, 3]], group=2),
        "the kernel of Conv layer.0 has its 2 groups in reverse order",
    ),
    "depthwise neighbors": (
        piece_of("Conv", [WIDE[:, :4], PAIRS[:4, :1]], (1,), group=4),
        computed("Conv", WIDE[:, :4], PAIRS[[3, 0, 1, 2], :1], group=4),
        "has its output channels permuted: each is its neighbor's",
    ),
    "new shape": (
        piece_of("Reshape", [IMAGE, np.array([1, 3, 12, 4])], (1,)),
        IMAGE.reshape(1, 12, 3, 4).swapaxes(1, 2),
        "Reshape layer.0 has its axes 1 and 2 in another order",
    ),
    "sigmoid": (piece_of("Sigmoid", [IMAGE]), np.tanh(IMAGE), "is computed as Tanh"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_right_hypothesis_is_confirmed(name: str) -> None:
    piece, actual, words = FAULTS[name]
    assert words in cause_of(piece, Evidence(actual, 1e-9, 1e-12))


@pytest.mark.parametrize("piece", [convolution(), CLAMPED, NORMED], ids=["conv", "clip", "norm"])
@pytest.mark.parametrize(
    "change", [lambda array: array, lambda array: array + RNG.normal(size=array.shape)], ids=["nothing", "noise"]
)
def test_nothing_is_told_of_what_is_right_or_unexplained(piece: Piece, change: Callable[[Array], Array]) -> None:
    assert cause_of(piece, Evidence(change(piece.expected), 1e-9, 1e-12)) == ""


def test_a_single_element_is_not_explained_by_a_number_read_from_it() -> None:
    piece = CLAMPED
    actual = piece.expected.copy()
    at = np.unravel_index(int(np.argmax(actual)), actual.shape)
    actual[at] = 5.0
    assert cause_of(piece, Evidence(actual, 1e-9)) == ""


STORED: dict[str, tuple[Array, str]] = {
    "float16": (KERNEL.astype(np.float16).astype(np.float32), "is rounded to float16"),
    "one number": (np.where(KERNEL[1, 2, 0, 1] == KERNEL, 2 * KERNEL, KERNEL), "has one number that is another"),
    "input channels": (KERNEL[:, [2, 0, 1]], "has its input channels permuted"),
    "a channel": (KERNEL * np.array([1, 1, 1.5, 1])[:, None, None, None], "1.5 times what it should be in channel 2"),
    "one for all": (np.full_like(KERNEL, KERNEL.mean()), "for all 108: "),
    "zeros": (np.where(np.abs(KERNEL) < 0.5, 0, KERNEL), "numbers set to zero"),
}


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 2, 3, 1)], ids=["as torch", "channels last"])
@pytest.mark.parametrize("name", STORED)
def test_what_became_of_a_constant_is_told_where_it_explains_the_result(name: str, order: tuple[int, ...]) -> None:
    kernel, words = STORED[name]
    stored = {"weights": kernel.astype(np.float32).transpose(order)}
    cause = cause_of(convolution(), Evidence(wrong(kernel), 1e-9, 1e-12), stored=stored)
    assert cause.startswith("the constant x1")
    assert words in cause
    assert cause_of(convolution(), Evidence(wrong() + RNG.normal(), 1e-9), stored=stored) != cause


@pytest.mark.parametrize("groups", [1, 2])
def test_two_channels_are_told_behind_a_normalization_and_a_clamp(groups: int) -> None:
    image, kernel = RNG.normal(size=(1, 8, 6, 5)), RNG.normal(size=(4, 8 // groups, 3, 3))
    stored = {"weight": kernel, "scale": RNG.uniform(0.5, 2, 4), "shift": RNG.normal(size=4)}
    stored |= {"mean": RNG.normal(size=4), "var": RNG.uniform(0.5, 2, 4)}
    values = {name: ir.Value(name=name, const_value=ir.tensor(array)) for name, array in stored.items()}
    ir.Graph([], [], nodes=[], initializers=list(values.values()))
    x = ir.Value(name="x")
    conv = ir.node("Conv", [x, values["weight"]], {"pads": [1, 0, 1, 2], "strides": [2, 1], "group": groups})
    norm = ir.node("BatchNormalization", [conv.outputs[0], *(values[at] for at in ("scale", "shift", "mean", "var"))])
    relu = ir.node("Relu", [norm.outputs[0]])
    for node, name in ((conv, "conv"), (norm, "norm"), (relu, "relu")):
        node.outputs[0].name = name

    def computed_of(array: Array) -> Piece:
        arrays = {value: stored[name] for name, value in values.items()}
        return Piece([conv, norm, relu], {x: array, **arrays}, relu.outputs[0], 18)

    wrong_result = computed_of(image[:, [0, 1, 6, 3, 4, 5, 2, 7]]).expected
    words = cause_of(computed_of(image), Evidence(wrong_result, 1e-9, 1e-12))
    assert words == "the operand of Conv conv has its channels 2 and 6 exchanged"


def test_another_value_in_an_operand_s_place_is_told() -> None:
    other, noise = RNG.normal(size=IMAGE.shape), RNG.normal(size=IMAGE.shape)
    evidence = Evidence(wrong(image=other), 1e-9, 1e-12)
    assert cause_of(convolution(), evidence, others={"a": noise, "b": other}) == (
        "Conv layer.0 reads b in place of its operand"
    )


def test_the_weights_of_another_layer_are_told() -> None:
    other = RNG.normal(size=KERNEL.shape).astype(np.float32)
    evidence, elsewhere = Evidence(wrong(other), 1e-9, 1e-12), {"there": other, "here": KERNEL.astype(np.float32)}
    assert cause_of(convolution(), evidence, elsewhere=elsewhere) == "Conv layer.0 has the weights there"
    assert cause_of(convolution(), evidence, stored={"x1": other}, elsewhere=elsewhere) == (
        "the constant x1 has the numbers of there"
    )


def test_weights_that_are_not_rounded_to_the_nearest_are_told() -> None:
    right = KERNEL.astype(np.float16)
    chosen = RNG.random(KERNEL.shape) < 0.5
    held = np.where(chosen, np.nextafter(right, np.float16(0)), right)
    piece = piece_of("Conv", [IMAGE, right.astype(np.float64), BIAS.astype(np.float32)], (1, 2), pads=[1, 1, 1, 1])
    actual = computed("Conv", IMAGE, held.astype(np.float64), BIAS.astype(np.float32), pads=[1, 1, 1, 1])
    words = cause_of(piece, Evidence(actual, 1e-9, 1e-12), stored={"x1": held})
    assert words == f"the constant x1 is rounded towards zero in {np.count_nonzero(chosen)} of 108 numbers"


def test_halves_that_are_cut_off_are_no_factor_and_powers_of_two_no_exception() -> None:
    due = np.array([[1, 2, -4, 1.5, -3], [0.5, 0.75, 0.3, -0.7, 8]], np.float16)
    for held in (np.nextafter(due, np.float16(0)), np.where(due > 0.6, np.nextafter(due, np.float16(0)), due)):
        count = np.count_nonzero(held != due)
        assert change_of_constant(due, held) == f"is rounded towards zero in {count} of 10 numbers"


@pytest.mark.parametrize(("mode", "behind"), [*itertools.product(("edge", "constant"), (0, 1))])
def test_an_average_of_what_was_padded_for_a_maximum_is_told(mode: str, behind: int) -> None:
    """In front alone, where the format pads behind by itself and counts none of it."""
    image = np.abs(RNG.standard_normal((1, 2, 8, 8)))
    stated = {"kernel_shape": [3, 3], "strides": [2, 2]}
    padded = np.pad(image, [(0, 0), (0, 0), (1, behind), (1, behind)], mode=mode)
    pads = [0, 0, 1 - behind, 1 - behind]
    actual = computed("AveragePool", padded, pads=pads, **stated)[..., :4, :4]
    cause = cause_of(piece_of("MaxPool", [image], pads=[1, 1, 1, 1], **stated), Evidence(actual, 1e-9))
    assert cause == "MaxPool layer.0 is computed as AveragePool"


def test_a_runtime_that_rounds_its_operands_is_told() -> None:
    rounded = [array.astype(np.float16).astype(np.float64) for array in (IMAGE, KERNEL.astype(np.float32))]
    actual = computed("Conv", *rounded, BIAS.astype(np.float32).astype(np.float64), pads=[1, 1, 1, 1])
    cause = cause_of(convolution(), Evidence(actual, 1e-6))
    assert cause == "the operands of Conv layer.0 are rounded to float16"


def test_a_runtime_that_adds_up_in_float16_is_told() -> None:
    rows, matrix = RNG.normal(size=(6, 40)), RNG.normal(size=(40, 5)).astype(np.float32).astype(np.float64)
    total = np.zeros((6, 5), np.float16)
    for at in range(40):
        total += (rows[:, at : at + 1] * matrix[at]).astype(np.float16)
    cause = cause_of(piece_of("MatMul", [rows, matrix], (1,)), Evidence(total.astype(np.float64), 1e-6))
    assert cause == "MatMul layer.0 is summed in float16"


@pytest.mark.parametrize(
    ("rounding", "words"),
    [(lambda x: np.floor(x + 0.5), "rounds ties up"), (np.trunc, "cuts fractions off"), (np.floor, "rounds down")],
)
def test_another_rounding_to_integers_is_told(rounding: Callable[[Array], Array], words: str) -> None:
    x = np.arange(-20.0, 20.0) / 4
    piece = piece_of("QuantizeLinear", [x, np.array(1.0), np.array(3, np.int8)], (1, 2))
    actual = (rounding(x) + 3).astype(np.int8)
    assert words in cause_of(piece, Evidence(actual, 0.0))


def test_integers_that_saturate_early_are_told() -> None:
    x = np.arange(-100.0, 100.0)
    piece = piece_of("QuantizeLinear", [x, np.array(1.0), np.array(0, np.int8)], (1, 2))
    assert "saturates at 64" in cause_of(piece, Evidence(np.clip(piece.expected, -128, 64), 0.0))


def _normalized(mean: Array, spread: Array) -> Array:
    return np.asarray((IMAGE - mean) / spread)


AXES = (2, 3)
MEAN, LARGEST = IMAGE.mean(AXES, keepdims=True), IMAGE.max(AXES, keepdims=True)
VARIANCE = np.square(IMAGE - MEAN).mean(AXES, keepdims=True) + 1e-5
AROUND = np.square(IMAGE - LARGEST).mean(AXES, keepdims=True) + 1e-5
STEPS: dict[str, tuple[Array, str]] = {
    "largest": (_normalized(LARGEST, np.sqrt(AROUND)), "takes the largest for the mean"),
    "exchanged": (-_normalized(MEAN, np.sqrt(VARIANCE)), "subtracts from the mean: its operands are in another order"),
    "spread": (_normalized(MEAN, np.ones(1)), "does not divide by the deviation"),
    "root": (_normalized(MEAN, VARIANCE), "divides by the variance"),
    "unbiased": (
        _normalized(MEAN, np.sqrt((VARIANCE - 1e-5) * 48 / 47 + 1e-5)),
        "divides by n - 1 in its variance",
    ),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_wrong_step_of_a_normalization_is_told(name: str) -> None:
    actual, words = STEPS[name]
    scale, shift = RNG.uniform(0.5, 1.5, 3), RNG.normal(size=3)
    piece = piece_of("InstanceNormalization", [IMAGE, scale, shift], (1, 2), epsilon=1e-5)
    held, term = (array.astype(np.float32).reshape(3, 1, 1) for array in (scale, shift))
    expected = computed("InstanceNormalization", IMAGE, scale, shift, epsilon=1e-5)
    np.testing.assert_allclose(expected, _normalized(MEAN, np.sqrt(VARIANCE)) * held + term, atol=1e-6)
    scaled = actual * scale.reshape(3, 1, 1) + shift.reshape(3, 1, 1)
    assert words in cause_of(piece, Evidence(scaled, 1e-9, 1e-12))


def test_a_pad_whose_cells_stand_elsewhere_is_told() -> None:
    padded = computed("Pad", IMAGE, np.array([0, 0, 1, 0, 0, 0, 2, 0]), mode="reflect")
    moved = np.concatenate([padded[:, :, 1:-2], padded[:, :, :1], padded[:, :, -2:]], 2)
    piece = piece_of("Pad", [IMAGE, np.array([0, 0, 1, 0, 0, 0, 2, 0])], (1,), mode="reflect")
    assert "and its image are in another order along axis 2" in cause_of(piece, Evidence(moved, 1e-9, 1e-12))


def test_a_sum_that_is_left_out_with_its_activation_is_told() -> None:
    """One operator of a `.tflite` file: what reads its result reads an operand, below zero too."""
    values = [ir.Value(name=name) for name in ("a", "b", "c")]
    added = ir.node("Add", values[:2], outputs=[ir.Value(name="sum")])
    relu = ir.node("Relu", added.outputs, outputs=[ir.Value(name="sum.relu")])
    last = ir.node("Mul", [relu.outputs[0], values[2]], outputs=[ir.Value(name="product")])
    a, b, c = IMAGE, IMAGE[:, ::-1] + 1, IMAGE[..., ::-1]
    piece = Piece([added, relu, last], dict(zip(values, (a, b, c), strict=True)), last.outputs[0], 18)
    told = cause_of(piece, Evidence(b * c, 1e-9, 1e-12))
    assert told == "sum.relu is left out from Add sum on, and b read in its place"


def test_a_layer_whose_constants_the_file_does_not_read_is_told() -> None:
    noise = RNG.normal(size=wrong().shape)
    assert cause_of(convolution(), Evidence(noise, 1e-9, 1e-12), unread=["x1", "x2"]) == (
        "Conv layer.0 is left out: the file reads none of its constants"
    )
    assert cause_of(convolution(), Evidence(noise, 1e-9, 1e-12), unread=["x1"]) == ""


INTEGERS = np.rint(127 * KERNEL / np.abs(KERNEL).max((1, 2, 3), keepdims=True))


def _larger(integers: Array) -> Array:
    """The second filter times 1.02, saturated as int8 is."""
    changed = integers.copy()
    changed[1] = np.clip(np.rint(1.02 * changed[1]), -128, 127)
    return changed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_larger, r"the constant x1 is 1\.0[12]\d* times what it should be in channel 1"),
        (lambda integers: np.clip(integers, -100, 100), "the constant x1 is clipped to -100 and 100"),
        (lambda integers: integers + (np.arange(integers.size).reshape(integers.shape) == 7), "one number that is"),
    ],
    ids=["scaled", "clipped", "one"],
)
def test_integers_tell_what_their_real_numbers_hide(change: Callable[[Array], Array], words: str) -> None:
    step = np.float32(2.0) ** np.arange(-7.0, -3.0).reshape(4, 1, 1, 1)
    weights = [(step * INTEGERS).astype(np.float64), BIAS.astype(np.float32).astype(np.float64)]
    piece = piece_of("Conv", [IMAGE, *weights], (1, 2), pads=[1, 1, 1, 1])
    changed = step * change(INTEGERS)
    actual = computed("Conv", IMAGE, changed.astype(np.float64), weights[1], pads=[1, 1, 1, 1])
    stored = {"x1": changed.astype(np.float32), "x2": weights[1].astype(np.float32)}
    told = cause_of(piece, Evidence(actual, 1e-9, 1e-12), stored=stored, steps={"x1": step})
    assert re.search(words, told), told


def test_wrong_places_of_an_argmax_are_no_limits() -> None:
    """Integers have no infinity to stand for a limit that none reaches."""
    x = ir.Value(name="x")
    relu = ir.node("Relu", [x], num_outputs=1)
    places = ir.node("ArgMax", relu.outputs, {"axis": 1, "keepdims": 0}, num_outputs=1)
    piece = Piece([relu, places], {x: IMAGE}, places.outputs[0], 18)
    assert "the result" not in cause_of(piece, Evidence((piece.expected + 1) % 3, 0.0))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("number", [np.inf, -np.inf, np.nan])
def test_a_matrix_of_infinite_numbers_is_looked_at_without_a_warning(number: float) -> None:
    due = np.arange(24.0).reshape(4, 6)
    array = due.copy()
    due[1, 2] = array[1, 3] = array[2, 2] = due[2, 2] = number
    orders = list(_in_the_graphs_order(array, due, None))
    assert any(item is array or np.shares_memory(item, array) for item in orders)


def test_a_search_is_bounded_by_its_work_and_not_by_a_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    actual = wrong(RNG.normal(size=KERNEL.shape))  # no hypothesis explains it
    counts = []
    for most in (1 << 33, 1 << 20):
        monkeypatch.setattr("edgeconv.parity.causes._explain._MOST_WORK", most)
        piece = convolution()
        assert cause_of(piece, Evidence(actual, 1e-9)) == ""
        counts.append(piece.evaluations)
    assert counts[0] > counts[1]
    assert "padding" in cause_of(convolution(), Evidence(wrong(pads=[0, 2, 2, 0]), 1e-9))  # among the likeliest
