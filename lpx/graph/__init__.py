"""Passes over an ONNX graph, one a file, on `onnx_ir` models.

A pass takes an `onnx_ir.Model`, changes it in place, and says in its docstring what must hold
before and what holds after.
"""
