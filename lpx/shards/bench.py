"""Benches in parts: each shard scores some of the faces, and parts become one store of scores.

The store is that of an interrupted bench: `lpx bench` finds all scores in it, and has only costs
left to measure.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from lpx import interrupts
from lpx.artefacts.model import ExportedModel, versions
from lpx.bench.parity.pixels import PixelPlan
from lpx.bench.parity.pixels import digests as pixel_digests
from lpx.bench.parity.run import StagePlan
from lpx.bench.parity.score import Failure
from lpx.bench.parity.score_store import (
    BATCH,
    OF,
    SKIPPED,
    ScoreStore,
    parse_frames,
    scores_file,
)
from lpx.bench.performance.loaded_engine import REFERENCE
from lpx.data.face_sets.face_set import FaceSet
from lpx.data.wording import counted, some
from lpx.engines.manifest import EngineManifest
from lpx.errors import LpxError
from lpx.reporter import Reporter
from lpx.shards.contents import FILE as CONTENTS
from lpx.shards.contents import reopen_if_changed, save_contents, take
from lpx.shards.join import Part, Whole
from lpx.shards.part import PartResult, PartWork, damaged, open_part, read_payload
from lpx.shards.shard import Shard
from lpx.workspace import read_sealed, unwritable, write_sealed

# Faces that stay together: those of a batch, so that batches are those of one machine.
UNIT = BATCH
# The store of scores in a part.
_SCORES = "scores"
# In a joined store: where its scores come from.
_JOINED = "parts.json"
_PACKAGES = ("onnxruntime", "numpy")


def score_inputs(
    model: ExportedModel, faces: FaceSet, packages: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Return what scores depend on besides the engine.

    Args:
        model: The exported model.
        faces: All faces.
        packages: Further packages whose version counts.
    """
    # `ScoreStore` compares all of it: a field that a bench and a merge did not both have would make
    # the bench drop the merged scores.
    return {
        "faces": faces.digest(),
        "count": len(faces.faces),
        "size": model.card.input_size,
        "batch": BATCH,
        "versions": score_versions(packages),
    }


def score_digests(
    model: ExportedModel, manifests: list[EngineManifest], stages: StagePlan
) -> dict[str, str]:
    """Return the SHA-256 of everything that scores faces, by its name in the store."""
    engines = {m.name: m.engine_sha256 for m in manifests}
    between = dict(stages.graphs.digests) if stages.graphs else {}
    pixels = pixel_digests(PixelPlan(stages.pipelines, tuple(engines)), engines)
    return {REFERENCE: model.sha256} | engines | between | pixels


def score_versions(packages: tuple[str, ...]) -> dict[str, str]:
    """Return the versions that scores depend on, by package."""
    return versions(*_PACKAGES, *packages)


# Scores rows of a face set into a store, and returns the engines that failed, see
# `lpx.bench.parity.score.score_rows`.
ScoreRows = Callable[[range, ScoreStore], list[Failure]]


def score_part(
    folder: Path,
    shard: Shard,
    key: Mapping[str, Any],
    faces: FaceSet,
    model: ExportedModel,
    score: ScoreRows,
    reporter: Reporter,
    *,
    about: Mapping[str, Any],
) -> PartResult:
    """Score a shard's share of the faces, into its part.

    Args:
        folder: Folder of the part.
        shard: The shard.
        key: What all parts have in common; `engines` has the SHA-256 of each by name.
        faces: The faces of all shards.
        model: The exported model.
        score: Scores rows of them.
        reporter: Receives notes and warnings.
        about: What is this part's own.

    Raises:
        LpxError: The folder holds something else or cannot be written, a face changed, or the
            reference failed.
    """
    total = len(faces.faces)
    rows = shard.rows(total, UNIT)
    # Of its own faces: the digest of all would make every machine read every file.
    mine = take(faces, rows)
    with open_part(folder, "bench", shard, key, reporter) as work:
        reopen_if_changed(work, mine, reporter)
        if work.manifest.complete:
            reporter.say(f"nothing to do: shard {shard} is finished ({folder})")
        else:
            # Versions are those of the key, with PyTorch's if the checkpoint scores.
            inputs = score_inputs(model, mine) | {"versions": key["versions"]}
            # The store holds indices in the whole set, which a digest of these faces does not fix.
            inputs["rows"] = [rows.start, rows.stop]
            store = ScoreStore(folder / _SCORES, inputs, key["engines"], reporter.say)
            failed = score(rows, store)
            # Before the seal: scores of faces that changed meanwhile are not to be merged.
            mine.check_unchanged("the bench")
            _seal(work, mine, failed, about)
    return PartResult(folder, "bench", shard, len(rows), total, _notes(work))


def _seal(work: PartWork, faces: FaceSet, failed: list[Failure], about: Mapping[str, Any]) -> None:
    save_contents(work, faces)
    names = [CONTENTS]
    engines: dict[str, str] = work.manifest.key["engines"]
    # Not `of.json`, which is about the faces of this shard: a joined store has its own.
    files = [scores_file(name, digest) for name, digest in engines.items()]
    for name in (*files, SKIPPED):
        # Absent if the shard has no faces, the engine failed at once, or all faces were readable.
        if (work.folder / _SCORES / name).is_file():
            names.append(f"{_SCORES}/{name}")
    failures = {one.name: f"{one.during}: {one.reason}" for one in failed}
    work.seal(names, {**about, "failures": failures})


def _notes(work: PartWork) -> tuple[str, ...]:
    notes = []
    for name, reason in (work.manifest.about or {}).get("failures", {}).items():
        notes.append(f"{name} failed: {reason}")
    return tuple(notes)


@dataclass(frozen=True)
class JoinedScores:
    """Where the scores of a store come from.

    Attributes:
        parts: Number of parts; 0 if they were all computed here.
        machines: Machines that made them.
    """

    parts: int = 0
    machines: tuple[str, ...] = ()

    @property
    def machine(self) -> str:
        """The machines in words; "" if the scores were computed here."""
        return some(self.machines)

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for the reader of a report; () if the scores were computed here."""
        if not self.parts:
            return ()
        return (
            f"scores were computed in {counted(self.parts, 'part')} on: {self.machine}; latency, "
            "energy and other costs were measured on the machine of this report only",
        )


def note_machines(folder: Path, parts: int, machines: Iterable[str]) -> None:
    """Note in a store that its scores were computed in parts, and where.

    Raises:
        LpxError: The folder cannot be written.
    """
    write_sealed(folder / _JOINED, {"parts": parts, "machines": list(machines)})


def read_joined(folder: Path) -> JoinedScores:
    """Return where the scores of a store come from."""
    try:
        values = read_sealed(folder / _JOINED, "lpx merge")
        return JoinedScores(int(values["parts"]), tuple(map(str, values["machines"])))
    except (LpxError, KeyError, TypeError, ValueError):
        # Damaged or absent: a note is lost, but no score.
        return JoinedScores()


@dataclass
class _Joined:
    """A store while parts are joined into it.

    Attributes:
        stopped: Part at which an engine failed, by the engine's name.
    """

    folder: Path
    stopped: dict[str, Part] = field(default_factory=dict)


def join_scores(
    whole: Whole, inputs: Mapping[str, Any], target: Path, reporter: Reporter
) -> tuple[str, ...]:
    """Join the scores of parts into a store, byte by byte that of a bench on one machine.

    Memory does not grow with the number of faces.

    Args:
        whole: All parts.
        inputs: What the scores depend on, for the store; see `score_inputs`.
        target: Folder of the store; scores of an interrupted bench in it are replaced.
        reporter: Receives progress and notes.

    Returns:
        Notes on engines that failed in a part.

    Raises:
        LpxError: A part is damaged, or the folder cannot be written.
    """
    progress = reporter.progress("merging parts")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, as a rename works within one file system only. The store is a folder
        # inside, since the block removes the temporary one at its end.
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as name:
            joined = _Joined(Path(name) / "store")
            joined.folder.mkdir()
            # In the order of the shards: files are only appended to.
            for done, part in enumerate(whole.parts, 1):
                _append(joined, whole, part, int(inputs["count"]))
                progress(done, len(whole.parts))
            write_sealed(joined.folder / OF, inputs)
            note_machines(joined.folder, len(whole.parts), whole.machines())
            if target.exists():
                reporter.say(f"scores of an interrupted bench in {target} are replaced")
            with interrupts.deferred():
                # Between the two the scores are in the parts only, from which this can be repeated.
                # Errors are ignored here: the rename fails if anything was left.
                shutil.rmtree(target, ignore_errors=True)
                os.rename(joined.folder, target)
    except OSError as error:
        raise unwritable(target, error) from error
    notes = []
    for engine, part in joined.stopped.items():
        reason = _failures(part)[engine]
        notes.append(
            f"{engine} failed in part {part.manifest.shard} ({reason}): `lpx bench` scores it "
            "again from there"
        )
    return tuple(notes)


def _append(joined: _Joined, whole: Whole, part: Part, total: int) -> None:
    """Append the scores of a part to a store."""
    rows = part.manifest.shard.rows(total, UNIT)
    there = {file.name for file in part.manifest.files}
    failures = _failures(part)
    scored: bytes | None = None
    for engine, digest in whole.key["engines"].items():
        # After a gap a bench would take an engine for one that has scored everything.
        if engine in joined.stopped:
            continue
        file = scores_file(engine, digest)
        # For an engine without a file too, which is then seen to lack what others scored.
        frames = _Frames(part, rows)
        if f"{_SCORES}/{file}" in there:
            with open(joined.folder / file, "ab") as stream:
                _copy(part, f"{_SCORES}/{file}", stream, frames)
        # After its scores are taken: those before the failure are good. They end early, and so
        # are not compared with the others'.
        if engine in failures:
            joined.stopped[engine] = part
            continue
        if scored is not None and frames.digest() != scored:
            damaged(part.folder, part.manifest, f"{engine} scored other faces than the others")
        scored = frames.digest()
    if f"{_SCORES}/{SKIPPED}" in there:
        with open(joined.folder / SKIPPED, "ab") as stream:
            _copy(part, f"{_SCORES}/{SKIPPED}", stream, None)


def _failures(part: Part) -> dict[str, str]:
    failures = part.about.get("failures")
    if not isinstance(failures, dict):
        damaged(part.folder, part.manifest, "it does not say which engines failed")
    return failures


def _copy(part: Part, name: str, stream: BinaryIO, frames: _Frames | None) -> None:
    def pass_on(piece: bytes) -> None:
        if frames is not None:
            frames.add(piece)
        stream.write(piece)

    # Pieces are written before their digest is known: if it is wrong, the error leaves a temporary
    # folder, and the target as it was.
    read_payload(part.folder, part.manifest, part.file(name), pass_on)
    if frames is not None:
        frames.end()


class _Frames:
    """Checks the batches of a file of scores while it is copied.

    Args:
        part: The part, for errors.
        rows: Faces that may be in it.
    """

    def __init__(self, part: Part, rows: range) -> None:
        self._part = part
        self._rows = rows
        self._rest = b""
        # The face before the shard's first, so that one comparison covers the lower bound as well.
        self._last = rows.start - 1
        self._indices = hashlib.sha256()

    def add(self, piece: bytes) -> None:
        """Check the batches that end in a piece of the file."""
        data = self._rest + piece
        frames, end = parse_frames(data)
        # A damaged batch ends the parsing like one that is cut off: `end` refuses both.
        self._rest = data[end:]
        for indices, _ in frames:
            # Digests do not show this: a part that was passed off as another shard's is intact,
            # and its faces would count twice.
            whole = np.concatenate([[self._last], indices])
            if not (np.diff(whole) > 0).all() or whole[-1] >= self._rows.stop:
                self._refuse("it has scores of other faces than its shard's")
            self._last = int(whole[-1])
            self._indices.update(indices.tobytes())

    def end(self) -> None:
        """Check that the file ends with a whole batch."""
        if self._rest:
            self._refuse("a file of scores is cut short")

    def digest(self) -> bytes:
        """Return a digest of the faces that have scores."""
        return self._indices.digest()

    def _refuse(self, why: str) -> None:
        damaged(self._part.folder, self._part.manifest, why)
