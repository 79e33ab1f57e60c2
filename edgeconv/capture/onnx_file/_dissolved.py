"""Operators of files that capture replaces, and by what: later stages need no entry for them in their tables.

`edgeconv.capture.onnx_file._sums.WRITTEN_OUT` has those that are written out as others, with the function that does it.
"""

from __future__ import annotations

from collections.abc import Mapping

_BY_SHAPE = "computed: all shapes are static (`normalize/fold_constants`)"
_BY_CONSTANTS = "computed of constants (`normalize/fold_constants`); else refused"
_SEQUENCES = "the tensors of the sequence, at constant places (`normalize/split_sequences`); else refused"
DISSOLVED: Mapping[str, str] = {
    # Texts of the operator list (`edgeconv operators`, README).
    "Compress": "a Gather, where its condition is constant (`normalize/_compress`); else refused",
    "ConcatFromSequence": "a Concat (`normalize/split_sequences`)",
    "Constant": "an initializer (`normalize/fold_constants`)",
    "ConstantOfShape": _BY_SHAPE,
    "EyeLike": _BY_SHAPE,
    "GroupNormalization": "an InstanceNormalization between Reshapes, Mul and Add (`normalize/_group_norm`)",
    "If": "the branch of a constant condition (`normalize/_branches`); else refused",
    "NonZero": _BY_CONSTANTS,
    "Range": _BY_CONSTANTS,
    "Scatter": "a ScatterElements, by onnx's converter of opsets (`onnx_file/_file`)",
    **dict.fromkeys(("SequenceAt", "SequenceConstruct", "SequenceLength"), _SEQUENCES),
    "Shape": _BY_SHAPE,
    "Size": _BY_SHAPE,
    "SplitToSequence": _SEQUENCES,
    "Upsample": "a Resize, by onnx's converter of opsets (`onnx_file/_file`)",
}
