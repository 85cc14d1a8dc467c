"""Access to CUDA through one of two bindings."""
