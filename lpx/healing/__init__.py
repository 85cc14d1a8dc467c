"""Engines that heal: the one that fits this machine, rebuilt if none does, proven on probe faces.

It imports nothing: `lpx.load` of an engine's folder needs NumPy and the engine's runtime only.
"""
