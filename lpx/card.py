"""The model card: everything that is needed to run a detector correctly.

The card is part of the checkpoint, of the ONNX metadata and of every engine's manifest. It is the
only definition of the preprocessing.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lpx.errors import LpxError
from lpx.schema import SchemaError, parse_json, read_record

FORMAT = "lpx-card/1"
METADATA_KEY = "lpx.card"
"""Key of the card in an ONNX model's metadata properties."""
MAX_INPUT_SIZE = 4096
"""Side of a face crop, pixels."""
MAX_CHANNELS = 65536
"""Channels of a bottleneck."""
MAX_RECEPTIVE_FIELD = 1_000_000
"""Side of what a unit sees, and distance of units, pixels."""
MAX_TEXT = 1000
"""Characters of a text."""
# Pixels in [0, 1] are divided by the standard deviation: at this value a grey level, 1/255, becomes
# a step of 40.
MIN_STD = 1e-4
# Characters of a value, and unknown fields, that an error repeats.
_SHOWN, _NAMED = 60, 10
# Not imported from lpx.models, which imports PyTorch. "own" is that of a factory's model.
_AGGREGATES = ("mean_prob", "lse", "topk", "mean_logit", "own")
_REQUIRED = ("architecture", "cut", "aggregate", "input_size")


class Normalisation(NamedTuple):
    """Normalisation of a network's input: (pixel - offset) * scale, for pixels in 0..255.

    Attributes:
        offset: Offset of each channel, float32 [3].
        scale: Scale of each channel, float32 [3].
    """

    offset: NDArray[np.float32]
    scale: NDArray[np.float32]


# The fields are not grouped although there are many. They are the keys of a published format: cards
# are in checkpoints, ONNX files and engines of other people, and are compared field by field.
@dataclass(frozen=True)
class ModelCard:
    """Everything about a detector that its weights do not say.

    Attributes:
        architecture: Backbone name, or `package.module:function` of a user's factory.
        cut: Stage after which the backbone is truncated ("whole" = not truncated).
        bottleneck: Channels of the head's 1x1 bottleneck, 0 for none.
        aggregate: Function from unit logits to a score: mean_prob, lse, topk or mean_logit; "own"
            for a factory's model.
        aggregate_parameter: r of `lse`, the fraction k/N of `topk`; unused otherwise.
        input_size: Height and width of the face crop, in pixels.
        crop: Name of the rule that cropped the training faces.
        mean: Per-channel mean, subtracted from pixels scaled to [0, 1], in `channel_order`.
        std: Per-channel standard deviation, in `channel_order`.
        channel_order: Order of the channels that the network expects; engines always take RGB.
        classes: Meaning of a score of 0 and of 1.
        fake_class: Index of the class that is fake in the network as its authors trained it. The
            scores and maps of lpx are probabilities of fake in any case.
        outputs: Kind of values that the network of a factory returns.
        grid: Classification units (h, w) per face.
        receptive_field: Side of the square of input pixels that a unit sees; None = unknown.
        stride: Distance of neighbouring units, in input pixels; None = unknown.
        strictly_local: Whether a unit depends on no pixel outside its receptive field.
        threshold: Score from which on a face is called fake.
        threshold_source: How the threshold was chosen.
        provenance: Origin of the weights: data, licence, command, measured AUC.
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

    def normalisation(self) -> Normalisation:
        """Return offset and scale of each channel, in `channel_order`."""
        # In float64, and rounded once: training, export and engines then agree to the last bit.
        offset = np.asarray(self.mean, np.float64) * 255.0
        scale = 1.0 / (np.asarray(self.std, np.float64) * 255.0)
        return Normalisation(offset.astype(np.float32), scale.astype(np.float32))

    def to_json(self) -> str:
        """Return the card as one line of JSON."""
        return json.dumps({"format": FORMAT, **asdict(self)}, sort_keys=True)

    def to_dict(self) -> dict[str, Any]:
        """Return the card as plain values, for JSON and for `torch.save`."""
        loaded: dict[str, Any] = json.loads(self.to_json())
        return loaded


def card_from_json(text: str | bytes, source: str) -> ModelCard:
    """Read a card from the JSON in an ONNX model's metadata.

    Args:
        text: The JSON.
        source: Name of the file, for errors.

    Raises:
        LpxError: It is not JSON, or not a card; see `card_from_dict`.
    """
    try:
        values = parse_json(text)
    except SchemaError as error:
        raise LpxError(
            f"the model card in {source} is damaged",
            str(error),
            "export the checkpoint again",
            code="damaged",
        ) from error
    return card_from_dict(values, source)


def card_from_dict(values: object, source: str) -> ModelCard:
    """Read a card.

    Args:
        values: Result of `ModelCard.to_dict`.
        source: Name of the file, for errors.

    Raises:
        LpxError: Another format (code "unsupported"), missing or unknown fields, or a value that no
            model can have ("damaged").
    """
    if not isinstance(values, Mapping):
        raise _wrong(source, "is not an object with fields", "")
    given = dict(values)
    version = given.pop("format", None)
    if version != FORMAT:
        raise LpxError(
            f"{source}: the model card has format {ascii(version)[:_SHOWN]}",
            f"this version of lpx reads {FORMAT!r}",
            "export the checkpoint again with this version, or install the one that wrote it",
            code="unsupported",
        )
    known = {field.name for field in fields(ModelCard)}
    unknown = sorted(str(name)[:_SHOWN] for name in given.keys() - known)
    if unknown:
        raise LpxError(
            f"{source}: the model card has unknown fields: {', '.join(unknown[:_NAMED])}",
            "it was written by a newer lpx or edited by hand",
            "update lpx, or export the checkpoint again",
            code="unsupported",
        )
    missing = [name for name in _REQUIRED if name not in given]
    if missing:
        raise _wrong(
            source,
            f"is incomplete: {', '.join(missing)} missing",
            "lpx cannot guess the input that the model expects",
        )
    try:
        card = read_record(ModelCard, given)
        _check_values(card)
    except SchemaError as error:
        raise _wrong(source, f"is wrong: {error}", "it was edited or damaged") from error
    return card


def _wrong(source: str, what: str, why: str) -> LpxError:
    fix = "export the checkpoint again"
    return LpxError(f"{source}: the model card {what}", why, fix, code="damaged")


def _check_values(card: ModelCard) -> None:
    """Refuse values of the right type that no model can have.

    Raises:
        SchemaError: A field has such a value; the message names both.
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
    # In this form NaN, which compares as False, is refused.
    if not low <= value <= high:
        raise SchemaError(f"{name}: {value:g} is outside {low:g} to {high:g}")
