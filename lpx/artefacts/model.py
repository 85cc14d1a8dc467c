"""What the steps share: the exported model in a workspace, and face sets."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, fields
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lpx
from lpx.card import METADATA_KEY, ModelCard, card_from_dict, card_from_json
from lpx.data.face_sets.face_set import FaceSet
from lpx.data.face_sets.sets import is_crops, is_video_set, open_set
from lpx.data.images.crops import RECIPES
from lpx.data.prepare import find_prepared, prepare, recipe_for
from lpx.data.roots import DataPlaces, face_store
from lpx.errors import LpxError
from lpx.graph.footprint import check_pass
from lpx.graph.proto import parse_proto
from lpx.reporter import SILENT, Reporter
from lpx.schema import SchemaError, read_record
from lpx.workspace import WorkspaceFolder, read_regular, read_sealed

if TYPE_CHECKING:
    import onnx

EXPORT_FORMAT = "lpx-export/1"
_MANY_FACES = 5000


@dataclass(frozen=True)
class ExportedModel:
    """The exported model, after checking it against its manifest."""

    data: bytes
    sha256: str
    card: ModelCard
    factory: str | None


@dataclass(frozen=True)
class _Manifest:
    """What `model.json` holds."""

    format: str
    checkpoint: str | None
    checkpoint_sha256: str | None
    factory: str | None
    model_sha256: str
    opset: int
    card: dict[str, Any]
    verification: dict[str, Any]
    versions: dict[str, str]


def read_exported(workspace: WorkspaceFolder) -> ExportedModel:
    """The model that `export` left in a workspace.

    Raises:
        LpxError: There is none, or it is not the one that its manifest describes.
    """
    manifest_path = workspace.model.with_suffix(".json")
    if not workspace.model.is_file() or not manifest_path.is_file():
        raise LpxError(
            f"workspace {workspace.root} holds no exported model",
            "",
            "run `lpx export ckpt.pt` first (or `lpx demo` for a tour), or name the workspace "
            "with -w DIR",
        )
    values = read_sealed(manifest_path, "lpx export ckpt.pt")
    try:
        if values.get("format") != EXPORT_FORMAT:
            raise SchemaError(f"expected format {EXPORT_FORMAT}")
        manifest = read_record(_Manifest, values)
    except SchemaError as error:
        raise LpxError(
            f"{manifest_path} is not what this version of lpx writes",
            str(error),
            "run `lpx export` again",
        ) from error
    try:
        data = read_regular(workspace.model)
    except OSError as error:
        why = error.strerror or str(error)
        raise LpxError(
            f"{workspace.model} cannot be read", why, "run `lpx export` again"
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != manifest.model_sha256:
        raise LpxError(
            f"{workspace.model} is not the model that was exported",
            f"its SHA-256 begins with {found[:12]}, {manifest_path.name} says "
            f"{manifest.model_sha256[:12]}",
            "it was edited or replaced after the export: run `lpx export` again",
        )
    card = card_from_dict(manifest.card, str(manifest_path))
    _check_factory(manifest.factory, card, manifest_path)
    check_card_inside(data, card, workspace.model, manifest_path)
    return ExportedModel(data, found, card, manifest.factory)


def check_card_inside(data: bytes, card: ModelCard, path: Path, manifest: Path) -> None:
    """Make sure that the card is the one in the model, and that the model is as it says.

    The model is under its SHA-256, and the card beside it is not.
    """
    proto = parse_proto(data, str(path))
    text = next((p.value for p in proto.metadata_props if p.key == METADATA_KEY), None)
    if text is None:
        raise LpxError(
            f"{path} carries no model card",
            "without it nobody knows what the model takes",
            "run `lpx export` again",
        )
    inside = card_from_json(text, str(path))
    differing = [f.name for f in fields(card) if getattr(card, f.name) != getattr(inside, f.name)]
    if differing:
        raise LpxError(
            f"{manifest} and {path} carry different model cards: {', '.join(differing)}",
            "the card decides how faces are prepared and which of them are called fake",
            "one of them was edited: run `lpx export` again",
        )
    size, (height, width) = card.input_size, card.grid
    for name, wanted in (("faces", (size, size, 3)), ("patch_map", (height, width))):
        shape = _shape(proto, name)
        if shape[1:] != wanted:
            raise LpxError(
                f"{path}: {name} has the shape {list(shape)}",
                f"by the model card it is [N, {', '.join(map(str, wanted))}]",
                "run `lpx export` again",
            )
    check_pass(proto, str(path), 1)


def _shape(proto: onnx.ModelProto, name: str) -> tuple[int, ...]:
    """Shape of an input or output, 0 where a dimension is free; empty where there is none."""
    for value in (*proto.graph.input, *proto.graph.output):
        if value.name == name:
            return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    return ()


def _check_factory(factory: str | None, card: ModelCard, path: Path) -> None:
    """Make sure that the manifest and the card say the same of who makes the PyTorch model."""
    if factory is not None and factory != card.architecture:
        raise LpxError(
            f"{path} names the factory {factory[:100]!r}, its model card the architecture "
            f"{card.architecture[:100]!r}",
            "the card of a model that a factory makes names that factory",
            "it was edited or damaged: run `lpx export` again",
        )


def open_faces(
    workspace: WorkspaceFolder,
    name: str,
    split: str,
    out: Path | None = None,
    *,
    places: DataPlaces = DataPlaces(),  # noqa: B008 (frozen)
    card: ModelCard | None = None,
    reporter: Reporter = SILENT,
) -> FaceSet:
    """Open a face set; a public data set is prepared first, where it was not.

    Args:
        workspace: Pictures that lpx itself drew into it are no faces.
        name: As `lpx.data.face_sets.sets.open_set` takes it.
        split: "train", "val", "test" or "all".
        out: Where such pictures lie too.
        places: Where the videos and prepared faces of public data sets lie.
        card: Of the model that is to see the faces: they must be cropped as it was trained.
        reporter: Told what is prepared, and why so.

    Raises:
        LpxError: There is no such set, or its faces are cropped otherwise.
    """
    name = os.fspath(name)  # callers from Python may give a Path
    skip = (workspace.root, out or workspace.predictions)
    crop = card.crop if card and card.crop in RECIPES else None
    if is_video_set(name) and not is_crops(name):
        store = face_store(places.store)
        if find_prepared(store, name, split, crop) is None:
            recipe, why = recipe_for(card)
            reporter.say(
                f"{name} ({split}) was not prepared yet: cutting its faces by {recipe} "
                f"({why}) into {store}"
            )
            prepare(
                name,
                places=places,
                split=None if split == "all" else split,
                crop=recipe,
                progress=reporter.progress(f"preparing {name}, videos"),
            )
    faces = open_set(name, split, skip, places=places, crop=crop)
    if faces.note and name != "demo":
        reporter.say(f"note: {faces.note}")
    if card and name != "demo":
        _check_crop(faces, card, reporter)
    return faces


def look_up(faces: FaceSet, reporter: Reporter = SILENT) -> None:
    """Take down what the faces hold, with a bar where there are so many that it takes a while."""
    if len(faces.faces) >= _MANY_FACES:
        faces.look_up(reporter.progress(f"comparing the files of {faces.name}"))


def _check_crop(faces: FaceSet, card: ModelCard, reporter: Reporter) -> None:
    """Compare the recipe of a set with that of the model; where one is not known, only say so."""
    if faces.crop in ("unknown", card.crop):
        return
    if faces.crop in RECIPES and card.crop in RECIPES:
        raise LpxError(
            f"the faces of {faces.name} are cropped by {faces.crop}, the model was trained on "
            f"{card.crop}",
            "a detector judges crops that are cut otherwise wrongly",
            f"prepare them with `lpx data prepare NAME --crop {card.crop}`, or use other faces",
        )
    reporter.warn(
        f"the faces of {faces.name} are cropped by {faces.crop}; the model's card says "
        f"{card.crop!r}, so nobody can tell whether it was trained on such crops"
    )


def versions(*packages: str) -> dict[str, str]:
    """Versions of lpx and of these installed packages."""
    return {"lpx": lpx.__version__, **{name: metadata.version(name) for name in packages}}
