"""Checkpoints: one file `{format, card, state_dict}`, loaded without running code from it."""

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
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lpx.arguments import check_at_least, check_choice, check_fields, check_number
from lpx.card import MIN_STD, ModelCard, card_from_dict
from lpx.errors import InvalidArgumentError, LpxError, out_of_memory
from lpx.models.aggregates import check_aggregate
from lpx.models.backbones import IMAGENET
from lpx.models.contract import Conclusion, Contract, Outputs, check_module, conclude
from lpx.models.detector import LocalPredictionDetector, new_detector
from lpx.models.fitting import check_tensors, fit_weights
from lpx.models.footprint import check_forward
from lpx.models.receptive_field import analyse
from lpx.models.state_dict import StateDict, check_keys, digest, load_weights, to_lpx_names
from lpx.models.weights_file import read_weights, unreadable
from lpx.workspace import atomic_path

FORMAT = "lpx-checkpoint/1"


@dataclass(frozen=True)
class Detector:
    """A model ready to run, in eval mode, with its card.

    Attributes:
        module: Normalised faces float32 [B, 3, H, W] -> (score [B], patch_map [B, h, w]).
        card: Architecture, preprocessing and threshold of the module.
        notes: How the weights were found and read, a line each.
        warnings: Doubts about that, a line each.
    """

    module: nn.Module
    card: ModelCard
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class ForeignModel:
    """Description of a model whose file has no card.

    Attributes:
        architecture: A key of `lpx.models.backbones.BACKBONES`, or a factory's
            "package.module:function".
        cut: Stage after which the backbone is cut, or "whole".
        aggregate: Function from unit logits to a score: a key of
            `lpx.models.aggregates.AGGREGATES`.
        aggregate_parameter: r of `lse`, k/N of `topk`; None for the default.
        bottleneck: Channels of the head's bottleneck, 0 for none.
        input_size: Side of the face crop, pixels.
        mean: Mean of each channel, for pixels scaled to [0, 1]; None for that of the backbone's
            public weights, for a factory ImageNet's.
        std: Standard deviation of each channel; None as for `mean`.
        channel_order: Order of the channels that the network expects.
        fake_class: Index of the class that is fake; None for 1, if there is only one output.
        outputs: What a factory's model returns; None to infer it from the values.

    Raises:
        InvalidArgumentError: A field has a value that it cannot have.
    """

    architecture: str
    cut: str = "whole"
    aggregate: str = "mean_prob"
    aggregate_parameter: float | None = None
    bottleneck: int = 0
    input_size: int = 256
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    channel_order: Literal["RGB", "BGR"] = "RGB"
    fake_class: int | None = None
    outputs: Outputs | None = None

    def __post_init__(self) -> None:
        check_fields(self)
        check_at_least("bottleneck", self.bottleneck, 0)
        check_at_least("input_size", self.input_size, 1)
        if self.fake_class is not None:
            check_choice("fake_class", self.fake_class, (0, 1))
        for name, least in (("mean", 0.0), ("std", MIN_STD)):
            values = getattr(self, name)
            if values is None:
                continue
            if len(values) != 3:
                raise InvalidArgumentError(name, "must be three numbers, one per channel", values)
            for value in values:
                check_number(name, value, least=least, most=1, why="pixels are scaled to [0, 1]")


def save_checkpoint(path: Path, module: nn.Module, card: ModelCard) -> ModelCard:
    """Write a checkpoint atomically.

    Args:
        path: File to write.
        module: The model.
        card: Its card; the SHA-256 of the weights need not be right.

    Returns:
        The card as stored, with the SHA-256 of the weights.
    """
    state = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    card = replace(card, weights_sha256=digest(state))
    with atomic_path(path) as temporary:
        write_archive({"format": FORMAT, "card": card.to_dict(), "state_dict": state}, temporary)
    return card


def write_archive(content: dict[str, Any], path: Path) -> None:
    """Write a file that `lpx.models.weights_file.read_weights` reads, through to the disk.

    Args:
        content: Tensors and plain values.
        path: A temporary file; see `lpx.workspace.atomic_path`.

    Raises:
        OSError: The disk is full, or the file cannot be written.
    """
    # In memory first, for two reasons. Given a path, torch names the archive's folder after it, so
    # that the same weights would give other bytes for another temporary name. And torch's file
    # writer reports a full disk as a failed internal check, not as an OSError.
    content_bytes = io.BytesIO()
    torch.save(content, content_bytes)
    with path.open("wb") as stream:
        stream.write(content_bytes.getbuffer())
        stream.flush()
        os.fsync(stream.fileno())


def save_state(path: Path, detector: Detector) -> None:
    """Write the weights alone, for a model that a factory makes, atomically."""
    with atomic_path(path) as temporary:
        write_archive(_inner(detector.module).state_dict(), temporary)


def weights_digest(detector: Detector) -> str:
    """Return the SHA-256 of the weights, comparable with `ModelCard.weights_sha256`."""
    return digest(_inner(detector.module).state_dict())


def _inner(module: nn.Module) -> nn.Module:
    """Return the factory's own module: the names of its weights must not have lpx's prefix."""
    return module.inner if isinstance(module, Contract) else module


def load_checkpoint(
    path: Path, foreign: ForeignModel | None = None, weights_key: str | None = None
) -> Detector:
    """Load an lpx checkpoint, or a plain state dict with a description of its model.

    Args:
        path: Checkpoint file.
        foreign: Description of a model whose file has no card; must be None for an lpx checkpoint.
        weights_key: Name of the weights in a file without a card; None to look for them.

    Raises:
        LpxError: Missing, truncated or unsafe file, weights that do not fit, a description of a
            file that has a card, or (code "no-model-card") a file without a card and without a
            description.
    """
    content = read_weights(path)
    if content.get("format") == FORMAT:
        if foreign is not None or weights_key is not None:
            raise LpxError(
                f"{path} has a model card of its own",
                "it says which weights to load, and what the model is",
                "leave out `weights_key`, `backbone` and what else describes the model",
            )
        return _from_card(path, content)
    if foreign is None:
        check_tensors(content, str(path))
        raise LpxError(
            f"{path} holds weights but no lpx model card",
            "lpx cannot guess the architecture and the preprocessing",
            "describe the model with `backbone`, `cut`, `aggregate`, `input_size`, `mean` and "
            "`std`, or make it with `factory=package.module:function`",
            code="no-model-card",
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
    """Call a user's `package.module:function`, and load `path` into the module that it returns.

    Args:
        spec: The function, importable from the current folder or the environment.
        path: File with the weights to load into the module; None if the factory loads its own.
        foreign: Input size, preprocessing, and meaning of the outputs.
        weights_key: Name of the weights in the file; None to look for them.
        here_first: Search the current folder before the environment: right for a spec that the
            user typed, but not for one that was read from a file. That one must not be found in a
            file here that happens to have the name of an installed package.

    Raises:
        LpxError: Not importable, not a module, weights that do not fit, or outputs other than
            score [B] or (score [B], map [B, h, w]).
    """
    inner = _call_factory(spec, here_first=here_first)
    check_module(inner, spec)
    inner.cpu()
    notes: list[str] = []
    warnings: tuple[str, ...] = ()
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
        notes, warnings = fitted.notes(path.name), fitted.warnings(path.name)
        provenance = fitted.provenance(path.name)
    wrapped = _concluded(inner.eval(), spec, foreign)
    module = wrapped.module
    if foreign.fake_class is None:
        notes.append(_FAKE_IS_ONE)
    card = ModelCard(
        architecture=spec,
        cut="whole",
        aggregate="own",
        input_size=foreign.input_size,
        mean=foreign.mean or IMAGENET[0],
        std=foreign.std or IMAGENET[1],
        channel_order=foreign.channel_order,
        fake_class=module.fake_class,
        outputs=module.outputs,
        grid=wrapped.grid,
        provenance=provenance,
        weights_sha256=digest(inner.state_dict()),
    )
    return Detector(module, _with_field(card, module), tuple(notes), warnings)


def _with_field(card: ModelCard, module: nn.Module) -> ModelCard:
    """Return the card with the module's receptive field, if that can be determined."""
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


_FAKE_IS_ONE = "assuming that a high score means fake (use `fake_class=0` if it means real)"


def _concluded(inner: nn.Module, spec: str, foreign: ForeignModel) -> Conclusion:
    """Wrap a factory's module, converted to float32 if it fails in its own type."""
    try:
        return conclude(inner, spec, foreign.input_size, foreign.fake_class, foreign.outputs)
    except LpxError:
        if all(p.dtype == torch.float32 for p in inner.parameters() if p.is_floating_point()):
            raise
        # Weights in half or double precision, and a model that does not cast its input to that.
        inner.float()
        return conclude(inner, spec, foreign.input_size, foreign.fake_class, foreign.outputs)


_SPEC = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


@contextmanager
def _current_folder(*, first: bool) -> Iterator[None]:
    """Let imports search the current folder, before or after the environment."""
    rest = [entry for entry in sys.path if entry]
    sys.path[:] = ["", *rest] if first else [*rest, ""]
    try:
        yield
    finally:
        # The folder stays at the end of the path. A model may import modules when it is called, but
        # a file here must not take the place of a package that lpx itself imports later.
        sys.path[:] = [*(entry for entry in sys.path if entry), ""]


def _call_factory(spec: str, *, here_first: bool) -> nn.Module:
    package, _, function = spec.partition(":")
    fix = "use a `package.module:function`, importable from here, that returns an nn.Module"
    if not _SPEC.fullmatch(spec):
        why = "it does not name a function of a module"
        raise LpxError(f"factory {spec} cannot be called", why, fix, code="invalid-argument")
    try:
        with _current_folder(first=here_first):
            module = getattr(importlib.import_module(package), function)()
    except (Exception, SystemExit) as error:
        # The user's code may raise anything, when imported and when called; a script that parses
        # its arguments raises SystemExit.
        if short := out_of_memory(error):
            raise short from error
        why = f"{type(error).__name__}: {error}"
        raise LpxError(f"factory {spec} cannot be called", why, fix) from error
    if not isinstance(module, nn.Module):
        raise LpxError(f"factory {spec} returned a {type(module).__name__}", "", fix)
    return module


def _from_card(path: Path, content: dict[str, Any]) -> Detector:
    values, state = content.get("card"), content.get("state_dict")
    if not (isinstance(values, Mapping) and isinstance(state, Mapping)):
        raise unreadable(path, "its card or its weights are missing")
    card = card_from_dict(dict(values), str(path))
    check_tensors(state, str(path))
    tensors: StateDict = {}
    for name, value in state.items():
        if isinstance(name, str) and isinstance(value, Tensor):
            tensors[name] = value
    try:
        check_aggregate(card.aggregate, card.aggregate_parameter)
        module = LocalPredictionDetector(card)
    except InvalidArgumentError as error:
        # The card names an aggregate, a backbone or a cut that this version does not have.
        raise LpxError(
            f"{path}: the model card is wrong: {error.what}",
            error.why or "it was edited, or written by another version of lpx",
            "export the checkpoint again",
            code="damaged",
        ) from error
    check_keys(module.state_dict(), tensors, str(path))
    actual = digest(tensors)
    if actual != card.weights_sha256:
        raise LpxError(
            f"{path}: the weights are not those that the model card describes",
            f"SHA-256 {actual[:12]} instead of {card.weights_sha256[:12]}",
            "the file was edited or damaged: copy it again",
            code="damaged",
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
        channel_order=foreign.channel_order,
        fake_class=fake_class,
        weights_sha256=digest(module.state_dict()),
        provenance=fitted.provenance(path.name),
    )
    notes = fitted.notes(path.name)
    if foreign.fake_class is None:
        notes.append(_FAKE_IS_ONE)
    return Detector(module.eval(), card, tuple(notes), fitted.warnings(path.name))
