"""Checkpoints: one file `{format, card, state_dict}`, loaded without running anything in it."""

from __future__ import annotations

import importlib
import io
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lpx.card import ModelCard, card_from_dict
from lpx.errors import LpxError, out_of_memory
from lpx.models.aggregates import check_aggregate
from lpx.models.backbones import IMAGENET
from lpx.models.contract import Contract, Outputs, check_module, conclude
from lpx.models.detector import LocalPredictionDetector, new_detector
from lpx.models.fitting import check_tensors, fit_weights
from lpx.models.footprint import check_forward
from lpx.models.receptive_field import analyse
from lpx.models.state_dict import check_keys, digest, load_weights, to_lpx_names
from lpx.models.weights_file import read_weights, unreadable
from lpx.workspace import atomic_path

FORMAT = "lpx-checkpoint/1"


@dataclass(frozen=True)
class Detector:
    """A model ready to run, in eval mode, with its card.

    Attributes:
        module: float32 [B, 3, H, W], normalised -> (score [B], patch_map [B, h, w]).
        card: What the module wants and what it is.
        notes: What the user should know of how the weights were found and read, a line each.
    """

    module: nn.Module
    card: ModelCard
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ForeignModel:
    """What the user says of weights that bring no card.

    Without `mean` and `std` those of the backbone's public weights are taken, and ImageNet's for a
    factory. `fake_class` is the index of the class that is fake (None: 1, where there is but one
    output), `outputs` says what a factory's model returns (None: told by the values).
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
    fake_class: int | None = None
    outputs: Outputs | None = None


def save_checkpoint(path: Path, module: nn.Module, card: ModelCard) -> ModelCard:
    """Write a checkpoint atomically.

    Returns:
        The card as stored: with the weights' SHA-256 filled in.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    card = replace(card, weights_sha256=digest(state))
    with atomic_path(path) as temporary:
        write_archive({"format": FORMAT, "card": card.to_dict(), "state_dict": state}, temporary)
    return card


def write_archive(content: dict[str, Any], path: Path) -> None:
    """Write what `lpx.models.weights_file.read_weights` reads, through to the disk.

    Args:
        content: Tensors and plain values.
        path: A temporary file; see `lpx.workspace.atomic_path`.

    Raises:
        OSError: There is no room, or the file cannot be written.
    """
    # Given a path, torch names the archive's folder after it: in memory the same weights give the
    # same bytes, whatever the temporary file is called. And its writer reports a full disk as a
    # failed check of its own code.
    content_bytes = io.BytesIO()
    torch.save(content, content_bytes)
    with path.open("wb") as stream:
        stream.write(content_bytes.getbuffer())
        stream.flush()
        os.fsync(stream.fileno())


def save_state(path: Path, detector: Detector) -> None:
    """Write the weights alone, for a model that a factory makes; atomically."""
    with atomic_path(path) as temporary:
        write_archive(_inner(detector.module).state_dict(), temporary)


def weights_digest(detector: Detector) -> str:
    """SHA-256 of the weights, comparable with `ModelCard.weights_sha256`."""
    return digest(_inner(detector.module).state_dict())


def _inner(module: nn.Module) -> nn.Module:
    return module.inner if isinstance(module, Contract) else module


def load_checkpoint(
    path: Path, foreign: ForeignModel | None = None, weights_key: str | None = None
) -> Detector:
    """Load an lpx checkpoint, or a plain state dict with what the user says of it.

    Args:
        path: Checkpoint file.
        foreign: What the model is, for a file that brings no card; must be None for one that does.
        weights_key: Where the weights stand in a file that brings no card; None to look for them.

    Raises:
        LpxError: Missing, truncated or unsafe file, weights that do not fit, a card that is missing
            or contradicted.
    """
    content = read_weights(path)
    if content.get("format") == FORMAT:
        if foreign is not None or weights_key is not None:
            option = "--weights-key" if foreign is None else "--backbone, --cut and the like"
            raise LpxError(
                f"{path} brings its own model card",
                f"{option} would contradict it",
                f"leave {'it' if foreign is None else 'these options'} out",
            )
        return _from_card(path, content)
    if foreign is None:
        check_tensors(content, str(path))
        raise LpxError(
            f"{path} holds weights but no lpx model card",
            "lpx cannot guess the architecture and the preprocessing",
            "say what it is: --backbone NAME --cut STAGE --aggregate NAME --input-size N "
            "--mean R,G,B --std R,G,B, or --factory package.module:function",
        )
    return _from_foreign(path, content, foreign, weights_key)


def load_factory(
    spec: str,
    path: Path | None,
    foreign: ForeignModel,
    weights_key: str | None = None,
    *,
    here_first: bool = True,
) -> Detector:
    """Call a user's `package.module:function`, and load `path` into what it returns.

    Args:
        spec: Importable from the current folder or the environment.
        path: File with the weights to load into the module; None where the factory loads its own.
        foreign: Input size, preprocessing, and what the outputs mean.
        weights_key: Where the weights stand in the file; None to look for them.
        here_first: Look in the current folder before the environment, for a spec that the user
            typed. One that was read from a file must not be found in a file that happens to lie
            here under the name of an installed package.

    Raises:
        LpxError: Not importable, not a module, weights that do not fit, or outputs other than
            score [B] or (score [B], map [B, h, w]).
    """
    inner = _call_factory(spec, here_first=here_first)
    check_module(inner, spec)
    inner.cpu()
    notes: list[str] = []
    provenance: dict[str, Any] = {}
    if path is not None:
        fitted = fit_weights(
            read_weights(path),
            inner.state_dict(),
            str(path),
            key=weights_key,
            parameters=[name for name, _ in inner.named_parameters(remove_duplicate=False)],
        )
        load_weights(inner, fitted.state)
        notes, provenance = fitted.notes(path.name), fitted.provenance(path.name)
    module, grid = _concluded(inner.eval(), spec, foreign)
    if foreign.fake_class is None:
        notes.append(_FAKE_IS_ONE)
    card = ModelCard(
        architecture=spec,
        cut="whole",
        aggregate="own",
        input_size=foreign.input_size,
        mean=foreign.mean or IMAGENET[0],
        std=foreign.std or IMAGENET[1],
        channel_order="BGR" if foreign.channel_order == "BGR" else "RGB",
        fake_class=module.fake_class,
        outputs=module.outputs,
        grid=grid,
        provenance=provenance,
        weights_sha256=digest(inner.state_dict()),
    )
    return Detector(module, _with_field(card, module), tuple(notes))


def _with_field(card: ModelCard, module: nn.Module) -> ModelCard:
    """The card with the module's receptive field, if that can be found."""
    try:
        field = analyse(module, card.input_size)
    except LpxError:
        # A model that cannot be traced for analysis may still export; the field stays unknown.
        return card
    return replace(
        card,
        receptive_field=field.size,
        stride=field.stride,
        strictly_local=field.strictly_local,
    )


_FAKE_IS_ONE = (
    "a high score is taken to mean fake (--fake-class 0 for a model whose classes are "
    "the other way round)"
)


def _concluded(
    inner: nn.Module, spec: str, foreign: ForeignModel
) -> tuple[Contract, tuple[int, int]]:
    try:
        return conclude(inner, spec, foreign.input_size, foreign.fake_class, foreign.outputs)
    except LpxError:
        if all(p.dtype == torch.float32 for p in inner.parameters() if p.is_floating_point()):
            raise
        # Weights in half or double that the model does not cast its faces to: float32 then.
        inner.float()
        return conclude(inner, spec, foreign.input_size, foreign.fake_class, foreign.outputs)


_SPEC = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


@contextmanager
def _current_folder(*, first: bool) -> Iterator[None]:
    """Let imports search the current folder, before or after the environment.

    Afterwards it stays at the end: a model may import what it needs when it is called, but a file
    that happens to lie here must not take the place of a package that lpx itself imports later.
    """
    rest = [entry for entry in sys.path if entry]
    sys.path[:] = ["", *rest] if first else [*rest, ""]
    try:
        yield
    finally:
        sys.path[:] = [*(entry for entry in sys.path if entry), ""]


def _call_factory(spec: str, *, here_first: bool) -> nn.Module:
    package, _, function = spec.partition(":")
    fix = "give --factory package.module:function, importable from here, that returns an nn.Module"
    if not _SPEC.fullmatch(spec):
        raise LpxError(
            f"--factory {spec} cannot be called", "it names no function of a module", fix
        )
    try:
        with _current_folder(first=here_first):
            module = getattr(importlib.import_module(package), function)()
    except (Exception, SystemExit) as error:
        # The user's code may raise anything, when imported and when called: a script that parses
        # its arguments exits.
        if short := out_of_memory(error):
            raise short from error
        why = f"{type(error).__name__}: {error}"
        raise LpxError(f"--factory {spec} cannot be called", why, fix) from error
    if not isinstance(module, nn.Module):
        raise LpxError(f"--factory {spec} returned a {type(module).__name__}", "", fix)
    return module


def _from_card(path: Path, content: dict[str, Any]) -> Detector:
    values, state = content.get("card"), content.get("state_dict")
    if not (isinstance(values, Mapping) and isinstance(state, Mapping)):
        raise unreadable(path, "its card or its weights are missing")
    card = card_from_dict(dict(values), str(path))
    check_aggregate(card.aggregate, card.aggregate_parameter)
    check_tensors(state, str(path))
    tensors = {k: v for k, v in state.items() if isinstance(k, str) and isinstance(v, Tensor)}
    module = LocalPredictionDetector(card)
    check_keys(module.state_dict(), tensors, str(path))
    found = digest(tensors)
    if found != card.weights_sha256:
        raise LpxError(
            f"{path}: the weights are not those that the model card describes",
            f"SHA-256 {found[:12]} instead of {card.weights_sha256[:12]}",
            "the file was edited or damaged: copy it again",
        )
    load_weights(module, tensors)
    check_forward(module, (1, 3, card.input_size, card.input_size))
    return Detector(module.eval(), card)


def _from_foreign(
    path: Path, content: dict[str, Any], foreign: ForeignModel, weights_key: str | None
) -> Detector:
    module, card = new_detector(
        foreign.architecture,
        foreign.cut,
        input_size=foreign.input_size,
        aggregate_name=foreign.aggregate,
        aggregate_parameter=foreign.aggregate_parameter,
        bottleneck=foreign.bottleneck,
    )
    fake_class = 1 if foreign.fake_class is None else foreign.fake_class
    fitted = fit_weights(
        content,
        module.state_dict(),
        str(path),
        key=weights_key,
        rename=lambda state: to_lpx_names(state, fake_class),
    )
    load_weights(module, fitted.state)
    check_forward(module, (1, 3, card.input_size, card.input_size))
    card = replace(
        card,
        mean=foreign.mean or card.mean,
        std=foreign.std or card.std,
        channel_order="BGR" if foreign.channel_order == "BGR" else "RGB",
        fake_class=fake_class,
        weights_sha256=digest(module.state_dict()),
        provenance=fitted.provenance(path.name),
    )
    notes = fitted.notes(path.name)
    if foreign.fake_class is None:
        notes.append(_FAKE_IS_ONE)
    return Detector(module.eval(), card, tuple(notes))
