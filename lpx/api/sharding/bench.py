"""Benches by shards, which share neither a lock nor anything that they write."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpx.api.bench import (
    THIS_HOST,
    BenchOptions,
    BenchSubject,
    Host,
    OpenedBench,
    faces_of_bench,
    open_engines,
    open_subject,
)
from lpx.arguments import several
from lpx.artefacts.bench_reference import torch_package
from lpx.artefacts.model import look_up, read_exported, require_prepared
from lpx.artefacts.overlap import check_disjoint
from lpx.artefacts.select_engine import engine_folders
from lpx.bench.parity.pixels import PixelPlan
from lpx.bench.parity.run import scorers
from lpx.bench.parity.score import Failure, score_rows, with_pixels
from lpx.bench.parity.score_store import FOLDER, ScoreStore
from lpx.bench.parity.stage_names import PIXELS
from lpx.bench.parity.stages import MODEL
from lpx.bench.performance.loaded_engine import REFERENCE
from lpx.engines.base import Engine
from lpx.engines.manifest import read_manifest
from lpx.errors import InvalidArgumentError, LpxError
from lpx.reporter import Reporter
from lpx.shards.bench import (
    UNIT,
    join_scores,
    score_digests,
    score_inputs,
    score_part,
    score_versions,
)
from lpx.shards.contents import check_contents, take
from lpx.shards.join import Whole, check_key
from lpx.shards.part import PartResult, damaged
from lpx.shards.shard import Shard

if TYPE_CHECKING:
    from lpx.api.workspace.opened import OpenedWorkspace

# Options of a bench that decide what is scored, and so are those of all parts.
_OPTIONS = ("limit", "methods", "candidates", "stages", "allow_overlap")


@dataclass(frozen=True)
class MergedScores:
    """Result of merging the parts of a bench.

    Attributes:
        folder: The store of scores, which the next bench of these faces uses.
        parts: Number of parts.
        faces: Number of faces.
        engines: What was scored: engines, and the stages before them.
        command: The command that makes the report of them.
        notes: Engines that failed in a part, and unlike machines.
    """

    folder: Path
    parts: int
    faces: int
    engines: tuple[str, ...]
    command: str
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as `lpx merge --json` prints them."""
        return {
            "scores": str(self.folder),
            "parts": self.parts,
            "faces": self.faces,
            "engines": list(self.engines),
            "next": self.command,
            "notes": list(self.notes),
        }


def bench_shard(
    workspace: OpenedWorkspace,
    shard: Shard,
    folder: Path,
    dataset: str,
    options: BenchOptions,
    reporter: Reporter,
    *,
    host: Host = THIS_HOST,
) -> PartResult:
    """Score a shard's share of the faces with everything that a bench scores.

    Args:
        workspace: Contains model and engines; nothing is written into it but the part.
        shard: The shard.
        folder: Folder of the part.
        dataset: Face set.
        options: Options of the bench; costs are not measured.
        reporter: Receives progress and warnings.
        host: Access to the machine.

    Raises:
        LpxError: As for `lpx.Workspace.bench`, or the folder holds something else.
    """
    # All shards would do so at once.
    require_prepared(workspace, dataset, "test", workspace.places)
    # Rebuilding would write into the workspace, and give each shard other engines.
    subject = open_subject(workspace, dataset, options, reporter, host=host, rebuild="never")
    faces = subject.faces
    mine = take(faces, shard.rows(len(faces.faces), UNIT))
    if not options.allow_overlap:
        # Its own faces only: it compares their contents, and a shard reads no files but its own.
        check_disjoint(subject.chosen.fit, mine)
    with ExitStack() as stack:
        opened = open_engines(workspace, subject, mine, options, stack, reporter, host=host)
        engines = {name: one.engine for name, one in opened.loaded.items()}
        needed: tuple[str, ...] = ()
        if isinstance(opened.reference, Engine):
            engines, needed = {REFERENCE: opened.reference, **engines}, (REFERENCE,)
        pixels = PixelPlan(opened.stages.pipelines, tuple(opened.loaded))
        scoring = stack.enter_context(scorers(engines, opened.loaded, opened.stages.graphs))

        def score(rows: range, store: ScoreStore) -> list[Failure]:
            progress = reporter.progress(f"scoring {faces.name}, shard {shard}")
            size = subject.model.card.input_size
            failed = score_rows(
                scoring, faces, size, rows, store, progress, needed=needed, pixels=pixels
            )
            return with_pixels([*opened.broken, *failed], pixels)

        return score_part(
            folder,
            shard,
            _key(subject, opened, options),
            faces,
            subject.model,
            score,
            reporter,
            about={"set": dataset, "not_run": subject.chosen.reasons},
        )


def _key(subject: BenchSubject, opened: OpenedBench, options: BenchOptions) -> dict[str, Any]:
    engines = score_digests(subject.model, subject.chosen.fit, opened.stages)
    recorded = not isinstance(opened.reference, Engine)
    if recorded:
        # The part has no scores of the checkpoint then, as it is not run.
        del engines[REFERENCE]
    asked = {name: getattr(options, name) for name in _OPTIONS}
    # One spelling: a name, a list and a tuple of the same names must not make different keys.
    for name in ("methods", "candidates", "stages"):
        value = getattr(options, name)
        asked[name] = None if value is None else list(several(name, value))
    return {
        "model": subject.model.sha256,
        "faces": subject.faces.list_digest(),
        "engines": engines,
        "versions": score_versions(torch_package(opened.reference)),
        "options": {**asked, "reference": "recorded" if recorded else "checkpoint"},
    }


def merge_scores(
    workspace: OpenedWorkspace,
    whole: Whole,
    faces: str | None,
    reporter: Reporter,
) -> MergedScores:
    """Join parts into the workspace's store of scores.

    Args:
        workspace: Contains model and engines, and receives the scores.
        whole: All parts.
        faces: Face set of the parts, as it is named here; None for the same name.
        reporter: Receives progress and warnings.

    Raises:
        LpxError: The parts are of another model, other faces, engines or versions than there are
            here, or one is damaged.
    """
    options, reference = _options(whole)
    dataset = faces or str(whole.parts[0].about.get("set"))
    model = read_exported(workspace)
    opened = faces_of_bench(workspace, dataset, options, model, reporter)
    packages = ("torch",) if reference == "checkpoint" else ()
    _check_engines(workspace, whole)
    ours = {"model": model.sha256, "faces": opened.list_digest()}
    # Engines and options are taken from the parts: `_check_engines` has compared the former with
    # those here, and the latter have chosen the faces here.
    check_key(whole, {**whole.key, **ours, "versions": score_versions(packages)})
    with workspace.lock():
        look_up(opened, reporter)
        check_contents(whole, opened, UNIT)
        inputs = score_inputs(model, opened, packages)
        notes = join_scores(whole, inputs, workspace.root / FOLDER, reporter)
    return MergedScores(
        folder=workspace.root / FOLDER,
        parts=len(whole.parts),
        faces=len(opened.faces),
        engines=tuple(whole.key["engines"]),
        command=_command(dataset, options, reference),
        notes=(*notes, *filter(None, (whole.machine_note(),))),
    )


def _options(whole: Whole) -> tuple[BenchOptions, str]:
    """Return the options in the key of parts, and the kind of their reference.

    Raises:
        LpxError: They are none: another version of lpx wrote them, or they were edited.
    """
    first = whole.parts[0]
    options, engines = whole.key.get("options"), whole.key.get("engines")
    try:
        if not isinstance(options, Mapping) or not isinstance(engines, Mapping):
            raise TypeError("it names no options or no engines")
        values = dict(options)
        reference = str(values.pop("reference", ""))
        return BenchOptions(**values), reference
    except (TypeError, InvalidArgumentError) as error:
        damaged(first.folder, first.manifest, str(error).splitlines()[0])


def _check_engines(workspace: OpenedWorkspace, whole: Whole) -> None:
    """Check that the engines that were scored are those of the workspace.

    They need not run here: what is merged on one machine may be reported on another.

    Raises:
        LpxError: One is missing, or is another one.
    """
    here = {}
    for folder in engine_folders(workspace):
        manifest = read_manifest(folder)
        here[manifest.name] = manifest.engine_sha256
    for name, digest in whole.key["engines"].items():
        # The checkpoint, the exported model, and graphs of engines, which have NAME:graph.
        if name in (REFERENCE, MODEL) or ":" in name or here.get(name) == digest:
            continue
        state = "has another one of this name" if name in here else "has none of this name"
        raise LpxError(
            f"the parts have scores of engine {name}, and {workspace.root} {state}",
            "its scores would be taken for those of another engine",
            "merge in the workspace that the shards had, or run the shards again",
        )


def _command(dataset: str, options: BenchOptions, reference: str) -> str:
    """Return the command that makes the report of merged scores."""
    words = ["lpx", "bench", "--dataset", dataset]
    if options.limit is not None:
        words += ["--limit", str(options.limit)]
    if options.methods is not None:
        words += ["--method", ",".join(options.methods)]
    if options.candidates is not None:
        words += ["--candidates", ",".join(options.candidates)]
    stages = several("stages", options.stages)
    pipelines = [name.removeprefix(PIXELS) for name in stages if name.startswith(PIXELS)]
    if pipelines:
        words += ["--pixels", ",".join(pipelines)]
    if len(pipelines) == len(stages):
        words.append("--no-stages")
    if options.allow_overlap:
        words.append("--allow-overlap")
    words += ["--reference", reference]
    return shlex.join(words)
