"""The interface of every engine: uint8 faces in, a Prediction out."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from lpx.arguments import as_path
from lpx.card import ModelCard
from lpx.errors import InvalidArgumentError, LpxError

if TYPE_CHECKING:
    from typing_extensions import Self


class Availability(NamedTuple):
    """Whether something can be used on this machine, and the reason.

    Attributes:
        usable: True if it can.
        reason: What was found; or why it cannot be used, and what to install.
    """

    usable: bool
    reason: str


Faces = NDArray[np.uint8]
"""A batch of RGB face crops, uint8 [N, H, W, 3]."""
FaceImage = str | os.PathLike[str] | NDArray[np.uint8]
"""A face crop: the path of an image file, or uint8 RGB [H, W, 3] of any size."""
# Number of crops that `Engine.__call__` scores at once, so that memory does not grow with theirs.
_AT_ONCE = 32
_REQUIRED = "must be a face crop or several: uint8 RGB [H, W, 3], [N, H, W, 3], or image files"


@dataclass(frozen=True)
class Prediction:
    """Scores of a batch of N faces; 1 = fake.

    Attributes:
        score: float32 [N] in [0, 1].
        patch_map: float32 [N, h, w] in [0, 1], one value per classification unit.
    """

    score: NDArray[np.float32]
    patch_map: NDArray[np.float32]


@dataclass(frozen=True)
class DeviceMemory:
    """Memory that an engine holds on its device.

    Attributes:
        bytes: Weights, activations and tensors; None if unknown.
        reason: Why it is unknown, or what the figure leaves out; "" if nothing.
    """

    bytes: int | None
    reason: str = ""


ON_THE_CPU = DeviceMemory(None, "it runs on the CPU, in the memory of the process")


class Engine(ABC):
    """A loaded model that scores faces. In a `with` block it is closed at the end.

    Engines of all targets check faces, refuse to be used when closed, and read images in the same
    way, here; a target implements `_infer` and `_release`.

    Args:
        size: Side of a face, pixels.
        card: Model card; None if it is not known.

    Attributes:
        size: Side of a face, pixels.
    """

    def __init__(self, size: int, card: ModelCard | None = None) -> None:
        self.size = size
        self._card = card
        self._closed = False

    @property
    def card(self) -> ModelCard:
        """Return the model card: preprocessing, threshold, and what the scores mean.

        Raises:
            LpxError: The engine was not loaded from a folder, and got no card (code
                "no-model-card").
        """
        if self._card is None:
            raise LpxError(
                "this engine has no model card",
                "it was made from a graph alone",
                "load it from its folder with `lpx.load`",
                code="no-model-card",
            )
        return self._card

    @property
    def closed(self) -> bool:
        """True if the engine was closed."""
        return self._closed

    @property
    def device_memory(self) -> DeviceMemory:
        """Return the memory that the engine holds on its device."""
        # Not an error for a closed engine: reports read this after the engines were released.
        if self._closed:
            return DeviceMemory(None, "the engine is closed")
        return self._device_memory()

    def __call__(self, image: FaceImage | Iterable[FaceImage]) -> Prediction:
        """Score face crops of any size, resized as `lpx bench` resizes them.

        Args:
            image: A face crop, uint8 RGB [H, W, 3]; a batch of them, [N, H, W, 3]; the path of an
                image file; or several crops or paths.

        Returns:
            The prediction for all N crops, in order; N is 1 for a single one.

        Raises:
            InvalidArgumentError: `image` has another type, dtype or shape, or holds no crop.
            LpxError: A file is missing (code "not-found") or not an image ("damaged"), or the
                engine is closed ("closed").
        """
        self._check_open()
        parts = []
        crops: list[Faces] = []
        # The number of crops from a generator is not known in advance, and all of them at once may
        # not fit into memory: files are read while scoring.
        for crop in _crops(image):
            crops.append(self._fitted(crop))
            if len(crops) == _AT_ONCE:
                parts.append(self.infer(np.stack(crops)))
                crops = []
        if crops:
            parts.append(self.infer(np.stack(crops)))
        if not parts:
            # Otherwise np.concatenate fails with an error that does not name the argument.
            raise InvalidArgumentError("image", _REQUIRED, image)
        return Prediction(
            np.concatenate([part.score for part in parts]),
            np.concatenate([part.patch_map for part in parts]),
        )

    def infer(self, faces: Faces) -> Prediction:
        """Score faces of the engine's size.

        Args:
            faces: uint8 RGB [N, S, S, 3].

        Returns:
            `score` float32 [N] and `patch_map` float32 [N, h, w], new arrays, in [0, 1].

        Raises:
            LpxError: `faces` has another dtype or shape, the engine is closed (code "closed"), or
                its runtime fails.
        """
        self._check_open()
        # Checked here, as errors of a runtime name tensors and do not say what to do.
        self._check_faces(faces)
        return self._infer(faces)

    def close(self) -> None:
        """Release sessions and device memory; a second call does nothing."""
        if not self._closed:
            # First: an engine that is released in part cannot be used either.
            self._closed = True
            self._release()

    def __enter__(self) -> Self:
        # Otherwise a closed engine would only fail at the first call in the block.
        self._check_open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @abstractmethod
    def _infer(self, faces: Faces) -> Prediction:
        """Score faces that `infer` has checked."""

    @abstractmethod
    def _release(self) -> None:
        """Release what the engine holds; called once."""

    def _device_memory(self) -> DeviceMemory:
        return ON_THE_CPU

    def _check_faces(self, faces: Faces) -> None:
        check_faces(faces, (self.size, self.size, 3))

    def _check_open(self) -> None:
        if self._closed:
            raise LpxError("the engine is closed", fix="load it again", code="closed")

    def _fitted(self, crop: Faces) -> Faces:
        # A crop of the right size needs no OpenCV, which a small installation may lack.
        if crop.shape[:2] == (self.size, self.size):
            return crop
        # Imported here, as it takes a while.
        from lpx.data.images.decode import fit

        return fit(crop, self.size)


def notes_of(engine: Engine) -> tuple[str, ...]:
    """Return how an engine differs from the request, and the warnings of its library.

    Only TensorRT's engines have notes. Some, such as those on CUDA graphs, appear after the first
    runs.
    """
    return tuple(getattr(engine, "notes", ()))


def check_faces(faces: Any, shape: tuple[int, ...], *, allow_empty: bool = False) -> None:
    """Refuse faces that an engine cannot score.

    Args:
        faces: The argument of `Engine.infer`, of any type.
        shape: (H, W, 3) of a face.
        allow_empty: Accept a batch without faces.

    Raises:
        LpxError: Another type, dtype or shape, or no face at all.
    """
    why = "this engine takes uint8 RGB [N, {}, {}, {}]".format(*shape)
    if not isinstance(faces, np.ndarray):
        raise LpxError(f"faces are of type {type(faces).__name__}", why, code="invalid-argument")
    if faces.dtype != np.uint8 or faces.ndim != 4 or faces.shape[1:] != shape:
        raise LpxError(
            f"faces are {_described(faces)}",
            why,
            "resize the crops, and do not normalise them: the engine does",
            code="invalid-argument",
        )
    if not len(faces) and not allow_empty:
        raise LpxError(
            "the batch has no faces", "", "pass at least one face", code="invalid-argument"
        )


class _Described(str):
    """A text that errors repeat without quotes."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def _described(array: NDArray[Any]) -> str:
    return _Described(f"{array.dtype} {list(array.shape)}")


def _crops(image: object) -> Iterable[Faces]:
    """Return the crops of `Engine.__call__`'s argument, read as they are needed."""
    # Paths first, as a text is iterable too, letter by letter.
    if isinstance(image, (str, os.PathLike)):
        return [_read(image)]
    if isinstance(image, np.ndarray):
        if image.ndim == 4:
            return [_checked(crop, image) for crop in image]
        return [_checked(image, image)]
    # Iterating over bytes or a dict gives numbers or keys, not crops.
    if isinstance(image, Iterable) and not isinstance(image, (bytes, bytearray, dict)):
        return (_one_of(element) for element in image)
    raise InvalidArgumentError("image", _REQUIRED, _Described(type(image).__name__))


def _one_of(element: object) -> Faces:
    if isinstance(element, (str, os.PathLike)):
        return _read(element)
    if isinstance(element, np.ndarray):
        return _checked(element, element)
    raise InvalidArgumentError("image", _REQUIRED, _Described(type(element).__name__))


def _checked(crop: NDArray[Any], whole: NDArray[Any]) -> Faces:
    """Return a crop that is uint8 [H, W, 3]; an error shows the whole array that was passed."""
    # With a side of 0, OpenCV would fail.
    if crop.dtype != np.uint8 or crop.ndim != 3 or crop.shape[2] != 3 or 0 in crop.shape:
        raise InvalidArgumentError("image", _REQUIRED, _described(whole))
    return crop


def _read(path: str | os.PathLike[str]) -> Faces:
    # Imported here, as OpenCV takes a while to import and arrays do not need it.
    from lpx.data.images.decode import UnreadableImageError, read_image

    file: Path = as_path("image", path)
    # Checked first, as the decoder reports a missing file like a damaged one.
    if not os.path.lexists(file):
        raise LpxError(
            f"{file} does not exist", "", "use the path of an image file", code="not-found"
        )
    try:
        return read_image(file)
    except UnreadableImageError as error:
        raise LpxError(
            f"{file} cannot be read as an image", str(error), "use an image file", code="damaged"
        ) from error
