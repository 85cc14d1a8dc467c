"""Build a plan from an ONNX model, with every release of TensorRT and with TensorRT for RTX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from lpx.engines.tensorrt.building.calibrator import calibrator_for
from lpx.engines.tensorrt.building.network import (
    add_profiles,
    create_network,
    find_input,
    parse,
    watch_tensors,
)
from lpx.engines.tensorrt.building.plan_request import PlanRequest, check_supported
from lpx.engines.tensorrt.building.progress import PhaseProgress, monitor_for, silent
from lpx.engines.tensorrt.building.settings import (
    MIB,
    Effort,
    effort_used,
    make_config,
    set_timing_cache,
    timing_cache_of,
)
from lpx.engines.tensorrt.capabilities import Capabilities, TensorRTLibrary
from lpx.engines.tensorrt.inspect import inspect_engine, parse_build_log
from lpx.engines.tensorrt.layer_table import (
    LayerTable,
    assert_on_dla,
    assert_precision,
    note_on_unrecognised,
    of_graph,
)
from lpx.engines.tensorrt.library import Flavour
from lpx.engines.tensorrt.logger import Recorder, recording, started
from lpx.engines.tensorrt.refusals import advice
from lpx.engines.tensorrt.runtime import deserialize
from lpx.errors import LpxError
from lpx.interrupts import deferred

_ATTEMPTS = 5
# TensorRT 8 to 10, and 11: "Try increasing the workspace size with IBuilderConfig::..."
_SMALL_WORKSPACE = ("within workspace limit", "insufficient workspace", "increasing the workspace")


@dataclass(frozen=True)
class Plan:
    """A built engine, serialized.

    Attributes:
        data: The plan's bytes.
        flavour: The library that built it and loads it.
        version: That library's version, as "10.13.3.9".
        layers: Its layers with their precision; None if TensorRT does not report them.
        timing_cache: The timing cache after the build; None where the release has none.
        log: TensorRT's warnings and errors and lpx's own decisions, as "level: text".
        timing_cache_used: Whether the build started from the timing cache that it was given.
    """

    data: bytes
    flavour: Flavour
    version: str
    layers: LayerTable | None
    timing_cache: bytes | None
    log: tuple[str, ...]
    timing_cache_used: bool = False


def build_plan(
    request: PlanRequest, library: TensorRTLibrary, progress: PhaseProgress | None = None
) -> Plan:
    """Build a plan and make sure that it computes in the precision asked for.

    A strongly typed library takes the precision from the graph alone: give it the graph of that
    precision and of `Capabilities.dialect`. A weakly typed one also gets FP16 and INT8 flags.
    A build that runs out of memory is tried again with half the workspace and a lower
    optimisation level, up to five times; the log has each step.

    Args:
        request: The graph and the options.
        library: TensorRT builds for the GPU of this machine, TensorRT for RTX needs no GPU.
        progress: Called as (phase, steps done, steps); ignored by releases that report none.

    Raises:
        NotAsAskedError: The plan does not compute in the requested precision, or not on the DLA
            core.
        LpxError: The library does not support an option; the model is refused, with the node and
            the parser's message; the build fails.
    """
    trt, capabilities = library.trt, library.capabilities
    check_supported(request, capabilities)
    with recording(trt) as (logger, recorder):
        if capabilities.known_bad:
            recorder.note(f"known-bad release: {capabilities.known_bad}")
        built = _Build(trt, capabilities, request, logger, recorder, progress).run()
        layers = _layers(trt, capabilities, request, recorder, built.data)
    # Watching may stop fusions, and change precisions with them: who watches compares.
    if layers is not None and not request.watch:
        if request.options.dla_core is not None:
            # The inspector does not show the contents of a DLA's loadable.
            assert_on_dla(layers)
        else:
            assert_precision(layers, request.precision)
            if note := note_on_unrecognised(layers):
                recorder.note(note)
    return Plan(
        data=built.data,
        flavour=library.flavour,
        version=library.version,
        layers=layers,
        timing_cache=built.timing_cache,
        log=recorder.lines(),
        timing_cache_used=built.timing_cache_used,
    )


@dataclass(frozen=True)
class _Built:
    data: bytes
    timing_cache: bytes | None
    timing_cache_used: bool


class _Attempt(NamedTuple):
    """One attempt at a build: what it gave, None if it failed, and what it was allowed."""

    built: _Built | None
    used: Effort


@dataclass(frozen=True)
class _Build:
    """One request, tried until it succeeds or fails for good."""

    trt: Any
    capabilities: Capabilities
    request: PlanRequest
    logger: Any
    recorder: Recorder
    progress: PhaseProgress | None

    def run(self) -> _Built:
        """Build, with smaller workspaces and lower levels as long as memory runs out."""
        asked = self.request.options.workspace_mib
        effort = Effort(asked * MIB if asked else None, self.request.options.optimisation_level)
        for left in reversed(range(_ATTEMPTS)):
            start = len(self.recorder.messages)
            built, used = self._attempt(effort)
            self.recorder.reraise()
            if built is not None:
                return built
            if not self.recorder.out_of_memory(start):
                raise self._failure("TensorRT did not build the plan")
            if not left:
                break
            effort = _lower(used)
            self.recorder.note(
                f"out of memory with {_described(used)}; trying {_described(effort)}"
            )
        raise self._failure(f"TensorRT ran out of memory, last with {_described(effort)}")

    def _attempt(self, effort: Effort) -> _Attempt:
        trt, request, capabilities = self.trt, self.request, self.capabilities
        builder = self._builder()
        network = create_network(trt, builder, capabilities, request)
        parse(trt, self.logger, network, capabilities, request.onnx_model)
        watch_tensors(network, capabilities, request.watch)
        config = make_config(trt, builder, capabilities, request, effort)
        timed = capabilities.timing_cache and set_timing_cache(config, request, self.recorder)
        add_profiles(builder, config, find_input(network, request.input_name), request.options)
        # TensorRT does not keep its callbacks alive; these names do, while it builds.
        if capabilities.progress_monitor:
            monitor = monitor_for(trt, self.progress or silent, self.recorder)
            config.progress_monitor = monitor
        if capabilities.calibrators and request.calibration_cache is not None:
            calibrator = calibrator_for(trt, request.calibration_cache)
            config.int8_calibrator = calibrator
        used = effort_used(trt, config)
        # A signal must not raise in a callback: the bindings would print it, with each message that
        # TensorRT logs, and go on. The monitor cancels the build instead; TensorRT 8 has none, and
        # ends it first. A second signal ends the process.
        with deferred():
            serialized = builder.build_serialized_network(network, config)
        if serialized is None:
            return _Attempt(None, used)
        built = _Built(bytes(serialized), timing_cache_of(config, capabilities), timed)
        return _Attempt(built, used)

    def _builder(self) -> Any:
        what = f"{self.capabilities.flavour} did not start a builder"
        return started(self.trt.Builder, self.logger, self.recorder, what)

    def _failure(self, what: str) -> LpxError:
        said = self.recorder.said("error") or self.recorder.said("warning")
        why = "\n".join(said) or "TensorRT gave no reason"
        if any(sign in why for sign in _SMALL_WORKSPACE):
            fix = "give a larger workspace, or none"
        elif self.recorder.out_of_memory():
            fix = "close other programs on the GPU, or ask for smaller batches"
        elif "ERROR_ON_TIMING_CACHE_MISS" in why:
            fix = "build once without `frozen_timing_cache`, which adds the missing times"
        else:
            fix = advice(why) or "see TensorRT's message above"
        return LpxError(what, why=why, fix=fix)


def _lower(used: Effort) -> Effort:
    workspace, level = used.workspace_bytes, used.level
    return Effort(
        workspace_bytes=None if workspace is None else max(workspace // 2, MIB),
        level=None if level is None else max(level - 1, 0),
    )


def _described(effort: Effort) -> str:
    workspace = (effort.workspace_bytes or 0) // MIB
    return f"a workspace of {workspace} MiB and optimisation level {effort.level}"


def _layers(
    trt: Any,
    capabilities: Capabilities,
    request: PlanRequest,
    recorder: Recorder,
    data: bytes,
) -> LayerTable | None:
    """Return the layers of a plan just built: from RTX's build log, else from the loaded plan."""
    if capabilities.flavour == "tensorrt-rtx":
        table = parse_build_log(recorder.layers_text or "")
        if not table.rows:
            recorder.note("the build logged no table of layers, so its precision is not verified")
            return None
        return of_graph(table, request.onnx_model)
    warnings: list[str] = []
    try:
        loaded = deserialize(
            trt,
            data,
            allow_host_code=request.options.version_compatible,
            dla_core=request.options.dla_core,
            notes=warnings,
        )
    except LpxError as error:
        reason = error.summary
        recorder.note(f"the precision of the plan is not verified: {reason}")
        return None
    recorder.messages += (("warning", text) for text in warnings)
    return of_graph(inspect_engine(trt, loaded.engine), request.onnx_model)
