"""Draws on faces and frames."""
