"""Engines compared layer by layer."""
