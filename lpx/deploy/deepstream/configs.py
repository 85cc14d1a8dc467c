"""Configurations of DeepStream's nvinfer and nvinferserver for a detector of faces' fakes.

Names and meanings of the keys are those that nvinfer's parser (gstnvinfer_property_parser.cpp,
DeepStream 9.1) and nvdsinferserver_config.proto have; tests check every file against both.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from lpx.card import ModelCard
from lpx.engines.manifest import Precision

Form = Literal["score", "tensors"]
"""Forms of the package: a label for each fake face, or all outputs of the engine."""
FORMS: tuple[Form, ...] = ("score", "tensors")
LABELS = "labels.txt"
FACE_DETECTOR, FACE, DETECTOR = 1, 0, 2
"""`gie-unique-id` of the face detector, its class of faces, and our `gie-unique-id`."""
MIN_SIDE = 16
"""Smallest box that a Jetson's VIC scales, pixels; the same everywhere, so that scores are too."""


@dataclass(frozen=True)
class Settings:
    """What the configurations say of a detector.

    Attributes:
        card: Its card.
        precision: Precision of the engines.
        batch: Largest batch of the engines.
        model: Name of the model in Triton's model repository.
        own_crop: Something else than the probe of the package sets the boxes.
    """

    card: ModelCard
    precision: Precision
    batch: int
    model: str
    own_crop: bool = False

    @property
    def boxes(self) -> str:
        """Who sets the boxes, as a sentence of a comment."""
        if self.own_crop:
            return "Your pipeline must set the boxes by the crop recipe before this element."
        return "The probe in face_boxes.py must enlarge the boxes before this element."


def engine_file(form: Form, settings: Settings) -> str:
    """Return the name of an engine, as nvinfer would name it."""
    return f"{form}.onnx_b{settings.batch}_gpu0_{settings.precision}.engine"


def attribute_threshold(threshold: float) -> str:
    """Return the `classifier-threshold` at which nvinfer labels what lpx calls fake.

    nvinfer labels scores above its threshold, lpx those from the threshold on, both in float32: the
    float32 below is written. It refuses negative ones, so a threshold of 0 stays: only a score of
    exactly 0 is then not labelled.
    """
    # The step must be one of float32: the float64 number before a threshold would be rounded back
    # to it.
    below = np.nextafter(np.float32(threshold), np.float32(-1))
    # Nine digits give a float32 back exactly.
    return f"{max(float(below), 0.0):.9g}"


def nvinfer_config(form: Form, settings: Settings) -> str:
    """Return the configuration of nvinfer for a form, as a GLib key file."""
    size = settings.card.input_size
    lines = [
        *_comment(_ENGINE),
        *_comment(settings.boxes),
        "[property]",
        "gpu-id=0",
        f"gie-unique-id={DETECTOR}",
        f"model-engine-file={engine_file(form, settings)}",
        f"batch-size={settings.batch}",
        *_comment(_REBUILD),
        "",
        *_comment("On the boxes of faces that the face detector found."),
        "process-mode=2",
        f"operate-on-gie-id={FACE_DETECTOR}",
        f"operate-on-class-ids={FACE}",
        f"input-object-min-width={MIN_SIDE}",
        f"input-object-min-height={MIN_SIDE}",
        "",
        *_comment(_PIXELS),
        f"infer-dims=3;{size};{size}",
        "network-input-order=0",
        "model-color-format=0",
        "net-scale-factor=1.0",
        "maintain-aspect-ratio=0",
        *_comment(_SCALER),
        "scaling-filter=1",
        "scaling-compute-hw=1",
        "",
    ]
    if form == "score":
        lines += [
            *_comment(_SCORE.format(threshold=f"{settings.card.threshold:g}")),
            "network-type=1",
            "classifier-type=deepfake",
            f"classifier-threshold={attribute_threshold(settings.card.threshold)}",
            f"labelfile-path={LABELS}",
            "classifier-async-mode=0",
            *_comment(_REINFER),
            "secondary-reinfer-interval=0",
        ]
    else:
        lines += [*_comment(_TENSORS), "network-type=100", "output-tensor-meta=1"]
    return "\n".join(lines) + "\n"


def nvinferserver_config(settings: Settings) -> str:
    """Return the configuration of nvinferserver, in protobuf's text format.

    Only for even input sizes: see `takes_nvinferserver`.
    """
    return _NVINFERSERVER.format(
        boxes=settings.boxes,
        model=settings.model,
        batch=settings.batch,
        detector=DETECTOR,
        face_detector=FACE_DETECTOR,
        face=FACE,
        side=MIN_SIDE,
    )


def takes_nvinferserver(card: ModelCard) -> bool:
    """Return True if nvinferserver fills the whole input of a model.

    It rounds the size that it scales to down to even numbers, and leaves the last row and column
    of an odd input as they were.
    """
    return card.input_size % 2 == 0


def _comment(text: str) -> list[str]:
    # On lines of their own: in a GLib key file, a comment behind a value is part of the value.
    return [f"# {line}" for line in text.splitlines()]


_ENGINE = """\
Built by build.sh, and checked there. Its input is float32: never name a plan of an lpx workspace
here, whose input is uint8. nvinfer writes float32 into it, beyond its end, without a check."""
_REBUILD = """\
onnx-file is left out on purpose. With it, nvinfer builds another engine whenever this one does not
load (after an update of TensorRT, say), without a self-test, and before DeepStream 9.1 in another
precision than the graph states. Without it, nvinfer stops, and build.sh has to be run again."""
_PIXELS = """\
Pixels from 0 to 255, RGB, not normalised: mean and standard deviation are in the engine."""
_SCALER = """\
Bilinear, on the GPU also of a Jetson. It is not OpenCV's, which made the training faces."""
_SCORE = """\
A label, fake, from the score {threshold} on, with the score as its probability; nothing below.
nvinfer labels what is above its threshold, which is therefore the number before {threshold}."""
_REINFER = """\
Every face in every frame: by default, faces with a tracker's id are scored once."""
_TENSORS = """\
All outputs as tensors: score [1] and patch_map [h, w], read by tensor_meta.py."""

_NVINFERSERVER = """\
# nvinferserver runs plans of an lpx workspace as they are: uint8 [N, S, S, 3].
# Write the model repository with `lpx package --for triton`, and copy its `models` here as
# model_repository; model_name is a folder in it. max_batch_size must not exceed the one in its
# config.pbtxt.
# {boxes}
infer_config {{
  unique_id: {detector}
  gpu_ids: [0]
  max_batch_size: {batch}
  backend {{
    triton {{
      model_name: "{model}"
      version: -1
      model_repo {{
        root: "model_repository"
        strict_model_config: true
      }}
    }}
  }}
  preprocess {{
    network_format: IMAGE_FORMAT_RGB
    tensor_order: TENSOR_ORDER_NHWC
    tensor_name: "faces"
    maintain_aspect_ratio: 0
    frame_scaling_hw: FRAME_SCALING_HW_GPU
    frame_scaling_filter: 1
    # uint8 pixels as they are: mean and standard deviation are in the engine.
    normalize {{ scale_factor: 1.0 }}
  }}
  postprocess {{ other {{}} }}
}}
input_control {{
  process_mode: PROCESS_MODE_CLIP_OBJECTS
  operate_on_gie_id: {face_detector}
  operate_on_class_ids: [{face}]
  async_mode: false
  object_control {{ bbox_filter {{ min_width: {side} min_height: {side} }} }}
}}
output_control {{ output_tensor_meta: true }}
"""
