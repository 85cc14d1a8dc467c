"""What every engine is: uint8 faces in, a Prediction out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lpx.errors import LpxError

Faces = NDArray[np.uint8]
"""A batch of RGB face crops, uint8 [N, H, W, 3]."""


@dataclass(frozen=True)
class Prediction:
    """What a detector says of a batch of N faces; 1 = fake.

    Attributes:
        score: float32 [N] in [0, 1].
        patch_map: float32 [N, h, w] in [0, 1], one value per classification unit.
    """

    score: NDArray[np.float32]
    patch_map: NDArray[np.float32]


@dataclass(frozen=True)
class DeviceMemory:
    """What an engine holds on its device.

    Attributes:
        bytes: Weights, activations and tensors; None where it cannot tell.
        reason: Why it cannot, or what the figure leaves out; "" where nothing.
    """

    bytes: int | None
    reason: str = ""


ON_THE_CPU = DeviceMemory(None, "it runs on the CPU, in the memory of the process")


class Engine(Protocol):
    """A loaded model that scores faces; every target has the same one method."""

    @property
    def device_memory(self) -> DeviceMemory:
        """What it holds on its device."""
        ...

    def infer(self, faces: Faces) -> Prediction:
        """Score faces, uint8 RGB [N, H, W, 3].

        Raises:
            LpxError: `faces` has another dtype or shape than the engine takes.
        """
        ...

    def close(self) -> None:
        """Release the device memory and sessions held."""
        ...


def notes_of(engine: Engine) -> tuple[str, ...]:
    """How an engine runs otherwise than asked, and what its library warned of.

    Only TensorRT's engines have notes. Some come with the first runs, as those on CUDA graphs.
    """
    return tuple(getattr(engine, "notes", ()))


def check_faces(faces: Faces, size: int) -> None:
    """Refuse what an engine for crops of `size` pixels cannot take.

    Raises:
        LpxError: Another dtype, another shape, or no face at all.
    """
    if faces.dtype != np.uint8 or faces.ndim != 4 or faces.shape[1:] != (size, size, 3):
        raise LpxError(
            f"faces are {faces.dtype} {list(faces.shape)}",
            f"this engine takes uint8 RGB [N, {size}, {size}, 3]",
            "resize the crops, and do not normalise them: the engine does",
        )
    if not len(faces):
        raise LpxError("there are no faces in the batch", "", "give it at least one")
