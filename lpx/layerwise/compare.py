"""Errors of an engine's layers relative to the float32 graph, and the layer that causes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lpx.calibration.extents import extents
from lpx.engines.base import Engine
from lpx.engines.onnxruntime.cpu import OnnxRuntimeEngine, count_convolutions
from lpx.errors import LpxError
from lpx.graph.layers import (
    FED,
    Layer,
    Place,
    cut_at_layers,
    fed_name,
    layers_of,
    locate,
    parents,
    read_named,
    resume_from,
    with_outputs,
)
from lpx.layerwise.tensor_error import ErrorSum, TensorError
from lpx.reporter import Progress

# Values of the tensors of one batch: 128 MiB of float32.
_MAX_VALUES = 1 << 25
_LARGEST_BATCH = 8

Tensors = Mapping[str, NDArray[np.floating]]
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Effect:
    """Effect of one layer on the score if all others compute in float32.

    Attributes:
        score_mean: Mean |score difference|.
        score_max: Largest |score difference|.
    """

    score_mean: float
    score_max: float


@dataclass(frozen=True)
class LayerError:
    """Errors of one layer.

    Attributes:
        layer: The layer.
        computes_in: "int8", "fp16" or "fp32".
        stored_in: Type that its result is rounded to, one of the same.
        total: Error as the engine runs, including errors inherited from earlier layers.
        own: Error of the layer alone, given the reference's tensors as inputs; None if not
            measured.
        effect: Effect of `own` on the score; None if not measured.
        runtime: Difference between the engine and its graph in ONNX Runtime: the error that the
            engine's runtime adds; None if ONNX Runtime is the engine's runtime.
    """

    layer: Layer
    computes_in: str
    stored_in: str
    total: TensorError
    own: TensorError | None
    effect: Effect | None = None
    runtime: TensorError | None = None


@dataclass(frozen=True)
class ObservationEffect:
    """Change of an engine's behaviour by exposing its intermediate tensors.

    A runtime fuses layers; a tensor that is an output must be computed, which can prevent a fusion.

    Attributes:
        score_difference: Largest |score difference| with and without exposed tensors.
        integer_convolutions: Number of convolutions computed in integers with exposed tensors.
        integer_convolutions_unwatched: The same without exposed tensors.
    """

    score_difference: float
    integer_convolutions: int
    integer_convolutions_unwatched: int


@dataclass(frozen=True)
class LayerComparison:
    """An engine compared with its reference, layer by layer.

    Attributes:
        layers: Errors of the layers, in graph order.
        unmatched: Layers for which the reference or the engine has no tensor.
        watched: Effect of exposing the engine's tensors.
        score_mean: Mean |score difference| between the engine, without exposed tensors, and the
            reference.
        score_max: Largest |score difference|.
        parents: Tensors that each layer's tensor depends on.
    """

    layers: tuple[LayerError, ...]
    unmatched: tuple[Layer, ...]
    watched: ObservationEffect
    score_mean: float
    score_max: float
    parents: Mapping[str, frozenset[str]]


@dataclass(frozen=True)
class LayerVerdict:
    """The first layer beyond a tolerance, and the origin of its error.

    Attributes:
        first: First layer whose total error is beyond the tolerance; None if there is none.
        culprit: Layer that causes it: `first` itself if its own error is beyond the tolerance, else
            the earlier layer with the largest own error; None if unknown.
        beyond: All layers beyond the tolerance, in graph order.
        by_runtime: True if the error is not in the engine's graph but added by its runtime;
            `culprit` is then the first layer where that error is beyond the tolerance.
    """

    first: LayerError | None
    culprit: LayerError | None
    beyond: tuple[LayerError, ...]
    by_runtime: bool = False


def judge_layers(comparison: LayerComparison, tolerance: float) -> LayerVerdict:
    """Find the first layer beyond a tolerance, and the layer that causes its error.

    Args:
        comparison: Errors of the layers.
        tolerance: Largest relative error allowed.
    """
    # "not <=" throughout, so that NaN is beyond any tolerance.
    beyond = tuple(e for e in comparison.layers if not e.total.relative <= tolerance)
    if not beyond:
        return LayerVerdict(None, None, ())
    first = beyond[0]
    # Layers that the first one depends on, including itself. A tensor may have two: the layer that
    # computes it, and the Q/DQ pair after that.
    until = comparison.layers[: comparison.layers.index(first) + 1]
    before = comparison.parents[first.layer.tensor] | {first.layer.tensor}
    sources = [e for e in until if e.layer.tensor in before]
    if first.runtime is not None and not first.runtime.relative <= tolerance:
        by_runtime = (e for e in sources if e.runtime and not e.runtime.relative <= tolerance)
        return LayerVerdict(first, next(by_runtime), beyond, by_runtime=True)
    if first.own is None:
        return LayerVerdict(first, None, beyond)
    if not first.own.relative <= tolerance:
        return LayerVerdict(first, first, beyond)

    def own_error(error: LayerError) -> float:
        if error.own is None:
            return 0.0
        return error.own.relative

    return LayerVerdict(first, max(sources, key=own_error), beyond)


def unexplained(verdict: LayerVerdict, tolerance: float) -> bool:
    """Return True if a layer is beyond the tolerance, but no layer is when run alone."""
    culprit = verdict.culprit
    if culprit is None or culprit.own is None or verdict.by_runtime:
        return False
    return culprit.own.relative <= tolerance


class TensorSource(Protocol):
    """Source of the tensors of a network, either the reference or an engine."""

    def run(self, pixels: Pixels) -> Tensors:
        """Return the tensors of a batch by name, including "score"; each has all faces."""
        ...


class OnnxRuntimeTensors:
    """An ONNX graph, run by ONNX Runtime.

    Args:
        model: ONNX.
        source: Name of the model for errors.
        size: Side of a face, pixels.
        names: Tensors to return.
        as_written: Run it without ONNX Runtime's graph optimiser.
    """

    def __init__(
        self,
        model: bytes,
        source: str,
        size: int,
        names: Sequence[str],
        *,
        as_written: bool = False,
    ) -> None:
        self.names = list(dict.fromkeys([*names, "score"]))
        self.model = with_outputs(model, source, self.names)
        self.engine = OnnxRuntimeEngine(self.model, size, as_written=as_written)

    def run(self, pixels: Pixels) -> Tensors:
        """Return the tensors of a batch; see `TensorSource.run`."""
        outputs = self.engine.session.run(self.names, {"faces": pixels})
        return dict(zip(self.names, outputs, strict=True))


@dataclass(frozen=True)
class ObservedEngine:
    """An engine in its own runtime, with and without its intermediate tensors exposed.

    Attributes:
        seen: The engine with the tensors of `tensors_to_watch` exposed, or as many as possible.
        plain: The engine as it is.
        integer_convolutions: Number of convolutions that `seen` computes in integers.
        integer_convolutions_unwatched: Number of convolutions that `plain` computes in integers.
    """

    seen: TensorSource
    plain: Engine
    integer_convolutions: int
    integer_convolutions_unwatched: int


def tensors_to_watch(lowered: bytes, model: bytes) -> tuple[str, ...]:
    """Return the tensors of an engine's graph that `compare_layers` needs."""
    layers = layers_of(read_named(model, "the float model"))
    places = locate(layers, read_named(lowered, "the engine's graph"))
    return tuple(place.read_as for place in places)


def compare_layers(
    lowered: bytes,
    model: bytes,
    batches: Sequence[Pixels],
    size: int,
    *,
    reference: TensorSource | None = None,
    observed: ObservedEngine | None = None,
    sensitivity: bool = False,
    as_written: bool = False,
    progress: Progress | None = None,
) -> LayerComparison:
    """Compare each layer of a lowered graph with the float32 graph, on the same faces.

    Args:
        lowered: The engine's ONNX graph.
        model: The float32 graph that it was made from.
        batches: Faces, uint8 RGB [N, S, S, 3] each, at most `batch_size(model)` of them.
        size: S, pixels.
        reference: Computes the correct tensors instead of `model`; layers that it does not know are
            left out, and `own` is not measured.
        observed: Computes the engine's tensors instead of `lowered`; layers whose tensor it does
            not give, because its runtime fused them, are left out. `lowered` then serves for
            `LayerError.own` and `LayerError.runtime`.
        sensitivity: Measure `LayerError.effect`.
        as_written: Run the lowered graph without ONNX Runtime's graph optimiser.
        progress: Called after each batch.

    Raises:
        LpxError: A tensor of the reference is NaN.
    """
    graph = read_named(model, "the float model")
    layers = layers_of(graph)
    places = locate(layers, read_named(lowered, "the engine's graph"))
    isolate = reference is None
    tensors = [place.layer.tensor for place in places]
    truth = reference or OnnxRuntimeTensors(model, "the float model", size, tensors)
    # One face shows which tensors the two sides have.
    known = truth.run(batches[0][:1])
    places = tuple(place for place in places if place.layer.tensor in known)
    if observed is not None:
        exposed = observed.seen.run(batches[0][:1])
        places = tuple(place for place in places if place.read_as in exposed)
    run = _Run(
        lowered,
        model,
        size,
        places,
        observed=observed,
        isolate=isolate,
        sensitivity=sensitivity,
        as_written=as_written,
    )
    for index, pixels in enumerate(batches):
        run.add(pixels, truth.run(pixels))
        if progress is not None:
            progress(index + 1, len(batches))
    matched = {place.layer for place in places}
    unmatched = tuple(layer for layer in layers if layer not in matched)
    return run.result(unmatched, parents(graph, layers))


def batch_size(model: bytes, *, max_values: int = _MAX_VALUES) -> int:
    """Return the number of faces per batch, 1 to 8, so that the tensors of all layers fit.

    Args:
        model: The float32 graph.
        max_values: Maximum number of values of these tensors; a single face may have more.
    """
    source = "the float model"
    names = [layer.tensor for layer in layers_of(read_named(model, source))]
    whole = with_outputs(model, source, names)
    known = extents(whole, read_named(whole, source), names)
    values = sum(extent.values(1) for extent in known.values())
    return max(1, min(_LARGEST_BATCH, max_values // max(values, 1)))


class _Run:
    """A comparison in progress: sums of errors over the batches so far."""

    def __init__(
        self,
        lowered: bytes,
        model: bytes,
        size: int,
        places: tuple[Place, ...],
        *,
        observed: ObservedEngine | None,
        isolate: bool,
        sensitivity: bool,
        as_written: bool,
    ) -> None:
        self.places, self.size, self.model = places, size, model
        names = [place.read_as for place in places]
        graph = OnnxRuntimeTensors(
            lowered, "the engine's graph", size, names, as_written=as_written
        )
        # The engine's graph in ONNX Runtime, if the engine itself runs elsewhere.
        self.graph = graph if observed is not None else None
        self.engine = observed or _in_onnxruntime(graph, lowered, size, as_written=as_written)
        # The engine's graph cut before every layer, and which of its inputs are float16.
        self.alone: OnnxRuntimeEngine | None = None
        self.half_inputs: dict[str, bool] = {}
        if isolate:
            cut = cut_at_layers(lowered, "the engine's graph", places)
            self.alone = OnnxRuntimeEngine(cut, size, as_written=as_written)
            for value in self.alone.session.get_inputs():
                self.half_inputs[value.name] = value.type == "tensor(float16)"
        self.sensitivity = sensitivity and isolate
        self.total = [ErrorSum() for _ in places]
        self.own = [ErrorSum() for _ in places]
        self.runtime = [ErrorSum() for _ in places]
        self.effects: dict[Layer, list[NDArray[np.float32]]] = {p.layer: [] for p in places}
        # The float graph from a tensor to the score, by tensor.
        self.remainders: dict[str, OnnxRuntimeEngine] = {}
        self.scores: list[NDArray[np.float32]] = []
        self.disturbance = 0.0

    def add(self, pixels: Pixels, truth: Tensors) -> None:
        """Add the errors of a batch."""
        for place in self.places:
            _check_number(place.layer, truth[place.layer.tensor])
        seen = self.engine.seen.run(pixels)
        undisturbed = self.engine.plain.infer(pixels).score
        self.disturbance = max(self.disturbance, _largest(seen["score"], undisturbed))
        self.scores.append(np.abs(undisturbed - truth["score"]))
        for place, total in zip(self.places, self.total, strict=True):
            total.add(truth[place.layer.tensor], seen[place.read_as])
        if self.graph is not None:
            self._add_runtime(seen, self.graph.run(pixels))
        if self.alone is not None:
            self._add_alone(self.alone, pixels, truth)

    def _add_runtime(self, seen: Tensors, graph: Tensors) -> None:
        for place, runtime in zip(self.places, self.runtime, strict=True):
            expected = graph[place.read_as]
            # Values that are NaN or infinite in the graph itself are not the runtime's error.
            finite = np.isfinite(expected)
            runtime.add(expected[finite], seen[place.read_as][finite])

    def _add_alone(self, alone: OnnxRuntimeEngine, pixels: Pixels, truth: Tensors) -> None:
        feeds: dict[str, NDArray[Any]] = {}
        for name, half in self.half_inputs.items():
            feeds[name] = pixels
            if name.startswith(FED):
                values = truth[name.removeprefix(fed_name("", half=half))]
                # Values beyond float16's range become infinite, as in the layer before.
                with np.errstate(over="ignore"):
                    feeds[name] = values.astype(np.float16 if half else np.float32)
        outputs = alone.session.run([place.read_as for place in self.places], feeds)
        for place, own, output in zip(self.places, self.own, outputs, strict=True):
            own.add(truth[place.layer.tensor], output)
            if self.sensitivity:
                score = self._score_with(place.layer.tensor, output, pixels, truth)
                self.effects[place.layer].append(np.abs(score - truth["score"]))

    def _score_with(
        self, tensor: str, output: NDArray[np.floating], pixels: Pixels, truth: Tensors
    ) -> NDArray[np.float32]:
        """Return the float graph's score with one tensor replaced by that of the engine's layer."""
        single = output.astype(np.float32)
        if tensor == "score":
            return single
        if np.array_equal(single, truth[tensor]):
            unchanged: NDArray[np.float32] = truth["score"]
            return unchanged
        if tensor not in self.remainders:
            data = resume_from(self.model, "the float model", tensor, "score")
            self.remainders[tensor] = OnnxRuntimeEngine(data, self.size)
        session = self.remainders[tensor].session
        feeds: dict[str, NDArray[Any]] = {}
        for value in session.get_inputs():
            feeds[value.name] = single if value.name.startswith(FED) else pixels
        score: NDArray[np.float32] = session.run(["score"], feeds)[0]
        return score

    def result(
        self, unmatched: tuple[Layer, ...], before: Mapping[str, frozenset[str]]
    ) -> LayerComparison:
        """Return the errors over all batches."""
        errors = []
        for index, place in enumerate(self.places):
            own = runtime = None
            if self.alone is not None:
                own = self.own[index].result()
            if self.graph is not None:
                runtime = self.runtime[index].result()
            errors.append(
                LayerError(
                    layer=place.layer,
                    computes_in=place.computes_in,
                    stored_in=place.stored_in,
                    total=self.total[index].result(),
                    own=own,
                    effect=self._effect(place.layer),
                    runtime=runtime,
                )
            )
        scores = np.concatenate(self.scores)
        return LayerComparison(
            layers=tuple(errors),
            unmatched=unmatched,
            watched=ObservationEffect(
                self.disturbance,
                self.engine.integer_convolutions,
                self.engine.integer_convolutions_unwatched,
            ),
            score_mean=float(scores.mean()),
            score_max=float(scores.max()),
            parents=before,
        )

    def _effect(self, layer: Layer) -> Effect | None:
        if not self.sensitivity:
            return None
        scores = np.concatenate(self.effects[layer])
        return Effect(float(scores.mean()), float(scores.max()))


def _in_onnxruntime(
    graph: OnnxRuntimeTensors, lowered: bytes, size: int, *, as_written: bool
) -> ObservedEngine:
    """Return an engine whose own runtime is ONNX Runtime."""
    plain = OnnxRuntimeEngine(lowered, size, as_written=as_written)
    if as_written:
        # Without the optimiser, no Q/DQ pairs are fused: every convolution computes in float.
        return ObservedEngine(graph, plain, 0, 0)
    seen_integers = count_convolutions(graph.model)["int8"]
    plain_integers = count_convolutions(lowered)["int8"]
    return ObservedEngine(graph, plain, seen_integers, plain_integers)


def _largest(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Return the largest |a - b|; infinite if only one of the two is finite somewhere."""
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        return float(np.nan_to_num(np.where(same, 0.0, np.abs(a - b)), nan=np.inf).max())


def _check_number(layer: Layer, truth: NDArray[np.floating]) -> None:
    if np.isnan(truth).any():
        raise LpxError(
            f"the reference itself computes NaN in layer {layer.name}",
            f"tensor {layer.tensor}: there is nothing to compare an engine with",
            "check the checkpoint with `lpx predict --crops FACE --engine torch`",
        )
