"""Passes over ONNX graphs, one per file, on `onnx_ir` models.

A pass changes an `onnx_ir.Model` in place; its docstring states what must hold before and what
holds after.
"""
