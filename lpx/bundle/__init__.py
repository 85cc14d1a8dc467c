"""Bundles: everything that a detector needs on another machine, in one checked file."""
