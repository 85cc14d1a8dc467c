"""Measure how many cameras a machine carries, with each engine of a workspace."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

from lpx.arguments import check_at_least, several
from lpx.artefacts.model import ExportedModel, read_exported
from lpx.artefacts.select_engine import Survey, UnfitEngine, choose_engines, runnable
from lpx.bench.parity.score import Failure, in_one_line
from lpx.bench.report.document.report import read_report
from lpx.data.detect import FaceDetector, FaceMesh, open_detector
from lpx.data.face_sets.demo_clip import clip_path
from lpx.engines.base import Engine
from lpx.engines.load import load
from lpx.engines.manifest import EngineManifest
from lpx.engines.tensorrt_options import MAX_BATCH
from lpx.errors import InvalidArgumentError, LpxError
from lpx.healing.pick import Healer, HealingOptions
from lpx.interrupts import Interrupted
from lpx.machine.conditions import Conditions, changes, read_conditions
from lpx.machine.energy_sources import Device, EnergySource, Unavailable, open_source
from lpx.machine.machine import read_machine
from lpx.predict.choose_recipe import choose_recipe
from lpx.reporter import Reporter
from lpx.streams.capacity.judge import Trial, judge
from lpx.streams.capacity.plan import Budget, CapacityOptions
from lpx.streams.capacity.result import (
    FILE,
    CameraSetup,
    CapacityResult,
    EngineCapacity,
    KnownAuc,
)
from lpx.streams.capacity.scoring_thread import EngineFailedError, ScoringThread
from lpx.streams.capacity.search import find_most_streams
from lpx.streams.capacity.trial import TrialSetup, run_trial
from lpx.streams.capacity.videos import CameraVideos, find_videos, require_faces
from lpx.streams.face_road import FaceRoad
from lpx.streams.scoring import ScorerOptions
from lpx.workspace import WorkspaceFolder, check_writable, write_json

DEMO = "demo"
# Work of other programs, in cores, from which on it is mentioned.
_NOTABLE_CORES = 0.2


@dataclass(frozen=True)
class CapacityHost:
    """Access to what depends on the machine.

    Attributes:
        runnable: Finds the engines of a workspace that run here.
        load: Loads an engine.
        open_source: Opens an energy source.
        open_detector: Opens a face detector, for a number of threads.
    """

    runnable: Callable[[WorkspaceFolder, ExportedModel], Survey] = field(default=runnable)
    load: Callable[..., Engine] = field(default=load)
    open_source: Callable[[Device], EnergySource | Unavailable] = field(default=open_source)
    open_detector: Callable[[str, int], FaceDetector] = field(default=open_detector)


@dataclass(frozen=True)
class CapacityRequest:
    """Arguments of `lpx.Workspace.capacity`, which documents them.

    Raises:
        InvalidArgumentError: A batch size is out of range.
    """

    videos: Path
    budget: Budget
    scorer: ScorerOptions = field(default_factory=ScorerOptions)
    engines: str | Sequence[str] | None = None
    batches: Sequence[int] = (1, 8)
    options: CapacityOptions = field(default_factory=CapacityOptions)

    def __post_init__(self) -> None:
        given: object = self.batches
        if isinstance(given, str) or not isinstance(given, Sequence) or not given:
            raise InvalidArgumentError("batches", "must be batch sizes, such as (1, 8)", given)
        for batch in self.batches:
            check_at_least("batches", batch, 1)
            if batch > MAX_BATCH:
                raise InvalidArgumentError("batches", f"must be <= {MAX_BATCH}", batch)


def measure_capacity(
    workspace: WorkspaceFolder,
    request: CapacityRequest,
    reporter: Reporter,
    *,
    host: CapacityHost | None = None,
) -> CapacityResult:
    """Implement `lpx.Workspace.capacity`, which documents arguments and errors.

    Each engine is measured with the whole road, face detection included: sharing one detection
    between engines would give each of them more of the machine than it has in use.
    """
    host = host or CapacityHost()
    path = request.videos
    videos = find_videos(clip_path() if str(path) == DEMO and not path.exists() else path)
    for skipped in videos.skipped:
        reporter.warn(f"{skipped.name} is left out: {skipped.reason}")
    model = read_exported(workspace)
    recipe = choose_recipe(model.card, request.scorer.crop, reporter)
    # One thread for an image: several images are worked on at a time.
    detector = host.open_detector(request.scorer.detector, 1)
    require_faces(videos, detector)
    mesh = FaceMesh(1) if recipe.needs_landmarks else None
    road = FaceRoad(model.card, detector, mesh, recipe)
    options = HealingOptions(request.scorer.rebuild, request.scorer.allow_host_code)
    healer = Healer(workspace, model, options, reporter)
    names = None if request.engines is None else several("engines", request.engines)
    healer.prepare(names)
    chosen = choose_engines(workspace, host.runnable(workspace, model), names)
    check_writable(workspace.root, FILE)
    with workspace.lock(), ExitStack() as stack:
        sources = _open_sources(chosen.fit, request.budget, host, stack)
        run = _Run(workspace, request, road, videos, healer, host, sources, reporter)
        return run.measure(chosen)


def _open_sources(
    engines: Sequence[EngineManifest], budget: Budget, host: CapacityHost, stack: ExitStack
) -> dict[Device, EnergySource | Unavailable]:
    """Open the energy sources of the engines' devices.

    Raises:
        LpxError: There is a budget of power, and it cannot be read.
    """
    sources: dict[Device, EnergySource | Unavailable] = {}
    for manifest in engines:
        device = _device(manifest)
        if device in sources:
            continue
        source = host.open_source(device)
        sources[device] = source
        if not isinstance(source, Unavailable):
            stack.enter_context(closing(source))
        elif budget.watts is not None:
            # Silence would pass for a budget that holds.
            raise LpxError(
                "power cannot be measured here, so that nothing can be said about `budget_watts`",
                source.reason,
                "leave out `budget_watts`, or make the power readable",
                code="unsupported",
            )
    return sources


def _device(manifest: EngineManifest) -> Device:
    return "cpu" if manifest.target == "onnxruntime" else "gpu"


@dataclass(frozen=True)
class _Run:
    """A measurement: what all its engines have in common."""

    workspace: WorkspaceFolder
    request: CapacityRequest
    road: FaceRoad
    videos: CameraVideos
    healer: Healer
    host: CapacityHost
    sources: dict[Device, EnergySource | Unavailable]
    reporter: Reporter

    def measure(self, chosen: Survey) -> CapacityResult:
        before = read_conditions()
        batches = sorted(set(self.request.batches))
        total = len(chosen.fit) * len(batches)
        tell = self.reporter.progress("measuring capacity")
        measured: list[EngineCapacity] = []
        failed: list[Failure] = []
        for number, manifest in enumerate(chosen.fit):
            try:
                with ScoringThread(partial(self._open, manifest)) as scoring:
                    for batch in batches:
                        measured.append(self._search(manifest, batch, scoring))
                        # What is measured survives whatever ends the rest.
                        self._write(measured, failed, chosen.unfit, before, complete=False)
                        tell(min(len(measured), total - 1), total)
            except EngineFailedError as error:
                self.reporter.warn(f"{manifest.name} failed: {error}")
                failed.append(Failure(manifest.name, "streams", str(error)))
            except Interrupted as stop:
                if not measured:
                    raise
                kept = f"{len(measured)} of {total} engines and batch sizes are in {FILE}"
                raise Interrupted(stop.signal, kept, resumable=False) from None
            tell(min((number + 1) * len(batches), total - 1), total)
        tell(total, total)
        return self._write(measured, failed, chosen.unfit, before, complete=True)

    @contextmanager
    def _open(self, manifest: EngineManifest) -> Iterator[Engine]:
        folder = self.workspace.engines / manifest.name
        engine = self.host.load(
            folder, allow_host_code=self.request.scorer.allow_host_code, shares_cores=True
        )
        with closing(engine):
            if problem := self.healer.problem(manifest, engine):
                raise LpxError(f"{manifest.name} must not be used", problem)
            yield engine

    def _search(
        self, manifest: EngineManifest, batch: int, scoring: ScoringThread
    ) -> EngineCapacity:
        request = self.request
        name = f"{manifest.name}, batch {batch}"
        setup = TrialSetup(
            self.videos.paths,
            self.road,
            scoring,
            batch,
            request.budget,
            request.options,
            self.sources[_device(manifest)],
        )

        def run(streams: int, *, scout: bool) -> Trial:
            samples = run_trial(setup, streams, scout=scout)
            return judge(samples, request.budget, scout=scout)

        found = find_most_streams(
            run, request.options.most_streams, lambda text: self.reporter.say(f"{name}: {text}")
        )
        return EngineCapacity(
            engine=manifest.name,
            target=manifest.target,
            precision=manifest.precision,
            engine_sha256=manifest.engine_sha256,
            batch=batch,
            streams=found.streams,
            reached_limit=found.reached_limit,
            best=found.best,
            trials=found.trials,
            auc=known_auc(self.workspace, manifest),
        )

    def _write(
        self,
        measured: Sequence[EngineCapacity],
        failed: Sequence[Failure],
        not_run: Sequence[UnfitEngine],
        before: Conditions,
        *,
        complete: bool,
    ) -> CapacityResult:
        opened = [one for one in self.sources.values() if not isinstance(one, Unavailable)]
        missing = [one for one in self.sources.values() if isinstance(one, Unavailable)]
        result = CapacityResult(
            budget=self.request.budget,
            options=self.request.options,
            cameras=CameraSetup(
                threads=self.request.options.threads,
                videos=self.videos.paths,
                skipped=self.videos.skipped,
                detector=self.request.scorer.detector,
                crop=self.road.recipe.name,
            ),
            energy_source="; ".join(f"{one.name} ({one.covers})" for one in opened),
            energy_reason="; ".join(one.reason for one in missing),
            engines=tuple(measured),
            failed=tuple(failed),
            not_run=tuple(not_run),
            machine=asdict(read_machine()),
            notes=(*changes(before, read_conditions()), *_disturbances(measured)),
            complete=complete,
            json_path=self.workspace.root / FILE,
        )
        write_json(result.json_path, result.to_dict())
        return result


def _disturbances(measured: Sequence[EngineCapacity]) -> list[str]:
    """Say which of the trials that decided were disturbed by other programs."""
    notes = []
    for one in measured:
        others = one.best.load.other_cores
        if others is not None and others > _NOTABLE_CORES:
            notes.append(
                f"{one.engine}, batch {one.batch}: other programs used {others:.1f} cores during "
                "the trial that counts; without them there may be more streams"
            )
    return notes


def known_auc(workspace: WorkspaceFolder, manifest: EngineManifest) -> KnownAuc:
    """Look an engine's AUC up in the last bench report.

    Args:
        workspace: May have a report.
        manifest: The engine's.
    """
    unknown = KnownAuc(None, None, "", "")
    try:
        report = read_report(workspace.root)
    except LpxError as error:
        reason = "there is no bench report" if error.code == "not-found" else in_one_line(error)
        return replace(unknown, reason=f"{reason}: run `lpx bench --dataset ...`")
    for candidate in report.candidates:
        if candidate.name != manifest.name:
            continue
        # An engine of the same name that was built since is another engine.
        if candidate.engine.engine_sha256 != manifest.engine_sha256:
            reason = "the bench report is of another build of it: run `lpx bench` again"
            return replace(unknown, reason=reason)
        return KnownAuc(candidate.auc_interval, candidate.verdict, report.dataset.name, "")
    return replace(unknown, reason="the bench report does not have it: run `lpx bench` again")
