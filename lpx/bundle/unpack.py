"""Unpack a bundle into a workspace. Nothing in a bundle is trusted."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from lpx import interrupts
from lpx.arguments import as_path, check_choice
from lpx.bundle.archive import ArchiveError, Entry, read_content, read_entries
from lpx.bundle.check import ScoreCheck, check_model_scores
from lpx.bundle.manifest import (
    FACES,
    FILE,
    FORMAT,
    FORMAT_NUMBER,
    TAG,
    BundleManifest,
    Member,
    from_bytes,
    known_member,
    read_format,
)
from lpx.bundle.names import MemberNames
from lpx.bundle.sources import open_regular
from lpx.data.wording import some
from lpx.errors import LpxError
from lpx.reporter import SILENT, Reporter
from lpx.schema import MAX_BYTES, SchemaError
from lpx.workspace import sync_handle, unwritable

_AGAIN = "copy the bundle again, or pack it again with `lpx pack`"


@dataclass(frozen=True)
class UnpackResult:
    """A workspace that was unpacked.

    Attributes:
        folder: The workspace, for `lpx.Workspace`.
        faces: Folder of its face set; None if the bundle has none.
        manifest: What the bundle contains.
        checked: Number of probe faces that the model scored here as where they were packed; 0 if
            that was not checked, or the bundle has none.
    """

    folder: Path
    faces: Path | None
    manifest: BundleManifest
    checked: int = 0


class _Manifest(NamedTuple):
    """The manifest of a bundle, and its bytes, which the workspace keeps."""

    values: BundleManifest
    text: bytes


class _Directory(NamedTuple):
    """All members of a bundle, and its manifest."""

    entries: tuple[Entry, ...]
    manifest: _Manifest


def unpack(
    bundle: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    check: bool = True,
    reporter: Reporter = SILENT,
) -> UnpackResult:
    """Unpack a bundle into a new workspace, after checking every byte.

    The probe faces of the bundle are then scored with the exported model in ONNX Runtime.

    Files are written to a temporary folder beside `folder`, which is renamed when all of them
    match the bundle's manifest: an interrupted or failed call leaves nothing behind. A bundle is
    not signed: the checks find damage, not a forger.

    Args:
        bundle: File that `Workspace.pack` wrote.
        folder: Folder of the workspace: a new or an empty one.
        check: Refuse the bundle if the model's scores differ by more than its tolerance here.
        reporter: Receives progress.

    Returns:
        The workspace's folder, its faces, and what the bundle contains.

    Raises:
        NotAsAskedError: The model gives probe faces other scores here (code "scores-differ").
        LpxError: The bundle cannot be read, is cut off or was altered (code "damaged"; the member
            is named), or a newer lpx wrote it ("unsupported"); or `folder` is not empty, or cannot
            be written ("unwritable").
    """
    path = as_path("bundle", bundle)
    target = as_path("folder", folder)
    check_choice("check", check, (True, False))
    _check_target(target)
    stream = _open(path)
    with stream:
        entries, manifest = _read_directory(stream, path)
        with _written(stream, path, entries, manifest, target, reporter) as temporary:
            found = _check_scores(path, temporary) if check else None
    faces = None
    if manifest.values.faces is not None:
        faces = target / FACES
    checked = found.faces if found else 0
    return UnpackResult(target, faces, manifest.values, checked)


def manifest_bytes(bundle: Path) -> bytes:
    """Return the manifest of a bundle as it is kept in its workspace, without reading the rest.

    Raises:
        LpxError: As for `unpack`.
    """
    with _open(bundle) as stream:
        return _read_directory(stream, bundle).manifest.text


def _open(path: Path) -> BinaryIO:
    try:
        return open_regular(path)
    except FileNotFoundError:
        raise LpxError(
            f"{path} does not exist", "", "name a file that `lpx pack` wrote", code="not-found"
        ) from None
    except OSError as error:
        raise _unreadable(path, error) from error


def _read_directory(stream: BinaryIO, path: Path) -> _Directory:
    """Read members and manifest of a bundle, and compare them.

    Raises:
        LpxError: It is damaged, or of another format.
    """
    try:
        _check_format(stream, path)
        entries = read_entries(stream)
        manifest = _read_manifest(stream, entries)
        _check_members(entries, manifest.values.members)
    except ArchiveError as error:
        raise _damaged(path, error) from error
    except OSError as error:
        raise _unreadable(path, error) from error
    return _Directory(entries, manifest)


def _unreadable(path: Path, error: OSError) -> LpxError:
    return LpxError(
        f"{path} cannot be read",
        error.strerror or str(error),
        "name a file that `lpx pack` wrote",
        code="damaged",
    )


def _damaged(path: Path, error: ArchiveError) -> LpxError:
    subject = f"{path}: {error.member}" if error.member else f"{path}"
    return LpxError(f"{subject} is damaged", error.reason, _AGAIN, code="damaged")


def _check_target(target: Path) -> None:
    """Refuse a folder that could not be replaced by the workspace.

    Raises:
        LpxError: It is not empty, is not a folder, or is the current one.
    """
    try:
        listed = os.listdir(target)
        current = target.samefile(os.curdir)
    except FileNotFoundError:
        return
    except OSError as error:
        raise unwritable(target, error) from error
    if listed:
        raise LpxError(
            f"{target} is not empty",
            f"a bundle would mix with what it contains: {some(sorted(listed))}",
            "name a new folder",
            code="unwritable",
        )
    if current:
        # It would be replaced by another folder of the same name, and the shell would stay in the
        # old one, which is gone.
        raise LpxError(
            f"{target} is the current folder",
            "it would be replaced while this shell is in it",
            "name a new folder in it",
            code="unwritable",
        )


def _check_format(stream: BinaryIO, path: Path) -> None:
    """Read the format from the first member, which every version of lpx writes alike.

    Raises:
        LpxError: It is not a bundle, or of another format.
    """
    number = read_format(stream)
    if number is None:
        raise LpxError(
            f"{path} is not a bundle of lpx",
            f"a bundle begins with a member {TAG}, which names its format",
            "name a file that `lpx pack` wrote; if this was one, it is damaged: " + _AGAIN,
            code="damaged",
        )
    if number != FORMAT_NUMBER:
        raise LpxError(
            f"{path}: {TAG} names format {number} of bundles",
            f"this version of lpx reads format {FORMAT_NUMBER}",
            "update lpx here, or pack with the version that is installed here",
            code="unsupported",
        )


def _read_manifest(stream: BinaryIO, entries: Sequence[Entry]) -> _Manifest:
    """Read the manifest.

    Raises:
        ArchiveError: It is missing or damaged, or the tag is.
    """
    if len(entries) < 2 or entries[0].name != TAG:
        raise ArchiveError(TAG, "it is not the first member")
    if entries[-1].name != FILE:
        raise ArchiveError(FILE, f"it is not the last member, which is {entries[-1].name}")
    # It was read before, leniently: now byte for byte.
    tag = b"".join(read_content(stream, entries[0]))
    if tag != f"{FORMAT}\n".encode():
        raise ArchiveError(TAG, "it does not name a format as lpx writes it")
    if entries[-1].size > MAX_BYTES:
        raise ArchiveError(FILE, f"it has more than {MAX_BYTES} bytes")
    text = b"".join(read_content(stream, entries[-1]))
    try:
        return _Manifest(from_bytes(text), text)
    except SchemaError as error:
        raise ArchiveError(FILE, str(error)) from error


def _check_members(entries: Sequence[Entry], members: Mapping[str, Member]) -> None:
    """Compare the archive's directory with the manifest.

    Raises:
        ArchiveError: A member is missing, extra, out of order, of another size, or has a name that
            a member cannot have.
    """
    names = MemberNames()
    # Everything is checked before the first file is written: a name that is accepted here is used
    # as a path later.
    before = b""
    content = entries[1:-1]
    for entry in content:
        name = entry.name
        problem = names.add(name)
        if not problem and name not in members:
            problem = f"{FILE} does not list it"
        if not problem and not known_member(name):
            problem = "this version of lpx does not know such a member"
        if not problem and name.encode() <= before:
            problem = "it is not in the order of names"
        if not problem and entry.size != members[name].size:
            problem = f"it has {entry.size} bytes; {FILE} says {members[name].size}"
        if problem:
            raise ArchiveError(name, problem)
        before = name.encode()
    missing = members.keys() - {entry.name for entry in content}
    if missing:
        raise ArchiveError(min(missing), f"{FILE} lists it, and it is missing")


@contextmanager
def _written(
    stream: BinaryIO,
    path: Path,
    entries: Sequence[Entry],
    manifest: _Manifest,
    target: Path,
    reporter: Reporter,
) -> Iterator[Path]:
    """Yield a temporary folder with the members, renamed if the block succeeds.

    Raises:
        LpxError: A member is damaged, or the folder cannot be written.
    """
    # A link to an empty folder is followed: renaming would replace the link itself.
    final = target.resolve()
    temporary: Path | None = None
    progress = reporter.progress(f"unpacking {path.name}, files")
    try:
        _check_space(final, manifest.values)
        # A signal in here would leave the folder behind: defer it until the name is known.
        with interrupts.deferred():
            temporary = _new_folder(final)
        content = entries[1:-1]
        for number, entry in enumerate(content, start=1):
            _write_member(stream, path, entry, manifest.values.members[entry.name], temporary)
            progress(number, len(content))
        with _create(temporary / FILE) as file:
            file.write(manifest.text)
        yield temporary
        # Replaces an empty folder of this name, and fails if it is not empty any more.
        os.rename(temporary, final)
        temporary = None
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)


def _check_scores(path: Path, folder: Path) -> ScoreCheck | None:
    """Check the model's scores of probe faces in the folder that a bundle is being unpacked into.

    Raises:
        LpxError: As for `check_model_scores`; it names the bundle, as the folder will be gone.
    """
    try:
        return check_model_scores(folder)
    except LpxError as error:
        if error.code not in ("damaged", "unsupported"):
            raise
        what = error.what.replace(f"{folder}{os.sep}", f"{path}: ")
        fix = _AGAIN if error.code == "damaged" else error.fix
        raise LpxError(what, error.why, fix, code=error.code) from error


def _check_space(final: Path, manifest: BundleManifest) -> None:
    """Check that the disk has room for all members.

    Raises:
        OSError: It has not, or the folder's parent cannot be created.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    needed = sum(member.size for member in manifest.members.values())
    free = shutil.disk_usage(final.parent).free
    if needed > free:
        raise OSError(errno.ENOSPC, f"it takes {needed} bytes, and {free} are free")


def _new_folder(final: Path) -> Path:
    """Create a folder beside another one.

    Raises:
        OSError: It cannot be created.
    """
    # Not tempfile.mkdtemp: it makes folders that only their owner can enter, and this one stays.
    folder = final.parent / f".{final.name[:16]}.{secrets.token_hex(8)}"
    folder.mkdir()
    return folder


def _write_member(stream: BinaryIO, path: Path, entry: Entry, member: Member, folder: Path) -> None:
    """Write a member, and check it against the manifest.

    Raises:
        LpxError: It is damaged.
        OSError: It cannot be written.
    """
    # `_check_members` has accepted the name: relative, without "..", and unique.
    place = folder / entry.name
    place.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with _create(place) as file:
        for chunk in _read(stream, path, entry):
            digest.update(chunk)
            file.write(chunk)
        if not entry.name.startswith(f"{FACES}/"):
            # After a loss of power the workspace must not have an empty model or engine. Faces are
            # many: one that is lost is named by whatever reads it.
            file.flush()
            sync_handle(file.fileno())
    if digest.hexdigest() != member.sha256:
        raise _damaged(path, ArchiveError(entry.name, f"its SHA-256 is not the one in {FILE}"))


def _read(stream: BinaryIO, path: Path, entry: Entry) -> Iterator[bytes]:
    """Yield the content of a member in pieces.

    Raises:
        LpxError: It is damaged, or cannot be read. An OSError would be taken for one of the folder.
    """
    try:
        yield from read_content(stream, entry)
    except ArchiveError as error:
        raise _damaged(path, error) from error
    except OSError as error:
        raise _unreadable(path, error) from error


def _create(path: Path) -> BinaryIO:
    """Create a file that does not exist yet.

    Raises:
        OSError: It exists, or cannot be created.
    """
    # Nobody else has written there; should somebody have, no link of theirs is followed.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o666), "wb")
