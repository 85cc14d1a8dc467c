"""Setting up a board: looking at it, and installing lpx without PyTorch there."""

from __future__ import annotations

import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lpx
from lpx.errors import LpxError
from lpx.machine.jetson import cuda_python_for, l4t_in, newest_cuda
from lpx.plain import plain
from lpx.remote.connection import Connection
from lpx.remote.refusals import not_set_up
from lpx.remote.running import Output, holder
from lpx.remote.sending import Shipment
from lpx.remote.wheel import download_wheels, wheel_name, write_wheel
from lpx.reporter import Reporter
from lpx.schema import SchemaError, parse_json, read_record
from lpx.workspace import sha256

# Architectures that ONNX Runtime and OpenCV have wheels for.
ARCHITECTURES = ("x86_64", "aarch64")
OLDEST_PYTHON = (3, 10)
# Free space that an environment takes, bytes: measured, with wheels unpacked and in pip's cache.
ENVIRONMENT_BYTES = 1 << 30
# Packages that `lpx` cannot start without.
_NEEDED = ("numpy", "onnx", "onnxruntime", "cv2")


@dataclass(frozen=True)
class SetupOptions:
    """Options of setting up a board.

    Attributes:
        python: Interpreter there; None for its newest.
        wheels: Folder with wheels to carry, for a board without a network.
        download: Download wheels for the board here, and carry them.
        environment: Make a virtual environment; otherwise use that Python's packages as they are.
    """

    python: str | None
    wheels: Path | None
    download: bool
    environment: bool


@dataclass(frozen=True)
class Interpreter:
    """A Python on a board: its path, version, and whether it has certain packages."""

    path: str
    version: tuple[int, ...]
    has: Mapping[str, bool]


@dataclass(frozen=True)
class Installed:
    """Installation of lpx on a board.

    Attributes:
        lpx: Version of lpx.
        wheel_sha256: SHA-256 of its wheel.
        environment: Name of its folder there.
        python: Interpreter that runs it.
        path: Folder of lpx, if it is not among the interpreter's packages; "" otherwise.
        has: Whether the interpreter has certain packages.
    """

    lpx: str
    wheel_sha256: str
    environment: str
    python: str
    path: str
    has: Mapping[str, bool]


@dataclass(frozen=True)
class _Result:
    """End of an installation: an exit code, and what was set up."""

    code: int
    setup: Mapping[str, Any]


@dataclass(frozen=True)
class BoardInfo:
    """Description of a board, by itself.

    Attributes:
        hostname: Its name.
        architecture: Such as "aarch64".
        system: Kernel and release.
        model: Model of the board, from its device tree; "" if it has none.
        l4t: Release of Jetson Linux; "" on other machines.
        libc: C library and its version.
        python: Version of its `python3`.
        base: Folder of lpx there.
        free_bytes: Free space on that disk.
        installed: Installation of lpx; None if there is none.
        interpreter: Python that an installation would use.
    """

    hostname: str
    architecture: str
    system: str
    model: str
    l4t: str
    libc: str
    python: str
    base: str
    free_bytes: int
    installed: Installed | None
    interpreter: Interpreter


def look(connection: Connection, python: str | None) -> BoardInfo:
    """Ask a board what it is and has.

    Raises:
        LpxError: It does not answer, or the Python that was named does not start there.
    """
    reply = connection.call("probe", {"python": python})
    try:
        return read_record(BoardInfo, reply)
    except SchemaError as error:
        raise LpxError(
            f"{connection.host} describes itself in a way that lpx does not understand",
            str(error),
            f"remove the folder of lpx there, or update lpx here; then `lpx remote "
            f"{connection.host} setup`",
            code="damaged",
        ) from error


def check_installed(connection: Connection) -> Installed:
    """Return what is set up on a board; another lpx would read and write different files.

    Raises:
        LpxError: There is none, or another version of lpx.
    """
    host = connection.host
    values = connection.call("installed", {}).get("installed")
    if values is None:
        raise not_set_up(host)
    try:
        installed = read_record(Installed, values)
    except SchemaError:
        raise not_set_up(host) from None
    if installed.lpx != lpx.__version__:
        raise LpxError(
            f"{host} has lpx {plain(installed.lpx)[:40]}, this machine {lpx.__version__}",
            "the two could not read each other's files",
            f"run `lpx remote {host} setup` again",
            code="unsupported",
        )
    return installed


def check(host: str, info: BoardInfo, options: SetupOptions) -> None:
    """Refuse a board on which lpx could not run.

    Raises:
        LpxError: Its architecture, Python or free space do not suffice.
    """
    if info.architecture not in ARCHITECTURES:
        raise LpxError(
            f"{host} is a machine of architecture {plain(info.architecture)[:40]}",
            f"ONNX Runtime and OpenCV have wheels for {' and '.join(ARCHITECTURES)}",
            "use another board; `lpx package` writes a C++ project for it",
            code="unsupported",
        )
    python = info.interpreter
    if tuple(python.version) < OLDEST_PYTHON:
        version = ".".join(map(str, python.version))
        raise LpxError(
            f"Python {version} on {host} is too old",
            "lpx needs Python 3.10 or later (JetPack 6 has 3.10, JetPack 5 has 3.8)",
            "install one there and name it with `python`, or update JetPack",
            code="unsupported",
        )
    if not options.environment:
        missing = [name for name in _NEEDED if not python.has.get(name)]
        if missing:
            raise LpxError(
                f"{plain(python.path)} on {host} lacks {', '.join(missing)}",
                "without an environment of its own, lpx uses the packages of that Python",
                "install them there, or leave out `environment=False`",
                code="not-found",
            )
        return
    if not (python.has.get("venv") and python.has.get("ensurepip")):
        raise LpxError(
            f"{plain(python.path)} on {host} cannot make virtual environments",
            "its module venv or ensurepip is missing",
            "install it there: `sudo apt-get install python3-venv`",
            code="not-found",
        )
    if info.free_bytes < ENVIRONMENT_BYTES:
        raise LpxError(
            f"{host} has {info.free_bytes / 2**20:.0f} MiB free for {plain(info.base)}",
            f"lpx and what it needs take up to {ENVIRONMENT_BYTES / 2**20:.0f} MiB",
            "free some space there, or name a folder on another disk with `remote_folder`",
            code="unwritable",
        )


def set_up(
    connection: Connection, options: SetupOptions, output: Output, reporter: Reporter
) -> BoardInfo:
    """Look at a board, and install lpx there; returns what is there afterwards.

    Raises:
        LpxError: The board does not suffice, somebody else works there, or pip fails there.
    """
    info = look(connection, options.python)
    for line in describe_board(info):
        reporter.say(line)
    check(connection.host, info, options)
    with tempfile.TemporaryDirectory(prefix="lpx-wheels-") as temporary:
        wheels = _collect(Path(temporary), info, options, reporter)
        installed = _install(connection, info, options, wheels, output, reporter)
    if installed is None:
        raise LpxError(
            f"lpx could not be installed on {connection.host}",
            "see the lines above; what was set up before is still there",
            "without a network there, carry the wheels: `download=True`, or a folder of them with "
            "`wheels`",
            code="invalid-input",
        )
    return look(connection, options.python)


def cuda_binding(info: BoardInfo) -> tuple[str, ...]:
    """Return the requirement on the CUDA binding that TensorRT needs on a Jetson; () elsewhere.

    The driver comes with JetPack: the newest binding may be too new for it.
    """
    if not info.l4t:
        return ()
    return (cuda_python_for(newest_cuda(l4t_in(info.l4t))).strip('"'),)


def describe_board(info: BoardInfo) -> list[str]:
    """Return lines that say what was found."""
    name = info.model or "a machine without a device tree"
    lines = [f"{plain(info.hostname)}: {plain(name)}, {info.architecture}, {plain(info.system)}"]
    if info.l4t:
        lines.append(f"Jetson Linux: {plain(info.l4t)[:100]}")
    python = info.interpreter
    version = ".".join(map(str, python.version))
    text = f"Python {version} ({plain(python.path)}), {plain(info.libc)}"
    lines.append(f"{text}, {info.free_bytes / 2**30:.1f} GiB free")
    if python.has.get("tensorrt"):
        lines.append("TensorRT: of the system's Python")
    elif info.l4t:
        lines.append("TensorRT: not found; JetPack has it as python3-libnvinfer")
    return lines


def _collect(folder: Path, info: BoardInfo, options: SetupOptions, reporter: Reporter) -> Shipment:
    """Collect the wheels to carry: lpx, and with `wheels` or `download` what it needs."""
    shipment = Shipment()
    if options.download:
        version = info.interpreter.version
        reporter.say(
            f"downloading wheels for Python {version[0]}.{version[1]} on {info.architecture}"
        )
        download_wheels(folder, info.architecture, version, info.libc, cuda_binding(info))
    paths = {path.name: path for path in sorted(folder.glob("*.whl"))}
    if options.wheels is not None:
        given = sorted(options.wheels.glob("*.whl"))
        if not given:
            raise LpxError(
                f"{options.wheels} has no wheels",
                "",
                "fill it with `pip download`, or use `download=True`",
                code="not-found",
            )
        paths.update({path.name: path for path in given})
    # Always this very lpx: the two ends must agree. A wheel of it may have been in the folder too.
    paths = {name: path for name, path in paths.items() if not name.startswith("lpx-")}
    own = write_wheel(folder)
    paths[own.name] = own
    for name, path in paths.items():
        shipment.files[name] = (path.stat().st_size, sha256(path))
        shipment.places[name] = path
    return shipment


def _more(info: BoardInfo, options: SetupOptions, wheels: Shipment) -> list[str]:
    """Return what to install beside lpx: with carried wheels, only what is among them."""
    if options.wheels is not None and not any(name.startswith("cuda_") for name in wheels.files):
        return []
    return list(cuda_binding(info))


def _install(
    connection: Connection,
    info: BoardInfo,
    options: SetupOptions,
    wheels: Shipment,
    output: Output,
    reporter: Reporter,
) -> Installed | None:
    """Carry wheels and install them; returns what is installed, None if pip failed.

    Raises:
        LpxError: The connection was lost, or somebody else works there.
    """
    reply = connection.call("wheels", {"files": wheels.files})
    names = wheels.missing(connection.host, reply)
    if names:
        size = wheels.size(names) / 2**20
        reporter.say(f"sending {len(names)} of {len(wheels.files)} wheels, {size:.1f} MiB")
    has = info.interpreter.has
    request = {
        "files": wheels.files,
        "missing": names,
        "token": secrets.token_hex(8),
        "wheel": wheel_name(),
        "requirements": _more(info, options, wheels),
        "lpx": lpx.__version__,
        "python": info.interpreter.path,
        "environment": options.environment,
        # JetPack's TensorRT is not on PyPI: an environment sees it in the system's packages.
        "system_site_packages": bool(info.l4t or has.get("tensorrt")),
        "offline": options.download or options.wheels is not None,
        "holder": holder("lpx remote setup"),
    }
    end = b""
    with connection.session("install", request, wheels.contents(names, None)) as session:
        for frame in session.frames():
            if frame.kind == "e":
                output("stderr", frame.data)
            elif frame.kind == "x":
                end = frame.data
    try:
        result = read_record(_Result, parse_json(end))
        return None if result.code else read_record(Installed, result.setup)
    except SchemaError as error:
        raise LpxError(
            f"{connection.host} does not say how the installation ended",
            str(error),
            "run the same command again",
            code="damaged",
        ) from error
