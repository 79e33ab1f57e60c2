"""ONNX graph -> TFLite file, without any converter between.

::

    ir.Model --lower/--> Graph --simplify/--> Graph --integer/--> Graph --file/--> bytes
      NCHW               NHWC                 NHWC    (if quantized)

Images flow channels-last inside the file (NHWC), whatever the layout of its inputs and outputs; a transpose appears
only where an operator's meaning depends on torch's order.

Public: `to_tflite`, and `check_size` for those who want to know before.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edgeconv.core import NCHW, NHWC, Emitted
from edgeconv.core.defaults import LARGEST_FILE_BYTES
from edgeconv.errors import EmitError

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["check_size", "to_tflite"]


def check_size(model: ir.Model, weights: str = "float32") -> None:
    """Refuses a graph whose weights no file holds: TFLite's offsets end at 2 GiB, and have no file beside it.

    Raises:
        EmitError: they take more.
    """
    import onnx_ir as ir

    constants = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    halved = weights == "float16"
    size = sum(
        constant.nbytes // (2 if halved and constant.dtype == ir.DataType.FLOAT else 1) for constant in constants
    )
    if size > LARGEST_FILE_BYTES:
        what = f"the weights take {size / 2**30:.2f} GiB, and a .tflite file holds less than 2 GiB"
        hint = "export a smaller variant, the .onnx file alone, or the network in parts"
        raise EmitError(what, where="tflite", hint=hint)


def to_tflite(
    model: ir.Model,
    *,
    layout: str = NHWC,
    metadata: Mapping[str, str],
    weights: str = "float32",
    io: str = "float32",
    exact: bool = False,
) -> Emitted:
    """Writes a graph as a TFLite file.

    A graph with QuantizeLinear and DequantizeLinear nodes (uint8, int8 or int16 activations, int8 weights) becomes a
    file of integers, after the TFLite int8 specification; one where only weights are behind DequantizeLinear stores
    these as int8 and computes in floats (hybrid kernels).

    Args:
        model: a graph of standard ONNX operators (opset 18 or newer) in NCHW, its weights initializers. Shapes are
            static, or the batch is left open as `edgeconv.rewrite.open_batch` leaves it. It is not modified.
        layout: ``"nhwc"`` or ``"nchw"``: the order of the axes of the file's rank-4 inputs and outputs. Other ranks
            are as torch has them.
        metadata: what to store in the file's ``edgeconv`` metadata buffer, as sorted JSON.
        weights: ``"float16"`` stores float constants so, but for those that it does not hold. They are computed with in
            float32; in float16 by processors that can, where the whole graph can (`edgeconv.emit.half_precision`):
            the file's metadata says so to XNNPACK, else the notes say why not.
        io: ``"int8"`` (for int16 activations: ``"int16"``) gives a quantized graph inputs and outputs of integers,
            whose parameters the file states; ``"uint8"`` those of int8, 128 higher; ``"float32"`` quantizes and
            dequantizes inside.
        exact: of a quantized graph: what TFLite's integer kernels do not compute to the nearest integer (LeakyReLU,
            HardSwish, other steps for the same numbers, …) is computed in floats between the integers, and nothing is
            rounded that the graph does not round. Without it the file has as few floats as can be.

    Returns:
        The bytes (file identifier ``TFL3``), deterministic, with one signature ``serving_default`` and the
        ``min_runtime_version`` metadata; inputs and outputs in the graph's order, under the graph's names. The notes
        name the operators that stay float in a quantized graph, and layers whose weights are rounded again;
        ``intermediates`` are the tensors that hold what the graph quantizes. An open batch is written as 1 in ``shape``
        and -1 in ``shape_signature``: ``resize_tensor_input`` sets it.

    Raises:
        EmitError: an operator, or a setting of one, has no form in TFLite, or none that holds at every batch size;
            the layout is unknown; or the weights take more than 2 GiB.
    """
    from edgeconv.emit.tflite.file._encoding import encoding_of
    from edgeconv.emit.tflite.file._flatbuffer import write
    from edgeconv.emit.tflite.lower._inside import described
    from edgeconv.emit.tflite.lower._open_batch import converted
    from edgeconv.graph.argument import checked_metadata, checked_model

    checked_model(model, EmitError)
    metadata = checked_metadata(metadata)
    if layout not in (NCHW, NHWC):
        raise EmitError(f"unknown TFLite layout {layout!r}", where="tflite", hint='use "nhwc" or "nchw"')
    check_size(model, weights)
    # `converted` lowers, simplifies and encodes; `write` only packs what is there.
    low, inputs, outputs = converted(model, layout, encoding_of(weights, io, exact=exact))
    data, names = write(low.graph, metadata)
    return Emitted(data, inputs, outputs, low.notes, described(low.graph, low.held, names))
