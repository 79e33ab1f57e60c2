"""Operators that move, choose and reduce elements of a `.tflite` file, against LiteRT's reference kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from tflite_files import Spec, both, constant, equal, file_of, ints, quantized, within_steps, within_ulps

from edgeconv.errors import EmitError

RNG = np.random.default_rng()
X = Spec((2, 4, 6, 8))
ANY = Spec((2, 3, 3, 5))  # LiteRT resizes results as it needs, but for that of SLICE, which this is
KINDS = ("int8", "uint8", "int16")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    RNG.bit_generator.state = np.random.default_rng(7).bit_generator.state


Case = tuple[str, Sequence[Spec | None], int, dict[str, Any]]
# Operator, inputs, number of outputs, options.
MOVES: tuple[Case, ...] = (
    ("RESHAPE", [X, ints(2, -1, 3)], 1, {}),
    ("RESHAPE", [X], 1, {"newShape": [4, 96]}),
    ("SQUEEZE", [Spec((1, 3, 1, 4))], 1, {"squeezeDims": [0, -2]}),
    ("SQUEEZE", [Spec((1, 3, 1, 4))], 1, {}),
    ("EXPAND_DIMS", [X, ints(-2)], 1, {}),
    ("TRANSPOSE", [X, ints(0, 3, 1, 2)], 1, {}),
    ("CONCATENATION", [X, replace(X, shape=(2, 4, 1, 8))], 1, {"axis": -2}),
    ("PACK", [X, X, X], 1, {"axis": -1, "valuesCount": 3}),
    ("UNPACK", [X], 4, {"axis": 1, "num": 4}),
    ("SPLIT", [ints(-1), X], 4, {"numSplits": 4}),
    ("SPLIT_V", [X, ints(3, -1, 1), ints(3)], 3, {"numSplits": 3}),
    ("SLICE", [X, ints(0, 1, 2, 3), ints(2, -1, 3, 5)], 1, {}),
    ("STRIDED_SLICE", [X, ints(0, 1, -1, 0), ints(2, 4, 0, 8), ints(1, 2, -2, 3)], 1, {}),
    ("STRIDED_SLICE", [X, ints(1, 1, 5, 7), ints(0, 9, 0, 0), ints(1, 1, -1, -3)], 1, {"beginMask": 3, "endMask": 13}),
    ("STRIDED_SLICE", [X, ints(1, 1), ints(2, 3), ints(1, 1)], 1, {"shrinkAxisMask": 1}),
    ("STRIDED_SLICE", [X, ints(-1, 0, 2), ints(0, 0, 3), ints(1, 1, 1)], 1, {"shrinkAxisMask": 1, "ellipsisMask": 2}),
    ("STRIDED_SLICE", [X, ints(0, 0, 1), ints(2, 0, 3), ints(1, 1, 1)], 1, {"newAxisMask": 2}),
    ("STRIDED_SLICE", [X, ints(0, 1, 2, 3), ints(1, 2, 3, 4), ints(1, 1, 1, 1)], 1, {"offset": True}),
    ("PAD", [X, constant([[0, 0], [1, 2], [3, 0], [0, 1]], "int32")], 1, {}),
    ("PADV2", [X, constant([[0, 0], [1, 2], [3, 0], [0, 1]], "int32"), constant([5])], 1, {}),
    ("MIRROR_PAD", [X, constant([[0, 0], [1, 3], [5, 0], [0, 0]], "int32")], 1, {"mode": 0}),
    ("MIRROR_PAD", [X, constant([[0, 0], [1, 4], [6, 0], [0, 0]], "int32")], 1, {"mode": 1}),
    ("TILE", [X, ints(1, 2, 1, 3)], 1, {}),
    ("BROADCAST_TO", [Spec((4, 1, 8)), ints(2, 4, 6, 8)], 1, {"version": 2}),
    ("SPACE_TO_DEPTH", [X], 1, {"blockSize": 2}),
    ("DEPTH_TO_SPACE", [X], 1, {"blockSize": 2}),
    ("SPACE_TO_BATCH_ND", [X, ints(2, 3), constant([[0, 2], [1, 2]], "int32")], 1, {}),
    ("BATCH_TO_SPACE_ND", [Spec((6, 2, 3, 5)), ints(3, 2), constant([[1, 0], [0, 2]], "int32")], 1, {}),
    ("GATHER", [X, ints(3, 0, 5)], 1, {"axis": 2}),
    ("GATHER", [X, constant([[1, 0], [2, 2]], "int32")], 1, {"axis": -3}),
    ("GATHER", [X, constant([[1, 0, 2], [2, 2, 3]], "int32")], 1, {"axis": 1, "batchDims": 1}),
    ("GATHER_ND", [X, constant([[1, 0, 5], [0, 3, 2]], "int32")], 1, {}),
    ("SCATTER_ND", [constant([[1, 0], [0, 3], [1, 0]], "int32"), Spec((3, 5)), ints(2, 4, 5)], 1, {}),
    ("REVERSE_V2", [X, ints(1)], 1, {}),
    ("REVERSE_SEQUENCE", [X, ints(3, 2)], 1, {"seqDim": 2, "batchDim": 0}),
    ("ZEROS_LIKE", [X], 1, {}),
    ("FILL", [ints(2, 3), constant(5.0)], 1, {}),
    ("REDUCE_MAX", [X, ints(1, -1)], 1, {"table": "ReducerOptions", "keepDims": True}),
    ("REDUCE_MIN", [X, ints(0, 2)], 1, {"table": "ReducerOptions"}),
    ("SUM", [X, ints(1, 2)], 1, {"table": "ReducerOptions"}),
    ("CUMSUM", [X, ints(2)], 1, {"exclusive": True, "reverse": True}),
    ("CUMSUM", [X, ints(-1)], 1, {}),
    ("EMBEDDING_LOOKUP", [ints(2, 0, 2), constant(np.arange(12).reshape(3, 4))], 1, {}),
    ("DYNAMIC_UPDATE_SLICE", [X, Spec((1, 2, 3, 8)), ints(1, 1, 5, 0)], 1, {}),
)
REAL_ONLY = ("SUM", "CUMSUM", "PADV2", "ZEROS_LIKE", "DYNAMIC_UPDATE_SLICE")
NO_KERNEL = (("REVERSE_SEQUENCE", "int8"), *((name, "int16") for name in ("DEPTH_TO_SPACE", "SPACE_TO_DEPTH")))
OF_INTEGERS = [
    (*case, kind)
    for case in MOVES
    for kind in KINDS
    if case[1] and case[1][0] == X and case[0] not in REAL_ONLY and (case[0], kind) not in NO_KERNEL
]


@pytest.mark.parametrize(("name", "sources", "results", "options"), MOVES, ids=[case[0] for case in MOVES])
def test_what_moves_elements_moves_them_as_the_kernels_do(
    name: str, sources: Sequence[Spec | None], results: int, options: dict[str, Any]
) -> None:
    data = file_of(name, sources, [ANY] * results, **options)
    equal(both(data, RNG, whole=True))


@pytest.mark.parametrize(
    ("name", "sources", "results", "options", "kind"),
    OF_INTEGERS,
    ids=[f"{case[0]}-{case[-1]}" for case in OF_INTEGERS],
)
def test_moves_of_integers(
    name: str, sources: Sequence[Spec | None], results: int, options: dict[str, Any], kind: str
) -> None:
    changed = [
        quantized(spec, kind, 0.1, 5) if spec is not None and spec.dtype == "float32" else spec for spec in sources
    ]
    equal(both(file_of(name, changed, [quantized(ANY, kind, 0.1, 5)] * results, **options), RNG))


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16"])
def test_padding_with_a_value_of_integers(kind: str) -> None:
    x, value = quantized(X, kind, 0.1, 5), constant([9], kind, scale=0.1, zero=0 if kind == "int16" else 5)
    pads = constant([[0, 0], [1, 2], [3, 0], [0, 1]], "int32")
    equal(both(file_of("PADV2", [x, pads, value], [x]), RNG))


def test_bytes_of_different_scales_are_joined() -> None:
    x, z = Spec((2, 3, 40), "uint8", 0.1, 7), Spec((2, 1, 40), "uint8", 0.037, 99)
    equal(both(file_of("CONCATENATION", [x, z], [Spec((2, 4, 40), "uint8", 0.08, 30)], axis=1), RNG))


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("axes", [(1, 2), (3,), (0, 1, 2, 3), (-1, 1)])
def test_means_over_any_axes_are_the_kernels(keep: bool, axes: tuple[int, ...]) -> None:
    options = {"table": "ReducerOptions", "keepDims": keep}
    within_ulps(both(file_of("MEAN", [X, ints(*axes)], [ANY], **options), RNG, whole=True), 1)
    for kind in KINDS:
        x, y = quantized(X, kind, 0.1, 7), quantized(ANY, kind, 0.07, -3 if kind == "int8" else 20)
        equal(both(file_of("MEAN", [x, ints(*axes)], [y], **options), RNG))


def test_sums_of_integers() -> None:
    """The reference kernel takes all bytes as unsigned; the optimized one computes in float, and may differ by 1."""
    options = {"table": "ReducerOptions"}
    for kind in KINDS:
        x, y = quantized(X, kind, 0.1, 7), quantized(ANY, kind, 1.7, 20)
        pairs = both(file_of("SUM", [x, ints(1, 2)], [y], **options), RNG, reference=kind == "uint8")
        within_steps(pairs, steps=0 if kind == "uint8" else 1, share=0.1)


def test_products_and_truths() -> None:
    options = {"table": "ReducerOptions"}
    within_ulps(both(file_of("REDUCE_PROD", [Spec((3, 4)), ints(1)], [ANY], **options), RNG, whole=True), 0)
    for name in ("REDUCE_ANY", "REDUCE_ALL"):
        equal(both(file_of(name, [Spec((9, 3), "bool"), ints(1)], [Spec((9,), "bool")], **options), RNG))


@pytest.mark.parametrize("name", ["ARG_MAX", "ARG_MIN"])
@pytest.mark.parametrize("kind", ["float32", "int8", "uint8", "int32"])
def test_indices_of_extremes(name: str, kind: str) -> None:
    data = file_of(name, [Spec((3, 50, 4), kind), ints(1)], [Spec((1,), "int64")], outputType=4)
    equal(both(data, RNG, whole=True))


@pytest.mark.parametrize("kind", ["float32", "int8", "uint8", "int32"])
def test_the_largest_elements_and_their_places_are_the_kernels(kind: str) -> None:
    data = file_of("TOPK_V2", [Spec((3, 50), kind), ints(5)], [Spec((1,), kind), Spec((1,), "int32")])
    equal(both(data, RNG, whole=True))


def test_numbers_made_of_shapes() -> None:
    equal(both(file_of("SHAPE", [X], [Spec((4,), "int32")], outType=2), RNG))
    equal(both(file_of("RANK", [X], [Spec((), "int32")]), RNG))
    start, limit, delta = (constant(number, "int32") for number in (9, -4, -3))
    equal(both(file_of("RANGE", [start, limit, delta], [Spec((1,), "int32")]), RNG))
    hot = [ints(1, 3, -1, 9), constant(4, "int32"), constant(2.0), constant(-1.0)]
    equal(both(file_of("ONE_HOT", hot, [ANY], axis=-1), RNG))
    equal(both(file_of("WHERE", [Spec((3, 4), "bool")], [Spec((1, 2), "int64")]), RNG))


RESIZES = ((8, 12), (7, 9), (2, 3), (1, 1), (4, 6), (16, 5))


@pytest.mark.parametrize("size", RESIZES)
@pytest.mark.parametrize(("corners", "halves"), [(False, False), (True, False), (False, True)])
@pytest.mark.parametrize("name", ["RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"])
def test_resizing_picks_and_weighs_pixels_as_the_kernels_do(
    name: str, size: tuple[int, int], corners: bool, halves: bool
) -> None:
    table = "ResizeBilinearOptions" if name == "RESIZE_BILINEAR" else "ResizeNearestNeighborOptions"
    options = {"table": table, "alignCorners": corners, "halfPixelCenters": halves}
    for kind in ("float32", *KINDS):
        x = X if kind == "float32" else quantized(X, kind, 0.1, 5)
        pairs = both(file_of(name, [x, ints(*size)], [replace(x, shape=(1,))], **options), RNG, whole=True)
        if kind == "float32" and name == "RESIZE_BILINEAR":
            # A position of up to 16 in float32 is 2^-20 off at the most; neighbors differ by 16 at the most.
            for theirs, ours in pairs:
                assert (np.abs(theirs - ours) <= 2 * 16 * 2.0**-20).all()
        elif kind == "uint8" and name == "RESIZE_BILINEAR":
            within_steps(pairs, share=0.1)  # float32, where thirds and sevenths often lie at a tie
        else:
            equal(pairs)


@pytest.mark.parametrize("time_major", [False, True])
def test_an_lstm_with_peepholes_is_the_kernels(time_major: bool) -> None:
    """The gates' sums are of 3 + 4 products; each step adds the error of the one before."""
    weights = [constant(RNG.standard_normal((4, 3)) * 0.5) for _ in range(4)]
    recurrent = [constant(RNG.standard_normal((4, 4)) * 0.5) for _ in range(4)]
    peephole = [constant(RNG.standard_normal(4) * 0.5) for _ in range(3)]
    biases = [constant(RNG.standard_normal(4)) for _ in range(4)]
    states = [Spec((2, 4), variable=True, name="h"), Spec((2, 4), variable=True, name="c")]
    x = Spec((5, 2, 3) if time_major else (2, 5, 3))
    options = {"table": "UnidirectionalSequenceLSTMOptions", "fusedActivationFunction": 4, "timeMajor": time_major}
    for middle in ([None] * 3, peephole):
        sources = [x, *weights, *recurrent, *middle, *biases, None, None, *states]
        data = file_of("UNIDIRECTIONAL_SEQUENCE_LSTM", sources, [Spec((1, 1, 1))], **options)
        for theirs, ours in both(data, RNG):
            np.testing.assert_allclose(theirs, ours, rtol=0, atol=2e-6)


def test_an_rnn_is_the_kernels() -> None:
    weights = [constant(RNG.standard_normal(shape) * 0.5) for shape in ((4, 3), (4, 4), (4,))]
    sources = [Spec((2, 5, 3)), *weights, Spec((2, 4), variable=True, name="h")]
    options = {"table": "SequenceRNNOptions", "fusedActivationFunction": 4}
    for theirs, ours in both(file_of("UNIDIRECTIONAL_SEQUENCE_RNN", sources, [Spec((1, 1, 1))], **options), RNG):
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=2e-6)


@pytest.mark.parametrize("activation", [0, 1])
@pytest.mark.parametrize("has_bias", [False, True])
def test_filters_of_rank_one_are_the_kernels(activation: int, has_bias: bool) -> None:
    weights = [constant(RNG.standard_normal(shape) * 0.5) for shape in ((8, 5), (8, 4))]
    bias = constant(RNG.standard_normal(4)) if has_bias else None
    sources = [Spec((3, 5)), *weights, bias, Spec((3, 32), variable=True, name="memory")]
    options = {"table": "SVDFOptions", "rank": 2, "fusedActivationFunction": activation}
    for theirs, ours in both(file_of("SVDF", sources, [Spec((1, 1))], **options), RNG):
        np.testing.assert_allclose(theirs, ours, rtol=0, atol=2e-6)


def test_filters_of_integers_are_the_kernels() -> None:
    x, y = Spec((3, 5), "int8", 0.1, 7), Spec((3, 4), "int8", 0.05, -3)
    weights = constant(RNG.integers(-127, 128, (8, 5)), "int8", scale=0.01)
    time = constant(RNG.integers(-9999, 9999, (8, 4)), "int16", scale=1e-4)
    bias = constant(RNG.integers(-99999, 99999, 4), "int32", scale=1e-4 * 2e-4)
    state = Spec((3, 32), "int16", 2e-4, variable=True, name="memory")
    for scale in (2e-4, 1e-5):  # the latter saturates
        sources = [x, weights, time, bias, replace(state, scale=scale)]
        options = {"table": "SVDFOptions", "rank": 2, "fusedActivationFunction": 1}  # which the kernel asks for
        equal(both(file_of("SVDF", sources, [y], **options), RNG))
    sources[3] = constant([2**31 - 1] * 4, "int32", scale=1e-4 * 1e-5)
    with pytest.raises(EmitError, match="a sum of more than 32 bits"):
        both(file_of("SVDF", sources, [y], **options), RNG)
