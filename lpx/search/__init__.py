"""Precision search: what each layer costs in INT8, and the fastest plan whose AUC holds."""
