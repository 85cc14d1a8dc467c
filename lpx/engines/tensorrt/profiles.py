"""Choose profiles for batches, and split large batches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lpx.engines.tensorrt_options import BatchRange

# A batch is padded to at most this many times its size.
_WORTH_PADDING = 2


@dataclass(frozen=True)
class Chunk:
    """One run of an engine.

    Attributes:
        profile: Index of the profile.
        start: First face of the chunk.
        faces: Number of faces in it.
        batch: Batch size that runs: `faces`, or the minimum of the profile if that is larger.
    """

    profile: int
    start: int
    faces: int
    batch: int


def spans_of(engine: Any, name: str) -> tuple[BatchRange, ...]:
    """Return the batch range of each profile of a loaded engine.

    Args:
        engine: An `ICudaEngine`.
        name: Name of the input, whose first dimension is the batch.
    """
    # With several profiles, the shape of the input is that of the first, and shows a fixed batch if
    # that profile takes a single batch size.
    count = engine.num_optimization_profiles
    batch = int(engine.get_tensor_shape(name)[0])
    if batch != -1 and count <= 1:
        return (BatchRange(batch, batch, batch),)
    return tuple(_span(engine, name, index, batch) for index in range(count))


def _span(engine: Any, name: str, index: int, batch: int) -> BatchRange:
    shapes = [tuple(shape) for shape in engine.get_tensor_profile_shape(name, index)]
    if batch != -1 and not all(shapes):
        # The network's batch is fixed: profiles have no shapes for an input that is not dynamic.
        return BatchRange(batch, batch, batch)
    minimum, optimum, maximum = (shape[0] for shape in shapes)
    return BatchRange(minimum, optimum, maximum)


@lru_cache(maxsize=256)
def chunks(faces: int, spans: tuple[BatchRange, ...]) -> tuple[Chunk, ...]:
    """Split a batch into runs, in order, and choose the profile of each.

    A run uses the smallest profile that fits all remaining faces, padded to its minimum if that at
    most doubles the batch. Otherwise it fills the largest profile that these faces can fill.
    Faces of a batch are computed independently, so padding changes no score.

    Args:
        faces: Number of faces, 0 or more.
        spans: Batch range of each profile.
    """
    runs: list[Chunk] = []
    start = 0
    while start < faces:
        left = faces - start
        profile = _profile(left, spans)
        count = min(left, spans[profile].maximum)
        runs.append(Chunk(profile, start, count, max(count, spans[profile].minimum)))
        start += count
    return tuple(runs)


def _profile(left: int, spans: tuple[BatchRange, ...]) -> int:
    order = sorted(range(len(spans)), key=lambda index: spans[index].maximum)
    fitting = [i for i in order if spans[i].minimum <= left <= spans[i].maximum]
    if fitting:
        return fitting[0]
    holding = [i for i in order if left <= spans[i].maximum]
    filled = [i for i in order if spans[i].maximum <= left]
    if holding and (not filled or spans[holding[0]].minimum <= _WORTH_PADDING * left):
        return holding[0]
    return filled[-1]
