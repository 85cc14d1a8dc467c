"""Read small files of sysfs and procfs, and the output of commands."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

# Runs a command and returns its output; raises OSError or SubprocessError if it fails.
Run = Callable[[Sequence[str]], str]


def run_command(command: Sequence[str]) -> str:
    """Run a command for at most 10 s and return its standard output.

    Raises:
        OSError: The command does not exist, or cannot be started.
        subprocess.SubprocessError: It failed or took too long.
    """
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    return done.stdout


def failure(error: OSError | subprocess.SubprocessError, command: str) -> str:
    """Describe in a few words why `run_command` failed."""
    if isinstance(error, FileNotFoundError):
        return f"{command} not found"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"{command} did not finish in {error.timeout:g} s"
    if isinstance(error, subprocess.CalledProcessError):
        # nvidia-smi reports errors on standard output.
        for line in f"{error.stdout or ''}\n{error.stderr or ''}".split("\n"):
            if line.strip():
                return line.strip()
        return f"{command} failed"
    return f"{command}: {error}"


def read_text(path: Path) -> str:
    """Return a file's text without the NUL that ends strings of a device tree; "" if unreadable."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip("\0\n ")
    except OSError:
        return ""


def read_number(path: Path) -> int | None:
    """Return the integer in a file of sysfs, None if there is none."""
    text = read_text(path)
    if not text.lstrip("-").isdecimal():
        return None
    return int(text)
