"""The model card: all that is needed to run a detector rightly.

The card travels in the checkpoint, in the ONNX metadata and in every engine's manifest. It is the
only place that knows what preprocessing means.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lpx.errors import LpxError

FORMAT = "lpx-card/1"
METADATA_KEY = "lpx.card"
"""Where the card lies in an ONNX model's metadata properties."""
_CHOICES: dict[str, tuple[object, ...]] = {
    "channel_order": ("RGB", "BGR"),
    "fake_class": (0, 1),
    "outputs": ("probabilities", "logits"),
}


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


def card_from_dict(values: dict[str, Any], source: str) -> ModelCard:
    """Read a card back.

    Args:
        values: What `ModelCard.to_dict` made.
        source: Where it was read from, for the error.

    Raises:
        LpxError: Another format, or fields missing or unknown.
    """
    if values.get("format") != FORMAT:
        raise LpxError(
            f"{source}: the model card has format {values.get('format')!r}",
            f"this version of lpx reads {FORMAT!r}",
            "export the checkpoint again with this version, or install the one that wrote it",
        )
    known = {f.name for f in fields(ModelCard)}
    given = {k: v for k, v in values.items() if k != "format"}
    if unknown := sorted(given.keys() - known):
        raise LpxError(
            f"{source}: the model card has unknown fields: {', '.join(unknown)}",
            "it was written by a newer lpx or edited by hand",
            "update lpx, or export the checkpoint again",
        )
    try:
        for name in ("mean", "std", "grid", "classes"):
            if name in given:
                given[name] = tuple(given[name])
        card = ModelCard(**given)
    except TypeError as error:
        raise LpxError(
            f"{source}: the model card is incomplete: {error}",
            "lpx cannot guess how the model wants its faces",
            "export the checkpoint again",
        ) from error
    for choice, allowed in _CHOICES.items():
        if getattr(card, choice) not in allowed:
            raise LpxError(
                f"{source}: the model card has {choice} {getattr(card, choice)!r}",
                f"it is one of {', '.join(map(str, allowed))}",
                "export the checkpoint again",
            )
    return card
