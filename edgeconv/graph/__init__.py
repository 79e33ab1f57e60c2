"""What every stage needs to know of ONNX graphs, once: `edgeconv.graph.traits`, the facts of each operator."""
