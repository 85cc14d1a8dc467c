"""`bundle.json`: the members of a bundle with their SHA-256, and what they are."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import BinaryIO

from lpx.bundle.archive import MAX_MEMBER_BYTES, MAX_MEMBERS, read_first
from lpx.schema import MAX_BYTES, SchemaError, in_range, parse_json, read_record, sealed, unsealed
from lpx.workspace import WorkspaceFolder, read_regular, sha256

FORMAT = "lpx-bundle/1"
# First member: the format alone, so that any version of lpx can read which one it is.
TAG = "FORMAT"
# Its maximum size: another file may begin like an archive.
_MAX_TAG_BYTES = 64
# Last member: the manifest. It stays in the unpacked workspace.
FILE = "bundle.json"
# Members that every bundle has.
REQUIRED = ("model.onnx", "model.json")
# Members that a bundle may have at its top.
FILES = (*REQUIRED, "scales.json", "calibration-faces.json", "reference.pt")
ENGINES, FACES, PROBE, REFERENCE = "engines", "faces", "probe", "reference"
# Folders that a bundle may have at its top.
FOLDERS = (ENGINES, FACES, PROBE, REFERENCE)
# Maximum size of all members together.
MAX_TOTAL_BYTES = 256 << 30
# Few digits: int() of a text without end would take long.
_NUMBER = re.compile(r"lpx-bundle/(\d{1,9})")


@dataclass(frozen=True)
class Member:
    """A member: its size in bytes, and the SHA-256 of its content."""

    size: int
    sha256: str


@dataclass(frozen=True)
class PackedFaces:
    """The face set in `faces/`.

    Attributes:
        name: Name of the set that the faces were taken from.
        split: Split of that set.
        crop: Crop recipe; "unknown" if the set does not say.
        count: Number of faces.
        total: Number of faces in the set.
    """

    name: str
    split: str
    crop: str
    count: int
    total: int


@dataclass(frozen=True)
class BundleManifest:
    """Contents of a bundle.

    Attributes:
        lpx: Version of lpx that packed it.
        model_sha256: SHA-256 of the exported model.
        engines: Names of the engines, sorted.
        faces: The face set; None if there is none.
        members: All members but the tag and the manifest itself, by name.
    """

    lpx: str
    model_sha256: str
    engines: tuple[str, ...]
    faces: PackedFaces | None
    members: Mapping[str, Member]


def to_bytes(manifest: BundleManifest) -> bytes:
    """Return the content of `bundle.json`."""
    values = sealed({"format": FORMAT, **asdict(manifest)})
    return (json.dumps(values, indent=1) + "\n").encode()


def from_bytes(data: bytes) -> BundleManifest:
    """Read `bundle.json`.

    Raises:
        SchemaError: It is damaged, of another format, or contradicts itself.
    """
    values = unsealed(parse_json(data))
    if values.pop("format", None) != FORMAT:
        raise SchemaError(f"expected format {FORMAT}")
    manifest = read_record(BundleManifest, values)
    # The archive is checked for these too; here they guard whoever reads `bundle.json` later.
    if len(manifest.members) > MAX_MEMBERS:
        raise SchemaError(f"it lists more than {MAX_MEMBERS} members")
    for name, member in manifest.members.items():
        in_range(member.size, 0, MAX_MEMBER_BYTES, f"the size of {name[:100]}")
        if not re.fullmatch("[0-9a-f]{64}", member.sha256):
            raise SchemaError(f"{name[:100]} has no SHA-256")
    if sum(member.size for member in manifest.members.values()) > MAX_TOTAL_BYTES:
        raise SchemaError(f"its members have more than {MAX_TOTAL_BYTES} bytes together")
    _check_contents(manifest)
    return manifest


def _check_contents(manifest: BundleManifest) -> None:
    """Compare the list of members with what the manifest says of them.

    Raises:
        SchemaError: They contradict each other.
    """
    members = manifest.members
    for name in REQUIRED:
        if name not in members:
            raise SchemaError(f"{name} is not among its members")
    if members["model.onnx"].sha256 != manifest.model_sha256:
        raise SchemaError("model.onnx is not the model that it names")
    # What the manifest says is shown to people and used to choose engines: it must be there.
    folders = {name.split("/")[1] for name in members if name.startswith(f"{ENGINES}/")}
    if folders != set(manifest.engines):
        raise SchemaError("its engines are not those among its members")
    if (f"{FACES}/faces.csv" in members) != (manifest.faces is not None):
        raise SchemaError("its faces are not those among its members")


def known_member(name: str) -> bool:
    """Return whether this version of lpx knows what to do with a member."""
    top, _, below = name.partition("/")
    return top in FOLDERS if below else name in FILES


def read_format(stream: BinaryIO) -> int | None:
    """Return the number of a bundle's format; None if the file is not a bundle.

    Args:
        stream: The file. It may be of any format: all versions of lpx write the first member alike.

    Raises:
        OSError: It cannot be read.
    """
    name, content = read_first(stream, _MAX_TAG_BYTES)
    if name != TAG:
        return None
    return _number(content.decode(errors="replace"))


def _number(text: str) -> int | None:
    match = _NUMBER.fullmatch(text.strip())
    return int(match[1]) if match else None


FORMAT_NUMBER = _number(FORMAT)
"""The format that this version of lpx writes and reads."""


def came_with_bundle(workspace: WorkspaceFolder, name: str) -> bool:
    """Return whether a file of a workspace is the very one of the bundle that it came from.

    Args:
        workspace: The workspace.
        name: Name of the file below its folder.
    """
    if not workspace.bundle.is_file():
        return False
    try:
        manifest = from_bytes(read_regular(workspace.bundle, limit=MAX_BYTES))
    except (OSError, SchemaError):
        # It is a note about the past, and no reason not to work: the file is then treated as if
        # it had been made here.
        return False
    member = manifest.members.get(name)
    return member is not None and member.sha256 == sha256(workspace.root / name)
