"""Compare an exported model with the checkpoint it came from, on faces."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lpx.data.face_sets.face_set import FaceSet
from lpx.errors import LpxError, out_of_memory
from lpx.export.deployed import Deployed
from lpx.export.float64 import graph_in_float64, in_float64, rounded_otherwise
from lpx.export.to_onnx import INPUT, OUTPUTS
from lpx.models.checkpoint import Detector
from lpx.models.contract import FIXED_BATCH
from lpx.models.footprint import check_forward

if TYPE_CHECKING:
    import torch

TOLERANCE = 1e-4
"""Largest |difference| of score and map that passes without a further look."""
NOISE_FACTOR = 4.0
"""How many times the float32 noise of the model itself an export may be off."""
RUNTIME_FACTOR = 100.0
"""How many times that noise ONNX Runtime may be off where the graph in float64 is not."""
ROUNDINGS = 4
"""How often the weights are rounded otherwise to measure that noise."""
FACES = 8
BATCH = 8
_ROUNDING = 1e-6

Outputs = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Scores [N] and maps [N, h, w]."""


@dataclass(frozen=True)
class Noise:
    """How far PyTorch's float32 results are from its own in float64, on the same faces.

    The largest of several: of the weights as they are, and moved by one unit in the last place.

    Attributes:
        score: Largest |difference| of scores.
        map: Largest |difference| of patch maps.
    """

    score: float
    map: float


@dataclass(frozen=True)
class Verification:
    """How far an export is from its checkpoint.

    Attributes:
        faces: Faces compared.
        max_score_difference: Largest |difference| of scores.
        max_map_difference: Largest |difference| of patch maps.
        worst_face: The face with the largest of both.
        tolerance: Largest |difference| that passes; where `noise` is measured, noise passes too.
        noise: The model's own float32 noise; None where the tolerance was kept without it.
        exact: How far the graph is from PyTorch on the worst face, both in float64; None where
            ONNX Runtime's result passed without it.
    """

    faces: int
    max_score_difference: float
    max_map_difference: float
    worst_face: str
    tolerance: float = TOLERANCE
    noise: Noise | None = None
    exact: Noise | None = None


@dataclass(frozen=True)
class _Errors:
    """Differences from PyTorch in float64.

    Attributes:
        truth: What PyTorch gives in float64.
        own: The errors of PyTorch in float32, the largest of several roundings.
        its: The errors of the export.
    """

    truth: Outputs
    own: Outputs
    its: Outputs


def verify(
    model: bytes,
    detector: Detector,
    faces: FaceSet,
    *,
    count: int = FACES,
    tolerance: float | None = None,
) -> Verification:
    """Run both on real faces, the export in ONNX Runtime.

    A difference up to `TOLERANCE` passes. A larger one passes where float32 itself is that coarse:
    the model is run in float64 too, and neither the largest nor the root mean square error of the
    export may be more than `NOISE_FACTOR` times that of PyTorch in float32. A model whose maps are
    steep (large logits) turns the last bit of an activation into a hundredth of a map cell; a wrong
    export is off by more, and in more cells. Where ONNX Runtime adds up more coarsely than PyTorch
    (long sums, as in an instance norm), the graph is run in float64 on the worst face, and passes
    if it keeps to the same bound there.

    Args:
        model: The exported ONNX model.
        detector: What it was exported from.
        faces: Faces to compare on.
        count: How many of them, the first.
        tolerance: Largest |difference| of score and map that passes, in place of the two above.

    Raises:
        LpxError: The difference is larger; the export does not run; the model is random in eval
            mode, or a face's score depends on the faces beside it; scores outside [0, 1].
    """
    import torch

    module = Deployed(detector.module, detector.card).eval()
    run = _session(model)

    def reference(pixels: NDArray[np.uint8]) -> Outputs:
        with torch.inference_mode():
            return _as_outputs(module(torch.from_numpy(pixels)))

    size = detector.card.input_size
    check_forward(detector.module, (min(count, BATCH), 3, size, size))
    batches, names = _read(faces.first(count), size)
    exported = _joined(run(pixels) for pixels in batches)
    wanted = _joined(reference(pixels) for pixels in batches)
    _check_shapes(exported, wanted, len(names))
    _check_range(wanted, names)
    off = _differences(exported, wanted)
    largest = np.maximum(*(_per_face(values) for values in off))
    worst = int(np.argmax(largest))
    allowed = TOLERANCE if tolerance is None else tolerance
    _check_repeats(reference, batches[0], max(allowed, TOLERANCE), names[0])
    errors = None
    if tolerance is None and not largest[worst] <= TOLERANCE:
        errors = _against_float64(module, batches, wanted, exported)
    noise = None if errors is None else _largest(errors.own)
    found = Verification(
        len(names), float(off[0].max()), float(off[1].max()), names[worst], allowed, noise
    )
    if tolerance is not None and not largest[worst] <= tolerance:
        raise _differs(found, float(largest[worst]), tolerance, None)
    reach = max(allowed, TOLERANCE, *_reach(noise))
    _check_alone(reference, batches[0], wanted, reach, names[0])
    if largest[worst] <= allowed or (errors is not None and _is_noise(errors.own, errors.its)):
        return found
    if errors is not None and _within(errors.own, errors.its, RUNTIME_FACTOR):
        exact = _of_the_graph(model, np.concatenate(batches), errors.truth, worst)
        if exact is not None and _is_noise(errors.own, exact):
            return replace(found, exact=_largest(exact))
    raise _differs(found, float(largest[worst]), tolerance, errors)


def _read(faces: FaceSet, size: int) -> tuple[list[NDArray[np.uint8]], list[str]]:
    """Faces in batches, and their names."""
    batches = list(faces.stream(BATCH, size, []))
    names = [faces.faces[index].name for batch in batches for index in batch.indices]
    return [batch.pixels for batch in batches], names


def _against_float64(
    module: Deployed, batches: list[NDArray[np.uint8]], wanted: Outputs, exported: Outputs
) -> _Errors | None:
    """Errors of PyTorch in float32 and of the export; None where float64 cannot be run."""
    import torch

    exact = []
    for pixels in batches:
        outputs = in_float64(module, torch.from_numpy(pixels))
        if outputs is None:
            return None
        exact.append((outputs[0].numpy(), outputs[1].numpy()))
    truth = _joined(iter(exact))
    own = _differences(wanted, truth)
    for seed in range(ROUNDINGS):
        moved = _joined(
            _as_outputs(rounded_otherwise(module, torch.from_numpy(pixels), seed))
            for pixels in batches
        )
        score, patch_map = _differences(moved, truth)
        own = np.maximum(own[0], score), np.maximum(own[1], patch_map)
    return _Errors(truth, own, _differences(exported, truth))


def _of_the_graph(
    model: bytes, pixels: NDArray[np.uint8], truth: Outputs, face: int
) -> Outputs | None:
    """Errors of the graph itself, in float64, on one face; None where it cannot be run so."""
    one = slice(face, face + 1)
    outputs = graph_in_float64(model, OUTPUTS, {INPUT: pixels[one]})
    if outputs is None:
        return None
    return _differences((outputs[0], outputs[1]), (truth[0][one], truth[1][one]))


def _as_outputs(outputs: Sequence[torch.Tensor]) -> Outputs:
    return outputs[0].numpy().astype(np.float64), outputs[1].numpy().astype(np.float64)


def _session(model: bytes) -> Callable[[NDArray[np.uint8]], Outputs]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4

    def refused(error: Exception) -> LpxError:
        return out_of_memory(error) or LpxError(
            "ONNX Runtime cannot run the exported model",
            str(error).strip().splitlines()[0],
            "use operations and types in the model that ONNX Runtime knows (float32 ones: "
            "`model.float()`)",
        )

    # ONNX Runtime raises a class of its own for every sort of refusal; they share no base.
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise refused(error) from error

    def run(pixels: NDArray[np.uint8]) -> Outputs:
        try:
            score, patch_map = session.run(OUTPUTS, {INPUT: pixels})
        except Exception as error:
            raise refused(error) from error
        return score.astype(np.float64), patch_map.astype(np.float64)

    return run


def _joined(outputs: Iterator[Outputs]) -> Outputs:
    scores, maps = zip(*outputs, strict=True)
    return np.concatenate(scores), np.concatenate(maps)


def _differences(one: Outputs, other: Outputs) -> Outputs:
    return np.abs(one[0] - other[0]), np.abs(one[1] - other[1])


def _per_face(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(values.reshape(len(values), -1).max(axis=1))


def _reach(noise: Noise | None) -> tuple[float, float]:
    return (0.0, 0.0) if noise is None else (NOISE_FACTOR * noise.score, NOISE_FACTOR * noise.map)


def _largest(errors: Outputs) -> Noise:
    return Noise(float(errors[0].max()), float(errors[1].max()))


def _within(own: Outputs, its: Outputs, factor: float) -> bool:
    return all(i.max() <= max(TOLERANCE, factor * o.max()) for o, i in zip(own, its, strict=True))


def _is_noise(own: Outputs, its: Outputs) -> bool:
    """Whether an export's errors are of the size of PyTorch's own, score and map each."""
    return all(
        error.max() <= TOLERANCE
        or (error.max() <= NOISE_FACTOR * noise.max() and _rms(error) <= NOISE_FACTOR * _rms(noise))
        for noise, error in zip(own, its, strict=True)
    )


def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _check_shapes(exported: Outputs, wanted: Outputs, faces: int) -> None:
    for name, values, expected in zip(("score", "map"), exported, wanted, strict=True):
        if values.shape != expected.shape or len(values) != faces:
            raise LpxError(
                f"the exported model gives a {name} of shape {list(values.shape)} for {faces} "
                f"faces, the checkpoint {list(expected.shape)}",
                "a batch size is fixed in the model's code",
                FIXED_BATCH,
            )


def _check_range(wanted: Outputs, names: list[str]) -> None:
    for name, values in zip(("score", "map"), wanted, strict=True):
        low, high = float(values.min()), float(values.max())
        if not np.isfinite(values).all():
            raise LpxError(
                f"the model's {name} is not finite on {len(names)} faces",
                f"it takes values from {low:.3g} to {high:.3g}",
                "check the checkpoint's weights: training may have diverged",
            )
        if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
            raise LpxError(
                f"the model's {name} takes values from {low:.3g} to {high:.3g} on {len(names)} "
                "faces",
                "score and map are probabilities, in [0, 1]",
                "add --outputs logits where a factory's model returns logits",
            )


def _check_repeats(
    reference: Callable[[NDArray[np.uint8]], Outputs],
    pixels: NDArray[np.uint8],
    allowed: float,
    name: str,
) -> None:
    """Refuse a model that gives a face another score each time."""
    differences = _differences(reference(pixels[:1]), reference(pixels[:1]))
    repeated = max(float(values.max()) for values in differences)
    if not repeated <= allowed:
        raise LpxError(
            f"the model gives face {name} another score each time: they differ by {repeated:.2g}",
            "it draws random numbers in eval mode (dropout that is always on, noise), or keeps "
            "something from one call to the next",
            "make it deterministic in eval mode",
        )


def _check_alone(
    reference: Callable[[NDArray[np.uint8]], Outputs],
    pixels: NDArray[np.uint8],
    wanted: Outputs,
    allowed: float,
    name: str,
) -> None:
    """Refuse a model that gives a face another score by itself than among others."""
    alone = max(
        float(np.abs(values[0] - expected[0]).max())
        for values, expected in zip(reference(pixels[:1]), wanted, strict=True)
    )
    if not alone <= allowed:
        raise LpxError(
            f"the score or map of face {name} depends on the faces beside it in the batch: by "
            f"itself it differs by {alone:.2g}",
            "the model mixes the faces of a batch (statistics over the batch, a reshape across it)",
            "use running statistics (track_running_stats) and keep dimension 0 apart",
        )


def _differs(
    found: Verification,
    largest: float,
    tolerance: float | None,
    errors: _Errors | None,
) -> LpxError:
    why = (
        f"score by {found.max_score_difference:.2g}, map by {found.max_map_difference:.2g} at "
        f"most; {found.tolerance:g} is allowed"
    )
    fix = f"if differences up to {largest:.2g} do not matter, --tolerance {_above(largest):g}"
    if tolerance is None and errors is None:
        why += ". How coarse float32 is here cannot be measured: the model does not run in float64"
    if errors is not None and found.noise is not None:
        own, its = errors.own, errors.its
        why += (
            f". That is more than float32 rounding: against float64 on the same faces PyTorch is "
            f"off by {own[0].max():.2g} (score) and {own[1].max():.2g} (map), the export by "
            f"{its[0].max():.2g} and {its[1].max():.2g}"
        )
        fix = (
            "the exporter or the simplifier changed the model: find the operation by leaving parts "
            f"of the model out, and report it; {fix}"
        )
    return LpxError(
        f"the exported model differs from the checkpoint by {largest:.2g} on face "
        f"{found.worst_face}",
        why,
        fix,
    )


def _above(value: float) -> float:
    """A round number that is a little larger, to type."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(power * np.ceil(value / power * 1.0001))
