"""The folder that `lpx package --for deepstream` writes."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from lpx.deploy.cpp_project import TRTEXEC, SelfTest
from lpx.deploy.deepstream.configs import (
    DETECTOR,
    FACE,
    FACE_DETECTOR,
    FORMS,
    LABELS,
    Settings,
    engine_file,
    nvinfer_config,
    nvinferserver_config,
    takes_nvinferserver,
)
from lpx.engines.trtexec import GraphForm
from lpx.graph.nvinfer_form import PATCH_MAP, SCORE, for_nvinfer
from lpx.workspace import write_bytes, write_json

SOURCES = (
    "face_boxes.h",
    "face_boxes.py",
    "pipeline.py",
    "selftest.py",
    "service_maker.py",
    "tensor_meta.py",
)
NVINFERSERVER = "nvinferserver.txt"
INTERFACE = """\
  faces      input, float32 [N, 3, {size}, {size}]: face crops, RGB, whole numbers from 0 to 255,
             as DeepStream's nvinfer gives them
  score      output, float32 [N, 1]: probability that a face is fake
  patch_map  output of the engines named tensors, float32 [N, h, w]: the same for each patch"""
"""Inputs and outputs of the engines, for the README of the trtexec scripts."""


def _score_only(graph: bytes) -> bytes:
    return for_nvinfer(graph, (SCORE,))


def _all_outputs(graph: bytes) -> bytes:
    return for_nvinfer(graph, (SCORE, PATCH_MAP))


_PLANES = "3xSxS"
# The prefixes are the names of the forms: build.sh looks for the plan FORM-NAME.
GRAPH_FORMS = (
    GraphForm("score-", _PLANES, _score_only),
    GraphForm("tensors-", _PLANES, _all_outputs),
)
"""A graph for each of `FORMS`."""


@dataclass(frozen=True)
class DeepStreamContent:
    """What differs from package to package.

    Attributes:
        settings: What the configurations say.
        self_test: The face to ship, and its score.
        plan: Name that the trtexec scripts give to a plan, without the form before it.
    """

    settings: Settings
    self_test: SelfTest
    plan: str


def write_package(folder: Path, content: DeepStreamContent) -> None:
    """Write the package, but for the graphs and scripts in `trtexec/`.

    Args:
        folder: Folder to write.
        content: Content of the package.

    Raises:
        LpxError: The folder cannot be written.
    """
    settings, test = content.settings, content.self_test
    for name in SOURCES:
        write_bytes(folder / name, _source(name).encode())
    for form in FORMS:
        text = nvinfer_config(form, settings)
        write_bytes(folder / f"nvinfer_{form}.txt", text.encode())
    if takes_nvinferserver(settings.card):
        write_bytes(folder / NVINFERSERVER, nvinferserver_config(settings).encode())
    # No newline at the end: nvinfer takes every line for the labels of another output.
    write_bytes(folder / LABELS, settings.card.classes[1].encode())
    write_json(folder / "card.json", settings.card.to_dict())
    write_bytes(folder / "face.rgb", test.face.tobytes())
    expected = {
        "score": test.score,
        "tolerance": test.tolerance,
        "face": test.name,
        "computed_by": test.source,
    }
    write_json(folder / "expected.json", expected)
    script = folder / "build.sh"
    # The names of engines are in one place, configs.engine_file.
    first = engine_file("score", settings).removeprefix("score")
    text = _source(script.name).replace("@ENGINE@", first).replace("@NAME@", content.plan)
    write_bytes(script, text.encode())
    script.chmod(script.stat().st_mode | 0o111)
    write_bytes(folder / "README.md", _readme(content).encode())


def _source(name: str) -> str:
    return (resources.files("lpx.deploy.deepstream") / "files" / name).read_text(encoding="utf-8")


def _readme(content: DeepStreamContent) -> str:
    settings, test = content.settings, content.self_test
    card = settings.card
    boxes = _OWN_CROP if settings.own_crop else _PROBE
    server = _SERVER if takes_nvinferserver(card) else _NO_SERVER
    return _source("README.md").format(
        boxes=boxes.format(crop=card.crop),
        server=server.format(size=card.input_size, model=settings.model),
        own_boxes=" --own-boxes" if settings.own_crop else "",
        size=card.input_size,
        threshold=f"{card.threshold:g}",
        score_engine=engine_file("score", settings),
        tensors_engine=engine_file("tensors", settings),
        precision=settings.precision.upper(),
        batch=settings.batch,
        detector=DETECTOR,
        face_detector=FACE_DETECTOR,
        face=FACE,
        trtexec=TRTEXEC,
        score=f"{test.score:.4f}",
        tolerance=f"{test.tolerance:g}",
        source=test.source,
    )


_PROBE = """\
The detector was trained on crops by the recipe `{crop}`: squares with a margin around the face.
nvinfer cuts out the bare box, so `face_boxes.py` enlarges it before and puts it back after;
`pipeline.py` shows where. Without it, scores are of other crops than those of the training, and
wrong. Against `lpx predict` with the same boxes, the crop is smaller or moved by one pixel at most,
as nvinfer cuts at even numbers. Another face detector than that of the training draws other boxes,
and the margin grows with them."""
_OWN_CROP = """\
The model card says of the crops of the training: `{crop}`.
The box of a face detector does not determine these, so **something else in your pipeline must set
the boxes**; otherwise scores are of other crops than those of the training, and wrong. For a recipe
that turns faces, use nvdspreprocess with a library of your own, and `input-tensor-from-meta=1` in
the configuration: its tensors are then the input of these engines."""
_SERVER = """\
`nvinferserver.txt` is for nvinferserver, DeepStream's Triton. It takes a plan of the workspace as
it is, uint8, from the model repository that `lpx package --for triton` writes: copy its `models`
here as `model_repository`, and check that `model_name` ({model}) is a folder in it. Then
`pipeline.py --form nvinferserver`."""
_NO_SERVER = """\
There is no configuration for nvinferserver: it scales faces to an even number of pixels only, and
this model takes {size}."""
