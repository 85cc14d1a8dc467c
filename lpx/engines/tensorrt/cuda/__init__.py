"""The CUDA driver, by either of two bindings."""
