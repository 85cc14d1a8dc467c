"""Engines that heal: the one that fits this machine, rebuilt if none does, proven on probe faces.

Nothing of lpx is imported here: `lpx.load` of an engine's folder needs NumPy and the engine's
runtime only.
"""

from typing import Literal, get_args

Rebuild = Literal["auto", "ask", "never"]
"""Permission to rebuild an engine that does not fit: given, asked for on the terminal, or not."""
REBUILD: tuple[Rebuild, ...] = get_args(Rebuild)
