"""Checkpoints: one file `{format, card, state_dict}`, loaded without running anything in it."""

from __future__ import annotations

import importlib
import pickle
import sys
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lpx.card import ModelCard, card_from_dict
from lpx.errors import LpxError
from lpx.models.aggregates import check_aggregate
from lpx.models.backbones import IMAGENET
from lpx.models.detector import LocalPredictionDetector, new_detector
from lpx.models.receptive_field import analyse
from lpx.models.state_dict import StateDict, check_keys, digest, to_lpx_names, unwrap
from lpx.workspace import atomic_path

FORMAT = "lpx-checkpoint/1"
_ZIP = b"PK\x03\x04"
"""How a file that torch.save wrote begins."""
# What torch's reader says of a pickle that names something other than tensors and plain values.
_CODE = ("GLOBAL", "call reduce", "Can only create", "Can only build")


@dataclass(frozen=True)
class Detector:
    """A model ready to run, in eval mode, with its card.

    Attributes:
        module: float32 [B, 3, H, W], normalised -> (score [B], patch_map [B, h, w]).
        card: What the module wants and what it is.
    """

    module: nn.Module
    card: ModelCard


@dataclass(frozen=True)
class ForeignModel:
    """What the user says of weights that bring no card.

    Without `mean` and `std` those of the backbone's public weights are taken, and ImageNet's for a
    factory.
    """

    architecture: str
    cut: str = "whole"
    aggregate: str = "mean_prob"
    aggregate_parameter: float | None = None
    bottleneck: int = 0
    input_size: int = 256
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    channel_order: str = "RGB"


def save_checkpoint(path: Path, module: nn.Module, card: ModelCard) -> ModelCard:
    """Write a checkpoint atomically.

    Returns:
        The card as stored: with the weights' SHA-256 filled in.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    card = replace(card, weights_sha256=digest(state))
    with atomic_path(path) as temporary:
        _save({"format": FORMAT, "card": card.to_dict(), "state_dict": state}, temporary)
    return card


def _save(content: dict[str, Any], path: Path) -> None:
    try:
        torch.save(content, path)
    except RuntimeError as error:
        # torch reports a full disk as a RuntimeError of its writer.
        raise OSError(str(error).strip().splitlines()[0]) from error


def save_state(path: Path, detector: Detector) -> None:
    """Write the weights alone, for a model that a factory makes; atomically."""
    with atomic_path(path) as temporary:
        _save(_inner(detector.module).state_dict(), temporary)


def weights_digest(detector: Detector) -> str:
    """SHA-256 of the weights, comparable with `ModelCard.weights_sha256`."""
    return digest(_inner(detector.module).state_dict())


def _inner(module: nn.Module) -> nn.Module:
    return module.inner if isinstance(module, _Contract) else module


def load_checkpoint(path: Path, foreign: ForeignModel | None = None) -> Detector:
    """Load an lpx checkpoint, or a plain state dict with what the user says of it.

    Args:
        path: Checkpoint file.
        foreign: What the model is, for a file that brings no card; must be None for one that does.

    Raises:
        LpxError: Missing, truncated or unsafe file, weights that do not fit, a card that is missing
            or contradicted.
    """
    content = _read(path)
    if content.get("format") == FORMAT:
        if foreign is not None:
            raise LpxError(
                f"{path} brings its own model card",
                "--backbone, --cut and the like would contradict it",
                "leave these options out",
            )
        return _from_card(path, content)
    state = _state_dict(content, path)
    if foreign is None:
        raise LpxError(
            f"{path} holds weights but no lpx model card",
            "lpx cannot guess the architecture and the preprocessing",
            "say what it is: --backbone NAME --cut STAGE --aggregate NAME --input-size N "
            "--mean R,G,B --std R,G,B, or --factory package.module:function",
        )
    return _from_foreign(path, state, foreign)


def load_factory(spec: str, path: Path | None, foreign: ForeignModel) -> Detector:
    """Call a user's `package.module:function`, and load `path` into what it returns.

    Args:
        spec: Importable from the current folder or the environment.
        path: State dict to load into the module; None where the factory loads its own weights.
        foreign: Input size and preprocessing.

    Raises:
        LpxError: Not importable, not a module, weights that do not fit, or outputs other than
            score [B] or (score [B], map [B, h, w]).
    """
    module = _call_factory(spec)
    if path is not None:
        wanted = module.state_dict()
        state = unwrap(_state_dict(_read(path), path), wanted)
        check_keys(wanted, state, str(path))
        module.load_state_dict(state, strict=False)
    module = _Contract(module.eval()).eval()
    grid = _check_contract(module, spec, foreign.input_size)
    card = ModelCard(
        architecture=spec,
        cut="whole",
        aggregate="own",
        input_size=foreign.input_size,
        mean=foreign.mean or IMAGENET[0],
        std=foreign.std or IMAGENET[1],
        channel_order="BGR" if foreign.channel_order == "BGR" else "RGB",
        grid=grid,
        weights_sha256=digest(module.inner.state_dict()),
    )
    try:
        field = analyse(module, foreign.input_size)
    except LpxError:
        # A model that cannot be traced for analysis may still export; the field stays unknown.
        return Detector(module, card)
    return Detector(
        module,
        replace(
            card,
            receptive_field=field.size,
            stride=field.stride,
            strictly_local=field.strictly_local,
        ),
    )


class _Contract(nn.Module):
    """Gives a user's module the two outputs of a detector: a missing map becomes [B, 1, 1]."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = self.inner(x)
        if isinstance(out, Tensor):
            return out, out.reshape(-1, 1, 1)
        score, patch_map = out
        return score, patch_map


def _call_factory(spec: str) -> nn.Module:
    package, _, function = spec.partition(":")
    fix = "give --factory package.module:function, importable from here, that returns an nn.Module"
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = getattr(importlib.import_module(package), function)()
    except Exception as error:
        # The user's code may raise anything, when imported and when called.
        why = f"{type(error).__name__}: {error}"
        raise LpxError(f"--factory {spec} cannot be called", why, fix) from error
    if not isinstance(module, nn.Module):
        raise LpxError(f"--factory {spec} returned a {type(module).__name__}", "", fix)
    return module


def _check_contract(module: nn.Module, spec: str, size: int) -> tuple[int, int]:
    """Grid (h, w) of the map, after checking both outputs on two faces of noise."""
    wanted = "a score [B] in [0, 1], or (score [B], map [B, h, w]), of faces [B, 3, H, W]"
    try:
        with torch.no_grad():
            noise = torch.Generator().manual_seed(0)
            score, patch_map = module(torch.randn(2, 3, size, size, generator=noise))
    except Exception as error:
        # As above: the user's code.
        raise LpxError(
            f"the model of --factory {spec} fails on faces of {size} px",
            (str(error).strip().splitlines() or [type(error).__name__])[0],
            f"it must return {wanted}; set --input-size to what it takes",
        ) from error
    if not (isinstance(score, Tensor) and isinstance(patch_map, Tensor)):
        raise LpxError(
            f"the model of --factory {spec} returns no tensors", f"it must return {wanted}"
        )
    shapes = f"{tuple(score.shape)} and {tuple(patch_map.shape)}"
    if score.shape != (2,) or patch_map.ndim != 3 or patch_map.shape[0] != 2:
        raise LpxError(
            f"the model of --factory {spec} returns {shapes} for 2 faces",
            f"it must return {wanted}",
        )
    for name, values in (("score", score), ("map", patch_map)):
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):
            raise LpxError(
                f"the {name} of --factory {spec} takes values from {low:.3g} to {high:.3g}",
                "score and map are probabilities of fake, in [0, 1]",
                "apply a sigmoid (or softmax) in the module",
            )
    return int(patch_map.shape[1]), int(patch_map.shape[2])


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        found = "is a folder, not a file" if path.is_dir() else "does not exist"
        fix = "name a checkpoint file; `lpx demo --unpack DIR` writes an example"
        raise LpxError(f"{path} {found}", "", fix)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        # Damaged bytes fail anywhere in torch's reader, with whatever error comes up there.
        if isinstance(error, pickle.UnpicklingError) and any(w in str(error) for w in _CODE):
            raise LpxError(
                f"{path} holds pickled Python objects, not only weights",
                "loading it would run code from the file",
                "where it was made, save torch.save(model.state_dict(), ...) and use that",
            ) from error
        raise _broken(path, error) from error
    if not isinstance(content, Mapping):
        raise _broken(path, TypeError(f"it holds a {type(content).__name__}"))
    return dict(content)


def _broken(path: Path, error: Exception) -> LpxError:
    return LpxError(
        f"{path} is not a readable PyTorch checkpoint",
        _damage(path, error),
        "the file is truncated or of another kind: copy it again",
    )


def _damage(path: Path, error: Exception) -> str:
    try:
        with path.open("rb") as stream:
            head = stream.read(len(_ZIP))
    except OSError as unread:
        return unread.strerror or str(unread)
    if not head:
        return "it is empty"
    if head == _ZIP and not zipfile.is_zipfile(path):
        return "its end is missing: it begins like a PyTorch file, but has no index at its end"
    if isinstance(error, (LookupError, pickle.UnpicklingError)):
        # What torch says of a failed unpickling is a number, or to load it without safeguards.
        return "its bytes are not those of a PyTorch file"
    return (str(error).strip().splitlines() or ["its bytes are damaged"])[0]


def _state_dict(content: dict[str, Any], path: Path) -> StateDict:
    """The tensors of a plain state dict, or of one nested under a usual name."""
    for key in ("state_dict", "model", "model_state_dict", "net", "ema"):
        if isinstance(content.get(key), Mapping):
            content = dict(content[key])
            break
    state = {k: v for k, v in content.items() if isinstance(k, str) and isinstance(v, Tensor)}
    if not state:
        raise LpxError(
            f"{path} holds no tensors",
            f"its keys: {', '.join(map(str, list(content)[:5])) or 'none'}",
            "save the model's state dict with torch.save(model.state_dict(), ...)",
        )
    return state


def _from_card(path: Path, content: dict[str, Any]) -> Detector:
    values, state = content.get("card"), content.get("state_dict")
    if not (isinstance(values, Mapping) and isinstance(state, Mapping)):
        raise _broken(path, ValueError("its card or its weights are missing"))
    card = card_from_dict(dict(values), str(path))
    check_aggregate(card.aggregate, card.aggregate_parameter)
    state = _state_dict({"state_dict": state}, path)
    found = digest(state)
    if found != card.weights_sha256:
        raise LpxError(
            f"{path}: the weights are not those that the model card describes",
            f"SHA-256 {found[:12]} instead of {card.weights_sha256[:12]}",
            "the file was edited or damaged: copy it again",
        )
    module = LocalPredictionDetector(card)
    check_keys(module.state_dict(), state, str(path))
    module.load_state_dict(state)
    return Detector(module.eval(), card)


def _from_foreign(path: Path, state: StateDict, foreign: ForeignModel) -> Detector:
    module, card = new_detector(
        foreign.architecture,
        foreign.cut,
        input_size=foreign.input_size,
        aggregate_name=foreign.aggregate,
        aggregate_parameter=foreign.aggregate_parameter,
        bottleneck=foreign.bottleneck,
    )
    named = to_lpx_names(state)
    check_keys(module.state_dict(), named, str(path))
    module.load_state_dict(named, strict=False)
    card = replace(
        card,
        mean=foreign.mean or card.mean,
        std=foreign.std or card.std,
        channel_order="BGR" if foreign.channel_order == "BGR" else "RGB",
        weights_sha256=digest(module.state_dict()),
        provenance={"converted_from": path.name},
    )
    return Detector(module.eval(), card)
