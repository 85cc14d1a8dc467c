"""Precision plans: which layers an INT8 engine leaves in float, and how it quantises the others."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from lpx.arguments import check_fields, check_instance
from lpx.errors import InvalidArgumentError
from lpx.schema import SchemaError, check_plain, read_record

FORMAT = "lpx-plan/1"
LayerPrecision = Literal["int8", "float", "fp32"]
"""Precision of a layer in a plan.

"int8" where the rules of the target allow it; "float" for the engine's float type; "fp32" for
float32 even where the others are float16.
"""


@dataclass(frozen=True)
class LayerPlan:
    """What a plan says about one convolution or matrix product.

    `method`, `clip` and `rounding` apply if the layer is quantised.

    Attributes:
        precision: Its precision.
        reason: Reason, for the manifest and for people; "" if none is given.
        method: Calibration method of its input; None for that of the build.
        clip: As `WeightOptions.clip`; None for that of the build.
        rounding: As `WeightOptions.rounding`; None for that of the build.
    """

    precision: LayerPrecision
    reason: str = ""
    method: str | None = None
    clip: Literal["max", "mse"] | None = None
    rounding: Literal["squant", "nearest"] | None = None

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True)
class PlanFaces:
    """Faces that a plan was found with: an engine must not be measured on them.

    Attributes:
        faces: Name of the face set.
        split: Split of the set.
        face_count: Number of faces.
        faces_digest: As `lpx.calibration.scales.CalibrationFaces.digest`; the others likewise.
        set_digest: Digest of the set that they were chosen from.
        identities: Identities in the faces.
        videos: Videos of the faces.
        contents: Shortened digests of the faces' contents.
        used_for: What they were used for.
    """

    faces: str
    split: str
    face_count: int
    faces_digest: str
    set_digest: str
    identities: tuple[str, ...]
    videos: tuple[str, ...]
    contents: tuple[str, ...]
    used_for: Literal["search", "verification"]


@dataclass(frozen=True)
class PrecisionPlan:
    """A plan for the layers of one model.

    Attributes:
        layers: By the name of the node. What is not named follows the rules of the target.
        model_sha256: SHA-256 of the exported model that it was made for; "" for any model that has
            these layers.
        origin: How it was found, as plain values; empty if it was written by hand. "faces" lists
            the faces, with the fields of `PlanFaces`.

    Raises:
        InvalidArgumentError: A value of another type.
    """

    layers: Mapping[str, LayerPlan] = field(default_factory=dict)
    model_sha256: str = ""
    origin: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("layers", "origin"):
            value = getattr(self, name)
            if not isinstance(value, Mapping):
                raise InvalidArgumentError(name, "must be a mapping", value)
        for name, layer in self.layers.items():
            check_instance("layers", name, str)
            if not isinstance(layer, LayerPlan):
                raise InvalidArgumentError("layers", "must have LayerPlan as values", layer)
        if self.model_sha256 and not re.fullmatch("[0-9a-f]{64}", self.model_sha256):
            raise InvalidArgumentError(
                "model_sha256", 'must be a SHA-256, or ""', self.model_sha256
            )
        try:
            check_plain(dict(self.origin), "origin")
            _faces(self.origin)
        except SchemaError as error:
            raise InvalidArgumentError("origin", f"is damaged: {error}", self.origin) from error

    @property
    def faces(self) -> tuple[PlanFaces, ...]:
        """Faces that it was searched or verified on."""
        return _faces(self.origin)

    @property
    def float32_layers(self) -> frozenset[str]:
        """Names of the layers that stay in float32 even in a float16 graph."""
        return frozenset(name for name, layer in self.layers.items() if layer.precision == "fp32")

    def asks_int8(self, node: str) -> bool:
        """Return whether the plan names a node for INT8."""
        layer = self.layers.get(node)
        return layer is not None and layer.precision == "int8"

    def float_reason(self, node: str) -> str | None:
        """Return why a node stays in float; None if the plan leaves it to the target's rules."""
        layer = self.layers.get(node)
        if layer is None or layer.precision == "int8":
            return None
        kept = "float32" if layer.precision == "fp32" else "float"
        reason = f"the precision plan keeps it in {kept}"
        if layer.reason:
            reason += f": {layer.reason}"
        return reason

    def summary(self) -> str:
        """Return the number of layers per precision, in words."""
        counts = Counter(layer.precision for layer in self.layers.values())
        words: dict[LayerPrecision, str] = {"int8": "INT8", "float": "float", "fp32": "float32"}
        parts = [f"{counts[p]} in {text}" for p, text in words.items() if counts[p]]
        return f"precision plan: {', '.join(parts) or 'no layer'}"

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as in plan.json; `plan_from_dict` reads them."""
        layers = {}
        for name, layer in self.layers.items():
            values = asdict(layer)
            # What a layer leaves to the build is left out, for people who edit the file.
            layers[name] = {key: value for key, value in values.items() if value not in (None, "")}
        return {
            "format": FORMAT,
            "model_sha256": self.model_sha256,
            "layers": layers,
            "origin": dict(self.origin),
        }


def plan_from_dict(values: Mapping[str, Any], methods: Collection[str]) -> PrecisionPlan:
    """Read a plan from plain values, all of which are checked.

    Args:
        values: As `PrecisionPlan.to_dict` returns them.
        methods: Calibration methods that layers may name.

    Raises:
        SchemaError: Values that no plan has; says where.
    """
    rest = dict(values)
    found = rest.pop("format", None)
    if found != FORMAT:
        raise SchemaError(f"expected format {FORMAT}, found {found!a:.60}")
    if "layers" not in rest:
        raise SchemaError("missing fields: layers")
    try:
        plan = read_record(PrecisionPlan, rest)
    except InvalidArgumentError as error:
        raise SchemaError(error.what) from error
    for name, layer in plan.layers.items():
        if layer.method is not None and layer.method not in methods:
            raise SchemaError(
                f"layers.{name[:100]}: unknown calibration method {layer.method[:60]!a}; known: "
                f"{', '.join(methods)}"
            )
    return plan


def _faces(origin: Mapping[str, Any]) -> tuple[PlanFaces, ...]:
    """Read the faces in the origin of a plan.

    Raises:
        SchemaError: They do not have the fields of `PlanFaces`.
    """
    listed = origin.get("faces", ())
    if not isinstance(listed, (list, tuple)):
        raise SchemaError("origin.faces: expected a list")
    faces = []
    for place, one in enumerate(listed):
        # A newer lpx may record more about them.
        faces.append(read_record(PlanFaces, one, f"origin.faces[{place}]", others=True))
    return tuple(faces)


NO_PLAN = PrecisionPlan()
