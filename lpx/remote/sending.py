"""Files to send to a board: the workspace as a bundle's members, and what a command reads."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from lpx.bundle.archive import CHUNK, Entry, read_content, read_entries
from lpx.bundle.manifest import FILE, TAG
from lpx.bundle.names import name_problem
from lpx.bundle.sources import open_regular
from lpx.data.roots import DataPlaces
from lpx.errors import LpxError
from lpx.remote.agent.files import WORKSPACE
from lpx.reporter import Progress, Reporter
from lpx.workspace import WorkspaceFolder, sha256

INPUTS = "inputs"
# Characters of a folder's name that the name of its copy on the board keeps.
_KEPT = 24


@dataclass(frozen=True)
class SentFaces:
    """A face set to send as `lpx-out/faces`.

    Attributes:
        name: The set, or its folder; None for none.
        limit: Maximum number of faces, sampled evenly; None for all.
        places: Folders of public data sets and of prepared faces.
    """

    name: str | None = None
    limit: int | None = None
    places: DataPlaces = DataPlaces()  # noqa: RUF009 (frozen)


@dataclass
class Shipment:
    """Files to have on the board.

    Attributes:
        files: Size and SHA-256 of each, by its name there.
        places: Where their contents are here: a file, or a member of the bundle.
    """

    files: dict[str, tuple[int, str]] = field(default_factory=dict)
    places: dict[str, Path | Entry] = field(default_factory=dict)

    def digest(self) -> str:
        """Return a digest of all names and contents."""
        text = "".join(f"{name}\0{sha}\0" for name, (_, sha) in sorted(self.files.items()))
        return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()

    def missing(self, host: str, reply: Mapping[str, Any]) -> list[str]:
        """Return the names of files that a board says it lacks.

        Raises:
            LpxError: It names others.
        """
        names = reply.get("missing")
        known = isinstance(names, list) and all(isinstance(one, str) for one in names)
        if not known or not self.files.keys() >= set(names or ()):
            raise LpxError(
                f"{host} sends what lpx does not understand",
                "it asks for files that were not announced",
                "",
                code="damaged",
            )
        lacking = set(names or ())
        return [name for name in self.files if name in lacking]

    def size(self, names: Sequence[str]) -> int:
        """Return the bytes of some of the files together."""
        return sum(self.files[name][0] for name in names)

    def contents(self, names: Sequence[str], bundle: Path | None) -> Iterator[bytes]:
        """Yield the contents of some of the files, one behind the other.

        Args:
            names: Their names on the board.
            bundle: The bundle that members are in.

        Raises:
            LpxError: A file cannot be read, or has changed.
        """
        for name in names:
            place = self.places[name]
            if isinstance(place, Path):
                yield from _file_content(place, self.files[name][0])
            else:
                assert bundle is not None
                with bundle.open("rb") as stream:
                    yield from read_content(stream, place)


def work_name(workspace: WorkspaceFolder | None) -> str:
    """Return the name of a workspace's folder on boards: another for each user, host and path."""
    path = Path("/") if workspace is None else workspace.root.resolve()
    text = f"{_machine_id()}\0{os.getuid()}\0{path}"
    digest = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:12]
    return f"{_plain_name(path.name)}-{digest}"


def _machine_id() -> str:
    try:
        return Path("/etc/machine-id").read_text(encoding="ascii").strip() or os.uname().nodename
    except (OSError, UnicodeDecodeError):
        return os.uname().nodename


def _plain_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name)[:_KEPT].strip("_-") or "workspace"


class _WithoutBars:
    """Passes on notes and warnings: packing takes a moment, and is not what the user asked for."""

    def __init__(self, reporter: Reporter) -> None:
        self.say = reporter.say
        self.warn = reporter.warn

    def progress(self, label: str) -> Progress:
        """Return a bar that is not shown."""
        return lambda done, total: None


def add_workspace(
    shipment: Shipment,
    workspace: WorkspaceFolder,
    bundle: Path,
    faces: SentFaces,
    *,
    checkpoint: bool,
    reporter: Reporter,
) -> None:
    """Pack a workspace into `bundle`, and add the members of the bundle.

    Raises:
        LpxError: It cannot be packed.
    """
    # ONNX Runtime and others take a second to import: commands without a workspace need none.
    from lpx.bundle.pack import PackOptions, pack

    # Engines are built on the board, and stay there.
    options = PackOptions(bundle, faces.name, faces.limit, (), checkpoint)
    packed = pack(workspace, options, places=faces.places, reporter=_WithoutBars(reporter))
    with bundle.open("rb") as stream:
        for entry in read_entries(stream):
            if entry.name == TAG:
                continue
            name = f"{WORKSPACE}/{entry.name}"
            member = packed.manifest.members.get(entry.name)
            digest = member.sha256 if member else _entry_sha256(stream, entry)
            shipment.files[name] = (entry.size, digest)
            shipment.places[name] = entry
    assert f"{WORKSPACE}/{FILE}" in shipment.files


def _entry_sha256(stream: BinaryIO, entry: Entry) -> str:
    digest = hashlib.sha256()
    for chunk in read_content(stream, entry):
        digest.update(chunk)
    return digest.hexdigest()


def add_input(shipment: Shipment, path: Path) -> str:
    """Add a file or a folder that a command reads; returns its path on the board.

    Hidden files stay here. Links to files are followed, links to folders are not.

    Raises:
        LpxError: It does not exist, cannot be read, is empty, or has a name that results could not
            have.
    """
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise _unreadable(path, error) from error
    base = _free_name(shipment, path)
    if not stat.S_ISDIR(mode):
        _add_file(shipment, f"{INPUTS}/{base}", path)
        return f"{INPUTS}/{base}"
    before = len(shipment.files)
    for parent, folders, files in os.walk(path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith("."):
                file = Path(parent, name)
                _add_file(shipment, f"{INPUTS}/{base}/{file.relative_to(path).as_posix()}", file)
    if len(shipment.files) == before:
        raise LpxError(
            f"{path} is empty", "there is nothing to send", "name another folder", code="not-found"
        )
    return f"{INPUTS}/{base}"


def _free_name(shipment: Shipment, path: Path) -> str:
    """Return a name for an input that no other has."""
    name = path.resolve().name or "input"
    taken = {one.split("/")[1] for one in shipment.files if one.startswith(f"{INPUTS}/")}
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{number}-{name}"
    return free


def _add_file(shipment: Shipment, name: str, path: Path) -> None:
    if problem := name_problem(name):
        raise LpxError(
            f"{path} cannot be sent",
            f"{problem}; results are named after it",
            "rename it",
            code="unsupported",
        )
    try:
        if not path.is_file():
            raise OSError(None, "it is not a regular file")
        size = path.stat().st_size
        shipment.files[name] = (size, sha256(path))
        shipment.places[name] = path
    except OSError as error:
        raise _unreadable(path, error) from error


def _file_content(path: Path, size: int) -> Iterator[bytes]:
    left = size
    try:
        with open_regular(path) as stream:
            while left:
                chunk = stream.read(min(CHUNK, left))
                if not chunk:
                    raise OSError(None, "it became shorter")
                left -= len(chunk)
                yield chunk
    except OSError as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: OSError) -> LpxError:
    code = "not-found" if isinstance(error, FileNotFoundError) else "invalid-input"
    return LpxError(
        f"{path} cannot be sent",
        error.strerror or str(error),
        "name a file or folder that can be read",
        code=code,  # type: ignore[arg-type]
    )


def command_key(words: Sequence[str], shipment: Shipment) -> str:
    """Return a digest of the words of a command and all that it reads.

    Commands with the same digest are the same.
    """
    whole = "\0".join([*words, "", shipment.digest()])
    return hashlib.sha256(whole.encode(errors="surrogateescape")).hexdigest()
