"""Description of a board, and the choice of its Python."""

import json
import os
import platform
import shutil
import subprocess
import sys
from typing import Any, BinaryIO, Optional, Sequence

from lpx.remote.agent.files import RefusedError, Request, Values, answer, read_json

# Where `python3` is too old, one of these may be there beside it.
PYTHONS = ("python3.13", "python3.12", "python3.11", "python3.10")

# Run by the Python in question, which may be another than the one that runs this.
LOOK = """
import importlib.util, json, sys
found = {}
for name in ("ensurepip", "venv", "tensorrt", "torch", "onnxruntime", "onnx", "numpy", "cv2"):
    found[name] = importlib.util.find_spec(name) is not None
print(json.dumps({"version": list(sys.version_info[:3]), "has": found}))
"""


def describe() -> Values:
    """Return what this machine is, as plain values."""
    libc = ""
    try:
        libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (AttributeError, ValueError, OSError):
        pass
    return {
        "hostname": platform.node(),
        "architecture": platform.machine(),
        "system": platform.system() + " " + platform.release(),
        "model": first_line("/proc/device-tree/model"),
        "l4t": first_line("/etc/nv_tegra_release"),
        "libc": libc,
        "python": version_text(sys.version_info),
    }


def version_text(info: Sequence[Any]) -> str:
    """Return a Python version as text."""
    return ".".join(str(part) for part in info[:3])


def first_line(path: str) -> str:
    """Return the first line of a file; "" if it cannot be read."""
    try:
        with open(path, "rb") as stream:
            line = stream.read(300).split(b"\n")[0]
    except OSError:
        return ""
    return line.strip(b"\0 ").decode("utf-8", "replace")


def probe(base: str, request: Request, stream: BinaryIO) -> None:
    """Say what the machine is, what is installed, and whether somebody is working there."""
    place = base
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    values = describe()
    values["base"] = base
    values["free_bytes"] = shutil.disk_usage(place).free
    values["installed"] = read_json(os.path.join(base, "setup.json"))
    values["interpreter"] = choose_python(request.get("python"))
    answer(request, values)


def installed(base: str, request: Request, stream: BinaryIO) -> None:
    """Say what is installed."""
    answer(request, {"installed": read_json(os.path.join(base, "setup.json"))})


def choose_python(named: Optional[str]) -> Values:
    """Return path, version and packages of the Python to use: the named one, or the newest."""
    if named:
        return look_at(named)
    mine = look_at(sys.executable or "python3")
    if tuple(mine["version"]) >= (3, 10):
        return mine
    for name in PYTHONS:
        path = shutil.which(name)
        if path:
            other = look_at(path)
            if tuple(other["version"]) >= (3, 10):
                return other
    return mine


def look_at(path: str) -> Values:
    """Return version and packages of a Python."""
    try:
        done = subprocess.run(
            [path, "-I", "-c", LOOK],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=60,
        )
        values: Values = json.loads(done.stdout.decode().strip().split("\n")[-1])
    except (OSError, ValueError, IndexError, subprocess.SubprocessError) as error:
        raise RefusedError("python", path=path, text=str(error))
    values["path"] = path
    return values
