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
        flavour: Library that built it, and loads it.
        version: Version of that library, such as "10.13.3.9".
        layers: Layers with their precision; None if TensorRT does not report them.
        timing_cache: Timing cache after the build; None if the release has none.
        log: TensorRT's warnings and errors and lpx's own decisions, as "level: text".
        timing_cache_used: True if the build used the times in the request's timing cache.
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
    """Build a plan, and check that it computes in the requested precision.

    With a strongly typed library the graph alone determines the precision: pass the graph of that
    precision and of `Capabilities.dialect`. A weakly typed one also gets FP16 and INT8 flags.
    A build that runs out of memory is tried again with half the workspace and a lower
    optimisation level, up to five times; the log contains each attempt.

    Args:
        request: The graph and the options.
        library: TensorRT, which builds for the GPU of this machine, or TensorRT for RTX, which
            needs no GPU.
        progress: Called with (phase, steps done, steps), if the release reports progress.

    Raises:
        NotAsAskedError: The plan does not compute in the requested precision, or not on the DLA
            core.
        LpxError: The library does not support an option; TensorRT refuses the model (contains the
            node and the parser's message); or the build fails.
    """
    trt, capabilities = library.trt, library.capabilities
    check_supported(request, capabilities)
    with recording(trt) as (logger, recorder):
        if capabilities.known_bad:
            recorder.note(f"known-bad release: {capabilities.known_bad}")
        built = _Build(trt, capabilities, request, logger, recorder, progress).run()
        layers = _layers(trt, capabilities, request, recorder, built.data)
    # Not for a watched plan: watching may prevent fusions, and thereby change precisions.
    if layers is not None and not request.watch:
        if request.options.dla_core is not None:
            # The inspector does not show the contents of a DLA loadable.
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
    """One attempt at a build: its result, None if it failed, and the limits that it used."""

    built: _Built | None
    used: Effort


@dataclass(frozen=True)
class _Build:
    """The build of a request, in several attempts if memory runs out."""

    trt: Any
    capabilities: Capabilities
    request: PlanRequest
    logger: Any
    recorder: Recorder
    progress: PhaseProgress | None

    def run(self) -> _Built:
        """Build, with a smaller workspace and a lower level each time that memory runs out."""
        options = self.request.options
        workspace_bytes = None
        if options.workspace_mib is not None:
            workspace_bytes = options.workspace_mib * MIB
        effort = Effort(workspace_bytes, options.optimisation_level)
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
        # These variables keep the callbacks alive during the build, which TensorRT does not.
        if capabilities.progress_monitor:
            monitor = monitor_for(trt, self.progress or silent, self.recorder)
            config.progress_monitor = monitor
        if capabilities.calibrators and request.calibration_cache is not None:
            calibrator = calibrator_for(trt, request.calibration_cache)
            config.int8_calibrator = calibrator
        used = effort_used(trt, config)
        # Signals are deferred: an exception in a callback would be printed by the bindings, and the
        # build would continue. Instead, the monitor cancels the build. TensorRT 8 has no monitor,
        # and finishes first. A second signal ends the process.
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
            fix = "set a larger workspace, or none"
        elif self.recorder.out_of_memory():
            fix = "close other programs on the GPU, or build for smaller batches"
        elif "ERROR_ON_TIMING_CACHE_MISS" in why:
            fix = "build once without `frozen_timing_cache`, which adds the missing times"
        else:
            fix = advice(why) or "see TensorRT's message above"
        return LpxError(what, why=why, fix=fix)


def _lower(used: Effort) -> Effort:
    workspace, level = used.workspace_bytes, used.level
    if workspace is not None:
        workspace = max(workspace // 2, MIB)
    if level is not None:
        level = max(level - 1, 0)
    return Effort(workspace, level)


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
    """Return the layers of a new plan: from the build log of TensorRT for RTX, or by loading it."""
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
