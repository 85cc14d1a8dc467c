"""Access to what depends on the machine, and to whoever sits in front of it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field

from lpx.engines.base import Availability, Engine
from lpx.engines.load import load
from lpx.engines.manifest import EngineManifest
from lpx.engines.targets import INSTALLED, Installed, can_build, can_run
from lpx.machine.machine import Machine, read_machine


def ask_on_terminal(question: str) -> bool | None:
    """Ask a yes-or-no question; return None without a terminal, where nobody can answer."""
    if not sys.stdin.isatty() or not sys.stderr.isatty():
        return None
    # A whole line: beside progress bars, standard error shows nothing less.
    print(f"{question} [y/N]", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


@dataclass(frozen=True)
class Host:
    """The machine that engines are to run on.

    Attributes:
        machine: Its hardware.
        installed: Its libraries.
        fits: Says whether an engine runs here, and why (not).
        load: Loads the engine in a folder.
        ask: Asks a yes-or-no question; returns None if nobody can answer.
    """

    machine: Machine = field(default_factory=read_machine)
    installed: Installed = INSTALLED
    fits: Callable[[EngineManifest, Machine, Installed], Availability] = can_run
    load: Callable[..., Engine] = load
    ask: Callable[[str], bool | None] = ask_on_terminal

    def runs(self, manifest: EngineManifest) -> Availability:
        """Return whether an engine runs here, and why (not)."""
        return self.fits(manifest, self.machine, self.installed)

    def rebuilds(self, manifest: EngineManifest) -> Availability:
        """Return whether an engine that does not run here can be rebuilt to run, and why (not)."""
        if manifest.target != "onnxruntime" and not self.machine.gpus:
            # TensorRT for RTX builds without a GPU, and runs on none.
            return Availability(False, "no NVIDIA GPU was found")
        return can_build(manifest.target, self.machine, self.installed)
