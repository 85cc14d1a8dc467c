"""Engines of a search: built once, judged, timed, and one of them kept."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lpx.api.search.context import SearchRun
from lpx.api.search.outcome import TimedTrial
from lpx.bench.parity.breakdown import members_of
from lpx.bench.parity.parity import ParityResult, compare, discrimination
from lpx.bench.parity.score import Scored, score
from lpx.bench.performance.latency import Samples, percentile
from lpx.bench.performance.speed_test import compare_speed
from lpx.engines.base import Engine, Faces
from lpx.engines.build import build_engine
from lpx.engines.load import load
from lpx.engines.manifest import FILE as MANIFEST
from lpx.engines.manifest import EngineManifest, read_manifest, write_manifest
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.engines.request import BuildRequest
from lpx.errors import LpxError
from lpx.graph.qdq.plan import PrecisionPlan
from lpx.search.propose import Candidate
from lpx.search.trials import FILE, Trial, TrialLog, trial_key
from lpx.workspace import read_regular, sha256, write_bytes

_REFERENCE, _CANDIDATE = "float", "engine"
PlanOf = Callable[[Collection[str]], PrecisionPlan]


def judge_finalists(
    run: SearchRun, candidates: Sequence[Candidate], plan_of: PlanOf
) -> list[Trial]:
    """Build and judge plans in order, until one does not hold or the time is over.

    Args:
        run: The search.
        candidates: Plans, in the order of their test.
        plan_of: Returns the plan with some groups in INT8, with a reason for each other one.

    Raises:
        LpxError: An engine cannot be built or run, or the disk is full.
    """
    log = TrialLog(run.folder / FILE)
    for line in log.damaged:
        run.reporter.warn(f"{run.folder / FILE}: {line}")
    trials: list[Trial] = []
    for candidate in candidates:
        if trials and run.out_of_time():
            run.reporter.say("the time is over; further plans are not tried")
            break
        trials.append(_trial(run, candidate, plan_of(candidate.int8), log))
        if trials[-1].verdict != "holds":
            break
    return trials


def _trial(run: SearchRun, candidate: Candidate, plan: PrecisionPlan, log: TrialLog) -> Trial:
    """Return the result of a plan's engine: the stored one, if the engine is the same."""
    folder = engine_folder(run, candidate.int8)
    floats = len(run.names) - len(candidate.int8)
    run.reporter.say(f"engine with {floats} of {len(run.names)} groups in float")
    manifest = _built(run, folder, run.request(plan))
    judged = {
        **run.engine_inputs(),
        # A build of TensorRT may choose other kernels than the one before.
        "engine": manifest.engine_sha256,
        "faces": run.faces.verification.digest(),
        "margin": run.options.margin,
        "confidence": run.options.confidence,
    }
    key = trial_key(judged, candidate.int8)
    known = log.find(key)
    if known is not None:
        return known
    parity = _judge(run, folder)
    trial = Trial(
        key=key,
        int8=tuple(name for name in run.names if name in candidate.int8),
        predicted=candidate.difference,
        predicted_ms=candidate.latency_ms,
        measured=parity.auc_difference,
        verdict=parity.verdict,
        size=(folder / manifest.file).stat().st_size,
        int8_share=manifest.int8_share,
    )
    log.add(trial)
    return trial


def engine_folder(run: SearchRun, int8: Collection[str] | None) -> Path:
    """Return the folder of the engine with some groups in INT8; None for the float engine."""
    kind = "int8" if int8 is not None else run.float_precision
    key = trial_key({**run.engine_inputs(), "precision": kind}, int8 or ())
    return run.folder / "engines" / f"{kind}-{key[:16]}"


def _built(run: SearchRun, folder: Path, request: BuildRequest) -> EngineManifest:
    """Build an engine, unless it is there."""
    try:
        manifest = read_manifest(folder)
        if sha256(folder / manifest.file) == manifest.engine_sha256:
            return manifest
    # Missing, cut short or damaged: what an interrupted search may leave.
    except (LpxError, OSError):
        pass
    shutil.rmtree(folder, ignore_errors=True)
    model = run.prepared.model
    return build_engine(
        model.data,
        model.card,
        request,
        run.target,
        folder,
        run.machine,
        timing_caches=run.workspace.timing_caches,
    )


def _judge(run: SearchRun, folder: Path) -> ParityResult:
    scored = _score(run, folder)
    labels, reference = scored.labels, scored.predictions[_REFERENCE]
    groups = members_of(run.faces.verification, scored.indices).groups
    return compare(
        labels,
        reference,
        scored.predictions[_CANDIDATE],
        run.prepared.model.card.threshold,
        run.options.margin,
        groups,
        discrimination(labels, reference.score, groups),
        confidence=run.options.confidence,
    )


def _score(run: SearchRun, folder: Path) -> Scored:
    progress = run.reporter.progress("scoring faces that the search did not see")
    with ExitStack() as stack:
        reference = OnnxRuntimeEngine(run.prepared.model.data, run.size, shares_cores=True)
        engines: dict[str, Engine] = {
            _REFERENCE: stack.enter_context(closing(reference)),
            # Host code that this process has just built need not be allowed by the user.
            _CANDIDATE: stack.enter_context(closing(load(folder, allow_host_code=True))),
        }
        return score(engines, run.faces.verification, run.size, progress)


class Timed(NamedTuple):
    """Trials with the latency of those that hold, and that of the float engine, ms per face."""

    trials: list[TimedTrial]
    float_ms: float | None


def time_finalists(run: SearchRun, trials: Sequence[Trial], pixels: Faces) -> Timed:
    """Time the engines that hold in turns with the float engine.

    Args:
        run: The search.
        trials: Judged engines.
        pixels: uint8 RGB [1, S, S, 3], the face to repeat.
    """
    held = {trial.key: trial for trial in trials if trial.verdict == "holds"}
    if not held:
        return Timed([TimedTrial(trial) for trial in trials], None)
    folders = {_REFERENCE: engine_folder(run, None)}
    _built(run, folders[_REFERENCE], run.float_request())
    for key, trial in held.items():
        folders[key] = engine_folder(run, trial.int8)
    run.reporter.say("timing engines")
    with ExitStack() as stack:
        engines: dict[str, Engine] = {}
        for key, folder in folders.items():
            engines[key] = stack.enter_context(closing(load(folder, allow_host_code=True)))
        samples = run.stopwatch.engines(engines, pixels, run.options.latency_seconds)
    timed = []
    for trial in trials:
        if trial.key in held:
            speed = compare_speed(samples[trial.key], samples[_REFERENCE])
            timed.append(TimedTrial(trial, _median(samples[trial.key]), speed))
        else:
            timed.append(TimedTrial(trial))
    return Timed(timed, _median(samples[_REFERENCE]))


def _median(samples: Samples) -> float:
    return percentile(np.sort(samples.times_ms), 50)


def keep(run: SearchRun, int8: Sequence[str], plan: PrecisionPlan) -> str:
    """Put an engine into the workspace: the one that was judged and timed, not another build.

    Args:
        run: The search.
        int8: Names of its groups in INT8.
        plan: Its plan, with reasons and origin, for the manifest.

    Returns:
        The engine's name.

    Raises:
        LpxError: The engine is damaged, or the workspace cannot be written.
    """
    source = engine_folder(run, int8)
    manifest = read_manifest(source)
    name = run.request(plan).name
    target = run.workspace.engines / name
    for path in sorted(source.iterdir()):
        if path.name != MANIFEST and path.is_file():
            write_bytes(target / path.name, read_regular(path))
    # Last: a folder with a manifest is complete.
    write_manifest(target, replace(manifest, name=name, plan=plan.to_dict()))
    return name


def tidy(run: SearchRun, trials: Sequence[Trial]) -> None:
    """Remove engines that are not of this search."""
    wanted = {engine_folder(run, None)}
    for trial in trials:
        wanted.add(engine_folder(run, trial.int8))
    for folder in (run.folder / "engines").glob("*"):
        if folder not in wanted:
            shutil.rmtree(folder, ignore_errors=True)
