"""Operators of files that capture replaces, and by what: later stages need no entry for them in their tables.

`edgeconv.capture.onnx_file._sums.WRITTEN_OUT` has those that are written out as others, with the function that does it.
"""

from __future__ import annotations

from collections.abc import Mapping

_BY_SHAPE = "computed: all shapes are static (`normalize/fold_constants`)"
_BY_CONSTANTS = "computed of constants (`normalize/fold_constants`); else refused"
_SPECTRUM = "computed of constants (`normalize/_spectra`); else refused"
_PAIRS = "where scales are constant (`onnx_file/_foreign_integers`); else in `.onnx` files only"
_OPTIONALS = "the tensor in it (`normalize/_optionals`); else refused"
_SEQUENCES = "the tensors of the sequence, at constant places (`normalize/split_sequences`); else refused"
DISSOLVED: Mapping[str, str] = {
    # Texts of the operator list (`edgeconv operators`, README).
    **dict.fromkeys(("BlackmanWindow", "HammingWindow", "HannWindow", "MelWeightMatrix"), _SPECTRUM),
    "Compress": "a Gather, where its condition is constant (`normalize/_compress`); else refused",
    "ConcatFromSequence": "a Concat (`normalize/split_sequences`)",
    "Constant": "an initializer (`normalize/fold_constants`)",
    "ConstantOfShape": _BY_SHAPE,
    "DFT": "a MatMul with its matrix, where axis and length are constant (`normalize/_spectra`); else refused",
    "EyeLike": _BY_SHAPE,
    "GroupNormalization": "an InstanceNormalization between Reshapes, Mul and Add (`normalize/_group_norm`)",
    "If": "the branch of a constant condition (`normalize/_branches`); else refused",
    "Loop": "its runs, where their count is constant (`normalize/_loops`); else refused",
    "NonZero": _BY_CONSTANTS,
    "Optional": _OPTIONALS,
    "OptionalGetElement": _OPTIONALS,
    "OptionalHasElement": "a constant (`normalize/_optionals`); else refused",
    "QLinearConv": f"a Conv of floats between DequantizeLinear and QuantizeLinear, {_PAIRS}",
    "QLinearMatMul": f"a MatMul of floats between DequantizeLinear and QuantizeLinear, {_PAIRS}",
    "Range": _BY_CONSTANTS,
    "Scatter": "a ScatterElements, by onnx's converter of opsets (`onnx_file/_file`)",
    **dict.fromkeys(("SequenceAt", "SequenceConstruct", "SequenceLength"), _SEQUENCES),
    "Shape": _BY_SHAPE,
    "Size": _BY_SHAPE,
    "STFT": "a Conv with its matrix, where frames and window are constant (`normalize/_spectra`); else refused",
    "SplitToSequence": _SEQUENCES,
    "Upsample": "a Resize, by onnx's converter of opsets (`onnx_file/_file`)",
}
