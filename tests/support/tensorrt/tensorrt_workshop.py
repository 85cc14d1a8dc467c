"""A fake TensorRT of one release that builds plans, and writes down what it was asked.

It refuses what TensorRT refuses, and keeps silent where TensorRT does: see `_Configuration`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any

from tensorrt_fakes import FakeLibrary, Spy
from tensorrt_nets import one_convolution

from lpx.engines.tensorrt.building.plan import Plan, build_plan
from lpx.engines.tensorrt.building.plan_request import PlanRequest
from lpx.engines.tensorrt.library import Flavour
from lpx.engines.tensorrt_options import BatchRange, TensorRTOptions

MODEL = one_convolution()
MIB = 1 << 20
LAYERS = {"int8": "Int8", "fp16": "Half", "fp32": "Float"}
DLA_LAYER = {"Name": "{ForeignNode[a...b]}", "LayerType": "DLA", "Inputs": [], "Outputs": []}
# Texts of TensorRT's libraries.
NO_CUDA = "CUDA initialization failure with error: 35"
DAMAGED_CACHE = (
    "The timing cache will not be used!",
    "Failed to deserialize timing cache. Returning an empty timing cache.",
)
FROZEN_MISS = (
    "Adding new entry to timing cache is not allowed if "
    "`BuilderFlag::kERROR_ON_TIMING_CACHE_MISS` is set."
)


def cache_of(*kernels: str, device: str = "this GPU") -> bytes:
    """A serialized timing cache that holds the times of these kernels."""
    return json.dumps({"timing cache of": device, "kernels": kernels}).encode()


def kernels_in(cache: bytes | None) -> list[str]:
    """The kernels whose times a serialized timing cache holds."""
    assert cache is not None
    return list(json.loads(cache)["kernels"])


class _Configuration:
    """What TensorRT does with a builder configuration.

    A timing cache is there only when one was set. One of another device is refused with False and
    no reason; one that cannot be read is an empty one, with warnings. TF32 is on by default.
    """

    def __init__(self, shop: Workshop) -> None:
        self.shop = shop
        self.flags = {"TF32"}
        self.profiles: list[list[tuple[int, ...]]] = []
        self.caches: list[tuple[Spy, dict[str, Any]]] = []
        self.cache: Spy | None = None
        self.spy = Spy(
            "IBuilderConfig",
            shop.library,
            set_flag=lambda flag: self.flags.add(flag.name),
            clear_flag=lambda flag: self.flags.discard(flag.name),
            get_flag=lambda flag: flag.name in self.flags,
            get_memory_pool_limit=lambda pool: shop.workspace(),
            builder_optimization_level=3,
            add_optimization_profile=self.add_profile,
            create_timing_cache=self.create_timing_cache,
            set_timing_cache=self.set_timing_cache,
            get_timing_cache=lambda: self.cache,
        )
        if shop.flavour == "tensorrt-rtx":
            answers = vars(self.spy)["_answers"]
            answers["set_compute_capability"] = lambda gpu, index: gpu.name not in shop.refused_gpus

    def add_profile(self, profile: Spy) -> int:
        if self.shop.refuses_profiles:
            return -1
        self.profiles.append(vars(profile)["_answers"]["shapes"])
        return len(self.profiles) - 1

    def create_timing_cache(self, data: bytes) -> Spy | None:
        if not self.shop.makes_caches:
            return None
        content: dict[str, Any] = {"timing cache of": self.shop.device, "kernels": []}
        if memoryview(data).nbytes:  # anything without a buffer, None among them, is a TypeError
            try:
                given = json.loads(data)
                content = {name: given[name] for name in content}
            except (ValueError, KeyError, TypeError):
                for text in DAMAGED_CACHE:
                    self.shop.say("WARNING", text)
        spy = Spy("ITimingCache", self.shop.library, serialize=lambda: json.dumps(content).encode())
        self.caches.append((spy, content))
        return spy

    def set_timing_cache(self, cache: Spy, ignore_mismatch: bool) -> bool:
        content = self.content_of(cache)
        if content["timing cache of"] != self.shop.device and not ignore_mismatch:
            return False
        self.cache = cache
        return True

    def content_of(self, cache: Spy) -> dict[str, Any]:
        return next(content for spy, content in self.caches if spy is cache)

    def timed(self, kernels: Sequence[str]) -> bool:
        """Whether the builder may use these kernels: it times what the cache does not hold."""
        known = self.content_of(self.cache)["kernels"] if self.cache else []
        missing = [kernel for kernel in kernels if kernel not in known]
        if missing and "ERROR_ON_TIMING_CACHE_MISS" in self.flags:
            self.shop.say("ERROR", FROZEN_MISS)
            return False
        known += missing
        return True

    def on_dla(self) -> bool:
        """Whether layers run on a DLA core: one that is given a range gets none of them."""
        if "default_device_type" not in vars(self.spy)["_answers"] or not self.shop.dla_takes:
            return False
        return all(least == best == most for least, best, most in self.profiles)


class Workshop:
    """A fake library that builds. `outcomes` are what each build in turn gives or raises.

    Attributes:
        dla_takes: Whether a DLA core supports any layer of the model.
        refused_gpus: Compute capabilities, as "SM89", that cannot be set.
        device: What the timing caches of this machine are of.
        kernels: What a build times.
        cuda: Whether CUDA starts; where it does not, factories return nothing and say why in a
            warning.
        memory: Whether there is memory for execution contexts.
    """

    def __init__(self, release: str, precision: str = "fp16") -> None:
        self.library = FakeLibrary(release)
        self.flavour: Flavour = "tensorrt-rtx" if "rtx" in release else "tensorrt"
        self.precision = precision
        self.model = MODEL
        self.build_log = _build_log(precision)
        self.refused_gpus: set[str] = set()
        self.outcomes: list[Callable[[Any], bytes | None]] = []
        self.errors: list[Spy] = []
        self.shape: tuple[int, ...] = (-1, 8, 8, 3)
        self.dla_cores = 2
        self.dla_takes = True
        self.device = "this GPU"
        self.kernels = ["conv"]
        self.makes_caches = True
        self.refuses_shapes = False
        self.refuses_profiles = False
        self.cuda = True
        self.memory = True
        self.loads = True
        self.tensors: list[Spy] = []
        """What the network's layers make, one each."""
        self.layers: list[dict[str, Any]] = []
        """What the inspector says of the layers on the GPU; one convolution of the precision where
        the plan would else have none."""
        self.library.Builder = self._builder
        self.library.OnnxParser = self._parser
        self.library.Runtime = self._runtime
        self.configurations: list[_Configuration] = []

    @property
    def configs(self) -> list[Spy]:
        return [configuration.spy for configuration in self.configurations]

    def build(self, **given: Any) -> Plan:
        """Build a plan; takes fields of `TensorRTOptions` and of `PlanRequest`, and progress."""
        progress = given.pop("progress", None)
        names = {field.name for field in fields(TensorRTOptions)} & given.keys()
        options = {"batches": BatchRange(1, 4, 8)} | {name: given.pop(name) for name in names}
        request = {"precision": self.precision, "options": TensorRTOptions(**options)} | given
        return build_plan(PlanRequest(self.model, **request), self.library.opened, progress)

    def set(self, name: str) -> list[Any]:
        """The values that a member of the builder configuration was set to."""
        return [call[1] for call in self.library.named(f"IBuilderConfig.{name} =")]

    def flags(self) -> set[str]:
        return {call[1].name for call in self.library.named("IBuilderConfig.set_flag")}

    def network_flags(self) -> set[str]:
        kinds = self.library.NetworkDefinitionCreationFlag
        (call, *_) = self.library.named("Builder.create_network")
        return {flag.name for flag in kinds if call[1] & (1 << int(flag))}

    def profiles(self) -> list[tuple[Any, ...]]:
        return [call[1:] for call in self.library.named("IOptimizationProfile.set_shape")]

    def workspace(self) -> int:
        limits = self.library.named("IBuilderConfig.set_memory_pool_limit")
        return limits[-1][2] if limits else 64 * MIB

    def _start(self, logger: Any) -> None:
        """Make the logger that of the library, or fail as its factories do without CUDA."""
        self.logger = logger
        if not self.cuda:
            self.say("WARNING", NO_CUDA)
            self.no_object()

    def no_object(self) -> None:
        """Fail as the bindings do where the library gives them no object."""
        raise TypeError("pybind11::init(): factory function returned nullptr")

    def _builder(self, logger: Any) -> Spy:
        self._start(logger)
        library = self.library

        def network(flags: int) -> Spy:
            tensor = Spy("ITensor", library, name="faces", shape=self.shape)
            return Spy(
                "INetworkDefinition",
                library,
                num_inputs=1,
                get_input=lambda index: tensor,
                num_layers=len(self.tensors),
                get_layer=lambda index: Spy(
                    "ILayer", library, num_outputs=1, get_output=lambda output: self.tensors[index]
                ),
            )

        def config() -> Spy:
            self.configurations.append(_Configuration(self))
            return self.configurations[-1].spy

        def profile() -> Spy:
            shapes: list[tuple[int, ...]] = []

            def set_shape(name: str, *given: tuple[int, ...]) -> None:
                if self.refuses_shapes:
                    text = "Shape provided for min is inconsistent with other shapes."
                    raise RuntimeError(text)
                shapes.extend(given)

            return Spy("IOptimizationProfile", library, set_shape=set_shape, shapes=shapes)

        return Spy(
            "Builder",
            library,
            create_network=network,
            create_builder_config=config,
            create_optimization_profile=profile,
            build_serialized_network=self._build,
            num_DLA_cores=self.dla_cores,
            max_DLA_batch_size=4096,
        )

    def _build(self, network: Any, config: Any) -> bytes | None:
        outcome = self.outcomes.pop(0) if self.outcomes else lambda workshop: b"plan"
        data = outcome(self)
        if data is not None and not self.configurations[-1].timed(self.kernels):
            return None
        if data is not None and self.flavour == "tensorrt-rtx":
            self.say("VERBOSE", self.build_log)
        return data

    def say(self, severity: str, message: str) -> None:
        self.logger.log(getattr(self.library.ILogger, severity), message)

    def _parser(self, network: Any, logger: Any) -> Spy:
        return Spy(
            "OnnxParser",
            self.library,
            parse=lambda model: not self.errors,
            num_errors=len(self.errors),
            get_error=lambda index: self.errors[index],
        )

    def _inspected(self) -> list[dict[str, Any]]:
        on_dla = [DLA_LAYER] if self.configurations[-1].on_dla() else []
        return [*on_dla, *self.layers] or [_layer(self.precision)]

    def _runtime(self, logger: Any) -> Spy:
        self._start(logger)
        library = self.library
        text = json.dumps({"Layers": self._inspected()})

        def context() -> Spy | None:
            answers = {"set_input_shape": lambda name, shape: True}
            return Spy("IExecutionContext", library, **answers) if self.memory else None

        engine = Spy(
            "ICudaEngine",
            library,
            num_io_tensors=1,
            get_tensor_name=lambda index: "faces",
            get_tensor_mode=lambda name: library.TensorIOMode.INPUT,
            get_tensor_shape=lambda name: self.shape,
            get_tensor_profile_shape=lambda name, index: self.configurations[-1].profiles[index],
            create_execution_context=context,
            create_engine_inspector=lambda: Spy(
                "EngineInspector", library, get_engine_information=lambda form: text
            ),
        )
        loaded = engine if self.loads else None
        return Spy("Runtime", library, deserialize_cuda_engine=lambda data: loaded)


def _layer(precision: str) -> dict[str, Any]:
    kind = LAYERS[precision]
    return {"Name": "conv", "LayerType": "CaskConvolution", "Inputs": [{"Datatype": kind}]}


def _build_log(precision: str) -> str:
    kind = LAYERS[precision]
    return (
        "Layers:\nName: conv, LayerType: correlation, Inputs: [ { Name: x, Datatype: "
        f"{kind}, Format: any }}], Constants: [], Outputs: [], TacticName: t\n"
    )
