"""From a checkpoint to ONNX: preprocessing in the graph, simplified, checked, verified."""
