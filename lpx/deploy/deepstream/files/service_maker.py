"""The same boxes with Service Maker, which replaces pyds from DeepStream 9.0 on.

    from pyservicemaker import BatchMetadataOperator, Pipeline, Probe
    before, after = operators(BatchMetadataOperator, card["crop"])
    pipeline.attach("face_detector", Probe("enlarge", before))  # or "tracker", if there is one
    pipeline.attach("faces", Probe("restore", after))

Operators see the metadata that leaves an element: the first goes to the element before ours, the
second to ours. Every object that arrives there must be a face.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from face_boxes import FaceBoxes


class Operators(NamedTuple):
    """Operators for the element before the detector, and for the detector."""

    before: Any
    after: Any


def operators(base: Any, recipe: str) -> Operators:
    """Return operators that enlarge the boxes of faces, and put them back.

    Args:
        base: pyservicemaker.BatchMetadataOperator.
        recipe: "crop" in card.json.
    """
    # One object for both operators: the second restores what the first remembers.
    boxes = FaceBoxes(recipe)

    # Defined in here, as the base class is DeepStream's, and this file must import without it.
    class Before(base):  # type: ignore[misc]
        """Enlarges boxes."""

        def handle_metadata(self, batch_meta: Any) -> None:
            """Enlarge the boxes of all frames in a batch."""
            for frame in batch_meta.frame_items:
                boxes.enlarge(
                    (frame.source_id, frame.frame_number),
                    frame.object_items,
                    frame.pipeline_width or frame.source_width,
                    frame.pipeline_height or frame.source_height,
                )

    class After(base):  # type: ignore[misc]
        """Puts boxes back."""

        def handle_metadata(self, batch_meta: Any) -> None:
            """Put the boxes of all frames in a batch back."""
            for frame in batch_meta.frame_items:
                boxes.restore((frame.source_id, frame.frame_number), frame.object_items)

    return Operators(Before(), After())
