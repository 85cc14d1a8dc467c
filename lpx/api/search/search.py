"""Search for the fastest INT8 engine whose AUC holds."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

from lpx.api.build import check_options
from lpx.api.search.context import STOPWATCH, SearchRun, Stopwatch
from lpx.api.search.faces import open_search_faces, split_search_faces
from lpx.api.search.finalists import judge_finalists, keep, tidy, time_finalists
from lpx.api.search.latencies import open_latencies
from lpx.api.search.options import SearchOptions
from lpx.api.search.outcome import (
    FloatReference,
    Outcome,
    PredictedLatency,
    SearchFiles,
    SearchResult,
    SearchTest,
    TimedTrial,
    sentence,
)
from lpx.api.search.report import write_report
from lpx.api.search.sensitivity import prepare_subject, shift_store
from lpx.artefacts.plan_file import write_plan
from lpx.bench.parity.breakdown import members_of
from lpx.engines.targets import INSTALLED, resolve_target
from lpx.errors import LpxError
from lpx.graph.qdq.plan import PrecisionPlan
from lpx.machine.machine import read_machine
from lpx.metrics import faces_needed
from lpx.reporter import SILENT, Reporter
from lpx.search.plan_scorer import whole_logits
from lpx.search.predict import Predictor
from lpx.search.propose import Candidate, Judge, propose
from lpx.search.survey import survey
from lpx.search.timing.latency import LatencyModel
from lpx.search.timing.work_model import WorkModel
from lpx.search.trials import FILE, in_order
from lpx.workspace import write_json

if TYPE_CHECKING:
    from lpx.api.workspace.opened import OpenedWorkspace

FOLDER = "search"
# Shares of the margin that proposals keep to: predictions miss, so safer plans stand beside the one
# that is only just predicted to hold.
_SHARES = (0.25, 0.5, 0.75, 1.0)
# Share of the margin that the plan without float groups must keep to, to be the only proposal.
_SAFE = 0.5
# Share of the latency by which another plan must be faster than that.
_NOTICEABLE = 0.02


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
        run = SearchRun(
            workspace,
            options,
            prepared,
            target,
            machine,
            split_search_faces(pool),
            workspace.root / FOLDER,
            reporter,
            stopwatch,
        )
        result = _run(run)
        pool.check_unchanged("search")
        write_json(run.folder / "search.json", result.to_dict())
        write_report(result)
    return result


def _run(run: SearchRun) -> SearchResult:
    predictor = _predictor(run)
    pixels = next(iter(run.faces.search.stream(1, run.size, []))).pixels
    latency = open_latencies(run, pixels)
    forecast = _Forecast(run, predictor, latency)
    proposals = _proposals(run, forecast.judge())
    judged = judge_finalists(run, in_order(proposals), forecast.plan)
    timed = time_finalists(run, judged, pixels)
    trials = tuple(timed.trials)
    outcome, chosen = _outcome(run, trials)
    best = max(trials, key=lambda one: one.trial.measured.low, default=None)
    files = SearchFiles(None, run.folder / FILE, run.folder / "search.html")
    engine = None
    if outcome in ("plan", "all-int8") and chosen is not None:
        plan = _with_origin(run, forecast.plan(chosen.trial.int8), chosen)
        files = replace(files, plan=run.folder / "plan.json")
        write_plan(run.folder / "plan.json", plan)
        engine = keep(run, chosen.trial.int8, plan)
    tidy(run, judged)
    options = run.options
    searched, verified = len(run.faces.search.faces), len(run.faces.verification.faces)
    return SearchResult(
        outcome=outcome,
        sentence=sentence(outcome, chosen, best, len(run.names), options.margin),
        test=SearchTest(options.margin, options.confidence, searched, verified),
        groups=len(run.names),
        proposals=proposals,
        trials=trials,
        chosen=chosen,
        reference=FloatReference(run.float_precision, timed.float_ms),
        latency=PredictedLatency(latency.source, latency.groups()),
        engine=engine,
        files=files,
        minutes=round(run.minutes, 2),
    )


@dataclass(frozen=True)
class _Forecast:
    """Predictions for plans."""

    run: SearchRun
    predictor: Predictor
    latency: LatencyModel | WorkModel

    def judge(self) -> Judge:
        confidence = self.run.options.confidence
        return Judge(lambda int8: self.predictor.difference(int8, confidence), self.latency.predict)

    def plan(self, int8: Collection[str]) -> PrecisionPlan:
        """Return a plan with a reason for each layer in float."""
        chosen = set(int8)
        before = self.predictor.difference(chosen).estimate
        now = self.latency.predict(chosen)
        reasons = {}
        for name in self.run.names:
            if name in chosen:
                continue
            # In this plan, and not alone: that is what leaving it in float decides.
            change = self.predictor.difference(chosen | {name}).estimate - before
            time = self.latency.predict(chosen | {name}) - now
            reasons[name] = (
                f"predicted with it in INT8 too: AUC {change:+.4f}, {time:+.3f} {self.latency.unit}"
            )
        plan = self.run.subject.plan(chosen, reasons)
        return replace(plan, model_sha256=self.run.prepared.model.sha256)


def _predictor(run: SearchRun) -> Predictor:
    """Measure layers on the search faces."""
    faces = run.faces.search
    store = shift_store(run.folder / "shifts", faces, run.size, run.reporter)
    found = survey(run.subject, faces, run.size, store, run.reporter, complete=run.options.complete)
    progress = run.reporter.progress("scoring with all layers in INT8")
    whole = whole_logits(run.subject, faces, run.size, progress)
    # By their places in the set: faces that cannot be read are in neither.
    groups = members_of(faces, found.shifts.indices).groups
    return Predictor(run.subject, found.shifts, whole, groups)


def _proposals(run: SearchRun, judge: Judge) -> tuple[Candidate, ...]:
    """Return plans that are predicted to hold.

    All groups in INT8 are the only plan if that surely holds and no other is noticeably faster.
    """
    margin = run.options.margin
    whole = judge.candidate(run.names)
    safe = whole.difference.low > -_SAFE * margin
    if not safe:
        _check_enough_faces(run, judge)
    run.reporter.say("choosing plans by their predictions")
    proposals = propose(run.names, judge, [share * margin for share in _SHARES])
    fastest = min((one.latency_ms for one in proposals), default=whole.latency_ms)
    if safe and whole.latency_ms <= (1 + _NOTICEABLE) * fastest:
        return (whole,)
    if whole.difference.low > -margin and all(one.int8 != whole.int8 for one in proposals):
        proposals += (whole,)
    return proposals


def _check_enough_faces(run: SearchRun, judge: Judge) -> None:
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


class _Found(NamedTuple):
    """An outcome, and the fastest engine that holds."""

    outcome: Outcome
    chosen: TimedTrial | None


def _outcome(run: SearchRun, trials: Sequence[TimedTrial]) -> _Found:
    held = [one for one in trials if one.ms is not None]
    if not held:
        return _Found("no-plan", None)
    chosen = min(held, key=lambda one: one.ms or 0.0)
    if chosen.speed is None or chosen.speed.verdict != "faster":
        return _Found("no-gain", chosen)
    whole = len(chosen.trial.int8) == len(run.names)
    return _Found("all-int8" if whole else "plan", chosen)


def _with_origin(run: SearchRun, plan: PrecisionPlan, chosen: TimedTrial) -> PrecisionPlan:
    """Return a plan with a record of how it was found."""
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
    return replace(plan, origin=origin)
