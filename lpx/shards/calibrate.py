"""Calibration in parts: each shard observes some of the chosen faces, and parts add up exactly."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lpx.calibration.observe import Observation, observe
from lpx.calibration.observed_model import LARGEST_BATCH
from lpx.calibration.progress import PassProgress, load_progress, save_progress
from lpx.data.face_sets.face_set import FaceSet
from lpx.reporter import Reporter
from lpx.shards.contents import FILE as CONTENTS
from lpx.shards.contents import reopen_if_changed, save_contents, take
from lpx.shards.join import Part, Whole
from lpx.shards.part import PartResult, PartWork, damaged, open_part, read_payload
from lpx.shards.shard import Shard

# Faces that stay together: those of a batch.
UNIT = LARGEST_BATCH
_OBSERVED = "observed.npz"
# The pass while it is at work.
_PROGRESS = "progress.npz"


def observe_part(
    folder: Path,
    shard: Shard,
    key: Mapping[str, Any],
    faces: FaceSet,
    model: bytes,
    size: int,
    reporter: Reporter,
    *,
    about: Mapping[str, Any],
) -> PartResult:
    """Observe a shard's share of the calibration faces, into its part.

    Args:
        folder: Folder of the part.
        shard: The shard.
        key: What all parts have in common.
        faces: The calibration faces of all shards.
        model: The model to observe, ONNX.
        size: Side of its faces, pixels.
        reporter: Receives progress and warnings.
        about: What is this part's own.

    Raises:
        LpxError: The folder holds something else or cannot be written, a face changed, or an
            activation is not finite.
    """
    total = len(faces.faces)
    rows = shard.rows(total, UNIT)
    mine = take(faces, rows)
    with open_part(folder, "calibrate", shard, key, reporter) as work:
        reopen_if_changed(work, mine, reporter)
        if work.manifest.complete:
            reporter.say(f"nothing to do: shard {shard} is finished ({folder})")
        else:
            _observe(work, mine, model, size, reporter, about)
    return PartResult(folder, "calibrate", shard, len(rows), total)


def _observe(
    work: PartWork,
    faces: FaceSet,
    model: bytes,
    size: int,
    reporter: Reporter,
    about: Mapping[str, Any],
) -> None:
    resume = work.folder / _PROGRESS
    observation = observe(
        model,
        faces,
        size,
        progress=reporter.progress(f"calibrating on {faces.name}, shard {work.manifest.shard}"),
        resume=resume,
        say=reporter.say,
    )
    save_contents(work, faces)
    done = PassProgress(observation.faces, observation.skipped, observation.observers)
    # As `_read` expects it, which is not the key of the saved progress: that has the size too.
    key = {"model": observation.model_sha256, "faces": faces.digest()}
    # Final, thus compressed: parts are kept, and copied between machines.
    save_progress(work.folder / _OBSERVED, key, done, final=True)
    times = {"seconds": observation.seconds, "pass_seconds": observation.pass_seconds}
    work.seal((_OBSERVED, CONTENTS), {**about, **times})
    # After the seal: an interruption before it would otherwise cost the whole share.
    resume.unlink(missing_ok=True)


def merged_observation(whole: Whole, faces: FaceSet, reporter: Reporter) -> Observation:
    """Add up what all parts observed.

    Args:
        whole: All parts.
        faces: The calibration faces.
        reporter: Receives progress.

    Raises:
        LpxError: A part is damaged.
    """
    progress = reporter.progress("merging parts")
    merged: Observation | None = None
    # In the order of the shards, as the list of unreadable faces is in that of the set. Only one
    # part is in memory besides the sum.
    for done, part in enumerate(whole.parts, 1):
        rows = part.manifest.shard.rows(len(faces.faces), UNIT)
        observation = _read(part, whole, take(faces, rows))
        if merged is None:
            merged = observation
        # `merge` goes through the tensors of its argument: one that is missing there would keep
        # ranges of fewer faces, and nothing would show it.
        elif observation.observers.keys() != merged.observers.keys():
            damaged(part.folder, part.manifest, "it observed other tensors than the first part")
        else:
            merged.merge(observation)
        progress(done, len(whole.parts))
    assert merged is not None, "a whole has at least one part"
    return merged


def _read(part: Part, whole: Whole, faces: FaceSet) -> Observation:
    """Read one part.

    Raises:
        LpxError: It is damaged.
    """
    # For its checks only: an archive is not read in pieces.
    read_payload(part.folder, part.manifest, part.file(_OBSERVED), lambda piece: None)
    problems: list[str] = []
    key = {"model": str(whole.key["observed"]), "faces": faces.digest()}
    stored = load_progress(part.folder / _OBSERVED, key, problems.append)
    if stored is None or stored.position != len(faces.faces):
        damaged(part.folder, part.manifest, "; ".join(problems) or f"{_OBSERVED} is incomplete")
    times = []
    # Times are for information: one that is missing or odd is not worth a part.
    for name in ("seconds", "pass_seconds"):
        value = part.about.get(name)
        times.append(float(value) if isinstance(value, (int, float)) else 0.0)
    return Observation(
        key["model"], stored.position, stored.skipped, stored.observers, times[0], times[1]
    )
