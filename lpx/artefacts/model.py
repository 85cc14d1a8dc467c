"""The exported model in a workspace, and face sets for it: the input of every step."""

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
from lpx.data.prepare import exported_card, find_prepared, prepare, recipe_for
from lpx.data.roots import DataPlaces, face_store
from lpx.errors import LpxError
from lpx.formats import check_format
from lpx.graph.footprint import check_pass
from lpx.graph.proto import parse_proto
from lpx.reporter import SILENT, Reporter
from lpx.schema import SchemaError, read_record
from lpx.workspace import WorkspaceFolder, read_regular, read_sealed

if TYPE_CHECKING:
    import onnx

EXPORT_FORMAT = "lpx-export/1"
# With fewer, hashing the files takes less time than a progress bar is worth.
_MANY_FACES = 5000


@dataclass(frozen=True)
class ExportedModel:
    """The exported model, after checking it against its manifest.

    Attributes:
        data: The ONNX file.
        sha256: Its SHA-256.
        card: Its model card.
        factory: The function that makes the PyTorch model; None for a backbone of lpx.
    """

    data: bytes
    sha256: str
    card: ModelCard
    factory: str | None


@dataclass(frozen=True)
class _Manifest:
    """Content of `model.json`."""

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
    """Read the model that `export` left in a workspace.

    Raises:
        LpxError: There is none (code "not-found"), or it is not the one that its manifest
            describes ("damaged").
    """
    manifest_path = workspace.model.with_suffix(".json")
    if not workspace.model.is_file() or not manifest_path.is_file():
        raise LpxError(
            f"workspace {workspace.root} holds no exported model",
            "",
            "run `lpx export ckpt.pt` first (or `lpx demo` for a tour), or use another `workspace`",
            code="not-found",
        )
    values = read_sealed(manifest_path, "lpx export ckpt.pt")
    try:
        check_format(manifest_path, values.get("format"), EXPORT_FORMAT, "run `lpx export` again")
        manifest = read_record(_Manifest, values)
    except SchemaError as error:
        raise LpxError(
            f"{manifest_path} was not written by this version of lpx, or is damaged",
            str(error),
            "run `lpx export` again",
            code="damaged",
        ) from error
    try:
        data = read_regular(workspace.model)
    except OSError as error:
        why = error.strerror or str(error)
        raise LpxError(
            f"{workspace.model} cannot be read", why, "run `lpx export` again"
        ) from error
    actual = hashlib.sha256(data).hexdigest()
    if actual != manifest.model_sha256:
        raise LpxError(
            f"{workspace.model} is not the model that was exported",
            f"its SHA-256 begins with {actual[:12]}, {manifest_path.name} says "
            f"{manifest.model_sha256[:12]}",
            "it was edited or replaced after the export: run `lpx export` again",
            code="damaged",
        )
    card = card_from_dict(manifest.card, str(manifest_path))
    _check_factory(manifest.factory, card, manifest_path)
    check_card_inside(data, card, workspace.model, manifest_path)
    return ExportedModel(data, actual, card, manifest.factory)


def check_card_inside(data: bytes, card: ModelCard, path: Path, manifest: Path) -> None:
    """Check that a card is the one in the model, and that the model is as the card says.

    Args:
        data: The ONNX file.
        card: The card in the manifest.
        path: The file's path, for errors.
        manifest: The manifest's path, for errors.

    Raises:
        LpxError: The cards differ, or the model contradicts them.
    """
    # The manifest holds the SHA-256 of the model, but none of the card beside it.
    proto = parse_proto(data, str(path))
    text = None
    for entry in proto.metadata_props:
        if entry.key == METADATA_KEY:
            text = entry.value
            break
    if text is None:
        raise LpxError(
            f"{path} contains no model card",
            "the card describes the input that the model expects",
            "run `lpx export` again",
            code="damaged",
        )
    inside = card_from_json(text, str(path))
    differing = [f.name for f in fields(card) if getattr(card, f.name) != getattr(inside, f.name)]
    if differing:
        raise LpxError(
            f"{manifest} and {path} contain different model cards: {', '.join(differing)}",
            "the card decides how faces are prepared and which of them are called fake",
            "one of them was edited: run `lpx export` again",
            code="damaged",
        )
    # Somebody may have edited both cards alike. The graph itself then contradicts them.
    size, (height, width) = card.input_size, card.grid
    for name, wanted in (("faces", (size, size, 3)), ("patch_map", (height, width))):
        shape = _shape(proto, name)
        if shape[1:] != wanted:
            raise LpxError(
                f"{path}: {name} has the shape {list(shape)}",
                f"by the model card it is [N, {', '.join(map(str, wanted))}]",
                "run `lpx export` again",
                code="damaged",
            )
    check_pass(proto, str(path), 1)


def _shape(proto: onnx.ModelProto, name: str) -> tuple[int, ...]:
    """Return the shape of an input or output, with 0 for a free dimension; empty if not found."""
    for value in (*proto.graph.input, *proto.graph.output):
        if value.name == name:
            return tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
    return ()


def _check_factory(factory: str | None, card: ModelCard, path: Path) -> None:
    """Check that the manifest and the card name the same factory."""
    if factory is not None and factory != card.architecture:
        raise LpxError(
            f"{path} names the factory {factory[:100]!r}, its model card the architecture "
            f"{card.architecture[:100]!r}",
            "the card of a model that a factory makes names that factory",
            "it was edited or damaged: run `lpx export` again",
            code="damaged",
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
    """Open a face set; a public data set is prepared first, if necessary.

    Args:
        workspace: Images that lpx itself drew into it are skipped.
        name: Face set, as `lpx.data.face_sets.sets.open_set` takes it.
        split: "train", "val", "test" or "all".
        out: Another folder whose images are skipped, instead of the workspace's own.
        places: Folders of the videos and of the prepared faces of public data sets.
        card: Card of the model that is to see the faces: they must be cropped as it was trained.
        reporter: Receives what is prepared and by which crop rule, notes and warnings.

    Raises:
        LpxError: The set does not exist, or its faces are cropped differently.
    """
    # Callers from Python may pass a Path.
    name = os.fspath(name)
    skip = (workspace.root, out or workspace.predictions)
    crop = card.crop if card and card.crop in RECIPES else None
    if is_video_set(name) and not is_crops(name):
        _prepare_if_missing(name, split, crop, places, card, reporter)
    faces = open_set(name, split, skip, places=places, crop=crop)
    # The demo set is made for the model: its note and its crops need no comment.
    if name == "demo":
        return faces
    if faces.note:
        reporter.say(f"note: {faces.note}")
    if card:
        _check_crop(faces, card, reporter)
    return faces


def require_prepared(workspace: WorkspaceFolder, name: str, split: str, places: DataPlaces) -> None:
    """Refuse a public data set that `open_faces` would prepare first.

    Args:
        workspace: Contains the model that is to see the faces.
        name: Face set, of any kind.
        split: Split that is needed.
        places: Folders of the videos and of the prepared faces.

    Raises:
        LpxError: Its faces were not prepared (code "not-found"); the command is named.
    """
    if not is_video_set(name) or is_crops(name):
        return
    card = exported_card(workspace)
    crop = card.crop if card and card.crop in RECIPES else None
    if find_prepared(face_store(places.store), name, split, crop) is None:
        # It raises the error.
        open_set(name, split, places=places, crop=crop)


def _prepare_if_missing(
    name: str,
    split: str,
    crop: str | None,
    places: DataPlaces,
    card: ModelCard | None,
    reporter: Reporter,
) -> None:
    store = face_store(places.store)
    if find_prepared(store, name, split, crop) is not None:
        return
    recipe, why = recipe_for(card)
    reporter.say(
        f"{name} ({split}) was not prepared yet: cutting its faces by {recipe} ({why}) into {store}"
    )
    prepare(
        name,
        places=places,
        split=None if split == "all" else split,
        crop=recipe,
        progress=reporter.progress(f"preparing {name}, videos"),
    )


def look_up(faces: FaceSet, reporter: Reporter = SILENT) -> None:
    """Hash the files of a face set, with a progress bar if there are many."""
    if len(faces.faces) >= _MANY_FACES:
        faces.look_up(reporter.progress(f"comparing the files of {faces.name}"))


def _check_crop(faces: FaceSet, card: ModelCard, reporter: Reporter) -> None:
    """Compare the crop rule of a set with that of the model; only warn if one is not known."""
    if faces.crop in ("unknown", card.crop):
        return
    if faces.crop in RECIPES and card.crop in RECIPES:
        raise LpxError(
            f"the faces of {faces.name} are cropped by {faces.crop}, the model was trained on "
            f"{card.crop}",
            "a detector misjudges faces that are cropped differently",
            f"prepare them with `lpx data prepare NAME --crop {card.crop}`, or use other faces",
        )
    reporter.warn(
        f"the faces of {faces.name} are cropped by {faces.crop}; the model's card says "
        f"{card.crop!r}, so it is unknown whether it was trained on such crops"
    )


def versions(*packages: str) -> dict[str, str]:
    """Return the versions of lpx and of installed packages, by name."""
    return {"lpx": lpx.__version__, **{name: metadata.version(name) for name in packages}}
