"""What the steps of a search have in common."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lpx.api.search.faces import SearchFaces
from lpx.api.search.options import SearchOptions
from lpx.api.search.sensitivity import Prepared, runtime_versions
from lpx.bench.performance.latency import Samples, sample
from lpx.engines.base import Engine, Faces
from lpx.engines.manifest import Precision
from lpx.engines.request import BuildRequest
from lpx.engines.targets import ResolvedTarget
from lpx.graph.qdq.plan import NO_PLAN, PrecisionPlan
from lpx.machine.machine import Machine
from lpx.reporter import Reporter
from lpx.search.subject import Subject
from lpx.search.timing.latency import LatencyModel
from lpx.search.timing.measure_latency import TimingPlan, measure_costs
from lpx.search.timing.work_model import WorkModel

if TYPE_CHECKING:
    from lpx.api.workspace.opened import OpenedWorkspace


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
class SearchRun:
    """A search in progress.

    Attributes:
        workspace: The workspace, locked.
        options: Options of the search.
        prepared: The model, and its parts.
        target: The target.
        machine: This machine.
        faces: Faces of both halves.
        folder: Receives what was measured.
        reporter: Receives progress.
        stopwatch: Measures times.
        started: When the search began, by `time.monotonic`.
    """

    workspace: OpenedWorkspace
    options: SearchOptions
    prepared: Prepared
    target: ResolvedTarget
    machine: Machine
    faces: SearchFaces
    folder: Path
    reporter: Reporter
    stopwatch: Stopwatch = STOPWATCH
    started: float = field(default_factory=time.monotonic)

    @property
    def subject(self) -> Subject:
        """The model, taken apart."""
        return self.prepared.subject

    @property
    def size(self) -> int:
        """Side of a face, pixels."""
        return self.prepared.model.card.input_size

    @property
    def names(self) -> list[str]:
        """Names of all groups, in graph order."""
        return [group.name for group in self.subject.groups]

    @property
    def minutes(self) -> float:
        """Time since the beginning, minutes."""
        return (time.monotonic() - self.started) / 60

    def out_of_time(self) -> bool:
        """Return whether the budget is spent."""
        budget = self.options.budget_minutes
        return budget is not None and self.minutes > budget

    @property
    def float_precision(self) -> Precision:
        """Precision of the float engine that INT8 has to be faster than."""
        # ONNX Runtime's CPU computes float16 in float32, with casts.
        return "fp32" if self.target.name == "onnxruntime" else "fp16"

    def request(self, plan: PrecisionPlan) -> BuildRequest:
        """Return the request for the INT8 engine of a plan."""
        return replace(self.subject.request, plan=plan, tensorrt=self.options.tensorrt)

    def float_request(self) -> BuildRequest:
        """Return the request for the float engine."""
        return replace(self.request(NO_PLAN), precision=self.float_precision, method="")

    def engine_inputs(self) -> dict[str, Any]:
        """Return what an engine depends on besides its plan."""
        request, library = self.subject.request, self.target.library
        assert request.scales is not None
        return {
            "model": self.subject.float_digest,
            "ranges": request.scales.summary()["ranges_sha256"],
            "method": request.method,
            "weights": repr(request.weights),
            "tensorrt": repr(self.options.tensorrt),
            "target": self.target.name,
            "blocks": self.options.blocks,
            "versions": runtime_versions(),
            "tensorrt_version": library.capabilities.version if library else None,
        }
