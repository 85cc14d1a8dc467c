"""Verification of an exported model against its checkpoint, on faces."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lpx.data.face_sets.face_set import FaceSet
from lpx.errors import LpxError, first_line, out_of_memory
from lpx.export.deployed import Deployed
from lpx.export.float64 import graph_in_float64, in_float64, with_perturbed_weights
from lpx.export.to_onnx import INPUT, OUTPUTS
from lpx.models.checkpoint import Detector
from lpx.models.contract import FIXED_BATCH
from lpx.models.footprint import check_forward

if TYPE_CHECKING:
    import torch

# Largest |difference| of score and map that passes without further checks.
TOLERANCE = 1e-4
# Allowed error of an export, as a multiple of the model's own float32 noise.
NOISE_FACTOR = 4.0
# Allowed error of ONNX Runtime, as a multiple of that noise, if the graph in float64 is exact.
RUNTIME_FACTOR = 100.0
# Default number of faces to compare.
FACES = 8

# Perturbations of the weights by which the noise is measured.
_PERTURBATIONS = 4
# Several faces, so that a model that mixes the faces of a batch is noticed.
_BATCH = 8
# Probabilities may leave [0, 1] by rounding.
_ROUNDING = 1e-6


class Outputs(NamedTuple):
    """Scores, float64 [N], and patch maps, float64 [N, h, w]; or differences of such."""

    score: NDArray[np.float64]
    patch_map: NDArray[np.float64]


Run = Callable[[NDArray[np.uint8]], Outputs]


@dataclass(frozen=True)
class Noise:
    """Difference between float32 and float64 results on the same faces.

    Attributes:
        score: Largest |difference| of scores.
        map: Largest |difference| of patch maps.
    """

    score: float
    map: float


@dataclass(frozen=True)
class Verification:
    """Result of comparing an export with its checkpoint.

    Attributes:
        faces: Number of faces compared.
        max_score_difference: Largest |difference| of scores.
        max_map_difference: Largest |difference| of patch maps.
        worst_face: Name of the face with the largest difference.
        tolerance: Largest |difference| that passes; if `noise` is measured, noise passes too.
        noise: PyTorch's own float32 noise, the largest over several perturbations of the weights by
            one unit in the last place; None if the export passed without it.
        exact: Difference between graph and PyTorch on the worst face, both in float64; None if ONNX
            Runtime's result passed without it.
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
        truth: PyTorch's outputs in float64.
        torch: Errors of PyTorch in float32, the largest over several perturbations.
        export: Errors of the export.
    """

    truth: Outputs
    torch: Outputs
    export: Outputs


def open_in_onnxruntime(model: bytes) -> Run:
    """Return a function that runs a model in ONNX Runtime on the CPU.

    Raises:
        LpxError: ONNX Runtime cannot run the model; raised by the function too.
    """
    # ONNX Runtime takes a while to import, and reading results needs none of it.
    import onnxruntime

    options = onnxruntime.SessionOptions()
    # 4 is "fatal": an error that it logs also comes back as an exception, and is reported then.
    options.log_severity_level = 4

    def refused(error: Exception) -> LpxError:
        return out_of_memory(error) or LpxError(
            "ONNX Runtime cannot run the exported model",
            first_line(error),
            "use operations and types in the model that ONNX Runtime supports (float32: "
            "`model.float()`)",
            code="unsupported",
        )

    # ONNX Runtime's exceptions have no common base class.
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise refused(error) from error

    def run(pixels: NDArray[np.uint8]) -> Outputs:
        try:
            score, patch_map = session.run(OUTPUTS, {INPUT: pixels})
        except Exception as error:
            raise refused(error) from error
        # Compared in float64, so that the subtraction adds no rounding of its own.
        return Outputs(score.astype(np.float64), patch_map.astype(np.float64))

    return run


def verify(
    model: bytes,
    detector: Detector,
    faces: FaceSet,
    *,
    limit: int = FACES,
    tolerance: float | None = None,
    opener: Callable[[bytes], Run] = open_in_onnxruntime,
) -> Verification:
    """Compare an export, in ONNX Runtime, with its checkpoint, in PyTorch.

    A difference up to `TOLERANCE` passes. A larger one passes if it is float32 noise: the model is
    also run in float64, and neither the largest nor the root mean square error of the export may
    exceed `NOISE_FACTOR` times that of PyTorch in float32. If ONNX Runtime's sums are coarser than
    PyTorch's (long ones, as in an instance norm), the graph is run in float64 on the worst face,
    and passes if it is within the same bound there.

    Args:
        model: The exported ONNX model.
        detector: Detector that it was exported from.
        faces: Faces to compare on.
        limit: Maximum number of faces; the first are used.
        tolerance: Largest |difference| of score and map that passes, instead of the two above.
        opener: Makes a function that runs a model; `open_in_onnxruntime` by default.

    Raises:
        LpxError: The difference is larger, the export does not run, the model is random in eval
            mode, a face's score depends on other faces in the batch, or scores are outside [0, 1].
    """
    # PyTorch takes seconds to import.
    import torch

    module = Deployed(detector.module, detector.card).eval()
    run = opener(model)

    def reference(pixels: NDArray[np.uint8]) -> Outputs:
        with torch.inference_mode():
            return _as_outputs(module(torch.from_numpy(pixels)))

    size = detector.card.input_size
    # Asked before any face is decoded: a pass that needs more memory than there is would end the
    # process without an error.
    check_forward(detector.module, (min(limit, _BATCH), 3, size, size))
    batches, names = _read(faces.first(limit), size)
    exported = _joined(run(pixels) for pixels in batches)
    expected = _joined(reference(pixels) for pixels in batches)
    _check_shapes(exported, expected, len(names))
    # The range is that of the checkpoint: an export that leaves it differs, and is reported as
    # that.
    _check_range(expected, names)
    differences = _differences(exported, expected)
    largest = np.maximum(_per_face(differences.score), _per_face(differences.patch_map))
    worst = int(np.argmax(largest))
    allowed = TOLERANCE if tolerance is None else tolerance
    # Repeats come before the float64 check: for a random model, that would measure its noise as
    # rounding.
    _check_repeats(reference, batches[0], max(allowed, TOLERANCE), names[0])
    errors = None
    # A model with steep maps (large logits) turns the last bit of an activation into a hundredth of
    # a map cell; a wrong export differs by more, and in more cells. Written as "not <=" here and
    # below, so that NaN fails.
    if tolerance is None and not largest[worst] <= TOLERANCE:
        errors = _against_float64(module, batches, expected, exported)
    noise = None if errors is None else _largest(errors.torch)
    result = Verification(
        faces=len(names),
        max_score_difference=float(differences.score.max()),
        max_map_difference=float(differences.patch_map.max()),
        worst_face=names[worst],
        tolerance=allowed,
        noise=noise,
    )
    # A tolerance that was given is final, and is not widened by any noise.
    if tolerance is not None and not largest[worst] <= tolerance:
        raise _differs(result, float(largest[worst]), tolerance, None)
    bound = max(allowed, TOLERANCE)
    if noise is not None:
        bound = max(bound, NOISE_FACTOR * noise.score, NOISE_FACTOR * noise.map)
    # Only now: in a batch of another size, results differ by noise too.
    _check_alone(reference, batches[0], expected, bound, names[0])
    if largest[worst] <= allowed:
        return result
    if errors is not None and _is_noise(errors.torch, errors.export):
        return result
    # The reference evaluator is slow, so errors that no rounding explains do not get to it.
    if errors is not None and _within(errors.torch, errors.export, RUNTIME_FACTOR):
        # On the worst face alone, as it evaluates every operator in NumPy.
        exact = _of_the_graph(model, np.concatenate(batches), errors.truth, worst)
        if exact is not None and _is_noise(errors.torch, exact):
            return replace(result, exact=_largest(exact))
    raise _differs(result, float(largest[worst]), tolerance, errors)


class _Faces(NamedTuple):
    """Faces in batches, uint8 [N, S, S, 3] each, and their names."""

    batches: list[NDArray[np.uint8]]
    names: list[str]


def _read(faces: FaceSet, size: int) -> _Faces:
    result = _Faces([], [])
    for batch in faces.stream(_BATCH, size, []):
        result.batches.append(batch.pixels)
        result.names.extend(faces.faces[index].name for index in batch.indices)
    return result


def _against_float64(
    module: Deployed, batches: list[NDArray[np.uint8]], expected: Outputs, exported: Outputs
) -> _Errors | None:
    """Return the errors of PyTorch and of the export; None if float64 cannot be run."""
    import torch

    exact = []
    for pixels in batches:
        outputs = in_float64(module, torch.from_numpy(pixels))
        if outputs is None:
            return None
        exact.append(Outputs(outputs[0].numpy(), outputs[1].numpy()))
    truth = _joined(exact)
    noise = _differences(expected, truth)
    # One run shows one sample of the rounding; perturbed weights show how far it can reach.
    for seed in range(_PERTURBATIONS):
        perturbed = _joined(
            _as_outputs(with_perturbed_weights(module, torch.from_numpy(pixels), seed))
            for pixels in batches
        )
        errors = _differences(perturbed, truth)
        noise = Outputs(
            np.maximum(noise.score, errors.score), np.maximum(noise.patch_map, errors.patch_map)
        )
    return _Errors(truth, noise, _differences(exported, truth))


def _of_the_graph(
    model: bytes, pixels: NDArray[np.uint8], truth: Outputs, face: int
) -> Outputs | None:
    """Return the errors of the graph in float64 on one face; None if it cannot be run so."""
    # A slice rather than an index keeps the dimension of the batch.
    one = slice(face, face + 1)
    outputs = graph_in_float64(model, OUTPUTS, {INPUT: pixels[one]})
    if outputs is None:
        return None
    return _differences(Outputs(*outputs), Outputs(truth.score[one], truth.patch_map[one]))


def _as_outputs(outputs: Sequence[torch.Tensor]) -> Outputs:
    score, patch_map = outputs
    return Outputs(score.numpy().astype(np.float64), patch_map.numpy().astype(np.float64))


def _joined(outputs: Iterable[Outputs]) -> Outputs:
    scores, maps = zip(*outputs, strict=True)
    return Outputs(np.concatenate(scores), np.concatenate(maps))


def _differences(one: Outputs, other: Outputs) -> Outputs:
    return Outputs(np.abs(one.score - other.score), np.abs(one.patch_map - other.patch_map))


def _per_face(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(values.reshape(len(values), -1).max(axis=1))


def _largest(errors: Outputs) -> Noise:
    return Noise(float(errors.score.max()), float(errors.patch_map.max()))


def _within(noise: Outputs, errors: Outputs, factor: float) -> bool:
    for own, error in zip(noise, errors, strict=True):
        # The comparison is "not <=", so that a NaN fails.
        if not error.max() <= max(TOLERANCE, factor * own.max()):
            return False
    return True


def _is_noise(noise: Outputs, errors: Outputs) -> bool:
    """Return True if errors of an export, of score and of map, are as small as PyTorch's own."""
    for own, error in zip(noise, errors, strict=True):
        if error.max() <= TOLERANCE:
            continue
        # The largest error alone would let a graph pass that is wrong by a little everywhere.
        small = error.max() <= NOISE_FACTOR * own.max()
        if not (small and _rms(error) <= NOISE_FACTOR * _rms(own)):
            return False
    return True


# Beside the maximum, which one outlier decides, errors are compared by their root mean square.
def _rms(values: NDArray[np.float64]) -> float:
    return float(np.sqrt(np.mean(np.square(values))))


def _check_shapes(exported: Outputs, expected: Outputs, faces: int) -> None:
    for name, values, own in zip(("score", "map"), exported, expected, strict=True):
        if values.shape != own.shape or len(values) != faces:
            raise LpxError(
                f"the exported model gives a {name} of shape {list(values.shape)} for {faces} "
                f"faces, the checkpoint {list(own.shape)}",
                "a batch size is fixed in the model's code",
                FIXED_BATCH,
            )


def _check_range(expected: Outputs, names: list[str]) -> None:
    for name, values in zip(("score", "map"), expected, strict=True):
        low, high = float(values.min()), float(values.max())
        # NaN and infinity come before the range, as comparisons with NaN tell nothing.
        if not np.isfinite(values).all():
            raise LpxError(
                f"the model's {name} is not finite on {len(names)} faces",
                f"it takes values from {low:.3g} to {high:.3g}",
                "check the checkpoint's weights: training may have diverged",
            )
        # Also written so that NaN would fail.
        if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
            raise LpxError(
                f"the model's {name} takes values from {low:.3g} to {high:.3g} on {len(names)} "
                "faces",
                "score and map must be probabilities, in [0, 1]",
                'if the model of a factory returns logits, pass `outputs="logits"`',
            )


def _check_repeats(reference: Run, pixels: NDArray[np.uint8], allowed: float, name: str) -> None:
    """Refuse a model that gives a face a different score each time."""
    # The same single face twice: batches of different sizes would differ by noise.
    largest = _largest(_differences(reference(pixels[:1]), reference(pixels[:1])))
    repeated = max(largest.score, largest.map)
    if not repeated <= allowed:
        raise LpxError(
            f"the model gives face {name} a different score each time: they differ by "
            f"{repeated:.2g}",
            "it draws random numbers in eval mode (dropout that is always on, noise), or keeps "
            "state from one call to the next",
            "make it deterministic in eval mode",
        )


def _check_alone(
    reference: Run,
    pixels: NDArray[np.uint8],
    expected: Outputs,
    allowed: float,
    name: str,
) -> None:
    """Refuse a model that gives a face a different score alone than in a batch."""
    among_others = Outputs(expected.score[:1], expected.patch_map[:1])
    largest = _largest(_differences(reference(pixels[:1]), among_others))
    alone = max(largest.score, largest.map)
    if not alone <= allowed:
        raise LpxError(
            f"the score or map of face {name} depends on the other faces in the batch: alone it "
            f"differs by {alone:.2g}",
            "the model mixes the faces of a batch (statistics over the batch, a reshape across it)",
            "use running statistics (track_running_stats), and do not mix values along dimension 0",
        )


def _differs(
    result: Verification,
    largest: float,
    tolerance: float | None,
    errors: _Errors | None,
) -> LpxError:
    why = (
        f"score by at most {result.max_score_difference:.2g}, map by at most "
        f"{result.max_map_difference:.2g}; {result.tolerance:g} is allowed"
    )
    fix = (
        f"if differences up to {largest:.2g} do not matter, pass "
        f"`tolerance={_rounded_up(largest):g}`"
    )
    if tolerance is None and errors is None:
        why += ". Float32 noise cannot be measured: the model does not run in float64"
    if errors is not None and result.noise is not None:
        torch, export = _largest(errors.torch), _largest(errors.export)
        why += (
            f". That is more than float32 rounding: compared with float64 on the same faces, "
            f"PyTorch is off by {torch.score:.2g} (score) and {torch.map:.2g} (map), the export by "
            f"{export.score:.2g} and {export.map:.2g}"
        )
        fix = (
            "the exporter or the simplifier changed the model: find the operation by leaving out "
            f"parts of the model, and report it; {fix}"
        )
    return LpxError(
        f"the exported model differs from the checkpoint by {largest:.2g} on face "
        f"{result.worst_face}",
        why,
        fix,
    )


def _rounded_up(value: float) -> float:
    """Return a slightly larger number with one digit, to type."""
    power = 10.0 ** np.floor(np.log10(value))
    # The factor keeps a value that is a round number itself above the difference it has to allow.
    return float(power * np.ceil(value / power * 1.0001))
