"""Pack a workspace into one file for another machine."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import lpx
from lpx.arguments import check_at_least, several
from lpx.artefacts.model import ExportedModel, open_faces, read_exported
from lpx.artefacts.select_engine import check_model, engine_folders, find_engine
from lpx.bundle.archive import CHUNK, ArchiveError, ArchiveWriter, Written
from lpx.bundle.face_members import FaceMembers, face_members
from lpx.bundle.manifest import (
    ENGINES,
    FILE,
    FORMAT,
    TAG,
    BundleManifest,
    Member,
    PackedFaces,
    known_member,
    read_format,
    to_bytes,
)
from lpx.bundle.names import MemberNames
from lpx.bundle.probe import make_probe, probe_members, tolerance_elsewhere
from lpx.bundle.recording_members import recording_members
from lpx.bundle.sources import Source, bytes_source, file_source, open_regular
from lpx.calibration.scales import read_scales
from lpx.data.face_sets.face_set import FaceSet
from lpx.data.images.decode import UnreadableImageError
from lpx.data.roots import DataPlaces
from lpx.data.wording import counted, some
from lpx.engines.load import GRAPH
from lpx.engines.manifest import FILE as ENGINE_MANIFEST
from lpx.engines.manifest import EngineManifest, read_manifest
from lpx.errors import LpxError
from lpx.reporter import SILENT, Reporter
from lpx.workspace import WorkspaceFolder, atomic_path, read_sealed

# List of the faces that `lpx calibrate` chose.
CALIBRATION_FACES = "calibration-faces.json"
# Files of an engine beside its own and its manifest. What a library caches where an engine runs
# (kernels, timings) is code for that GPU, which no digest covers: it stays behind.
_BESIDE_ENGINE = (GRAPH, "calibration.cache")


@dataclass(frozen=True)
class PackOptions:
    """Choice of what to pack.

    Attributes:
        out: File to write.
        faces: Face set to bench on; None for none.
        limit: Maximum number of faces, sampled evenly; None for all.
        engines: Engines to include, by name; None for all of the exported model.
        checkpoint: Include the PyTorch checkpoint.
    """

    out: Path
    faces: str | None
    limit: int | None
    engines: str | Sequence[str] | None
    checkpoint: bool


@dataclass(frozen=True)
class PackResult:
    """A bundle that was written.

    Attributes:
        path: The bundle.
        size_bytes: Its size, bytes.
        manifest: What it contains.
        left_out: Engines that were left out, as they are of another model; by name, sorted.
        unreadable: Names of faces that were left out, as they cannot be read.
    """

    path: Path
    size_bytes: int
    manifest: BundleManifest
    left_out: tuple[str, ...]
    unreadable: tuple[str, ...]


@dataclass(frozen=True)
class _Faces:
    """The face set to pack, its members, and what the manifest says of it."""

    set: FaceSet
    members: FaceMembers
    packed: PackedFaces


class _Engines(NamedTuple):
    """Engines to pack, and names of those that are left out, sorted."""

    packed: tuple[EngineManifest, ...]
    left_out: tuple[str, ...]


def pack(
    workspace: WorkspaceFolder,
    options: PackOptions,
    *,
    places: DataPlaces = DataPlaces(),  # noqa: B008 (frozen)
    reporter: Reporter = SILENT,
) -> PackResult:
    """Implement `lpx.Workspace.pack`, which documents arguments and errors."""
    check_at_least("limit", options.limit, 1)
    _check_replaceable(options.out)
    model = read_exported(workspace)
    with workspace.lock():
        engines = _choose_engines(workspace, model, options.engines)
        if engines.left_out:
            reporter.warn(f"engines of another model are left out: {some(engines.left_out)}")
        faces = _open(workspace, model, options, places, reporter)
        chosen = faces.set if faces else open_faces(workspace, "demo", "test")
        probe = make_probe(chosen, model, tolerance_elsewhere(workspace))
        sources = [
            *_top_files(workspace, model, checkpoint=options.checkpoint),
            *_engine_files(workspace, engines.packed),
            *recording_members(workspace, model, faces.set if faces else None, reporter),
            *probe_members(probe, engines.packed, workspace.engines),
            *(faces.members.sources if faces else ()),
        ]
        # In bytes, as UTF-8: the order must not depend on this machine's language.
        sources.sort(key=lambda source: source.name.encode())
        manifest = _write(
            options.out,
            sources,
            model.sha256,
            tuple(sorted(engine.name for engine in engines.packed)),
            faces.packed if faces else None,
            reporter,
        )
    size = options.out.stat().st_size
    unreadable = faces.members.unreadable if faces else ()
    return PackResult(options.out, size, manifest, engines.left_out, unreadable)


def _check_replaceable(out: Path) -> None:
    """Refuse to write over a file that is not a bundle: it may be the user's checkpoint.

    Raises:
        LpxError: It is such a file, or a folder.
    """
    if not os.path.lexists(out):
        return
    kind = "a folder"
    if not out.is_dir():
        try:
            with open_regular(out) as stream:
                if read_format(stream) is not None:
                    return
        except OSError:
            pass
        kind = "not a bundle"
    raise LpxError(
        f"{out} exists, and is {kind}",
        "the bundle would replace it",
        "use another name with `out`, or remove it",
        code="unwritable",
    )


def _choose_engines(
    workspace: WorkspaceFolder, model: ExportedModel, names: str | Sequence[str] | None
) -> _Engines:
    """Choose the engines to pack; by default those of another model are left out.

    Raises:
        LpxError: A named engine does not exist or is of another model, or a manifest is damaged.
    """
    manifests = {}
    for folder in engine_folders(workspace):
        manifest = read_manifest(folder)
        manifests[manifest.name] = manifest
    of_model = {}
    for name, manifest in manifests.items():
        if manifest.model_sha256 == model.sha256:
            check_model(workspace, manifest, model)
            of_model[name] = manifest
    if names is None:
        left_out = tuple(sorted(manifests.keys() - of_model.keys()))
        return _Engines(tuple(of_model.values()), left_out)
    chosen = dict.fromkeys(several("engines", names))
    for name in chosen:
        manifest = manifests[find_engine(workspace, name).name]
        check_model(workspace, manifest, model)
    return _Engines(tuple(of_model[name] for name in chosen), ())


def _open(
    workspace: WorkspaceFolder,
    model: ExportedModel,
    options: PackOptions,
    places: DataPlaces,
    reporter: Reporter,
) -> _Faces | None:
    """Open the face set to pack.

    Raises:
        LpxError: The set does not exist, or none of its faces can be read.
    """
    if options.faces is None:
        return None
    whole = open_faces(
        workspace, options.faces, "test", places=places, card=model.card, reporter=reporter
    )
    faces = whole.first(options.limit)
    if len(faces.faces) < len(whole.faces):
        reporter.say(
            f"packing {len(faces.faces)} of {len(whole.faces)} faces of {whole.name}, sampled "
            "evenly (`limit`)"
        )
    members = face_members(faces)
    if not members.count:
        raise LpxError(
            f"none of {counted(len(faces.faces), 'face')} of {faces.name} can be read",
            f"the first is {faces.faces[0].name}",
            "check the file permissions, or use other faces",
        )
    if members.unreadable:
        reporter.warn(
            f"{len(members.unreadable)} of {len(faces.faces)} faces cannot be read and are left "
            f"out: {some(members.unreadable)}"
        )
    packed = PackedFaces(whole.name, whole.split, whole.crop, members.count, len(whole.faces))
    return _Faces(faces, members, packed)


def _top_files(
    workspace: WorkspaceFolder, model: ExportedModel, *, checkpoint: bool
) -> Iterator[Source]:
    """Yield the files at the top of a workspace.

    Raises:
        LpxError: The checkpoint is asked for and missing, or the scales are damaged.
    """
    # The bytes that were checked, not the file, which may be replaced meanwhile.
    yield bytes_source("model.onnx", model.data)
    yield file_source("model.json", workspace.model.with_suffix(".json"))
    if os.path.lexists(workspace.scales):
        # Damaged scales are better noticed here than on the other machine.
        read_scales(workspace.scales)
        yield file_source("scales.json", workspace.scales)
    chosen = workspace.root / CALIBRATION_FACES
    if os.path.lexists(chosen):
        read_sealed(chosen, "lpx calibrate")
        yield file_source(CALIBRATION_FACES, chosen)
    if checkpoint:
        if not workspace.reference.is_file():
            raise LpxError(
                f"{workspace.reference} does not exist",
                "the bundle was to include it",
                "run `lpx export` again, or leave out `checkpoint`",
                code="not-found",
            )
        yield file_source("reference.pt", workspace.reference)


def _engine_files(
    workspace: WorkspaceFolder, engines: Sequence[EngineManifest]
) -> Iterator[Source]:
    """Yield the files of engines."""
    for engine in engines:
        folder, below = workspace.engines / engine.name, f"{ENGINES}/{engine.name}"
        yield file_source(f"{below}/{ENGINE_MANIFEST}", folder / ENGINE_MANIFEST)
        yield file_source(f"{below}/{engine.file}", folder / engine.file, engine.engine_sha256)
        for name in _BESIDE_ENGINE:
            if name != engine.file and os.path.lexists(folder / name):
                # Engines of earlier versions do not have a digest of their graph.
                digest = engine.options.get("graph_sha256") if name == GRAPH else None
                yield file_source(f"{below}/{name}", folder / name, digest or "")


def _write(
    out: Path,
    sources: Sequence[Source],
    model_sha256: str,
    engines: tuple[str, ...],
    faces: PackedFaces | None,
    reporter: Reporter,
) -> BundleManifest:
    """Write a bundle, and return its manifest.

    Raises:
        LpxError: A member cannot be read or has changed, or the bundle cannot be written.
    """
    _check_names(sources)
    progress = reporter.progress(f"packing {out.name}, files")
    members: dict[str, Member] = {}
    with atomic_path(out) as temporary, temporary.open("wb") as stream:
        writer = ArchiveWriter(stream)
        _add(writer, bytes_source(TAG, f"{FORMAT}\n".encode()))
        for number, source in enumerate(sources, start=1):
            written = _add(writer, source)
            members[source.name] = Member(written.size, written.sha256)
            progress(number, len(sources))
        # Last, so that each file is read once: its digest is known when it was written.
        manifest = BundleManifest(lpx.__version__, model_sha256, engines, faces, members)
        _add(writer, bytes_source(FILE, to_bytes(manifest)))
        writer.finish()
    return manifest


def _add(writer: ArchiveWriter, source: Source) -> Written:
    """Write a member.

    Raises:
        LpxError: It cannot be read, is too large, or is not what it has to be.
        OSError: The bundle cannot be written.
    """
    try:
        written = writer.add(source.name, _read(source))
    except ArchiveError as error:
        raise LpxError(
            f"{source.name} cannot be packed", error.reason, "pack fewer or smaller files"
        ) from error
    # The file was read once, for the bundle and for its digest: nothing can change in between.
    if source.sha256 not in ("", written.sha256):
        raise LpxError(
            f"{source.name} is not the file that its manifest describes",
            f"its SHA-256 begins with {written.sha256[:12]}, not {source.sha256[:12]}",
            "it was altered or damaged: run `lpx build` again",
            code="damaged",
        )
    return written


def _read(source: Source) -> Iterator[bytes]:
    """Yield the content of a member in pieces.

    Raises:
        LpxError: It cannot be read. An OSError would be taken for one of the bundle.
    """
    try:
        with source.open() as stream:
            while chunk := stream.read(CHUNK):
                yield chunk
    except (OSError, UnreadableImageError) as error:
        why = str(error)
        if isinstance(error, OSError) and error.strerror:
            why = error.strerror
        raise LpxError(
            f"{source.name} cannot be packed",
            f"it cannot be read: {why}",
            "check that the file exists, and its permissions",
        ) from error


def _check_names(sources: Sequence[Source]) -> None:
    """Refuse names that would not survive on another file system.

    Raises:
        LpxError: A name is of that kind.
    """
    names = MemberNames()
    for source in sources:
        problem = names.add(source.name)
        if not problem and not known_member(source.name):
            problem = "it is not part of a workspace"
        if problem:
            raise LpxError(
                f"{source.name} cannot be packed",
                problem,
                "rename it, or move it out of the workspace",
            )
