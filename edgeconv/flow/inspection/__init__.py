"""What a file of anybody says of itself: inputs, outputs, operators, metadata; what in it computes in float.

One file per language: `onnx` and `tflite` describe, `integers_onnx` and `integers_tflite` list what is not integer.
`as_onnx` writes the graph that a ``.tflite`` file was read as, `as_onnx_operators` judges its operators.
`damaged` maps what the languages' own readers raise.
"""
