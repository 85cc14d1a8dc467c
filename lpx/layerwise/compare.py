"""How far each layer of an engine is from the float32 graph, and which one is to blame."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
    cut,
    fed_name,
    layers_of,
    parents,
    places,
    read_named,
    resumed,
    watched,
)
from lpx.layerwise.tensor_error import ErrorSum, TensorError

ROOM = 1 << 25
"""Values of one batch's tensors, at most: 128 MiB of float32; one face where it has more."""
LARGEST_BATCH = 8
Tensors = Mapping[str, NDArray[np.floating]]
Pixels = NDArray[np.uint8]
Tell = Callable[[int, int], None]


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
        runtime: As the engine runs against ONNX Runtime, both with the engine's graph: what the
            engine's runtime adds to what stands in its graph; None where ONNX Runtime runs it.
    """

    layer: Layer
    computes_in: str
    stored_in: str
    total: TensorError
    own: TensorError | None
    effect: Effect | None = None
    runtime: TensorError | None = None


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
        by_runtime: The error is not in the engine's graph: its runtime computes something else.
            `culprit` is then the first layer where that is beyond the tolerance.
    """

    first: LayerError | None
    culprit: LayerError | None
    beyond: tuple[LayerError, ...]
    by_runtime: bool = False


def judge(comparison: Comparison, tolerance: float) -> Verdict:
    """Hold a comparison against the largest relative error allowed."""
    beyond = tuple(e for e in comparison.layers if not e.total.relative <= tolerance)
    if not beyond:
        return Verdict(None, None, ())
    first = beyond[0]
    # A Q/DQ pair follows the layer whose tensor it rounds.
    until = comparison.layers[: comparison.layers.index(first) + 1]
    before = comparison.parents[first.layer.tensor] | {first.layer.tensor}
    sources = [e for e in until if e.layer.tensor in before]
    if first.runtime is not None and not first.runtime.relative <= tolerance:
        apart = (e for e in sources if e.runtime and not e.runtime.relative <= tolerance)
        return Verdict(first, next(apart), beyond, by_runtime=True)
    if first.own is None:
        return Verdict(first, None, beyond)
    if not first.own.relative <= tolerance:
        return Verdict(first, first, beyond)
    return Verdict(first, max(sources, key=lambda e: e.own.relative if e.own else 0.0), beyond)


def unexplained(verdict: Verdict, tolerance: float) -> bool:
    """Whether a layer is beyond the tolerance, and none is when it is run alone."""
    culprit = verdict.culprit
    if culprit is None or culprit.own is None or verdict.by_runtime:
        return False
    return culprit.own.relative <= tolerance


class TensorSource(Protocol):
    """What computes the tensors of a network: the right ones, or an engine's."""

    def run(self, pixels: Pixels) -> Tensors:
        """Tensors of a batch, by name: all of its faces each, "score" among them."""
        ...


class OnnxRuntimeTensors:
    """An ONNX graph, run by ONNX Runtime.

    Args:
        model: ONNX.
        source: What the model is called in errors.
        size: Side of a face, pixels.
        names: The tensors to hand out.
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
        self.model = watched(model, source, self.names)
        self.engine = OnnxRuntimeEngine(self.model, size, as_written=as_written)

    def run(self, pixels: Pixels) -> Tensors:
        """As `TensorSource.run`."""
        outputs = self.engine.session.run(self.names, {"faces": pixels})
        return dict(zip(self.names, outputs, strict=True))


@dataclass(frozen=True)
class Inside:
    """An engine that its own runtime looks into, and not ONNX Runtime.

    Attributes:
        seen: Gives the tensors of `tensors_to_watch`, or as many of them as it can.
        plain: The engine as it runs unwatched.
        integer_convolutions: Convolutions that `seen` computes in integers.
        integer_convolutions_unwatched: The same of `plain`.
    """

    seen: TensorSource
    plain: Engine
    integer_convolutions: int
    integer_convolutions_unwatched: int


def tensors_to_watch(lowered: bytes, model: bytes) -> tuple[str, ...]:
    """Tensors of an engine's graph that `compare` asks for."""
    layers = layers_of(read_named(model, "the float model"))
    return tuple(p.read_as for p in places(layers, read_named(lowered, "the engine's graph")))


def compare(
    lowered: bytes,
    model: bytes,
    batches: Sequence[Pixels],
    size: int,
    *,
    reference: TensorSource | None = None,
    inside: Inside | None = None,
    sensitivity: bool = False,
    as_written: bool = False,
    progress: Tell | None = None,
) -> Comparison:
    """Compare each layer of a lowered graph with the float32 graph, on the same faces.

    Args:
        lowered: The engine's ONNX graph.
        model: The float32 graph that it was made from.
        batches: uint8 RGB [N, S, S, 3] each, at most `batch_size(model)` faces.
        size: S, pixels.
        reference: Computes the right tensors in place of `model`; layers that it does not know are
            left out, and `own` is not measured.
        inside: Computes the engine's tensors in place of `lowered`; layers whose tensor it does not
            give, as its runtime fused them away, are left out. `lowered` then tells what stands in
            the graph: `LayerError.own` and `LayerError.runtime`.
        sensitivity: Measure `LayerError.effect`.
        as_written: Run the lowered graph without ONNX Runtime's graph optimiser.
        progress: Told of batches done.

    Raises:
        LpxError: A tensor of the reference is NaN.
    """
    graph = read_named(model, "the float model")
    layers = layers_of(graph)
    found = places(layers, read_named(lowered, "the engine's graph"))
    isolate = reference is None
    tensors = [p.layer.tensor for p in found]
    truth = reference or OnnxRuntimeTensors(model, "the float model", size, tensors)
    known = truth.run(batches[0][:1])
    found = tuple(p for p in found if p.layer.tensor in known)
    if inside is not None:
        given = inside.seen.run(batches[0][:1])
        found = tuple(p for p in found if p.read_as in given)
    run = _Run(
        lowered,
        model,
        size,
        found,
        inside=inside,
        isolate=isolate,
        sensitivity=sensitivity,
        as_written=as_written,
    )
    for index, pixels in enumerate(batches):
        run.add(pixels, truth.run(pixels))
        if progress is not None:
            progress(index + 1, len(batches))
    matched = {p.layer for p in found}
    return run.result(tuple(x for x in layers if x not in matched), parents(graph, layers))


def batch_size(model: bytes, room: int = ROOM) -> int:
    """Number of faces whose tensors have at most `room` values, from 1 to `LARGEST_BATCH`."""
    source = "the float model"
    names = [layer.tensor for layer in layers_of(read_named(model, source))]
    whole = watched(model, source, names)
    known = extents(whole, read_named(whole, source), names)
    values = sum(extent.values(1) for extent in known.values())
    return max(1, min(LARGEST_BATCH, room // max(values, 1)))


class _Run:
    """One comparison under way."""

    def __init__(
        self,
        lowered: bytes,
        model: bytes,
        size: int,
        found: tuple[Place, ...],
        *,
        inside: Inside | None,
        isolate: bool,
        sensitivity: bool,
        as_written: bool,
    ) -> None:
        self.found, self.size, self.model = found, size, model
        names = [p.read_as for p in found]
        graph = OnnxRuntimeTensors(
            lowered, "the engine's graph", size, names, as_written=as_written
        )
        self.graph = graph if inside is not None else None
        self.inside = inside or _in_onnxruntime(graph, lowered, size, as_written=as_written)
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
        self.runtime = [ErrorSum() for _ in found]
        self.effects: dict[Layer, list[NDArray[np.float32]]] = {p.layer: [] for p in found}
        self.resumed: dict[str, OnnxRuntimeEngine] = {}
        self.scores: list[NDArray[np.float32]] = []
        self.disturbed = 0.0

    def add(self, pixels: Pixels, truth: Tensors) -> None:
        names = [p.read_as for p in self.found]
        for place in self.found:
            _check_number(place.layer, truth[place.layer.tensor])
        seen = self.inside.seen.run(pixels)
        undisturbed = self.inside.plain.infer(pixels).score
        self.disturbed = max(self.disturbed, _largest(seen["score"], undisturbed))
        self.scores.append(np.abs(undisturbed - truth["score"]))
        for place, sum_ in zip(self.found, self.total, strict=True):
            sum_.add(truth[place.layer.tensor], seen[place.read_as])
        if self.graph is not None:
            self._add_runtime(seen, self.graph.run(pixels))
        if self.alone is None:
            return
        feeds = {name: self._feed(name, half, truth, pixels) for name, half in self.fed.items()}
        alone = self.alone.session.run(names, feeds)
        for place, sum_, output in zip(self.found, self.own, alone, strict=True):
            sum_.add(truth[place.layer.tensor], output)
            if self.sensitivity:
                score = self._score_with(place.layer.tensor, output, pixels, truth)
                self.effects[place.layer].append(np.abs(score - truth["score"]))

    def _add_runtime(self, seen: Tensors, graph: Tensors) -> None:
        for place, sum_ in zip(self.found, self.runtime, strict=True):
            there = graph[place.read_as]
            # Where the graph itself gives NaN or infinity, no runtime can do better.
            finite = np.isfinite(there)
            sum_.add(there[finite], seen[place.read_as][finite])

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
                self._effect(place.layer),
                runtime.result() if self.graph is not None else None,
            )
            for place, total, own, runtime in zip(
                self.found, self.total, self.own, self.runtime, strict=True
            )
        )
        scores = np.concatenate(self.scores)
        seen = Watched(
            self.disturbed,
            self.inside.integer_convolutions,
            self.inside.integer_convolutions_unwatched,
        )
        mean, largest = float(scores.mean()), float(scores.max())
        return Comparison(errors, unmatched, seen, mean, largest, before)

    def _effect(self, layer: Layer) -> Effect | None:
        if not self.sensitivity:
            return None
        scores = np.concatenate(self.effects[layer])
        return Effect(float(scores.mean()), float(scores.max()))


def _in_onnxruntime(
    graph: OnnxRuntimeTensors, lowered: bytes, size: int, *, as_written: bool
) -> Inside:
    """An engine that ONNX Runtime runs, and looks into."""
    # As written, every convolution stands between Q/DQ pairs and computes in float.
    counted = () if as_written else (graph.model, lowered)
    counts = [count_convolutions(data)["int8"] for data in counted] or [0, 0]
    return Inside(graph, OnnxRuntimeEngine(lowered, size, as_written=as_written), *counts)


def _largest(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Largest |a - b|; infinite where just one of the two is finite."""
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    with np.errstate(invalid="ignore"):
        return float(np.nan_to_num(np.where(same, 0.0, np.abs(a - b)), nan=np.inf).max())


def _check_number(layer: Layer, truth: NDArray[np.floating]) -> None:
    if np.isnan(truth).any():
        raise LpxError(
            f"the reference itself gives NaN in layer {layer.name}",
            f"tensor {layer.tensor}: there is nothing to compare an engine with",
            "see with `lpx predict --crops FACE --engine torch` whether the checkpoint does so too",
        )
