"""Search for the fastest INT8 engine whose AUC holds."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lpx.api.build import check_options
from lpx.api.search.faces import SearchFaces, open_search_faces, split_search_faces
from lpx.api.search.options import SearchOptions
from lpx.api.search.outcome import Outcome, SearchResult, TimedTrial, sentence
from lpx.api.search.report import write_report
from lpx.api.search.sensitivity import (
    Prepared,
    prepare_subject,
    runtime_versions,
    shift_store,
)
from lpx.artefacts.plan_file import write_plan
from lpx.bench.parity.breakdown import members_of
from lpx.bench.parity.parity import compare, discrimination
from lpx.bench.parity.score import Scored, score
from lpx.bench.performance.latency import Samples, percentile, sample
from lpx.bench.performance.speed_test import compare_speed
from lpx.engines.base import Engine, Faces
from lpx.engines.build import build_engine
from lpx.engines.load import load
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine
from lpx.engines.request import BuildRequest
from lpx.engines.targets import INSTALLED, ResolvedTarget, resolve_target
from lpx.errors import LpxError
from lpx.graph.qdq.plan import PrecisionPlan
from lpx.machine.machine import Machine, read_machine
from lpx.metrics import faces_needed
from lpx.reporter import SILENT, Reporter
from lpx.search.predict import Predictor
from lpx.search.propose import Candidate, Judge, propose
from lpx.search.subject import Subject
from lpx.search.survey import survey
from lpx.search.timing.latency import LatencyModel
from lpx.search.timing.measure_latency import TimingPlan, measure_costs
from lpx.search.timing.work_model import WorkModel
from lpx.search.trials import FILE, Trial, TrialLog, in_order, trial_key
from lpx.search.whole import whole_logits
from lpx.workspace import write_json

if TYPE_CHECKING:
    from lpx.api.workspace.opened import OpenedWorkspace

FOLDER = "search"
# Shares of the margin that proposals keep to: predictions miss, so safer plans stand beside the one
# that is only just predicted to hold.
_SHARES = (0.25, 0.5, 0.75, 1.0)
# Share of the margin that the plan without float groups must keep to, to be the only proposal.
_SAFE = 0.5
_REFERENCE, _CANDIDATE = "float", "engine"


@dataclass(frozen=True)
class Stopwatch:
    """How times are measured.

    Attributes:
        layers: Measures what plans cost, for target "onnxruntime".
        engines: Times finished engines in turns.
    """

    layers: Callable[[Subject, Faces, TimingPlan], LatencyModel | WorkModel] = measure_costs
    engines: Callable[[Mapping[str, Engine], Faces, float], Mapping[str, Samples]] = sample


STOPWATCH = Stopwatch()


@dataclass(frozen=True)
class _Search:
    """What the steps of a search have in common."""

    workspace: OpenedWorkspace
    options: SearchOptions
    prepared: Prepared
    target: ResolvedTarget
    machine: Machine
    faces: SearchFaces
    folder: Path
    reporter: Reporter
    stopwatch: Stopwatch
    started: float

    @property
    def size(self) -> int:
        return self.prepared.model.card.input_size

    @property
    def names(self) -> list[str]:
        return [group.name for group in self.prepared.subject.groups]

    def out_of_time(self) -> bool:
        minutes = self.options.budget_minutes
        return minutes is not None and time.monotonic() - self.started > 60 * minutes

    def request(self, plan: PrecisionPlan) -> BuildRequest:
        request = self.prepared.subject.request
        return replace(request, plan=plan, tensorrt=self.options.tensorrt)


def search(
    workspace: OpenedWorkspace,
    options: SearchOptions,
    reporter: Reporter = SILENT,
    *,
    stopwatch: Stopwatch = STOPWATCH,
) -> SearchResult:
    """Implement `lpx.Workspace.search`, which documents arguments and errors."""
    machine = read_machine()
    target = resolve_target(options.target, machine, INSTALLED)
    check_options(options.tensorrt, target.name)
    if options.tensorrt.dla_core is not None:
        raise LpxError(
            "a search for a DLA core",
            "a DLA runs INT8 regions as a whole: layers in float move to the GPU or to FP16, and "
            "their effect cannot be measured layer by layer",
            "search for the GPU, or try plans with `plan` and `lpx bench`",
            code="unsupported",
        )
    options = replace(options, target=target.name)
    with workspace.lock():
        prepared = prepare_subject(workspace, options, reporter)
        scales = prepared.subject.request.scales
        assert scales is not None
        pool = open_search_faces(
            workspace, prepared.model, scales, options.search_faces, options.search_limit, reporter
        )
        run = _Search(
            workspace,
            options,
            prepared,
            target,
            machine,
            split_search_faces(pool),
            workspace.root / FOLDER,
            reporter,
            stopwatch,
            time.monotonic(),
        )
        result = _run(run)
        pool.check_unchanged("search")
        write_json(run.folder / "search.json", result.to_dict())
        write_report(result)
    return result


def _run(run: _Search) -> SearchResult:
    predictor = _predictor(run)
    pixels = next(iter(run.faces.search.stream(1, run.size, []))).pixels
    latency = _latency(run, pixels)
    judge = Judge(lambda int8: predictor.difference(int8, run.options.confidence), latency.predict)
    proposals = _proposals(run, judge)
    trials = _trials(run, in_order(proposals))
    timed, float_ms = _time(run, trials, pixels)
    outcome, chosen = _outcome(run, timed)
    best = max(timed, key=lambda one: one.trial.measured.low, default=None)
    text = sentence(outcome, chosen, best, len(run.names), run.options.margin)
    plan_path = engine = None
    if outcome in ("plan", "all-int8") and chosen is not None:
        plan = _final_plan(run, chosen, predictor, latency)
        plan_path = run.folder / "plan.json"
        write_plan(plan_path, plan)
        engine = _install(run, plan)
    return SearchResult(
        outcome=outcome,
        sentence=text,
        margin=run.options.margin,
        confidence=run.options.confidence,
        groups=len(run.names),
        trials=tuple(timed),
        chosen=chosen,
        float_name=_float_precision(run.target),
        float_ms=float_ms,
        proposals=tuple(proposals),
        latency_source=latency.source,
        faces=(len(run.faces.search.faces), len(run.faces.verification.faces)),
        minutes=round((time.monotonic() - run.started) / 60, 2),
        plan=plan_path,
        engine=engine,
        log=run.folder / FILE,
        report=run.folder / "search.html",
    )


def _predictor(run: _Search) -> Predictor:
    """Measure layers on the search faces."""
    subject, faces = run.prepared.subject, run.faces.search
    store = shift_store(run.folder / "shifts", faces, run.size, run.reporter)
    found = survey(subject, faces, run.size, store, run.reporter, complete=run.options.complete)
    whole = whole_logits(
        subject, faces, run.size, run.reporter.progress("scoring with all layers in INT8")
    )
    # By their places in the set: faces that cannot be read are in neither.
    groups = members_of(faces, found.shifts.indices).groups
    return Predictor(subject, found.shifts, whole, groups)


def _latency(run: _Search, pixels: Faces) -> LatencyModel | WorkModel:
    if run.target.name != "onnxruntime":
        # Its layers are not timed one by one; finished engines are.
        return WorkModel(run.prepared.subject)
    run.reporter.say("timing layers")
    timing = TimingPlan(seconds=run.options.latency_seconds)
    return run.stopwatch.layers(run.prepared.subject, pixels, timing)


def _proposals(run: _Search, judge: Judge) -> tuple[Candidate, ...]:
    """Return plans that are predicted to hold; all groups in INT8 alone if that surely does."""
    margin = run.options.margin
    whole = judge.candidate(run.names)
    if whole.difference.low > -_SAFE * margin:
        return (whole,)
    _check_enough_faces(run, judge)
    run.reporter.say("choosing plans by their predictions")
    proposals = propose(run.names, judge, [share * margin for share in _SHARES])
    if whole.difference.low > -margin and all(one.int8 != whole.int8 for one in proposals):
        proposals += (whole,)
    return proposals


def _check_enough_faces(run: _Search, judge: Judge) -> None:
    """Refuse a margin that no plan can be shown to meet with so few faces.

    Raises:
        LpxError: The group with the least effect alone is not predicted to hold; says how many
            faces are needed.
    """
    margin = run.options.margin
    mildest = max((judge.difference({name}) for name in run.names), key=lambda one: one.low)
    if mildest.low > -margin:
        return
    count = len(run.faces.search.faces)
    needed = faces_needed(mildest, count, margin)
    # Both halves have to be as large.
    number = "more" if needed is None else f"about {2 * needed}"
    raise LpxError(
        f"a margin of {margin:g} cannot be shown to hold with {2 * count} faces",
        f"even the layer with the least effect has an interval down to {mildest.low:+.4f} on the "
        f"{count} faces of the search",
        f"use {number} faces (`search_faces`, `search_limit`), or a larger `margin`",
    )


def _trials(run: _Search, candidates: Sequence[Candidate]) -> list[Trial]:
    """Build and judge plans in order, until one fails or the time is over."""
    log = TrialLog(run.folder / FILE)
    for line in log.damaged:
        run.reporter.warn(f"{run.folder / FILE}: {line}")
    trials: list[Trial] = []
    for candidate in candidates:
        if trials and run.out_of_time():
            run.reporter.say("the time is over; further plans are not tried")
            break
        key = trial_key(_inputs(run), candidate.int8)
        trial = log.find(key)
        if trial is None:
            trial = _try(run, candidate, key)
            log.add(trial)
        trials.append(trial)
        if trial.verdict != "holds":
            break
    return trials


def _inputs(run: _Search) -> dict[str, Any]:
    subject, faces = run.prepared.subject, run.faces.verification
    scales, library = subject.request.scales, run.target.library
    assert scales is not None
    return {
        "model": subject.float_digest,
        "ranges": scales.summary()["ranges_sha256"],
        "method": subject.request.method,
        "weights": repr(subject.request.weights),
        "tensorrt": repr(run.options.tensorrt),
        "target": run.target.name,
        "faces": faces.digest(),
        "margin": run.options.margin,
        "confidence": run.options.confidence,
        "blocks": run.options.blocks,
        "versions": runtime_versions(),
        "tensorrt_version": library.capabilities.version if library else None,
    }


def _try(run: _Search, candidate: Candidate, key: str) -> Trial:
    """Build an engine of a plan, and judge it on the verification faces."""
    count = len(run.names) - len(candidate.int8)
    run.reporter.say(f"building an engine with {count} of {len(run.names)} groups in float")
    folder = run.folder / "engine"
    model = run.prepared.model
    plan = run.prepared.subject.plan(candidate.int8)
    manifest = build_engine(
        model.data,
        model.card,
        run.request(plan),
        run.target,
        folder,
        run.machine,
        timing_caches=run.workspace.timing_caches,
    )
    scored = _score(run, folder)
    labels, reference = scored.labels, scored.predictions[_REFERENCE]
    groups = members_of(run.faces.verification, scored.indices).groups
    truth = discrimination(labels, reference.score, groups)
    parity = compare(
        labels,
        reference,
        scored.predictions[_CANDIDATE],
        model.card.threshold,
        run.options.margin,
        groups,
        truth,
        confidence=run.options.confidence,
    )
    return Trial(
        key=key,
        int8=tuple(name for name in run.names if name in candidate.int8),
        predicted=candidate.difference,
        predicted_ms=candidate.latency_ms,
        measured=parity.auc_difference,
        verdict=parity.verdict,
        size=(folder / manifest.file).stat().st_size,
        int8_share=manifest.int8_share,
    )


def _score(run: _Search, folder: Path) -> Scored:
    progress = run.reporter.progress("scoring faces that the search did not see")
    with ExitStack() as stack:
        reference = OnnxRuntimeEngine(run.prepared.model.data, run.size, shares_cores=True)
        engines: dict[str, Engine] = {
            _REFERENCE: stack.enter_context(closing(reference)),
            # Host code that this process has just built need not be allowed by the user.
            _CANDIDATE: stack.enter_context(closing(load(folder, allow_host_code=True))),
        }
        return score(engines, run.faces.verification, run.size, progress)


def _float_precision(target: ResolvedTarget) -> str:
    # ONNX Runtime's CPU computes float16 in float32, with casts.
    return "fp32" if target.name == "onnxruntime" else "fp16"


def _time(
    run: _Search, trials: Sequence[Trial], pixels: Faces
) -> tuple[list[TimedTrial], float | None]:
    """Time engines that hold beside the float engine, in turns."""
    held = [trial for trial in trials if trial.verdict == "holds"]
    if not held:
        return [TimedTrial(trial) for trial in trials], None
    run.reporter.say("timing engines")
    model, precision = run.prepared.model, _float_precision(run.target)
    with ExitStack() as stack:
        engines: dict[str, Engine] = {}
        plans = {trial.key: run.prepared.subject.plan(trial.int8) for trial in held}
        for name in ("float", *plans):
            folder = run.folder / "timed" / name[:16]
            request = replace(run.request(PrecisionPlan()), precision="fp32", method="")
            if name == "float" and precision == "fp16":
                request = replace(request, precision="fp16")
            if name != "float":
                request = run.request(plans[name])
            build_engine(
                model.data,
                model.card,
                request,
                run.target,
                folder,
                run.machine,
                timing_caches=run.workspace.timing_caches,
            )
            engines[name] = stack.enter_context(closing(load(folder, allow_host_code=True)))
        samples = run.stopwatch.engines(engines, pixels, run.options.latency_seconds)
    timed = []
    for trial in trials:
        if trial.key not in samples:
            timed.append(TimedTrial(trial))
            continue
        speed = compare_speed(samples[trial.key], samples["float"])
        timed.append(TimedTrial(trial, _median(samples[trial.key]), speed))
    return timed, _median(samples["float"])


def _median(samples: Samples) -> float:
    return percentile(np.sort(samples.times_ms), 50)


def _outcome(run: _Search, timed: Sequence[TimedTrial]) -> tuple[Outcome, TimedTrial | None]:
    held = [one for one in timed if one.trial.verdict == "holds" and one.ms is not None]
    if not held:
        return "no-plan", None
    chosen = min(held, key=lambda one: one.ms or 0.0)
    if chosen.speed is None or chosen.speed.verdict != "faster":
        return "no-gain", chosen
    return ("all-int8" if len(chosen.trial.int8) == len(run.names) else "plan"), chosen


def _final_plan(
    run: _Search, chosen: TimedTrial, predictor: Predictor, latency: LatencyModel | WorkModel
) -> PrecisionPlan:
    """Return the plan with a reason for each layer in float, and a record of its origin."""
    int8 = set(chosen.trial.int8)
    reasons = {}
    for name in run.names:
        if name in int8:
            continue
        # In the chosen plan, and not alone: that is what leaving it in float decides.
        added = predictor.difference(int8 | {name}).estimate - predictor.difference(int8).estimate
        slower = latency.predict(int8) - latency.predict(int8 | {name})
        reasons[name] = (
            f"in INT8 too, it is predicted to change AUC by {added:+.4f} and save "
            f"{slower:.3f} {latency.unit}"
        )
    plan = run.prepared.subject.plan(int8, reasons)
    trial = chosen.trial
    origin = {
        "found_by": "lpx build --search",
        "target": run.target.name,
        "margin": run.options.margin,
        "confidence": run.options.confidence,
        "predicted": asdict(trial.predicted),
        "verified": asdict(trial.measured),
        "faces": run.faces.record(),
    }
    return replace(plan, model_sha256=run.prepared.model.sha256, origin=origin)


def _install(run: _Search, plan: PrecisionPlan) -> str:
    """Build the engine of a plan into the workspace; returns its name."""
    request = run.request(plan)
    model = run.prepared.model
    build_engine(
        model.data,
        model.card,
        request,
        run.target,
        run.workspace.engines / request.name,
        run.machine,
        timing_caches=run.workspace.timing_caches,
    )
    for name in ("engine", "timed"):
        shutil.rmtree(run.folder / name, ignore_errors=True)
    return request.name
