"""The model card: all that is needed to run a detector rightly.

The card travels in the checkpoint, in the ONNX metadata and in every engine's manifest. It is the
only place that knows what preprocessing means.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lpx.errors import LpxError
from lpx.schema import SchemaError, parse_json, read_record

FORMAT = "lpx-card/1"
METADATA_KEY = "lpx.card"
"""Where the card lies in an ONNX model's metadata properties."""
MAX_INPUT_SIZE = 4096
"""Side of a face crop, pixels."""
MAX_CHANNELS = 65536
"""Channels of a bottleneck."""
MAX_RECEPTIVE_FIELD = 1_000_000
"""Side of what a unit sees, and the distance of units, pixels."""
MAX_TEXT = 1000
"""Characters of a text."""
MIN_STD = 1e-4
"""Pixels are divided by the deviation: below this, one grey level is a step of 40."""
_AGGREGATES = ("mean_prob", "lse", "topk", "mean_logit", "own")


@dataclass(frozen=True)
class ModelCard:
    """Everything about a detector that its weights do not say.

    Attributes:
        architecture: Backbone name, or `package.module:function` of a user's factory.
        cut: Stage after which the backbone is truncated ("whole" = not truncated).
        bottleneck: Channels of the head's 1x1 bottleneck, 0 for none.
        aggregate: How unit logits become a score: mean_prob, lse, topk or mean_logit.
        aggregate_parameter: r of `lse`, the fraction k/N of `topk`; unused otherwise.
        input_size: Height and width of the face crop, in pixels.
        crop: Name of the rule by which faces were cropped for training.
        mean: Per-channel mean, subtracted from pixels scaled to [0, 1], in `channel_order`.
        std: Per-channel standard deviation, in `channel_order`.
        channel_order: Order in which the network wants channels; engines always take RGB.
        classes: Meaning of the score's two ends; index 1 = fake.
        fake_class: Which class of the network as its authors trained it is fake, 0 or 1. Scores
            and maps that lpx gives are probabilities of fake whichever it is.
        outputs: What the network of a factory returns.
        grid: Classification units (h, w) per face.
        receptive_field: Side of the square of input pixels that a unit sees; None = unknown.
        stride: Distance of neighbouring units, in input pixels; None = unknown.
        strictly_local: Whether no pixel outside its receptive field can change a unit.
        threshold: Score at or above which a face is called fake.
        threshold_source: How the threshold was chosen.
        provenance: Where the weights come from: data, licence, command, measured AUC.
        weights_sha256: SHA-256 of the state dict (names, shapes, dtypes and bytes).
    """

    architecture: str
    cut: str
    aggregate: str
    input_size: int
    bottleneck: int = 0
    aggregate_parameter: float = 0.0
    crop: str = "unknown"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    channel_order: Literal["RGB", "BGR"] = "RGB"
    classes: tuple[str, str] = ("real", "fake")
    fake_class: int = 1
    outputs: Literal["probabilities", "logits"] = "probabilities"
    grid: tuple[int, int] = (1, 1)
    receptive_field: int | None = None
    stride: int | None = None
    strictly_local: bool = False
    threshold: float = 0.5
    threshold_source: str = "default 0.5, not chosen on validation data"
    provenance: dict[str, Any] = field(default_factory=dict)
    weights_sha256: str = ""

    def normalisation(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Offset and scale of each channel, in `channel_order`.

        Returns:
            (offset, scale), float32 [3] each: network input = (pixel - offset) * scale for pixels
            in 0..255.
        """
        offset = np.asarray(self.mean, np.float64) * 255.0
        scale = 1.0 / (np.asarray(self.std, np.float64) * 255.0)
        return offset.astype(np.float32), scale.astype(np.float32)

    def to_json(self) -> str:
        """The card as one line of JSON."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)

    def to_dict(self) -> dict[str, Any]:
        """The card as plain values, ready for JSON and for `torch.save`."""
        loaded: dict[str, Any] = json.loads(self.to_json())
        return loaded


def card_from_json(text: str | bytes, source: str) -> ModelCard:
    """Read a card back from the JSON of an ONNX model's metadata.

    Raises:
        LpxError: It is not JSON, or as `card_from_dict`.
    """
    try:
        values = parse_json(text)
    except SchemaError as error:
        raise LpxError(
            f"the model card in {source} is damaged", str(error), "export the checkpoint again"
        ) from error
    return card_from_dict(values, source)


def card_from_dict(values: object, source: str) -> ModelCard:
    """Read a card back.

    Args:
        values: What `ModelCard.to_dict` made.
        source: Where it was read from, for the error.

    Raises:
        LpxError: Another format, fields missing or unknown, or a value that no model can have.
    """
    if not isinstance(values, Mapping):
        raise _wrong(source, "is not an object with fields", "")
    given = dict(values)
    version = given.pop("format", None)
    if version != FORMAT:
        raise LpxError(
            f"{source}: the model card has format {ascii(version)[:60]}",
            f"this version of lpx reads {FORMAT!r}",
            "export the checkpoint again with this version, or install the one that wrote it",
        )
    known = {f.name: f for f in fields(ModelCard)}
    if unknown := sorted(str(name)[:60] for name in given.keys() - known.keys()):
        raise LpxError(
            f"{source}: the model card has unknown fields: {', '.join(unknown[:10])}",
            "it was written by a newer lpx or edited by hand",
            "update lpx, or export the checkpoint again",
        )
    if lost := [n for n in ("architecture", "cut", "aggregate", "input_size") if n not in given]:
        raise _wrong(
            source,
            f"is incomplete: {', '.join(lost)} missing",
            "lpx cannot guess how the model wants its faces",
        )
    try:
        card = read_record(ModelCard, given)
        _check_values(card)
    except SchemaError as error:
        raise _wrong(source, f"is wrong: {error}", "it was edited or damaged") from error
    return card


def _wrong(source: str, what: str, why: str) -> LpxError:
    return LpxError(f"{source}: the model card {what}", why, "export the checkpoint again")


def _check_values(card: ModelCard) -> None:
    """Refuse values of the right type that no model can have.

    Raises:
        SchemaError: The field, its value, and what it may be.
    """
    size = card.input_size
    if card.aggregate not in _AGGREGATES:
        raise SchemaError(
            f"aggregate: expected one of {', '.join(_AGGREGATES)}, found {card.aggregate!a:.60}"
        )
    _check_range("fake_class", card.fake_class, 0, 1)
    _check_range("input_size", size, 1, MAX_INPUT_SIZE)
    _check_range("bottleneck", card.bottleneck, 0, MAX_CHANNELS)
    _check_range("aggregate_parameter", card.aggregate_parameter, 0, sys.float_info.max)
    _check_range("threshold", card.threshold, 0, 1)
    for value in card.mean:
        _check_range("mean", value, 0, 1)
    for value in card.std:
        _check_range("std", value, MIN_STD, 1)
    for value in card.grid:
        _check_range("grid", value, 1, size)
    if card.receptive_field is not None:
        _check_range("receptive_field", card.receptive_field, 1, MAX_RECEPTIVE_FIELD)
    if card.stride is not None:
        _check_range("stride", card.stride, 1, MAX_RECEPTIVE_FIELD)
    if card.classes != ("real", "fake"):
        raise SchemaError(f"classes: {list(card.classes)!a:.100}, expected real and fake, in order")
    if not re.fullmatch(r"(?:[0-9a-f]{64})?", card.weights_sha256):
        raise SchemaError(f"weights_sha256: {card.weights_sha256!a:.80} is not a SHA-256")
    for name in ("architecture", "cut", "crop", "threshold_source"):
        text = getattr(card, name)
        if len(text) > MAX_TEXT or not text.isprintable() or not text:
            raise SchemaError(
                f"{name}: {text!a:.80} is not a printable text of 1 to {MAX_TEXT} characters"
            )


def _check_range(name: str, value: float, low: float, high: float) -> None:
    # Written so that NaN is refused.
    if not low <= value <= high:
        raise SchemaError(f"{name}: {value:g} is outside {low:g} to {high:g}")
