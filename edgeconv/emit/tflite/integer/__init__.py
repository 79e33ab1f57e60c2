"""Float TFLite graph whose tensors know their quantization -> graph of integers."""
