"""Results from a board: fetched, checked as a bundle is, and put in place whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lpx
from lpx import interrupts
from lpx.bundle.archive import CHUNK, MAX_MEMBER_BYTES, MAX_MEMBERS
from lpx.bundle.manifest import MAX_TOTAL_BYTES
from lpx.bundle.names import MemberNames
from lpx.errors import LpxError
from lpx.plain import plain
from lpx.remote.agent.machine import describe
from lpx.remote.agent.results import REPORTS, RESULTS
from lpx.remote.connection import Connection
from lpx.remote.host import folder_name
from lpx.reporter import Reporter
from lpx.schema import SchemaError, in_range, read_record
from lpx.workspace import WorkspaceFolder, sha256, unwritable, write_sealed

FOLDER = "remote"
RECORD = "remote.json"
_HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class Fetched:
    """Results of a board.

    Attributes:
        folder: Folder of all results of this board, in the workspace.
        new: Names of those that were fetched now, such as "engines/onnxruntime-int8", sorted.
    """

    folder: Path
    new: tuple[str, ...]


@dataclass(frozen=True)
class _Taken:
    """Names of units that were put in place, and the first refusal of another one."""

    new: tuple[str, ...] = ()
    refused: LpxError | None = None


@dataclass(frozen=True)
class _Listed:
    """Results of a board, as it lists them."""

    files: Mapping[str, tuple[int, str]]
    machine: Mapping[str, Any]


def results_folder(workspace: WorkspaceFolder, host: str) -> Path:
    """Return the folder of a board's results in a workspace."""
    return workspace.root / FOLDER / folder_name(host)


def fetch(
    connection: Connection,
    workspace: WorkspaceFolder,
    work: str,
    ran: Mapping[str, Any],
    reporter: Reporter,
) -> Fetched:
    """Fetch the results that are not here yet.

    Each engine, the three files of a report, and the predictions are put in place as one. Engines
    of another model than the exported one are left there.

    Args:
        connection: The board.
        workspace: The workspace here.
        work: Its name on the board.
        ran: What is known of the command that made them, for the record.
        reporter: Receives progress.

    Raises:
        LpxError: Something that the board sends is not what it says, or has a name that could leave
            the folder; or the workspace cannot be written.
    """
    listed = _read_listing(connection.host, connection.call("results", {"work": work}))
    folder = results_folder(workspace, connection.host)
    try:
        model_sha256 = sha256(workspace.model)
    except OSError as error:
        raise LpxError(
            f"{workspace.model} cannot be read",
            "engines that come back are compared with the exported model",
            "run `lpx export ckpt.pt`, or name the workspace with `workspace`",
            code="not-found",
        ) from error
    units: dict[str, list[str]] = {}
    for name in listed.files:
        units.setdefault(_unit(name), []).append(name)
    changed = {}
    for unit, names in units.items():
        if not _same(folder, unit, {name: listed.files[name] for name in names}):
            changed[unit] = sorted(names)
    taken = _Taken()
    if changed:
        taken = _fetch_units(connection, work, listed, changed, folder, model_sha256, reporter)
    if taken.new or not (taken.refused or (folder / RECORD).is_file()):
        stayed = changed.keys() - set(taken.new)
        here = [name for name in listed.files if _unit(name) not in stayed]
        _write_record(folder, connection.host, listed, here, ran)
    if taken.refused is not None:
        raise taken.refused
    return Fetched(folder, taken.new)


def _read_listing(host: str, reply: Mapping[str, Any]) -> _Listed:
    """Check what a board says of its results, before anything is written.

    Raises:
        LpxError: A name, size or digest is not one that lpx could have made.
    """
    try:
        listed = read_record(_Listed, reply)
        names, total = MemberNames(), 0
        if len(listed.files) > MAX_MEMBERS:
            raise SchemaError(f"it lists more than {MAX_MEMBERS} files")
        for name, (size, digest) in listed.files.items():
            problem = names.add(name)
            if not problem and not _known(name):
                problem = "it is not a result of lpx"
            if problem:
                raise SchemaError(f"{plain(name)[:200]}: {problem}")
            in_range(size, 0, MAX_MEMBER_BYTES, f"the size of {name[:100]}")
            if len(digest) != 64 or not _HEX.issuperset(digest):
                raise SchemaError(f"{name[:100]} has no SHA-256")
            total += size
        in_range(total, 0, MAX_TOTAL_BYTES, "the size of all results")
    except SchemaError as error:
        raise LpxError(
            f"{host} lists results that are refused",
            str(error),
            "nothing was written; look at the folder of lpx there",
            code="damaged",
        ) from error
    return listed


def _known(name: str) -> bool:
    top, _, below = name.partition("/")
    if not below:
        return name in REPORTS
    if top == "engines":
        return "/" in below
    return top in RESULTS


def _unit(name: str) -> str:
    """Return the name of what a file is put in place with."""
    if name in REPORTS:
        return "report"
    top, _, below = name.partition("/")
    return f"{top}/{below.partition('/')[0]}" if top == "engines" else top


def _same(folder: Path, unit: str, files: Mapping[str, tuple[int, str]]) -> bool:
    """Return whether a unit is here already, with these files and no others."""
    for name, (size, digest) in files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            return False
        if path.stat().st_size != size or sha256(path) != digest:
            return False
    here = set()
    if unit == "report":
        here = {name for name in REPORTS if (folder / name).is_file()}
    else:
        for path in (folder / unit).rglob("*"):
            if path.is_file():
                here.add(path.relative_to(folder).as_posix())
    return here == set(files)


def _fetch_units(
    connection: Connection,
    work: str,
    listed: _Listed,
    units: Mapping[str, Sequence[str]],
    folder: Path,
    model_sha256: str,
    reporter: Reporter,
) -> _Taken:
    """Fetch units into a temporary folder, check them, and put the good ones in place.

    Raises:
        LpxError: A file is not what the board said, or the folder cannot be written.
    """
    names = [name for unit in units.values() for name in unit]
    needed = sum(listed.files[name][0] for name in names)
    new: list[str] = []
    refused: LpxError | None = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if needed > (free := shutil.disk_usage(folder).free):
            raise OSError(None, f"the results take {needed} bytes, and {free} are free")
        with tempfile.TemporaryDirectory(prefix=".fetching.", dir=folder) as temporary:
            staged = Path(temporary)
            _receive(connection, work, listed, names, staged, reporter)
            for unit, files in units.items():
                try:
                    good = _checked(connection.host, staged, unit, files, model_sha256, reporter)
                except LpxError as error:
                    # The others are taken all the same.
                    refused = refused or error
                    continue
                if good:
                    with interrupts.deferred():
                        _place(staged, folder, unit, files)
                    new.append(unit)
    except OSError as error:
        raise unwritable(folder, error) from error
    return _Taken(tuple(sorted(new)), refused)


def _receive(
    connection: Connection,
    work: str,
    listed: _Listed,
    names: Sequence[str],
    staged: Path,
    reporter: Reporter,
) -> None:
    progress = reporter.progress(f"fetching from {connection.host}, files")
    wanted = [[name, listed.files[name][0]] for name in names]
    with connection.session("fetch", {"work": work, "files": wanted}) as session:
        for number, name in enumerate(names, start=1):
            size, expected = listed.files[name]
            path = staged / name
            path.parent.mkdir(parents=True, exist_ok=True)
            digest, left = hashlib.sha256(), size
            with path.open("xb") as stream:
                while left:
                    chunk = session.read(min(CHUNK, left))
                    left -= len(chunk)
                    digest.update(chunk)
                    stream.write(chunk)
                stream.flush()
                os.fsync(stream.fileno())
            if digest.hexdigest() != expected:
                raise LpxError(
                    f"{name} from {connection.host} is not what was announced",
                    "its SHA-256 differs: a command there changed it meanwhile, or it was damaged",
                    f"fetch it again: `lpx remote {connection.host} pull`",
                    code="damaged",
                )
            progress(number, len(names))


def _checked(
    host: str,
    staged: Path,
    unit: str,
    files: Sequence[str],
    model_sha256: str,
    reporter: Reporter,
) -> bool:
    """Check what a unit claims to be; returns False for an engine of another model.

    Raises:
        LpxError: It is damaged, or contradicts itself.
    """
    if unit == "report":
        # Late imports, here and below: SciPy and others take longer than an empty `pull`.
        from lpx.bench.report.document.report import read_report

        if "report.json" in files:
            read_report(staged / "report.json")
        return True
    if not unit.startswith("engines/"):
        return True
    from lpx.engines.load import GRAPH
    from lpx.engines.manifest import read_manifest

    manifest = read_manifest(staged / unit)
    digests = {manifest.file: manifest.engine_sha256}
    graph = manifest.options.get("graph_sha256")
    if isinstance(graph, str) and manifest.file != GRAPH and (staged / unit / GRAPH).exists():
        digests[GRAPH] = graph
    for name, expected in digests.items():
        path = staged / unit / name
        if not path.is_file() or sha256(path) != expected:
            raise LpxError(
                f"{unit}/{name} from {host} is not the file that its manifest describes",
                "it was altered or damaged",
                "build the engine again there",
                code="damaged",
            )
    if manifest.model_sha256 != model_sha256:
        reporter.warn(f"{unit} stays on {host}: it is an engine of another model")
        return False
    return True


def _place(staged: Path, folder: Path, unit: str, files: Sequence[str]) -> None:
    """Put a unit in place of the one that is there."""
    if unit == "report":
        # The JSON last: it is what programs read.
        for name in sorted(files, key=lambda one: one == "report.json"):
            os.replace(staged / name, folder / name)
        return
    final = folder / unit
    final.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(final):
        old = staged / "replaced" / unit
        old.parent.mkdir(parents=True, exist_ok=True)
        os.rename(final, old)
        try:
            os.rename(staged / unit, final)
        except OSError:
            with contextlib.suppress(OSError):
                os.rename(old, final)
            raise
    else:
        os.rename(staged / unit, final)


def _write_record(
    folder: Path, host: str, listed: _Listed, here: Sequence[str], ran: Mapping[str, Any]
) -> None:
    """Note both machines, and the files that are here."""
    files = {name: listed.files[name][1] for name in sorted(here)}
    write_sealed(
        folder / RECORD,
        {
            "format": "lpx-remote/1",
            "lpx": lpx.__version__,
            "host": host,
            "board": dict(listed.machine),
            "workstation": describe(),
            "fetched": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "last_command": dict(ran),
            "files": files,
        },
    )
