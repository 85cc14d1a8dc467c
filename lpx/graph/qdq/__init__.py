"""Quantisation of graphs: placement of Q/DQ pairs, and integer weights."""
