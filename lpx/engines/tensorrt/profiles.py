"""Choose the profile that runs a batch, and cut up large batches."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lpx.engines.tensorrt_options import BatchRange

_WORTH_PADDING = 2


@dataclass(frozen=True)
class Chunk:
    """One run of an engine.

    Attributes:
        profile: Index of the profile.
        start: First face of the chunk.
        faces: Number of faces in it.
        batch: Batch size that runs: `faces`, or more where the profile takes no fewer.
    """

    profile: int
    start: int
    faces: int
    batch: int


def spans_of(engine: Any, name: str) -> tuple[BatchRange, ...]:
    """Return the batch range of each profile of a loaded engine.

    Of several profiles all are read: TensorRT gives the shape of the input for the profile that a
    context has first, without -1 where that takes one batch size only.

    Args:
        engine: An `ICudaEngine`.
        name: Its input, whose first dimension is the batch.
    """
    count = engine.num_optimization_profiles
    batch = int(engine.get_tensor_shape(name)[0])
    if batch != -1 and count <= 1:
        return (BatchRange(batch, batch, batch),)
    return tuple(_span(engine, name, index, batch) for index in range(count))


def _span(engine: Any, name: str, index: int, batch: int) -> BatchRange:
    shapes = [tuple(shape) for shape in engine.get_tensor_profile_shape(name, index)]
    if batch != -1 and not all(shapes):
        # The network itself has this batch: profiles say nothing of an input that is not dynamic.
        return BatchRange(batch, batch, batch)
    minimum, optimum, maximum = (shape[0] for shape in shapes)
    return BatchRange(minimum, optimum, maximum)


@lru_cache(maxsize=256)
def chunks(faces: int, spans: tuple[BatchRange, ...]) -> tuple[Chunk, ...]:
    """Cut a batch into runs, in order, each in the profile that wastes least.

    A run takes the smallest profile that holds all remaining faces, padded where that profile
    takes no fewer and padding at most doubles the batch; else it fills the largest profile that
    the remaining faces fill. Rows of a batch do not see each other, so padding changes no score.

    Args:
        faces: Number of faces, 0 or more.
        spans: The batch range of each profile.
    """
    found: list[Chunk] = []
    start = 0
    while start < faces:
        left = faces - start
        profile = _profile(left, spans)
        count = min(left, spans[profile].maximum)
        found.append(Chunk(profile, start, count, max(count, spans[profile].minimum)))
        start += count
    return tuple(found)


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
