"""``.onnx`` file -> graph: read as untrusted, then written in the forms that the graph of a module has."""
