"""`config.pbtxt`: what Triton has to know of a model.

Names and rules are those of `model_config.proto` and of Triton's core and backends, as published
for release 26.09.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lpx.deploy.triton.batching import Batching
from lpx.deploy.triton.text_format import Enum, Field, Message, entry, message, text_of

PLATFORMS = {"tensorrt": "tensorrt_plan", "onnxruntime": "onnxruntime_onnx"}
"""Triton's name of a runtime's models, by the name of its backend."""
WARM_UP_FACE = "face.rgb"
"""Name of the raw face in a model's folder `warmup`."""
DEFAULT_PLAN = "model.plan"
"""File that Triton loads on a GPU that `cc_model_filenames` does not list."""


@dataclass(frozen=True)
class TritonConfig:
    """A model's configuration.

    Attributes:
        name: Name of the model, and of its folder.
        backend: "tensorrt" or "onnxruntime".
        size: Side of a face, pixels.
        grid: Rows and columns of the patch map.
        batching: Largest batch, and how requests are gathered into batches.
        parameters: Texts for clients, by name.
        plans: Plan by compute capability, such as "8.7"; empty for one without.
        default_plan: A plan serves the GPUs that `plans` does not list.
        profiles: Numbers of the plan's profiles to use; empty for its only one.
        dla_core: DLA core that the plan runs on; None for the GPU.
    """

    name: str
    backend: str
    size: int
    grid: tuple[int, int]
    batching: Batching
    parameters: Mapping[str, str]
    plans: Mapping[str, str] = field(default_factory=dict)
    default_plan: bool = False
    profiles: tuple[int, ...] = ()
    dla_core: int | None = None

    def to_text(self) -> str:
        """Return the content of `config.pbtxt`."""
        fields = [
            Field("name", self.name),
            Field("backend", self.backend),
            Field("platform", PLATFORMS[self.backend]),
            # The batch dimension is implicit from here on.
            Field("max_batch_size", self.batching.largest),
            Field("input", self._input()),
            Field("output", self._score()),
            Field("output", self._patch_map()),
            Field("instance_group", self._instances()),
        ]
        if self.default_plan:
            fields.append(Field("default_model_filename", DEFAULT_PLAN))
        for capability, file in self.plans.items():
            fields.append(Field("cc_model_filenames", entry(capability, file)))
        # A batch of one needs no gathering.
        if self.batching.largest > 1:
            fields.append(Field("dynamic_batching", self._dynamic_batching()))
        if self.backend == "tensorrt" and self.dla_core is None:
            fields.append(Field("optimization", message(Field("cuda", self._graphs()))))
        for size in self.batching.warm_up:
            fields.append(Field("model_warmup", self._warm_up(size)))
        for name, text in self.parameters.items():
            value = message(Field("string_value", text))
            fields.append(Field("parameters", entry(name, value)))
        return text_of(message(*fields))

    def _input(self) -> Message:
        return message(
            Field("name", "faces"),
            Field("data_type", Enum("TYPE_UINT8")),
            Field("format", Enum("FORMAT_NHWC")),
            Field("dims", (self.size, self.size, 3)),
        )

    def _score(self) -> Message:
        return message(
            Field("name", "score"),
            Field("data_type", Enum("TYPE_FP32")),
            Field("dims", (1,)),
            # The engine's score is [N]: nothing is left of it without the batch dimension.
            Field("reshape", Message(())),
        )

    def _patch_map(self) -> Message:
        return message(
            Field("name", "patch_map"),
            Field("data_type", Enum("TYPE_FP32")),
            Field("dims", self.grid),
        )

    def _instances(self) -> Message:
        kind = "KIND_GPU" if self.backend == "tensorrt" else "KIND_CPU"
        # One instance: on a CPU it uses all cores, which another one would only share.
        fields = [Field("count", 1), Field("kind", Enum(kind))]
        if self.profiles:
            # Without this, Triton uses the first profile only.
            fields.append(Field("profile", tuple(map(str, self.profiles))))
        if self.dla_core is not None:
            device = message(Field("kind", Enum("KIND_NVDLA")), Field("device_id", self.dla_core))
            fields.append(Field("secondary_devices", device))
        return message(*fields)

    def _dynamic_batching(self) -> Message:
        # An empty message is not an absent one: with it, whatever arrived while the server was busy
        # becomes a batch, and no face waits for others.
        if not self.batching.preferred:
            return Message(())
        return message(
            Field("preferred_batch_size", self.batching.preferred),
            Field("max_queue_delay_microseconds", self.batching.delay_us),
        )

    def _graphs(self) -> Message:
        fields = [Field("graphs", True)]
        for size in self.batching.warm_up:
            fields.append(Field("graph_spec", message(Field("batch_size", size))))
        return message(*fields)

    def _warm_up(self, size: int) -> Message:
        face = message(
            Field("data_type", Enum("TYPE_UINT8")),
            Field("dims", (self.size, self.size, 3)),
            Field("input_data_file", WARM_UP_FACE),
        )
        # Triton repeats the face to fill the batch.
        return message(
            Field("name", f"batch-{size}"),
            Field("batch_size", size),
            Field("inputs", entry("faces", face)),
        )
