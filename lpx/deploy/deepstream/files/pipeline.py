"""Finds and scores the faces of videos and cameras with DeepStream: an example to start from.

Prints a line of JSON for each face. Needs DeepStream with its Python bindings, pyds, and a face
detector with a configuration of nvinfer of its own: `gie-unique-id=1`, faces are class 0.

    python3 pipeline.py --detector face_detector.txt --size 1920x1080 video.mp4 rtsp://camera/1
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

from face_boxes import RECIPES, FaceBoxes
from tensor_meta import items, label_of, layers_of, read_face

HERE = pathlib.Path(__file__).resolve().parent
# `gie-unique-id` of the face detector, the class that is a face, and the id of ours. They are in
# the configurations too.
FACE_DETECTOR, FACE, DETECTOR = 1, 0, 2


class Size(NamedTuple):
    """Size of the frames, pixels."""

    width: int
    height: int


class Faces:
    """Probes around the detector: they enlarge the boxes of faces, put them back, and print scores.

    Args:
        pyds: The module.
        card: Content of card.json.
        size: Size of the frames that nvstreammux gives, in which boxes are.
        tensors: The detector attaches tensors; otherwise a label to each fake face.
        boxes: Enlarges the boxes; None if something else does.
    """

    def __init__(
        self, pyds: Any, card: Any, size: Size, *, tensors: bool, boxes: FaceBoxes | None
    ) -> None:
        self.pyds, self.card, self.size, self.tensors, self.boxes = pyds, card, size, tensors, boxes

    def before(self, batch: Any) -> None:
        """Enlarge the boxes of all faces in a batch of frames."""
        for frame in items(batch.frame_meta_list, self.pyds.NvDsFrameMeta):
            if self.boxes is not None:
                self.boxes.enlarge(_key(frame), self.faces_in(frame), *self.size)

    def after(self, batch: Any) -> None:
        """Put the boxes back, and print what was found."""
        for frame in items(batch.frame_meta_list, self.pyds.NvDsFrameMeta):
            # Before the lines are made, which show the face detector's own boxes.
            if self.boxes is not None:
                self.boxes.restore(_key(frame), self.faces_in(frame))
            for face in self.faces_in(frame):
                line = self.line(frame, face)
                if line is not None:
                    # Without a flush, a pipe would hold back the lines of a camera for a long time.
                    print(json.dumps(line), flush=True)

    def line(self, frame: Any, face: Any) -> dict[str, Any] | None:
        """Return what is printed of a face; None if it was not scored, or is not fake."""
        if self.tensors:
            layers = layers_of(self.pyds, face, DETECTOR)
            found = None if layers is None else read_face(layers, self.card["threshold"])
        else:
            found = label_of(self.pyds, face, DETECTOR)
        if found is None:
            return None
        rect = face.rect_params
        return {
            "source": frame.source_id,
            "frame": frame.frame_num,
            "box": [rect.left, rect.top, rect.width, rect.height],
            "score": found.score,
            "fake": found.fake,
        }

    def faces_in(self, frame: Any) -> Iterator[Any]:
        """Yield the faces of a frame that the face detector found."""
        for face in items(frame.obj_meta_list, self.pyds.NvDsObjectMeta):
            if face.unique_component_id == FACE_DETECTOR and face.class_id == FACE:
                yield face


def _key(frame: Any) -> tuple[int, int]:
    # Every source numbers its own frames, so the number alone is not unique in a batch.
    return frame.source_id, frame.frame_num


def description(arguments: argparse.Namespace) -> str:
    """Return the pipeline as gst-launch writes it."""
    count, size = len(arguments.sources), arguments.size
    live = int(any(_uri(source).startswith("rtsp") for source in arguments.sources))
    detector = "nvinferserver" if arguments.form == "nvinferserver" else "nvinfer"
    elements = [
        # The sources' own size: another would be a resize before faces are cut out.
        f"nvstreammux name=mux batch-size={count} width={size.width} height={size.height} "
        f"batched-push-timeout=40000 live-source={live}",
        f'nvinfer config-file-path="{arguments.detector}" unique-id={FACE_DETECTOR}',
        f'{detector} name=faces config-file-path="{HERE / _CONFIGURATIONS[arguments.form]}"',
        "fakesink sync=0",
    ]
    if arguments.tracker is not None:
        # Before ours, whose boxes it must not see.
        tracker = f'nvtracker ll-lib-file="{_TRACKER}" ll-config-file="{arguments.tracker}"'
        elements.insert(2, tracker)
    sources = []
    for index, source in enumerate(arguments.sources):
        uri = _uri(source)
        # By default a camera that was lost stays lost.
        again = " rtsp-reconnect-interval=10" if uri.startswith("rtsp") else ""
        sources.append(f'nvurisrcbin uri="{uri}"{again} ! mux.sink_{index}')
    return " ".join([" ! ".join(elements), *sources])


_CONFIGURATIONS = {
    "tensors": "nvinfer_tensors.txt",
    "score": "nvinfer_score.txt",
    "nvinferserver": "nvinferserver.txt",
}
_TRACKER = "/opt/nvidia/deepstream/deepstream/lib/libnvds_nvmultiobjecttracker.so"


def _uri(source: str) -> str:
    if "://" in source:
        return source
    return pathlib.Path(source).resolve().as_uri()


def _size(text: str) -> Size:
    width, _, height = text.partition("x")
    size = Size(int(width), int(height))
    if min(size) < 16:
        # argparse makes an error of the option out of it.
        raise ValueError
    return size


def parse(command: list[str]) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("sources", nargs="+", metavar="SOURCE", help="file or URI")
    parser.add_argument("--detector", required=True, help="nvinfer configuration that finds faces")
    parser.add_argument("--size", required=True, type=_size, help="the sources' size: 1920x1080")
    parser.add_argument("--form", choices=_CONFIGURATIONS, default="tensors")
    parser.add_argument("--tracker", metavar="FILE", help="configuration of nvtracker")
    parser.add_argument(
        "--own-boxes",
        action="store_true",
        help="the face detector's boxes are already those to cut out",
    )
    return parser.parse_args(command)


def main() -> int:
    """Run the pipeline until the sources end; return 1 if it fails, 2 if it cannot begin."""
    arguments = parse(sys.argv[1:])
    card = json.loads((HERE / "card.json").read_text())
    if not arguments.own_boxes and card["crop"] not in RECIPES:
        print(
            f"error: the crop recipe {card['crop']} cannot be made from a box: let something else "
            "set the boxes, and use --own-boxes",
            file=sys.stderr,
        )
        return 2
    # Not at the top, so that mistakes in the options show without DeepStream.
    import gi

    gi.require_version("Gst", "1.0")
    import pyds
    from gi.repository import GLib, Gst

    boxes = None if arguments.own_boxes else FaceBoxes(card["crop"])
    faces = Faces(pyds, card, arguments.size, tensors=arguments.form != "score", boxes=boxes)
    Gst.init(None)
    pipeline = Gst.parse_launch(description(arguments))

    loop = GLib.MainLoop()
    failed: list[Any] = []

    def probe(pad: Any, info: Any, handle: Any) -> Any:
        # What is still on its way then may have boxes that were not enlarged, and wrong scores.
        if failed:
            return Gst.PadProbeReturn.DROP
        try:
            handle(pyds.gst_buffer_get_nvds_batch_meta(hash(info.get_buffer())))
        except Exception as error:
            # Otherwise Python would print it, drop the frame, and go on as if nothing were wrong.
            print("error:", error, file=sys.stderr)
            failed.append(error)
            loop.quit()
        return Gst.PadProbeReturn.OK

    element = pipeline.get_by_name("faces")
    for name, handle in (("sink", faces.before), ("src", faces.after)):
        element.get_static_pad(name).add_probe(Gst.PadProbeType.BUFFER, probe, handle)

    def on_message(bus: Any, message: Any) -> None:
        if message.type == Gst.MessageType.ERROR:
            print("error:", *message.parse_error(), file=sys.stderr)
            failed.append(message)
        if message.type in (Gst.MessageType.ERROR, Gst.MessageType.EOS):
            loop.quit()

    bus = pipeline.get_bus()
    bus.add_signal_watch()
    bus.connect("message", on_message)
    pipeline.set_state(Gst.State.PLAYING)
    try:
        loop.run()
    # Cameras have no end, so this is the normal end of a run.
    except KeyboardInterrupt:
        pass
    finally:
        pipeline.set_state(Gst.State.NULL)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
