"""ONNX graph (NCHW) -> TFLite graph (NHWC): one function per ONNX operator, in ``_operators/``."""
