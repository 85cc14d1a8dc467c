"""Open an engine that fits this machine and scores probe faces as it must."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from lpx.arguments import check_choice
from lpx.artefacts.model import ExportedModel, open_faces
from lpx.artefacts.select_engine import (
    Survey,
    UnfitEngine,
    find_engine,
    none_runs,
    preference,
    survey,
)
from lpx.bench.parity.score import in_one_line
from lpx.bench.performance.loaded_engine import REFERENCE
from lpx.bundle.check import ScoreCheck, compare_scores, expected_of, scores_differ
from lpx.bundle.manifest import PROBE
from lpx.bundle.probe import FILE, Probe, make_probe, read_probe, tolerance_elsewhere
from lpx.data.wording import counted
from lpx.engines.base import Engine
from lpx.engines.load import load
from lpx.engines.manifest import EngineManifest
from lpx.errors import LpxError
from lpx.healing import REBUILD, Rebuild
from lpx.healing.host import Host
from lpx.healing.origin import moved
from lpx.reporter import SILENT, Reporter
from lpx.workspace import WorkspaceFolder


class PickedEngine(NamedTuple):
    """An opened engine and its name."""

    name: str
    engine: Engine


@dataclass(frozen=True)
class HealingOptions:
    """Options of whatever opens engines.

    Attributes:
        rebuild: Whether to rebuild an engine that is named and does not fit, or if none fits.
        allow_host_code: Load version-compatible plans, which contain code that runs here.

    Raises:
        InvalidArgumentError: `rebuild` is none of its values.
    """

    rebuild: Rebuild = "auto"
    allow_host_code: bool = False

    def __post_init__(self) -> None:
        check_choice("rebuild", self.rebuild, REBUILD)


def pick_engine(
    workspace: WorkspaceFolder,
    model: ExportedModel,
    name: str | None,
    *,
    allow_host_code: bool = False,
    allow_factory: bool = False,
    rebuild: Rebuild = "auto",
    reporter: Reporter = SILENT,
    load: Callable[..., Engine] = load,
    host: Host | None = None,
) -> PickedEngine:
    """Open an engine that runs here, after checking its scores of probe faces.

    Args:
        workspace: Contains the engines.
        model: The model that they must have been built from.
        name: Name of the engine, or "torch" for the checkpoint; None for the fastest engine that
            runs here.
        allow_host_code: Load a version-compatible plan, which contains code that runs here.
        allow_factory: Run the factory that the workspace names, for "torch".
        rebuild: Whether to rebuild the engine if it does not run here, or none does.
        reporter: Receives the reason for the choice, notes and progress.
        load: Loads the engine in a folder.
        host: This machine; None for the one at hand.

    Raises:
        NotAsAskedError: It gives probe faces other scores than it must (code "scores-differ").
        LpxError: It does not exist (code "not-found"), or does not run here and is not rebuilt
            ("unsupported").
    """
    options = HealingOptions(rebuild, allow_host_code)
    if name == REFERENCE:
        # PyTorch takes seconds to import.
        from lpx.artefacts.reference import read_reference
        from lpx.engines.torch import TorchEngine

        reference = read_reference(workspace, model, allow_factory=allow_factory)
        return PickedEngine(name, TorchEngine(reference))
    here = host or Host(load=load)
    return Healer(workspace, model, options, reporter, here).open(name)


@dataclass(frozen=True)
class Healer:
    """Opens the engines of a workspace, and rebuilds those that do not fit.

    Args:
        workspace: Contains the engines.
        model: The exported model.
        options: Whether to rebuild.
        reporter: Receives notes and progress.
        host: The machine at hand.
    """

    workspace: WorkspaceFolder
    model: ExportedModel
    options: HealingOptions
    reporter: Reporter = SILENT
    host: Host = field(default_factory=Host)

    def open(self, name: str | None) -> PickedEngine:
        """Open the engine of a name, or the preferred one; see `pick_engine`."""
        if name is None:
            return self._open_preferred(self._survey())
        find_engine(self.workspace, name)
        found = self._survey()
        fit = {manifest.name: manifest for manifest in found.fit}
        unfit = {one.manifest.name: one for one in found.unfit}
        if name in fit:
            manifest = fit[name]
            try:
                engine = self._load(manifest)
            except LpxError as error:
                if not self._may_heal(manifest, error):
                    raise
                unfit[name] = UnfitEngine(manifest, error.summary)
                del fit[name]
            else:
                return self._serve(manifest, engine)
        manifest = self._rebuild(unfit[name], _others(fit))
        return self._serve(manifest, self._load(manifest))

    def prepare(self, names: Sequence[str] | None) -> None:
        """Rebuild the named engines that do not run here; without names one, if none runs.

        With `rebuild="never"` nothing is rebuilt, and nothing is raised.

        Raises:
            LpxError: As for `pick_engine`.
        """
        if self.options.rebuild == "never":
            return
        found = self._survey()
        others = _others({manifest.name: manifest for manifest in found.fit})
        for one in found.unfit:
            asked = names is not None and one.manifest.name in names
            if asked and self.host.rebuilds(one.manifest).usable:
                self._rebuild(one, others)
        if names is None and not found.fit:
            self._rebuild(self._to_rebuild(found), others)

    def problem(self, manifest: EngineManifest, engine: Engine) -> str:
        """Return why an engine must not be used, by its scores of probe faces; "" if it may be.

        Raises:
            LpxError: The probe faces, or the engine's graph, are damaged.
        """
        # Outside the block below: what is wrong with the faces is not wrong with this engine.
        if self._probe is None:
            return ""
        try:
            found = self._check(manifest, engine, self._probe)
        except Exception as error:
            if isinstance(error, LpxError) and error.code == "damaged":
                raise
            return in_one_line(error)
        if not found.passed:
            return str(found)
        self.reporter.say(_as_expected(manifest, found))
        return ""

    def _survey(self) -> Survey:
        return survey(self.workspace, self.model, self.host.machine, self.host.runs)

    def _open_preferred(self, found: Survey) -> PickedEngine:
        unfit = list(found.unfit)
        for manifest in sorted(found.fit, key=preference):
            try:
                engine = self._load(manifest)
            except LpxError as error:
                if not self._may_heal(manifest, error):
                    raise
                unfit.append(UnfitEngine(manifest, error.summary))
                continue
            self._say_choice(manifest, unfit, len(found.fit) + len(found.unfit))
            return self._serve(manifest, engine)
        manifest = self._rebuild(self._to_rebuild(Survey([], unfit)), "")
        return self._serve(manifest, self._load(manifest))

    def _to_rebuild(self, found: Survey) -> UnfitEngine:
        """Return the preferred engine of those that can be rebuilt here.

        Raises:
            LpxError: None can.
        """
        can = [one for one in found.unfit if self.host.rebuilds(one.manifest).usable]
        if not can:
            raise none_runs(self.workspace, found.reasons)
        return min(can, key=lambda one: preference(one.manifest))

    def _say_choice(
        self, chosen: EngineManifest, unfit: Sequence[UnfitEngine], engines: int
    ) -> None:
        """Say which engines would have been preferred, and why they were not taken."""
        for one in sorted(unfit, key=lambda one: preference(one.manifest)):
            if preference(one.manifest) < preference(chosen):
                self.reporter.say(f"{one.manifest.name} is passed over: {one.reason}")
        if engines > 1:
            self.reporter.say(
                f"using {chosen.name}: of the engines that run here, it should be the fastest"
            )

    def _load(self, manifest: EngineManifest) -> Engine:
        # The cores are shared: the caller reads images or videos while the engine runs.
        return self.host.load(
            self.workspace.engines / manifest.name,
            allow_host_code=self.options.allow_host_code,
            shares_cores=True,
        )

    def _may_heal(self, manifest: EngineManifest, error: LpxError) -> bool:
        """Return whether another engine may help where one does not load."""
        # A damaged file may have been altered, and code that was not allowed is the user's to
        # allow: neither is passed over.
        host_code = manifest.tensorrt.version_compatible and not self.options.allow_host_code
        return error.code == "unsupported" and not host_code

    def _serve(self, manifest: EngineManifest, engine: Engine) -> PickedEngine:
        """Return an engine after checking it; close it if its scores differ.

        Raises:
            LpxError: They do, or the probe faces are damaged.
        """
        try:
            self._require_scores(manifest, engine)
        except BaseException:
            engine.close()
            raise
        return PickedEngine(manifest.name, engine)

    def _check(self, manifest: EngineManifest, engine: Engine, probe: Probe) -> ScoreCheck:
        """Compare an engine's scores of probe faces with those that they must be.

        Raises:
            LpxError: The engine's graph is altered, or the engine fails.
        """
        expected = expected_of(self.workspace.engines / manifest.name, manifest, probe)
        return compare_scores(engine, probe, expected)

    def _require_scores(self, manifest: EngineManifest, engine: Engine) -> None:
        """Check an engine's scores of the bundle's probe faces, and say so.

        Raises:
            LpxError: They differ, or the probe faces are damaged.
        """
        if self._probe is None:
            # On the machine that built it, nothing is expected to differ.
            if why := moved(manifest, self.host.machine):
                self.reporter.warn(
                    f"the scores of {manifest.name} were not checked: {why}, and this workspace "
                    "has no probe faces, which bundles have"
                )
            return
        found = self._check(manifest, engine, self._probe)
        if not found.passed:
            raise scores_differ(
                f"engine {manifest.name}",
                found,
                f"run `lpx build --{manifest.precision} --target {manifest.target}` here, use "
                "another `engine`, or unpack the bundle again",
            )
        self.reporter.say(_as_expected(manifest, found))

    @cached_property
    def _probe(self) -> Probe | None:
        """The probe faces of the bundle; None if there are none of this model."""
        if not (self.workspace.root / PROBE / FILE).is_file():
            return None
        probe = read_probe(self.workspace.root / PROBE)
        # Another model may have been exported into the workspace since.
        return probe if probe.model_sha256 == self.model.sha256 else None

    def _rebuild(self, unfit: UnfitEngine, others: str) -> EngineManifest:
        """Rebuild an engine, if that is possible and allowed.

        Args:
            unfit: The engine.
            others: Advice on other engines.

        Raises:
            LpxError: It is not, or the new engine has not passed.
        """
        old = unfit.manifest
        possible, reason = self.host.rebuilds(old)
        if not possible:
            why = unfit.reason if reason in unfit.reason else f"{unfit.reason}; {reason}"
            raise LpxError(f"engine {old.name} does not run here", why, others, code="unsupported")
        if old.tensorrt.version_compatible and not self.options.allow_host_code:
            raise LpxError(
                f"engine {old.name} does not run here, and is not rebuilt",
                f"{unfit.reason}; it is version-compatible, and the new one would contain code "
                "that runs in this process",
                "if you trust its origin, pass `allow_host_code=True`",
                code="untrusted",
            )
        # Damage to the probe faces is noticed here, and not after a build that takes minutes.
        _ = self._probe
        self._ask(unfit, others)
        # Imported here: graph passes take time to import, and most runs rebuild nothing.
        from lpx.healing.rebuild import rebuild_engine

        return rebuild_engine(
            self.workspace, self.model, old, self.host, self.reporter, self._prove
        )

    def _ask(self, unfit: UnfitEngine, others: str) -> None:
        """Find out whether an engine may be rebuilt, and say why it is.

        Raises:
            LpxError: It may not.
        """
        name = unfit.manifest.name
        if self.options.rebuild == "auto":
            self.reporter.warn(f"{name} does not run here: {unfit.reason}")
            return
        why = 'rebuilding it was not allowed (`rebuild="never"`)'
        if self.options.rebuild == "ask":
            # The build itself shows progress; how long it takes depends on model and GPU.
            answer = self.host.ask(
                f"{name} does not run here: {unfit.reason}. Rebuild it? TensorRT takes minutes."
            )
            if answer:
                return
            why = "you chose not to rebuild it"
            if answer is None:
                why = '`rebuild="ask"` needs a terminal to ask on'
        advice = '`rebuild="auto"` rebuilds it without asking'
        raise LpxError(
            f"engine {name} does not run here",
            f"{unfit.reason}; {why}",
            f"{advice}; {others}" if others else advice,
            code="unsupported",
        )

    def _prove(self, folder: Path, manifest: EngineManifest) -> None:
        """Check an engine that was rebuilt, in a folder of its own.

        Raises:
            LpxError: It does not run here, or its scores differ.
        """
        runs, reason = self.host.runs(manifest)
        if not runs:
            raise LpxError(
                f"{manifest.name} was rebuilt, and does not run here either",
                reason,
                "use an engine of another target; the old one was kept",
                code="unsupported",
            )
        probe, where = self._probe, "where it was packed"
        if probe is None:
            # The demo faces, with the scores that the graph gets in ONNX Runtime here.
            faces = open_faces(self.workspace, "demo", "test")
            probe = make_probe(faces, self.model, tolerance_elsewhere(self.workspace))
            where = "in ONNX Runtime"
        expected = expected_of(folder, manifest, probe)
        # This process has built it, and may run the code that it contains.
        with closing(self.host.load(folder, allow_host_code=True)) as engine:
            found = compare_scores(engine, probe, expected)
        if not found.passed:
            raise scores_differ(
                f"{manifest.name} was rebuilt, and the new engine",
                found,
                "the old engine was kept; use another `engine`, and please report this",
            )
        self.reporter.say(
            f"{manifest.name} was rebuilt, and scores {counted(found.faces, 'probe face')} as "
            f"{where} (largest difference {found.largest:.1g}, tolerance {found.tolerance:.2g})"
        )


def _as_expected(manifest: EngineManifest, found: ScoreCheck) -> str:
    return (
        f"{manifest.name} scores {counted(found.faces, 'probe face')} as expected "
        f"(largest difference {found.largest:.1g}, tolerance {found.tolerance:.2g})"
    )


def _others(fit: dict[str, EngineManifest]) -> str:
    names = ", ".join(["torch", *fit])
    return f"engines that run here: {names}; use one of these, or leave out `engine`"
