"""graph -> file, in the bytes of a format: `edgeconv.emit.onnx` and `edgeconv.emit.tflite`.

An emitter gets the graph as `onnx_ir.Model`, leaves it alone, and returns a `core.Emitted`; writing it to disk is not
its business.
"""
