"""A `.tflite` file as an ONNX graph: what was read, in another language. `operators_alone` has each operator by itself.

Values keep the file's names and layout (NHWC); convolutions and poolings stand between transpositions, which meet only
where something else reads what lies between. Quantized tensors are real numbers that go through QuantizeLinear and
DequantizeLinear. To add an operator, write a function of a `Site` in the file of its family and enter it in its table.
"""

from __future__ import annotations

from edgeconv.reference.tflite.as_onnx._convert import operators_alone, to_onnx

__all__ = ["operators_alone", "to_onnx"]
