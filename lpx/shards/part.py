"""A part: the folder that a shard leaves, and the sealed file that says what it is.

`part.json` is written when the shard begins, and again, with the digests of the payload, when it
has ended. In between the payload grows by its own means (a journal, saved progress, a store of
scores), so that an interrupted shard resumes. Nothing outside the folder is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NoReturn

from lpx.data.wording import counted
from lpx.errors import LpxError
from lpx.formats import check_format
from lpx.machine.machine import read_machine
from lpx.reporter import Reporter
from lpx.schema import MAX_INTEGER, SchemaError, in_range, read_record, sealed, unsealed
from lpx.shards.shard import MAX_COUNT, Shard
from lpx.workspace import NoLocksError, locked, read_sealed, sha256, unwritable, write_sealed

FORMAT = "lpx-part/1"
FILE = "part.json"
# Folder of parts in a workspace or a prepared set; below it is one for each kind.
FOLDER = "shards"
Kind = Literal["prepare", "calibrate", "bench"]
COMMANDS: dict[str, str] = {
    "prepare": "lpx data prepare",
    "calibrate": "lpx calibrate",
    "bench": "lpx bench",
}
_CHUNK_BYTES = 1 << 20
# What differs if a field of a key does, in words.
_WORDS = {"model": "another model", "faces": "another list of faces", "videos": "other videos"}


@dataclass(frozen=True)
class PartFile:
    """A file of the payload.

    Attributes:
        name: Path below the part's folder, with "/".
        size: Bytes.
        sha256: SHA-256, hexadecimal.
    """

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class PartManifest:
    """Content of `part.json`.

    Attributes:
        format: `FORMAT`.
        kind: The step.
        index: Number of the shard, from 0.
        count: Number of shards.
        key: What all parts of a whole have in common: digests of what went in, versions, options.
        complete: False while the shard is at work.
        about: What is this part's own, such as its machine; empty until it is complete.
        files: The payload; empty until it is complete.
    """

    format: str
    kind: Kind
    index: int
    count: int
    key: dict[str, Any]
    complete: bool = False
    about: dict[str, Any] | None = None
    files: tuple[PartFile, ...] = ()

    @property
    def shard(self) -> Shard:
        """The shard that it is of."""
        return Shard(self.index, self.count)


@dataclass(frozen=True)
class PartResult:
    """Result of a shard.

    Attributes:
        folder: Folder of the part.
        kind: "prepare", "calibrate" or "bench".
        shard: The shard that it is of.
        units: Number of its videos or faces.
        total: Number of those of all shards.
        notes: What did not go as it should, such as engines that failed.
    """

    folder: Path
    kind: Kind
    shard: Shard
    units: int
    total: int
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as the commands print them with --json."""
        return {
            "part": str(self.folder),
            "kind": self.kind,
            "index": self.shard.index,
            "count": self.shard.count,
            "units": self.units,
            "total": self.total,
            "notes": list(self.notes),
        }


class PartWork:
    """The part of a shard that is at work.

    Attributes:
        folder: Its folder.
        manifest: Its `part.json`; complete if the shard had ended before, and nothing was altered.
    """

    def __init__(self, folder: Path, manifest: PartManifest) -> None:
        self.folder = folder
        self.manifest = manifest

    def reopen(self, reporter: Reporter, why: str) -> None:
        """Count a complete part as unfinished, so that its shard does its share again.

        Args:
            reporter: Receives the reason as a warning.
            why: The reason.

        Raises:
            LpxError: The folder cannot be written.
        """
        reporter.warn(f"{self.folder} is made again: {why}")
        self.manifest = replace(self.manifest, complete=False, about=None, files=())
        write_sealed(self.folder / FILE, asdict(self.manifest))

    def seal(self, names: Sequence[str], about: Mapping[str, Any]) -> None:
        """Record that the shard has ended.

        Args:
            names: Files of the payload, paths below the folder.
            about: What is this part's own; its machine is added.

        Raises:
            LpxError: The folder cannot be written.
        """
        files = []
        for name in names:
            path = self.folder / name
            try:
                files.append(PartFile(name, path.stat().st_size, sha256(path)))
            except OSError as error:
                raise unwritable(path, error) from error
        own = {"machine": _machine(), **about}
        self.manifest = replace(self.manifest, complete=True, about=own, files=tuple(files))
        # Last: until this file is replaced, the part counts as unfinished, whatever else is in it.
        write_sealed(self.folder / FILE, asdict(self.manifest))


@contextmanager
def open_part(
    folder: Path,
    kind: Kind,
    shard: Shard,
    key: Mapping[str, Any],
    reporter: Reporter,
    *,
    lock: Callable[[Path, str, str], AbstractContextManager[None]] = locked,
) -> Iterator[PartWork]:
    """Open or create the part of a shard, locked against other processes.

    Args:
        folder: Its folder, new, empty, or of the same shard.
        kind: The step.
        shard: The shard.
        key: What all parts of the whole have in common.
        reporter: Receives warnings.
        lock: Locks a folder, as `lpx.workspace.locked`.

    Raises:
        LpxError: The folder holds something else, another process is at work in it (code
            "in-use"), or it cannot be written.
    """
    # Through JSON, so that tuples in the key become the lists that a stored one has.
    wanted = PartManifest(FORMAT, kind, shard.index, shard.count, unsealed(sealed(key)))
    with ExitStack() as stack:
        try:
            stack.enter_context(lock(folder, "part", "use another folder (`out`)"))
        # Not fatal, as no other shard has this folder.
        except NoLocksError:
            reporter.warn(
                f"the file system of {folder} has no locks: make sure that no other process works "
                f"on shard {shard}"
            )
        # Under the lock, as another process might be sealing the part.
        work = PartWork(folder, _found(folder, wanted))
        if not work.manifest.complete:
            # Before any payload: the next run refuses a folder that has files but lacks this one.
            write_sealed(folder / FILE, asdict(work.manifest))
        # Made again rather than refused: unlike a merge, its shard can repair it.
        elif why := _altered(folder, work.manifest):
            work.reopen(reporter, f"it is not as its shard left it ({why})")
        yield work


def _found(folder: Path, wanted: PartManifest) -> PartManifest:
    """Return the part in a folder; a new one if it is empty.

    Raises:
        LpxError: It holds something else.
    """
    if not (folder / FILE).exists():
        # Hidden files: the lock, and what is left of a run that was killed while it wrote.
        others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if others:
            raise LpxError(
                f"{folder} is not empty, and has no {FILE}",
                f"a shard leaves its part in a folder of its own; this one has {others[0]}",
                "use a new folder (`out`)",
            )
        return wanted
    found = read_part(folder)
    if (found.kind, found.index, found.count) != (wanted.kind, wanted.index, wanted.count):
        why = f"it is of `{COMMANDS[found.kind]}`, shard {found.shard}"
    elif found.key != wanted.key:
        why = f"it is of {difference(found.key, wanted.key)}"
    else:
        return found
    raise LpxError(
        f"{folder} holds another part than that of shard {wanted.shard}",
        why,
        "remove that folder if it is no longer needed, or use another one (`out`)",
    )


def _altered(folder: Path, part: PartManifest) -> str:
    """Return what is wrong with the payload of a complete part; "" if nothing is."""
    # Crops are not among the files: `lpx.shards.prepare` compares them with their own digests.
    for file in part.files:
        path = folder / file.name
        try:
            if sha256(path) != file.sha256:
                return f"{file.name} was changed"
        except OSError as error:
            return f"{file.name}: {error.strerror or error}"
    return ""


def read_part(folder: Path) -> PartManifest:
    """Read `part.json` of a part.

    Raises:
        LpxError: There is none (code "not-found"), it is damaged, or of another version of lpx.
    """
    path = folder / FILE
    if not path.is_file():
        raise LpxError(
            f"{folder} is not a part",
            f"it has no {FILE}, which a shard writes when it begins",
            "name folders that shards left",
            code="not-found",
        )
    values = read_sealed(path, "lpx COMMAND --shard I/N")
    again = "run its shard again in an empty folder"
    try:
        # First, so that a part of a newer version is not called damaged for a field that it adds.
        check_format(path, values.get("format"), FORMAT, again)
        part = read_record(PartManifest, values)
        # Here, since `Shard` would blame the user's option instead of the file.
        in_range(part.count, 1, MAX_COUNT, "count")
        in_range(part.index, 0, part.count - 1, "index")
        for file in part.files:
            in_range(file.size, 0, MAX_INTEGER, "a size")
            _check_inside(file.name)
    except SchemaError as error:
        raise LpxError(f"{path} is damaged", str(error), again, code="damaged") from error
    return part


def _check_inside(name: str) -> None:
    # A part may come from anyone, and each name in it becomes a path that is looked at.
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise SchemaError(f"{name[:60]!a} is not a file of the part")


def read_payload(
    folder: Path, part: PartManifest, file: PartFile, take: Callable[[bytes], object]
) -> None:
    """Read a file of a part in pieces, and check it.

    Args:
        folder: Folder of the part.
        part: Its manifest.
        file: The file.
        take: Receives the pieces. What it made of them is valid only if this function returns.

    Raises:
        LpxError: The file is missing, cut short or altered (code "damaged").
    """
    path = folder / file.name
    digest, left = hashlib.sha256(), file.size
    try:
        # A name without ".." may still be a link out of the folder, and a pipe would block forever.
        if not path.resolve().is_relative_to(folder.resolve()) or not path.is_file():
            damaged(folder, part, f"{file.name} is missing, or leads out of the folder")
        with path.open("rb") as stream:
            # No more than there should be: the file may still be growing.
            while piece := stream.read(min(left + 1, _CHUNK_BYTES)):
                left -= len(piece)
                if left < 0:
                    break
                digest.update(piece)
                take(piece)
    except OSError as error:
        damaged(folder, part, f"{file.name}: {error.strerror or error}")
    if left or digest.hexdigest() != file.sha256:
        damaged(folder, part, f"{file.name} is not as the shard left it")


def damaged(folder: Path, part: PartManifest, why: str) -> NoReturn:
    """Refuse a part.

    Raises:
        LpxError: Always, with the code "damaged".
    """
    raise LpxError(
        f"part {part.shard} in {folder} is damaged",
        why,
        f"copy it again; or run {command_of(part)} again, which repairs it",
        code="damaged",
    )


def command_of(part: PartManifest) -> str:
    """Return the command that makes a part, for messages; only the user knows its options."""
    return f"`{COMMANDS[part.kind]} ... --shard {part.shard}`"


def difference(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """Say in words in what a key differs from another one.

    Args:
        theirs: The key that is described.
        ours: The one that it should be.
    """
    words = []
    for name in sorted(theirs.keys() | ours.keys()):
        one, other = theirs.get(name), ours.get(name)
        if one == other:
            continue
        if name in _WORDS:
            words.append(_WORDS[name])
        elif isinstance(one, dict) and isinstance(other, dict):
            for inner in sorted(one.keys() | other.keys()):
                if one.get(inner) != other.get(inner):
                    words.append(
                        f"{inner} {_shown(one.get(inner))}, not {_shown(other.get(inner))}"
                    )
        else:
            words.append(f"{name} {_shown(one)}, not {_shown(other)}")
    return "; ".join(words)


def _shown(value: object) -> str:
    if isinstance(value, (list, dict)) and len(value) > 3:
        return counted(len(value), "entry", "entries")
    text = str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _machine() -> str:
    machine = read_machine()
    words = [machine.os, machine.architecture, machine.cpu]
    words += sorted({gpu.name for gpu in machine.gpus})
    return ", ".join(words)
