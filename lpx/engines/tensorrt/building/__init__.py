"""From ONNX to a TensorRT plan."""
