"""ONNX bytes to a plan: the one call that builds, for every release and for RTX."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lpx.engines.tensorrt.building.calibrator import calibrator_for
from lpx.engines.tensorrt.building.network import (
    add_profiles,
    create_network,
    find_input,
    parse,
    watch_tensors,
)
from lpx.engines.tensorrt.building.progress import Progress, monitor_for, silent
from lpx.engines.tensorrt.building.settings import (
    MIB,
    Effort,
    effort_used,
    make_config,
    set_timing_cache,
    timing_cache_of,
)
from lpx.engines.tensorrt.capabilities import Capabilities, capabilities_of
from lpx.engines.tensorrt.inspect import inspect_engine, parse_build_log
from lpx.engines.tensorrt.layer_table import (
    LayerTable,
    assert_on_dla,
    assert_precision,
    note_on_unrecognised,
    of_graph,
)
from lpx.engines.tensorrt.library import Flavour, load
from lpx.engines.tensorrt.logger import Recorder, recording, started
from lpx.engines.tensorrt.refusals import advice
from lpx.engines.tensorrt.request import Batches, Precision, Request, check
from lpx.engines.tensorrt.runtime import deserialize
from lpx.errors import LpxError

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
        layers: Its layers with their precision; None where TensorRT does not tell.
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
    onnx_model: bytes,
    *,
    flavour: Flavour,
    precision: Precision,
    batches: Batches,
    input_name: str = "faces",
    compute_capabilities: tuple[str, ...] = (),
    workspace_mib: int | None = None,
    optimisation_level: int | None = None,
    timing_cache: bytes | None = None,
    calibration_cache: bytes | None = None,
    progress: Progress | None = None,
    version_compatible: bool = False,
    hardware_compatible: bool = False,
    dla_core: int | None = None,
    frozen_timing_cache: bool = False,
    watch: tuple[str, ...] = (),
    tf32: bool = True,
) -> Plan:
    """Build a plan and make sure that it computes in the precision asked for.

    A strongly typed library takes the precision from the graph alone: give it the graph of that
    precision and of `Capabilities.dialect`. A weakly typed one also gets FP16 and INT8 flags.
    A build that runs out of memory is tried again with half the workspace and a lower
    optimisation level, up to five times; each step stands in the log.

    Args:
        onnx_model: Serialized ONNX model, below 2 GiB.
        flavour: "tensorrt" builds for the GPU of this machine, "tensorrt-rtx" needs no GPU.
        precision: What the graph computes in, verified on the plan.
        batches: `BatchRange(minimum, optimum, maximum)` for one dynamic profile, or a tuple of
            static batch sizes for a profile each: (1, 8) is batch 1 and batch 8, no range.
        input_name: The input that carries the batch, [N, H, W, 3].
        compute_capabilities: GPUs to build for, as "8.6"; tensorrt-rtx only. None given: its
            default set. A plan for several GPUs has only what all of them have.
        workspace_mib: Cap on a layer's scratch memory, MiB; None is TensorRT's default.
        optimisation_level: 0 (fast build) to 5 (long search); None is TensorRT's default.
        timing_cache: A cache from an earlier build on the same release, device and power mode.
        calibration_cache: EntropyCalibration2 cache; up to TensorRT 10, with a plain graph.
        progress: Called as (phase, steps done, steps); ignored by releases that report none.
        version_compatible: Let later releases load the plan; it then carries host code.
        hardware_compatible: Let other GPU models, Ampere and later, load the plan.
        dla_core: DLA core to build for, with the GPU for what it cannot do; it takes static batch
            sizes only.
        frozen_timing_cache: Fail where a kernel's time is not in the timing cache, or TensorRT
            does not use that cache, so that the same build gives the same plan.
        watch: Tensors that the plan shall hand out while `TensorRTTensors` runs it. Its layers
            differ from those of a plan that is not watched, and are not verified.
        tf32: Let float32 tensors be multiplied in TF32, with 10 bits of mantissa, where the GPU
            can; TensorRT's own default.

    Raises:
        NotAsAskedError: The plan does not compute in `precision`, or not on the DLA core.
        LpxError: The library is absent or cannot do what is asked; the model is refused, with
            the node and the parser's message; the build fails.
    """
    trt = load(flavour)
    capabilities = capabilities_of(trt, flavour)
    request = Request(
        onnx_model=onnx_model,
        precision=precision,
        batches=batches,
        input_name=input_name,
        compute_capabilities=compute_capabilities,
        workspace_mib=workspace_mib,
        optimisation_level=optimisation_level,
        timing_cache=timing_cache,
        calibration_cache=calibration_cache,
        version_compatible=version_compatible,
        hardware_compatible=hardware_compatible,
        dla_core=dla_core,
        frozen_timing_cache=frozen_timing_cache,
        watch=watch,
        tf32=tf32,
    )
    check(request, capabilities)
    with recording(trt) as (logger, recorder):
        if capabilities.known_bad:
            recorder.note(f"known-bad release: {capabilities.known_bad}")
        built = _Build(trt, capabilities, request, logger, recorder, progress).run()
        layers = _layers(trt, capabilities, request, recorder, built.data)
    # Watching may stop fusions, and change precisions with them: who watches compares.
    if layers is not None and not watch:
        if dla_core is not None:
            # What lies inside a DLA's loadable, the inspector does not tell.
            assert_on_dla(layers)
        else:
            assert_precision(layers, precision)
            if note := note_on_unrecognised(layers):
                recorder.note(note)
    return Plan(
        data=built.data,
        flavour=flavour,
        version=str(trt.__version__),
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


@dataclass(frozen=True)
class _Build:
    """One request, tried until it succeeds or fails for good."""

    trt: Any
    capabilities: Capabilities
    request: Request
    logger: Any
    recorder: Recorder
    progress: Progress | None

    def run(self) -> _Built:
        """Go down the ladder of smaller workspaces and lower levels while memory lacks."""
        asked = self.request.workspace_mib
        effort = Effort(asked * MIB if asked else None, self.request.optimisation_level)
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

    def _attempt(self, effort: Effort) -> tuple[_Built | None, Effort]:
        trt, request, capabilities = self.trt, self.request, self.capabilities
        builder = self._builder()
        network = create_network(trt, builder, capabilities, request)
        parse(trt, self.logger, network, capabilities, request.onnx_model)
        watch_tensors(network, capabilities, request.watch)
        config = make_config(trt, builder, capabilities, request, effort)
        timed = capabilities.timing_cache and set_timing_cache(config, request, self.recorder)
        add_profiles(builder, config, find_input(network, request.input_name), request)
        # TensorRT does not keep its callbacks alive; these names do, while it builds.
        if capabilities.progress_monitor:
            monitor = monitor_for(trt, self.progress or silent, self.recorder)
            config.progress_monitor = monitor
        if capabilities.calibrators and request.calibration_cache is not None:
            calibrator = calibrator_for(trt, request.calibration_cache)
            config.int8_calibrator = calibrator
        used = effort_used(trt, config)
        serialized = builder.build_serialized_network(network, config)
        if serialized is None:
            return None, used
        return _Built(bytes(serialized), timing_cache_of(config, capabilities), timed), used

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
            fix = "build once without --frozen-timing-cache, which adds the times that are missing"
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
    request: Request,
    recorder: Recorder,
    data: bytes,
) -> LayerTable | None:
    """The layers of a plan just built: from RTX's build log, else from the plan, loaded."""
    if capabilities.flavour == "tensorrt-rtx":
        table = parse_build_log(recorder.layers_text or "")
        if not table.rows:
            recorder.note("the build logged no table of layers, so its precision is not verified")
            return None
        return of_graph(table, request.onnx_model)
    warnings: list[str] = []
    try:
        # Both are held, as the runtime must outlive the engine.
        runtime_and_engine = deserialize(
            trt,
            data,
            allow_host_code=request.version_compatible,
            dla_core=request.dla_core,
            notes=warnings,
        )
    except LpxError as error:
        reason = f"{error.what}: {error.why}" if error.why else error.what
        recorder.note(f"the precision of the plan is not verified: {reason}")
        return None
    recorder.messages += (("warning", text) for text in warnings)
    return of_graph(inspect_engine(trt, runtime_and_engine[1]), request.onnx_model)
