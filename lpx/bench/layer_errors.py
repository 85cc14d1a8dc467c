"""How far each layer of an engine is from the float32 graph, and which one is to blame."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lpx.engines.onnxruntime_engine import OnnxRuntimeEngine, count_convolutions
from lpx.errors import LpxError
from lpx.graph.layers import (
    FED,
    Layer,
    Place,
    cut,
    fed_name,
    layers_of,
    parents,
    places,
    read_named,
    resumed,
    watched,
)

ROOM = 1 << 25
"""Values of one batch's tensors, at most: 128 MiB of float32; one face where it has more."""
LARGEST_BATCH = 8
Tensors = Mapping[str, NDArray[np.float32]]
Pixels = NDArray[np.uint8]
Tell = Callable[[int, int], None]


@dataclass(frozen=True)
class TensorError:
    """How far a tensor is from the reference, over all faces.

    Attributes:
        max_abs: Largest |d|.
        mean_abs: Mean |d|.
        relative: ||d|| / ||x||; infinite where the engine gives NaN or infinity, or x is all zero
            and d is not.
        cosine: Cosine of the two tensors; 1 where both are zero.
        not_finite: Values that are NaN or infinite in the engine.
    """

    max_abs: float
    mean_abs: float
    relative: float
    cosine: float
    not_finite: int

    @property
    def sqnr_db(self) -> float:
        """Signal to quantisation noise, 20 log10(||x|| / ||d||), dB; infinite where d is zero."""
        if self.relative == 0:
            return math.inf
        return -20 * math.log10(self.relative) if math.isfinite(self.relative) else -math.inf


class ErrorSum:
    """Sums over batches that a `TensorError` is made from."""

    def __init__(self) -> None:
        self.count = 0
        self.not_finite = 0
        self.max_abs = 0.0
        self.abs = self.difference = self.truth = self.other = self.product = 0.0

    def add(self, truth: NDArray[np.float32], found: NDArray[np.floating]) -> None:
        """Take in a batch: two arrays of one shape; values that are not finite count apart."""
        x, y = truth.astype(np.float64).ravel(), found.astype(np.float64).ravel()
        finite = np.isfinite(y)
        if not finite.all():
            self.not_finite += int(np.count_nonzero(~finite))
            x, y = x[finite], y[finite]
        if not len(x):
            return
        d = np.abs(y - x)
        self.count += len(x)
        self.max_abs = max(self.max_abs, float(d.max()))
        self.abs += float(d.sum())
        self.difference += float(d @ d)
        self.truth += float(x @ x)
        self.other += float(y @ y)
        self.product += float(x @ y)

    def result(self) -> TensorError:
        """The error over all that was taken in."""
        if self.not_finite or (self.difference and not self.truth):
            relative = math.inf
        else:
            relative = math.sqrt(self.difference / self.truth) if self.truth else 0.0
        norms = math.sqrt(self.truth * self.other)
        cosine = min(1.0, self.product / norms) if norms else float(not self.difference)
        mean = self.abs / self.count if self.count else 0.0
        return TensorError(self.max_abs, mean, relative, cosine, self.not_finite)


@dataclass(frozen=True)
class Effect:
    """What a layer does to the score where all others compute in float32.

    Attributes:
        score_mean: Mean |score difference|.
        score_max: Largest |score difference|.
    """

    score_mean: float
    score_max: float


@dataclass(frozen=True)
class LayerError:
    """A layer's errors.

    Attributes:
        layer: The layer.
        computes_in: "int8", "fp16" or "fp32".
        stored_in: What its result is rounded to, one of the same.
        total: As the engine runs: with what it inherits from the layers before.
        own: The layer alone, given the reference's tensors to read; None where not measured.
        effect: What `own` does to the score; None where not measured.
    """

    layer: Layer
    computes_in: str
    stored_in: str
    total: TensorError
    own: TensorError | None
    effect: Effect | None = None


@dataclass(frozen=True)
class Watched:
    """Whether the engine that was looked into is the one that runs unwatched.

    A runtime fuses layers; a tensor that is handed out must be computed, which can stop a fusion.

    Attributes:
        score_difference: Largest |score difference| between the two.
        integer_convolutions: Convolutions computed in integers, watched.
        integer_convolutions_unwatched: The same, unwatched.
    """

    score_difference: float
    integer_convolutions: int
    integer_convolutions_unwatched: int


@dataclass(frozen=True)
class Comparison:
    """An engine against its reference, layer by layer.

    Attributes:
        layers: In graph order.
        unmatched: Layers that the reference or the engine has no tensor for.
        watched: Whether looking changed what was looked at.
        score_mean: Mean |score difference| of the unwatched engine and the reference.
        score_max: The largest.
        parents: Tensors that each layer's tensor is computed from.
    """

    layers: tuple[LayerError, ...]
    unmatched: tuple[Layer, ...]
    watched: Watched
    score_mean: float
    score_max: float
    parents: Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class Verdict:
    """The first layer beyond a tolerance, and where its error comes from.

    Attributes:
        first: The first layer whose result, as the engine runs, is beyond; None where none is.
        culprit: The layer that causes it: `first` itself if it is beyond by its own doing, else the
            layer before it that adds most; None where that is not known.
        beyond: All layers beyond, in graph order.
    """

    first: LayerError | None
    culprit: LayerError | None
    beyond: tuple[LayerError, ...]


def judge(comparison: Comparison, tolerance: float) -> Verdict:
    """Hold a comparison against the largest relative error allowed."""
    beyond = tuple(e for e in comparison.layers if not e.total.relative <= tolerance)
    if not beyond:
        return Verdict(None, None, ())
    first = beyond[0]
    if first.own is None:
        return Verdict(first, None, beyond)
    if not first.own.relative <= tolerance:
        return Verdict(first, first, beyond)
    before = comparison.parents[first.layer.tensor] | {first.layer.tensor}
    sources = [e for e in comparison.layers if e.layer.tensor in before]
    return Verdict(first, max(sources, key=lambda e: e.own.relative if e.own else 0.0), beyond)


def unexplained(verdict: Verdict, tolerance: float) -> bool:
    """Whether a layer is beyond the tolerance, and none is when it is run alone."""
    culprit = verdict.culprit
    return culprit is not None and culprit.own is not None and culprit.own.relative <= tolerance


class Reference(Protocol):
    """What computes the right tensors."""

    def run(self, pixels: Pixels) -> Tensors:
        """Tensors of a batch, by name: float32, "score" among them."""
        ...


class FloatGraph:
    """The float32 ONNX graph, run by ONNX Runtime.

    Args:
        model: ONNX.
        size: Side of a face, pixels.
        names: The tensors to hand out.
    """

    def __init__(self, model: bytes, size: int, names: Sequence[str]) -> None:
        self.names = list(dict.fromkeys([*names, "score"]))
        self.engine = OnnxRuntimeEngine(watched(model, "the float model", self.names), size)

    def run(self, pixels: Pixels) -> Tensors:
        """As `Reference.run`."""
        outputs = self.engine.session.run(self.names, {"faces": pixels})
        return dict(zip(self.names, outputs, strict=True))


def compare(
    lowered: bytes, model: bytes, batches: Sequence[Pixels], size: int, *,
    reference: Reference | None = None, sensitivity: bool = False, as_written: bool = False,
    progress: Tell | None = None,
) -> Comparison:  # fmt: skip
    """Compare each layer of a lowered graph with the float32 graph, on the same faces.

    Args:
        lowered: The engine's ONNX graph.
        model: The float32 graph that it was made from.
        batches: uint8 RGB [N, S, S, 3] each, at most `batch_size(model)` faces.
        size: S, pixels.
        reference: Computes the right tensors in place of `model`; layers that it does not know are
            left out, and `own` is not measured.
        sensitivity: Measure `LayerError.effect`.
        as_written: Run the lowered graph without ONNX Runtime's graph optimiser.
        progress: Told of batches done.

    Raises:
        LpxError: A tensor of the reference is NaN or infinite.
    """
    graph = read_named(model, "the float model")
    layers = layers_of(graph)
    found = places(layers, read_named(lowered, "the engine's graph"))
    isolate = reference is None
    truth = reference or FloatGraph(model, size, [p.layer.tensor for p in found])
    known = truth.run(batches[0][:1])
    found = tuple(p for p in found if p.layer.tensor in known)
    run = _Run(
        lowered, model, size, found, isolate=isolate, sensitivity=sensitivity,
        as_written=as_written,
    )  # fmt: skip
    for index, pixels in enumerate(batches):
        run.add(pixels, truth.run(pixels))
        if progress is not None:
            progress(index + 1, len(batches))
    matched = {p.layer for p in found}
    return run.result(tuple(x for x in layers if x not in matched), parents(graph, layers))


def batch_size(model: bytes) -> int:
    """Faces whose tensors fit in `ROOM`, from 1 to `LARGEST_BATCH`."""
    values = 0
    for node in read_named(model, "the float model").graph:
        for output in node.outputs:
            sizes = [d for d in output.shape or () if isinstance(d, int)]
            values += math.prod(sizes)
    return max(1, min(LARGEST_BATCH, ROOM // max(values, 1)))


class _Run:
    """One comparison under way."""

    def __init__(
        self, lowered: bytes, model: bytes, size: int, found: tuple[Place, ...], *,
        isolate: bool, sensitivity: bool, as_written: bool,
    ) -> None:  # fmt: skip
        self.found, self.size, self.model = found, size, model
        seen = watched(lowered, "the engine's graph", [p.read_as for p in found])
        self.plain = OnnxRuntimeEngine(lowered, size, as_written=as_written)
        self.seen = OnnxRuntimeEngine(seen, size, as_written=as_written)
        # As written, every convolution stands between Q/DQ pairs and computes in float.
        counted = () if as_written else (seen, lowered)
        self.counts = [count_convolutions(data)["int8"] for data in counted] or [0, 0]
        self.alone = None
        if isolate:
            alone = cut(lowered, "the engine's graph", found)
            self.alone = OnnxRuntimeEngine(alone, size, as_written=as_written)
            self.fed = {
                i.name: i.type == "tensor(float16)" for i in self.alone.session.get_inputs()
            }
        self.sensitivity = sensitivity and isolate
        self.total = [ErrorSum() for _ in found]
        self.own = [ErrorSum() for _ in found]
        self.effects: dict[str, list[NDArray[np.float32]]] = {p.layer.tensor: [] for p in found}
        self.resumed: dict[str, OnnxRuntimeEngine] = {}
        self.scores: list[NDArray[np.float32]] = []
        self.disturbed = 0.0

    def add(self, pixels: Pixels, truth: Tensors) -> None:
        names = [p.read_as for p in self.found]
        for place in self.found:
            _check_finite(place.layer, truth[place.layer.tensor])
        outputs = self.seen.session.run(["score", *names], {"faces": pixels})
        undisturbed = self.plain.session.run(["score"], {"faces": pixels})[0]
        self.disturbed = max(self.disturbed, _largest(outputs[0], undisturbed))
        self.scores.append(np.abs(undisturbed - truth["score"]))
        for place, sum_, output in zip(self.found, self.total, outputs[1:], strict=True):
            sum_.add(truth[place.layer.tensor], output)
        if self.alone is None:
            return
        feeds = {name: self._feed(name, half, truth, pixels) for name, half in self.fed.items()}
        alone = self.alone.session.run(names, feeds)
        for place, sum_, output in zip(self.found, self.own, alone, strict=True):
            sum_.add(truth[place.layer.tensor], output)
            if self.sensitivity:
                score = self._score_with(place.layer.tensor, output, pixels, truth)
                self.effects[place.layer.tensor].append(np.abs(score - truth["score"]))

    def _feed(self, name: str, half: bool, truth: Tensors, pixels: Pixels) -> NDArray[Any]:
        prefix = fed_name("", half)
        if not name.startswith(FED):
            return pixels
        with np.errstate(over="ignore"):
            # What float16 cannot hold is infinite; the layer that makes it has been told on.
            return truth[name.removeprefix(prefix)].astype(np.float16 if half else np.float32)

    def _score_with(
        self, tensor: str, output: NDArray[np.floating], pixels: Pixels, truth: Tensors
    ) -> NDArray[np.float32]:
        """The float graph's score, where one tensor is as the engine's layer makes it."""
        single = output.astype(np.float32)
        if tensor == "score" or np.array_equal(single, truth[tensor]):
            return single if tensor == "score" else truth["score"]
        if tensor not in self.resumed:
            data = resumed(self.model, "the float model", tensor, "score")
            self.resumed[tensor] = OnnxRuntimeEngine(data, self.size)
        session = self.resumed[tensor].session
        feeds = {i.name: single if i.name.startswith(FED) else pixels for i in session.get_inputs()}
        score: NDArray[np.float32] = session.run(["score"], feeds)[0]
        return score

    def result(
        self, unmatched: tuple[Layer, ...], before: Mapping[str, frozenset[str]]
    ) -> Comparison:
        errors = tuple(
            LayerError(
                place.layer,
                place.computes_in,
                place.stored_in,
                total.result(),
                own.result() if self.alone is not None else None,
                self._effect(place.layer.tensor),
            )
            for place, total, own in zip(self.found, self.total, self.own, strict=True)
        )
        scores = np.concatenate(self.scores)
        return Comparison(
            errors, unmatched, Watched(self.disturbed, *self.counts), float(scores.mean()),
            float(scores.max()), before,
        )  # fmt: skip

    def _effect(self, tensor: str) -> Effect | None:
        if not self.sensitivity:
            return None
        scores = np.concatenate(self.effects[tensor])
        return Effect(float(scores.mean()), float(scores.max()))


def _largest(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Largest |a - b|; infinite where just one of the two is finite."""
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        return float(np.nan_to_num(np.where(same, 0.0, np.abs(a - b)), nan=np.inf).max())


def _check_finite(layer: Layer, truth: NDArray[np.float32]) -> None:
    if not np.isfinite(truth).all():
        raise LpxError(
            f"the reference itself gives NaN or infinity in layer {layer.name}",
            f"tensor {layer.tensor}: there is nothing to compare an engine with",
            "see with `lpx predict --crops FACE --engine torch` whether the checkpoint does so too",
        )
