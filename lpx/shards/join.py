"""Several parts, checked to be those of one whole before any of them is used."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lpx.data.wording import counted, some
from lpx.errors import LpxError
from lpx.schema import sealed, unsealed
from lpx.shards.part import (
    COMMANDS,
    FILE,
    Kind,
    PartFile,
    PartManifest,
    command_of,
    damaged,
    difference,
    read_part,
)

# Machines that a note names.
_NAMED = 3


@dataclass(frozen=True)
class Part:
    """A part of a whole.

    Attributes:
        folder: Its folder.
        manifest: Its manifest, without the key, which is that of the whole.
    """

    folder: Path
    manifest: PartManifest

    @property
    def about(self) -> Mapping[str, Any]:
        """What is this part's own."""
        return self.manifest.about or {}

    def file(self, name: str) -> PartFile:
        """Return a file of its payload.

        Raises:
            LpxError: It has no such file.
        """
        for file in self.manifest.files:
            if file.name == name:
                return file
        damaged(self.folder, self.manifest, f"it has no {name}")


@dataclass(frozen=True)
class Whole:
    """All parts of a whole.

    Attributes:
        kind: The step.
        key: What they have in common.
        parts: In the order of their shards.
    """

    kind: Kind
    key: Mapping[str, Any]
    parts: tuple[Part, ...]

    def machines(self) -> tuple[str, ...]:
        """Return the machines that made the parts, sorted."""
        return tuple(sorted({str(part.about.get("machine", "unknown")) for part in self.parts}))

    def machine_note(self) -> str:
        """Say that the parts come from unlike machines; "" if they do not."""
        machines = self.machines()
        if len(machines) < 2:
            return ""
        return (
            f"the parts come from {len(machines)} kinds of machines ({some(machines, _NAMED)}): "
            "unlike processors and GPUs round differently, so that results may differ from those "
            "of one machine in their last digits"
        )


def open_whole(places: Sequence[Path]) -> Whole:
    """Read parts, and check that they are all of one whole.

    Payloads are checked for their size only: they are read where they are used.

    Args:
        places: Folders of parts, in any order; or folders that hold such folders.

    Raises:
        LpxError: One is no part, damaged, unfinished, given twice, or of another whole; or parts
            are missing.
    """
    folders = list(_expanded(places))
    first: PartManifest | None = None
    members: dict[int, Part] = {}
    for folder in folders:
        found = read_part(folder)
        if first is None:
            first, home = found, folder
        _check_alike(folder, found, home, first)
        if (twin := members.get(found.index)) is not None:
            raise LpxError(
                f"part {found.shard} is given twice",
                _places(twin.folder, folder),
                "name each part once; remove the older of two copies",
            )
        # A thousand equal keys, each perhaps with a long list of missing videos, are not kept.
        members[found.index] = Part(folder, replace(found, key={}))
    if first is None:
        raise LpxError("there is no part to merge", "", "name the folders of all parts")
    _check_all_there(first, members)
    # By number, as merges append in this order: by name, "10-of-12" is before "2-of-12".
    whole = Whole(first.kind, first.key, tuple(members[index] for index in range(first.count)))
    # A copy that was cut short is found here before anything is written, without reading payloads
    # that may be large.
    for part in whole.parts:
        _check_sizes(part)
    return whole


def check_key(whole: Whole, ours: Mapping[str, Any]) -> None:
    """Check that parts are of what the merging machine has.

    Args:
        whole: All parts.
        ours: The key that a shard would have here.

    Raises:
        LpxError: They are of another model, other faces, or another version.
    """
    # Through JSON, as the parts' key has been: a tuple never equals the list that it became.
    plain = unsealed(sealed(ours))
    if plain != whole.key:
        raise LpxError(
            "the parts are not of this workspace and these faces",
            f"they are of {difference(whole.key, plain)}",
            "merge in the workspace that the shards had, with the same versions; name the faces if "
            "they have another place here (`faces`)",
        )


def _expanded(places: Sequence[Path]) -> Iterator[Path]:
    """Yield folders of parts; of a folder that is none itself, those in it."""
    for place in places:
        inside: list[Path] = []
        if place.is_dir() and not (place / FILE).is_file():
            inside = sorted(path.parent for path in place.glob(f"*-of-*/{FILE}"))
        # A place without parts is passed on, so that the error of `read_part` names it.
        yield from inside or [place]


def _check_alike(folder: Path, found: PartManifest, home: Path, first: PartManifest) -> None:
    """Refuse a part of another whole than the first one."""
    if not found.complete:
        raise LpxError(
            f"part {found.shard} in {folder} is not finished",
            "its shard was interrupted, or is still at work",
            f"run {command_of(found)} again: it resumes",
        )
    # The plainest difference first: keys of two commands differ in everything.
    if found.kind != first.kind:
        why = f"the first is of `{COMMANDS[first.kind]}`, the second of `{COMMANDS[found.kind]}`"
    elif found.count != first.count:
        why = f"the first is one of {first.count}, the second one of {found.count}"
    elif found.key != first.key:
        why = f"the second is of {difference(found.key, first.key)}"
    else:
        return
    raise LpxError(
        f"part {first.shard} in {home} and part {found.shard} in {folder} do not belong together",
        why,
        "name the parts of one run only, all made with the same options, versions and files",
    )


def _places(one: Path, other: Path) -> str:
    # One folder under two names, such as a link and its target, must not be taken for two copies,
    # of which the user would remove one.
    if os.path.realpath(one) == os.path.realpath(other):
        return f"both are {other}"
    return f"it is in {one} and in {other}"


def _check_all_there(first: PartManifest, members: Mapping[int, Part]) -> None:
    missing = []
    for index in range(first.count):
        if index not in members:
            missing.append(replace(first, index=index))
    if not missing:
        return
    names = [str(part.shard) for part in missing]
    raise LpxError(
        f"{counted(len(missing), 'part')} of {first.count} {'is' if len(missing) == 1 else 'are'} "
        f"missing: {some(names, 10)}",
        "a result of some of the parts would look like one of all",
        f"run {command_of(missing[0])}, and name its part too",
        code="not-found",
    )


def _check_sizes(part: Part) -> None:
    for file in part.manifest.files:
        path = part.folder / file.name
        try:
            size = path.stat().st_size
        except OSError as error:
            damaged(part.folder, part.manifest, f"{file.name}: {error.strerror or error}")
        if size != file.size:
            damaged(part.folder, part.manifest, f"{file.name} has {size} bytes, not {file.size}")
