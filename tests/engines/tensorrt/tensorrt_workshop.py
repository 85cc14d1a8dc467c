"""A fake TensorRT of one release that builds plans, and writes down what it was asked."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tensorrt_fakes import FakeLibrary, Spy
from tensorrt_nets import one_convolution

from lpx.engines.tensorrt.build import Plan, build_plan
from lpx.engines.tensorrt.request import BatchRange

MODEL = one_convolution()
MIB = 1 << 20
LAYERS = {"int8": "Int8", "fp16": "Half", "fp32": "Float"}


class Workshop:
    """A fake library that builds. `outcomes` are what each build in turn gives or raises."""

    def __init__(self, release: str, precision: str = "fp16") -> None:
        self.library = FakeLibrary(release)
        self.flavour = "tensorrt-rtx" if "rtx" in release else "tensorrt"
        self.precision = precision
        self.outcomes: list[Callable[[Any], bytes | None]] = []
        self.errors: list[Spy] = []
        self.shape: tuple[int, ...] = (-1, 8, 8, 3)
        self.dla_cores = 2
        self.loads = True
        self.tensors: list[Spy] = []
        """What the network's layers make, one each."""
        self.layers: list[dict[str, Any]] = []
        """What the inspector says; one convolution of the precision where empty."""
        self.library.Builder = self._builder
        self.library.OnnxParser = self._parser
        self.library.Runtime = self._runtime
        self.configs: list[Spy] = []

    def build(self, **options: Any) -> Plan:
        defaults: dict[str, Any] = {
            "flavour": self.flavour,
            "precision": self.precision,
            "batches": BatchRange(1, 4, 8),
        }
        return build_plan(MODEL, **(defaults | options))

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

    def _builder(self, logger: Any) -> Spy:
        self.logger = logger
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
            found = Spy(
                "IBuilderConfig",
                library,
                get_memory_pool_limit=lambda pool: self._workspace(),
                builder_optimization_level=3,
                create_timing_cache=lambda data: Spy(
                    "ITimingCache", library, serialize=lambda: data
                ),
                get_timing_cache=lambda: Spy("ITimingCache", library, serialize=lambda: b"cache"),
            )
            self.configs.append(found)
            return found

        return Spy(
            "Builder",
            library,
            create_network=network,
            create_builder_config=config,
            create_optimization_profile=lambda: Spy("IOptimizationProfile", library),
            build_serialized_network=self._build,
            num_DLA_cores=self.dla_cores,
        )

    def _workspace(self) -> int:
        limits = self.library.named("IBuilderConfig.set_memory_pool_limit")
        return limits[-1][2] if limits else 64 * MIB

    def _build(self, network: Any, config: Any) -> bytes | None:
        outcome = self.outcomes.pop(0) if self.outcomes else lambda workshop: b"plan"
        data = outcome(self)
        if data is not None and self.flavour == "tensorrt-rtx":
            self.say("VERBOSE", _build_log(self.precision))
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

    def _runtime(self, logger: Any) -> Spy:
        library = self.library
        text = json.dumps({"Layers": self.layers or [_layer(self.precision)]})
        engine = Spy(
            "ICudaEngine",
            library,
            num_io_tensors=0,
            create_execution_context=lambda: Spy("IExecutionContext", library),
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
