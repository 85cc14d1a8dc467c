"""Sensitivity of layers, and the search for the fastest plan whose AUC holds."""
