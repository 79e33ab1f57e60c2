"""edgeconv: PyTorch CNNs to verified `.onnx` and `.tflite` files for mobile and edge devices."""

__version__ = "0.1.0"
