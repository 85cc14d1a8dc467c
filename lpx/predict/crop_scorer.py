"""Score face crops, one face per picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from lpx.bench.parity.score import check_finite
from lpx.card import ModelCard
from lpx.data.face_sets.face_set import FaceSet, Skipped
from lpx.data.images.decode import Image, fit
from lpx.engines.base import Engine
from lpx.metrics.roc import called_fake
from lpx.predict.drawing import NotDrawnError, drawing, not_drawn
from lpx.predict.results import NAME_BYTES, FaceScore, FileScore, longest_name, picture_name
from lpx.predict.score_crops import BATCH
from lpx.render.encode import encode_png
from lpx.render.face import explained
from lpx.reporter import Progress
from lpx.workspace import write_bytes

# Side of the crop in its picture, pixels: legible, whatever the model takes.
_SIDE = 256


class _Drawn(NamedTuple):
    """A picture; if it was not drawn, a note says why, or nothing was to be drawn."""

    path: Path | None
    note: str = ""


@dataclass(frozen=True)
class CropScorer:
    """Scores face crops.

    Attributes:
        name: Name of the engine, for errors.
        engine: Engine that scores the crops.
        card: Card of the model.
        pictures: Folder for heat maps; None to draw none.
        write: Writes a file.
    """

    name: str
    engine: Engine
    card: ModelCard
    pictures: Path | None
    write: Callable[..., None] = write_bytes

    def score(
        self, faces: FaceSet, skipped: list[Skipped], progress: Progress
    ) -> Iterator[FileScore]:
        """Score all crops of a set, and yield the results as they come.

        Args:
            faces: The crops.
            skipped: Receives the crops that cannot be read.
            progress: Receives the number of finished crops, and that of all.

        Raises:
            LpxError: A score is not a probability.
        """
        done = 0
        for batch in faces.stream(BATCH, self.card.input_size, skipped):
            prediction = self.engine.infer(batch.pixels)
            # Before anything is yielded: NaN would pass as real at every threshold.
            check_finite(self.name, prediction, faces, batch.indices)
            # In the dtype of the engine's scores, as the benchmark decides, so that both call the
            # same faces fake.
            fakes = called_fake(prediction.score, self.card.threshold).tolist()
            for place, index in enumerate(batch.indices.tolist()):
                done += 1
                name = faces.faces[index].name
                face = FaceScore(
                    0, None, 1, None, None, float(prediction.score[place]), fakes[place]
                )
                picture, note = self._draw(
                    name, batch.pixels[place], face, prediction.patch_map[place]
                )
                yield FileScore(
                    name,
                    "crop",
                    face.score,
                    face.fake,
                    1,
                    (face,),
                    picture=picture,
                    note=note,
                )
            # Skipped crops are done as well; without them the progress would never reach its end.
            progress(done + len(skipped), len(faces.faces))

    @cached_property
    def _longest(self) -> int:
        # Asked once, as file systems answer slowly over a network.
        return longest_name(self.pictures) if self.pictures else NAME_BYTES

    def _draw(
        self, name: str, pixels: Image, face: FaceScore, patch_map: NDArray[np.float32]
    ) -> _Drawn:
        if self.pictures is None:
            return _Drawn(None)
        path = self.pictures / picture_name(name, ".png", self._longest)
        word = "FAKE" if face.fake else "real"
        caption = f"{word}  score {face.score:.3f}  threshold {self.card.threshold:.3f}"
        try:
            with drawing():
                drawn = explained(fit(pixels, _SIDE), patch_map, caption)
                # Not durable: a picture can be drawn again, and a sync for each takes longer than
                # to draw it.
                self.write(path, encode_png(drawn), durable=False)
        except NotDrawnError as error:
            return _Drawn(None, not_drawn(error))
        return _Drawn(path)
