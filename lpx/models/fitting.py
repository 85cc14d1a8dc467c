"""Find the weights in a file that fit a model, whatever their names are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lpx.errors import LpxError
from lpx.models.state_dict import (
    StateDict,
    check_keys,
    is_needed,
    load_weights,
    misfits,
    to_lpx_names,
)
from lpx.models.weights_file import containers

# Names that wrappers insert anywhere in a key: DataParallel, torch.compile, Fabric, FSDP.
_WRAPPERS = frozenset(
    {"module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
)
# Weights under such a name are a running average, or a copy that serves as a training target.
_AVERAGED = re.compile(
    r"(^|[._])(ema|swa|avg|averaged?|teacher|shadow(_params)?|momentum|target)([._]|$)"
)
# A tensor under such a name belongs to the training, not to the network.
_OF_TRAINING = re.compile(
    r"(criterion|loss|metric|optim|sched|(^|[._])(acc|auc|auroc)([._]|$)|n_averaged$)"
)
# The key of weights at the top level of a file.
_TOP_LEVEL = "."
# Names that a note, and that a model card, lists.
_SHOWN, _RECORDED = 5, 10


@dataclass(frozen=True)
class Fitted:
    """Weights that fit a model.

    Attributes:
        state: The weights, under the model's names.
        key: Name of the weights in the file, as `weights_key` takes it; "." for the top level.
        mapping: Changes from the file's names to the model's, a text each; empty for none.
        left_out: Names in the same dictionary that the model does not have.
        kept: Buffers that the file lacks, left as the factory made them.
        others: Other weights in the file that fit the model too, and differ.
        unused: Averaged weights in the file that do not fit, so that nobody searches for them.
    """

    state: StateDict
    key: str
    mapping: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def notes(self, name: str) -> list[str]:
        """Return notes on weights taken from the file `name`, a line each."""
        lines = []
        if self.key != _TOP_LEVEL or self.mapping:
            place = name if self.key == _TOP_LEVEL else f"{self.key!r} in {name}"
            lines.append("; ".join([f"weights: {place}", *self.mapping]))
        if self.unused:
            lines.append(f"not used, does not fit the model: {', '.join(self.unused)}")
        if self.left_out:
            lines.append(f"left out, not part of the model: {_shown(self.left_out)}")
        if self.kept:
            lines.append(f"not in the file, kept as the factory made them: {_shown(self.kept)}")
        return lines

    def warnings(self, name: str) -> tuple[str, ...]:
        """Return doubts about weights taken from the file `name`, a line each."""
        if not self.others:
            return ()
        quoted = ", ".join(map(repr, self.others))
        return (
            f"{name} holds other weights that fit too: {quoted}. Took {self.key!r}; use "
            f"`weights_key={self.others[0]!r}` to take the others",
        )

    def provenance(self, name: str) -> dict[str, Any]:
        """Return the same for the model card; short, since the card is copied to every engine."""
        values: dict[str, Any] = {"converted_from": name}
        if self.key != _TOP_LEVEL or self.others:
            values["weights_key"] = self.key
        for field in ("mapping", "others", "left_out", "kept"):
            if names := getattr(self, field):
                values[f"weights_{field}"] = _shortened(names)
        return values


def _shown(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    listed = ", ".join(names[:_SHOWN])
    return f"{listed} and {more} more" if more > 0 else listed


def _shortened(names: Sequence[str]) -> list[str]:
    more = len(names) - _RECORDED
    if more > 0:
        return [*names[:_RECORDED], f"... {more} more"]
    return list(names)


@dataclass(frozen=True)
class _Attempt:
    """One way to read one dictionary of the file as the model's weights.

    Attributes:
        place: Dotted names that lead to the dictionary; "" for the top level.
        prefix: Prefix that is removed from its names.
        added: Prefix that is added to its names.
        unwrapped: Names of wrappers that are removed.
        state: The weights, under the model's names.
        left_out: Names in the dictionary that are not used.
        kept: Names of the model that the dictionary lacks.
    """

    place: str
    prefix: str
    added: str
    unwrapped: frozenset[str]
    state: StateDict
    left_out: tuple[str, ...]
    kept: tuple[str, ...]

    @property
    def key(self) -> str:
        return self.place or _TOP_LEVEL

    @property
    def key_with_prefix(self) -> str:
        """Return the key, with the prefix that the names in the dictionary share."""
        prefix = self.prefix.rstrip(".")
        return f"{self.place}.{prefix}" if self.place and prefix else self.place or prefix

    def mapping(self) -> tuple[str, ...]:
        changes = []
        if self.unwrapped:
            names = ", ".join(map(repr, sorted(self.unwrapped)))
            changes.append(f"{names} removed from the names")
        if self.prefix:
            changes.append(f"prefix {self.prefix!r} removed")
        if self.added:
            changes.append(f"prefix {self.added!r} added")
        return tuple(changes)

    def matches(self, wanted: Mapping[str, Tensor]) -> int:
        """Return the number of tensors that the model has too, with their shapes."""
        count = 0
        for name, value in self.state.items():
            count += name in wanted and value.shape == wanted[name].shape
        return count


def fit_weights(
    content: Mapping[Any, Any],
    wanted: Mapping[str, Tensor],
    source: str,
    *,
    key: str | None = None,
    rename: Callable[[Mapping[str, Tensor]], StateDict] = dict,
    parameters: Sequence[str] = (),
) -> Fitted:
    """Find the weights in a file that fit a model, whatever their names are.

    A prefix of all names, and names that wrappers insert, may differ from the model's. Every tensor
    of the model must be there with its shape, and no other below the same prefix. If several sets
    of weights fit, those that are not a running average come first, and the others are named.

    Args:
        content: Content of the file.
        wanted: The model's tensors by name.
        source: The file's name, for errors.
        key: Name of the weights ("ema", "model.state_dict"); None to look for them.
        rename: Converts other naming schemes to the model's.
        parameters: Names in `wanted` that are trained. Buffers beside them may be missing (a
            wrapper's mean and std); empty if every tensor must be there.

    Raises:
        LpxError: Nothing fits (the nearest is compared, the first mismatches named), there is
            nothing under `key`, or there are no tensors at all.
    """
    check_tensors(content, source)
    places = dict(_places(content))
    model = _Model(wanted, frozenset(parameters), rename)
    attempts: list[_Attempt] = []
    for place, tensors in places.items():
        attempts += _attempts(place, tensors, model)
    if key is not None:
        attempts = _under(key, attempts, source)
    fitting = _distinct([a for a in attempts if not misfits(wanted, a.state)])
    if not fitting:
        # Of equals `max` takes the first, which changes the fewest names.
        nearest = max(attempts, key=lambda attempt: attempt.matches(wanted))
        place = f"{source} ({nearest.place})" if nearest.place else source
        check_keys(wanted, nearest.state, place)
    # The sort is stable: averages move behind the others, and the order is otherwise the file's.
    fitting.sort(key=lambda attempt: _is_averaged(attempt.key_with_prefix))
    first = fitting[0]
    labels = _labels(fitting)
    unused: list[str] = []
    if key is None:
        used = {attempt.place for attempt in fitting}
        everything = (*places, *_unnamed(content))
        unused = [place for place in everything if place not in used and _is_averaged(place)]
    return Fitted(
        state=first.state,
        key=labels[0],
        mapping=first.mapping(),
        left_out=first.left_out,
        kept=first.kept,
        others=tuple(labels[1:]),
        unused=tuple(unused),
    )


def _is_averaged(name: str) -> bool:
    return _AVERAGED.search(name.lower()) is not None


def _under(key: str, attempts: Sequence[_Attempt], source: str) -> list[_Attempt]:
    """Return the attempts that the user chose."""
    wanted = key.rstrip(".")
    chosen = [a for a in attempts if wanted in (a.key.rstrip("."), a.key_with_prefix)]
    if not chosen:
        # A dictionary keeps the order, and each key once.
        keys = list(dict.fromkeys(attempt.key for attempt in attempts))
        raise LpxError(
            f"{source} holds no weights under {key!r}",
            f"it holds tensors under: {_shown(keys)}",
            "name one of these with `weights_key`",
        )
    return chosen


def _labels(attempts: Sequence[_Attempt]) -> list[str]:
    """Return the `weights_key` of each: with its prefix, if a dictionary holds several."""
    count = Counter(attempt.place for attempt in attempts)
    labels = []
    for attempt in attempts:
        if count[attempt.place] > 1:
            labels.append(attempt.key_with_prefix or _TOP_LEVEL)
        else:
            labels.append(attempt.key)
    return labels


def load_backbone_weights(backbone: nn.Module, content: Mapping[Any, Any], source: str) -> Fitted:
    """Start a truncated backbone from a whole network's weights; later stages are left out.

    Args:
        backbone: Receives the weights.
        content: Content of the file.
        source: The file's name, for errors.

    Raises:
        LpxError: A parameter of the backbone is missing or has another shape.
    """
    prefix = "backbone."
    wanted = {prefix + name: value for name, value in backbone.state_dict().items()}

    def rename(state: Mapping[str, Tensor]) -> StateDict:
        return {name: value for name, value in to_lpx_names(state).items() if name in wanted}

    fitted = fit_weights(content, wanted, source, rename=rename)
    load_weights(backbone, {n.removeprefix(prefix): value for n, value in fitted.state.items()})
    return fitted


def check_tensors(content: Mapping[Any, Any], source: str) -> None:
    """Refuse a file without any tensor.

    Raises:
        LpxError: It has none; its first keys are named.
    """
    if next(_places(content), None) is None:
        raise LpxError(
            f"{source} holds no tensors",
            f"its keys: {', '.join(map(str, list(content)[:5])) or 'none'}",
            "save the model's state dict with torch.save(model.state_dict(), ...)",
        )


def _places(content: Mapping[Any, Any]) -> Iterator[tuple[str, StateDict]]:
    """Yield every dictionary of tensors in a file, with the dotted names that lead to it."""
    for place, one in containers(content):
        if isinstance(one, Mapping):
            tensors = {k: v for k, v in one.items() if isinstance(k, str) and isinstance(v, Tensor)}
            if tensors:
                yield place, tensors


def _unnamed(content: Mapping[Any, Any]) -> Iterator[str]:
    """Yield the places of lists of tensors in a file, which have no names to map."""
    for place, one in containers(content):
        if not isinstance(one, Mapping) and one and all(isinstance(v, Tensor) for v in one):
            yield place


@dataclass(frozen=True)
class _Model:
    """The model whose weights are looked for: see the arguments of `fit_weights`."""

    wanted: Mapping[str, Tensor]
    parameters: frozenset[str]
    rename: Callable[[Mapping[str, Tensor]], StateDict]


def _attempts(place: str, tensors: StateDict, model: _Model) -> Iterator[_Attempt]:
    """Yield every way to read a dictionary of a file, those that change the fewest names first."""
    unchanged = _unchanged(tensors), _unchanged(model.wanted)
    unwrapped = _without_wrappers(tensors), _without_wrappers(model.wanted)
    ways = [unchanged] if unwrapped == unchanged else [unchanged, unwrapped]
    for given, asked in ways:
        trained = [name for name, full in asked.items() if full in model.parameters]
        # A model may wrap the network whose weights the file holds, under a name of its own: that
        # prefix is added. It is common to the trained tensors, while the wrapper's own buffers
        # (mean, std) stand beside it.
        for added in _common_prefixes(trained or list(asked)):
            needed = 0
            for name, full in asked.items():
                needed += is_needed(full) and name.startswith(added)
            # The file may have a prefix that the model lacks. Only those with enough names below
            # them are tried, since every try compares all tensors. One name may be missing, because
            # a classifier may have no bias.
            for prefix in _prefixes(given, needed - 1):
                yield _attempt(place, tensors, model, given, asked, prefix, added)


def _attempt(
    place: str,
    tensors: StateDict,
    model: _Model,
    given: Mapping[str, str],
    asked: Mapping[str, str],
    prefix: str,
    added: str,
) -> _Attempt:
    """Read a dictionary with `prefix` removed from its names and `added` put before them.

    Args:
        place: Place of the dictionary in the file.
        tensors: The dictionary.
        model: The model whose weights are looked for.
        given: Names in the dictionary, with or without the names of wrappers -> full names.
        asked: The same of the model's names.
        prefix: Prefix to remove; names without it are left out.
        added: Prefix to add; buffers of the model outside it are kept.
    """
    outside: list[str] = []
    inside: StateDict = {}
    wrapped: set[str] = set()
    for name, full in given.items():
        if name != full:
            wrapped |= _WRAPPERS.intersection(full.split("."))
        if name.startswith(prefix):
            inside[added + name.removeprefix(prefix)] = tensors[full]
        else:
            outside.append(full)
    # `asked` leads back to the model's full names, with its own wrappers.
    state = {asked.get(name, name): value for name, value in model.rename(inside).items()}
    # Losses and metrics are often saved with the network, which is not refused for them.
    strange = [n for n in state if n not in model.wanted and _OF_TRAINING.search(n)]
    for name in strange:
        del state[name]
    # What a wrapper adds to the network (mean, std) is in no file; the factory has set it.
    kept: list[str] = []
    for name, full in asked.items():
        is_buffer = full not in model.parameters
        if is_buffer and not name.startswith(added) and full not in state:
            kept.append(full)
            state[full] = model.wanted[full]
    return _Attempt(
        place=place,
        prefix=prefix,
        added=added,
        unwrapped=frozenset(wrapped),
        state=state,
        left_out=(*outside, *strange),
        kept=tuple(kept),
    )


def _without_wrappers(names: Mapping[str, Tensor]) -> dict[str, str]:
    """Return names without those of wrappers -> full names; unchanged if two would become one."""
    plain: dict[str, str] = {}
    for name in names:
        parts = [part for part in name.split(".") if part not in _WRAPPERS]
        plain[".".join(parts)] = name
    if len(plain) < len(names):
        return _unchanged(names)
    return plain


def _unchanged(names: Mapping[str, Tensor]) -> dict[str, str]:
    return dict(zip(names, names, strict=True))


def _prefixes(names: Mapping[str, str], least: int) -> Iterator[str]:
    """Yield dotted prefixes that at least `least` names begin with, the shortest first."""
    counts: dict[str, int] = {"": len(names)}
    for name in names:
        parts = name.split(".")
        for end in range(1, len(parts)):
            prefix = ".".join(parts[:end]) + "."
            counts[prefix] = counts.get(prefix, 0) + 1
    yield ""
    frequent = [prefix for prefix, n in counts.items() if prefix and n >= max(least, 1)]
    yield from sorted(frequent, key=len)


def _common_prefixes(names: Sequence[str]) -> list[str]:
    """Return the dotted prefixes that all names share, the shortest (none) first."""
    prefixes = [""]
    parents = [name.split(".")[:-1] for name in names]
    for parts in zip(*parents, strict=False):
        if len(set(parts)) > 1:
            break
        prefixes.append(f"{prefixes[-1]}{parts[0]}.")
    return prefixes


def _distinct(attempts: Sequence[_Attempt]) -> list[_Attempt]:
    """Return one attempt for each set of weights, the one that changes the fewest names."""
    kept: list[_Attempt] = []
    for attempt in sorted(attempts, key=lambda a: len(a.mapping())):
        if not any(_equal(attempt.state, other.state) for other in kept):
            kept.append(attempt)
    # Back to the order of the file.
    order = {id(attempt): number for number, attempt in enumerate(attempts)}
    return sorted(kept, key=lambda attempt: order[id(attempt)])


def _equal(one: StateDict, other: StateDict) -> bool:
    for name in {*one, *other}:
        if not is_needed(name):
            continue
        if name not in one or name not in other:
            return False
        # Identity first: most attempts share their tensors, and comparing values takes time.
        if one[name] is not other[name] and not torch.equal(one[name], other[name]):
            return False
    return True
