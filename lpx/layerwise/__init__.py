"""Layer-by-layer comparison of engines with the float32 graph."""
