"""A bundle used as a workspace: it is unpacked once, into a folder beside it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NoReturn

from lpx import interrupts
from lpx.bundle.manifest import ENGINES, FILE, Member, from_bytes, read_format
from lpx.bundle.sources import open_regular
from lpx.bundle.unpack import manifest_bytes, unpack
from lpx.errors import LpxError
from lpx.reporter import SILENT, Reporter
from lpx.schema import MAX_BYTES, SchemaError
from lpx.swap import swap
from lpx.workspace import locked, read_regular, sha256

# What is appended to the bundle's name for its folder.
SUFFIX = ".d"
# At the top of a workspace, and in the folder of an engine: files that are made again, not results.
_REMADE = frozenset({".lock", FILE, "timing-caches"})
_REMADE_IN_ENGINE = frozenset({"kernels.cache", "cache"})


def workspace_of(bundle: Path, reporter: Reporter = SILENT) -> Path:
    """Return the workspace of a bundle, unpacked beside it if that was not done before.

    If the bundle has changed since, it is unpacked again. The folder of the earlier one is kept
    under a number if it has files that did not come with it, such as reports and rebuilt engines.

    Args:
        bundle: A file that `Workspace.pack` wrote.
        reporter: Receives notes and progress.

    Returns:
        `<bundle>.d`, beside the bundle.

    Raises:
        LpxError: The bundle is damaged, or the folder cannot be written (code "unwritable").
    """
    folder = bundle.with_name(bundle.name + SUFFIX)
    _check_is_bundle(bundle)
    text = manifest_bytes(bundle)
    if _is_of(folder, text):
        return folder
    try:
        if not folder.is_dir() or not os.listdir(folder):
            reporter.say(f"unpacking {bundle} into {folder}")
            unpack(bundle, folder, reporter=reporter)
        else:
            _replace(bundle, folder, reporter)
    except LpxError as error:
        # Another process may have unpacked it meanwhile.
        if error.code in ("unwritable", "in-use") and _is_of(folder, text):
            return folder
        if error.code == "unwritable":
            raise _elsewhere(bundle, folder, error) from error
        raise
    except OSError as error:
        raise _elsewhere(bundle, folder, error) from error
    return folder


def _check_is_bundle(path: Path) -> None:
    """Refuse a file that is not a bundle: it was named by mistake.

    Raises:
        LpxError: The file does not begin as bundles do.
    """
    try:
        with open_regular(path) as stream:
            if read_format(stream) is not None:
                return
    except OSError:
        # Reading the manifest says what is wrong.
        return
    raise LpxError(
        f"{path} is a file, and not a bundle",
        "a workspace is a folder, or a bundle that `lpx pack` wrote, which begins otherwise",
        "use a folder; if the file was a bundle, copy it again",
        code="damaged",
    )


def _is_of(folder: Path, text: bytes) -> bool:
    """Return whether a folder was unpacked from the bundle with this manifest."""
    try:
        return read_regular(folder / FILE, limit=MAX_BYTES) == text
    except OSError:
        return False


def _elsewhere(bundle: Path, folder: Path, error: Exception) -> LpxError:
    why = str(error)
    if isinstance(error, LpxError):
        why = error.why
    elif isinstance(error, OSError) and error.strerror:
        why = error.strerror
    return LpxError(
        f"{bundle} cannot be unpacked into {folder}",
        f"a bundle that is used as a workspace is unpacked beside it, and there: {why}",
        f"unpack it elsewhere with `lpx unpack {bundle} -w FOLDER`, and use that folder",
        code="unwritable",
    )


def _replace(bundle: Path, folder: Path, reporter: Reporter) -> None:
    """Unpack a bundle in place of the folder of an earlier one.

    Raises:
        LpxError: The folder is not a bundle's or is in use, or the bundle is damaged.
        OSError: A folder cannot be renamed.
    """
    members = _members(folder)
    if members is None:
        raise LpxError(
            f"{folder} is not the workspace of a bundle",
            f"{bundle} would be unpacked there; it has no {FILE} that this version of lpx reads",
            f"rename it, or unpack elsewhere with `lpx unpack {bundle} -w FOLDER`",
        )
    staging = folder.with_name(f".{folder.name}.new")
    with locked(folder, "workspace", "copy the bundle to another folder"):
        if os.path.lexists(staging):
            # Of a call that was killed: the new folder, or the old one after the exchange.
            _put_aside(staging, folder, _members(staging) or {}, reporter)
        reporter.say(f"{bundle} has changed: unpacking it again into {folder}")
        unpack(bundle, staging, reporter=reporter)
        with interrupts.deferred():
            swap(staging, folder)
            _put_aside(staging, folder, members, reporter)


def _members(folder: Path) -> Mapping[str, Member] | None:
    """Return the members of the bundle that a folder was unpacked from; None if it was not."""
    try:
        return from_bytes(read_regular(folder / FILE, limit=MAX_BYTES)).members
    except (OSError, SchemaError):
        return None


def _put_aside(old: Path, folder: Path, members: Mapping[str, Member], reporter: Reporter) -> None:
    """Remove an earlier folder; keep it under a number if it has files of the user's own.

    Raises:
        OSError: It cannot be renamed.
    """
    if not has_own_files(old, members):
        shutil.rmtree(old, ignore_errors=True)
        return
    number = 1
    while os.path.lexists(folder.with_name(f"{folder.name}.{number}")):
        number += 1
    kept = folder.with_name(f"{folder.name}.{number}")
    os.rename(old, kept)
    reporter.warn(f"results and engines that were made with the earlier bundle are kept in {kept}")


def has_own_files(folder: Path, members: Mapping[str, Member]) -> bool:
    """Return whether an unpacked folder has files that did not come with the bundle.

    Args:
        folder: The folder.
        members: Members of the bundle, by name.
    """
    unchanged = []
    try:
        for path in _files(folder):
            member = members.get(path.relative_to(folder).as_posix())
            if member is None or path.is_symlink() or path.stat().st_size != member.size:
                return True
            unchanged.append((path, member))
        # Reading takes long; sizes are compared first.
        return any(sha256(path) != member.sha256 for path, member in unchanged)
    except OSError:
        # What cannot be read may be the user's.
        return True


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files and links of a workspace whose loss would cost more than time.

    Raises:
        OSError: A folder cannot be read.
    """
    for parent, folders, files in os.walk(folder, onerror=_raise):
        remade: frozenset[str] = frozenset()
        if Path(parent) == folder:
            remade = _REMADE
        elif Path(parent).parent == folder / ENGINES:
            remade = _REMADE_IN_ENGINE
        folders[:] = [name for name in folders if name not in remade]
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for name in (*links, *files):
            if name not in remade:
                yield Path(parent, name)


def _raise(error: OSError) -> NoReturn:
    raise error
