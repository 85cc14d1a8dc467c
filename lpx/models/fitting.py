"""Which of the weights in a file fit a model, and under which names."""

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

# Names that wrappers put into a key, anywhere: DataParallel, torch.compile, Fabric, FSDP.
_WRAPPERS = frozenset(
    {"module", "_orig_mod", "_forward_module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}
)
# Weights under such a name are a running average, or a copy that the model is trained against.
_AVERAGED = re.compile(
    r"(^|[._])(ema|swa|avg|averaged?|teacher|shadow(_params)?|momentum|target)([._]|$)"
)
# A tensor under such a name belongs to the training, not to the network.
_OF_TRAINING = re.compile(
    r"(criterion|loss|metric|optim|sched|(^|[._])(acc|auc|auroc)([._]|$)|n_averaged$)"
)
_HEAD_OF_A_FILE = "."


@dataclass(frozen=True)
class Fitted:
    """Weights that fit a model.

    Attributes:
        state: In the model's names.
        key: Where they stand in the file, as `--weights-key` takes it; "." for the outermost names.
        mapping: How the file's names became the model's, one change each; empty for none.
        left_out: Names in the same dictionary that the model does not have.
        kept: Buffers that the file lacks, left as the factory made them.
        others: Other weights in the file: those that fit the model too and differ.
        unused: Averaged weights in the file that do not fit, so that nobody looks for them in vain.
    """

    state: StateDict
    key: str
    mapping: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()

    def notes(self, name: str) -> list[str]:
        """What to tell the user about weights taken from the file `name`, a line each."""
        lines = []
        if self.key != _HEAD_OF_A_FILE or self.mapping:
            place = name if self.key == _HEAD_OF_A_FILE else f"{self.key!r} in {name}"
            lines.append("; ".join([f"weights: {place}", *self.mapping]))
        if self.others:
            quoted = ", ".join(map(repr, self.others))
            lines.append(
                f"warning: {name} holds other weights that fit too: {quoted}. Took {self.key!r}; "
                f"--weights-key {self.others[0]} takes the others"
            )
        if self.unused:
            lines.append(f"not used, it does not fit the model: {', '.join(self.unused)}")
        if self.left_out:
            lines.append(f"left out, not part of the model: {_shown(self.left_out)}")
        if self.kept:
            lines.append(f"not in the file, kept as the factory made them: {_shown(self.kept)}")
        return lines

    def provenance(self, name: str) -> dict[str, Any]:
        """The same for the model card; short, since the card travels with every engine."""
        found: dict[str, Any] = {"converted_from": name}
        if self.key != _HEAD_OF_A_FILE or self.others:
            found["weights_key"] = self.key
        for field in ("mapping", "others", "left_out", "kept"):
            if values := getattr(self, field):
                found[f"weights_{field}"] = _shortened(values)
        return found


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _shortened(names: Sequence[str], most: int = 10) -> list[str]:
    return [*names[:most], *([f"... {len(names) - most} more"] if len(names) > most else [])]


@dataclass(frozen=True)
class _Attempt:
    """One way to read one dictionary of the file as the model's weights."""

    place: str
    prefix: str
    added: str
    unwrapped: frozenset[str]
    state: StateDict
    left_out: tuple[str, ...]
    kept: tuple[str, ...]

    @property
    def key(self) -> str:
        return self.place or _HEAD_OF_A_FILE

    @property
    def key_with_prefix(self) -> str:
        return ".".join(part for part in (self.place, self.prefix.rstrip(".")) if part)

    def mapping(self) -> tuple[str, ...]:
        changes = []
        if self.unwrapped:
            names = ", ".join(repr(name) for name in sorted(self.unwrapped))
            changes.append(f"{names} taken out of the names")
        if self.prefix:
            changes.append(f"prefix {self.prefix!r} taken off")
        if self.added:
            changes.append(f"prefix {self.added!r} added")
        return tuple(changes)

    def matches(self, wanted: Mapping[str, Tensor]) -> int:
        return sum(k in wanted and v.shape == wanted[k].shape for k, v in self.state.items())


def fit_weights(
    content: Mapping[Any, Any],
    wanted: Mapping[str, Tensor],
    source: str,
    *,
    key: str | None = None,
    rename: Callable[[Mapping[str, Tensor]], StateDict] = dict,
    parameters: Sequence[str] = (),
) -> Fitted:
    """Find the weights in a file that fit a model, whatever they are called there.

    A prefix of all names, and what wrappers put between them, may differ from the model's; every
    tensor of the model must be there with its shape, and no other below the same prefix. Of several
    that fit, those that are no running average come first, and the others are named.

    Args:
        content: What the file holds.
        wanted: The model's tensors by name.
        source: The file's name, for errors.
        key: Where the weights stand ("ema", "model.state_dict"); None to look for them.
        rename: Turns other naming schemes into the model's.
        parameters: Names in `wanted` that are trained. A buffer beside them may be missing (a
            wrapper's mean and std); none for every tensor.

    Raises:
        LpxError: Nothing fits (the nearest is compared, the first mismatches named), nothing stands
            under `key`, or there are no tensors at all.
    """
    check_tensors(content, source)
    places = dict(_places(content))
    model = _Model(wanted, frozenset(parameters), rename)
    attempts = [
        attempt for place, tensors in places.items() for attempt in _attempts(place, tensors, model)
    ]
    if key is not None:
        attempts = _under(key, attempts, source)
    fitting = _distinct([a for a in attempts if not misfits(wanted, a.state)])
    if not fitting:
        # Of equals the first, which changes the fewest names.
        nearest = max(attempts, key=lambda attempt: attempt.matches(wanted))
        place = f"{source} ({nearest.place})" if nearest.place else source
        check_keys(wanted, nearest.state, place)
    fitting.sort(key=lambda attempt: bool(_AVERAGED.search(attempt.key_with_prefix.lower())))
    first = fitting[0]
    labels = _labels(fitting)
    used = {a.place for a in fitting}
    unused = [
        place
        for place in (*places, *_unnamed(content))
        if place not in used and _AVERAGED.search(place.lower())
    ]
    return Fitted(
        state=first.state,
        key=labels[0],
        mapping=first.mapping(),
        left_out=first.left_out,
        kept=first.kept,
        others=tuple(labels[1:]),
        unused=tuple(unused) if key is None else (),
    )


def _under(key: str, attempts: Sequence[_Attempt], source: str) -> list[_Attempt]:
    """The attempts that the user chose."""
    chosen = [a for a in attempts if key.rstrip(".") in (a.key.rstrip("."), a.key_with_prefix)]
    if not chosen:
        raise LpxError(
            f"{source} holds no weights under {key!r}",
            f"it holds tensors under: {_shown([*dict.fromkeys(a.key for a in attempts)])}",
            "name one of these with --weights-key",
        )
    return chosen


def _labels(attempts: Sequence[_Attempt]) -> list[str]:
    """What `--weights-key` calls each: with its prefix where a dictionary holds several."""
    count = Counter(a.place for a in attempts)
    return [a.key_with_prefix or _HEAD_OF_A_FILE if count[a.place] > 1 else a.key for a in attempts]


def load_backbone_weights(backbone: nn.Module, content: Mapping[Any, Any], source: str) -> Fitted:
    """Start a truncated backbone from a whole network's weights; later stages are left out.

    Args:
        backbone: Receives the weights.
        content: What the file holds.
        source: The file's name, for errors.

    Raises:
        LpxError: A parameter of the backbone is missing or has another shape.
    """
    wanted = {f"backbone.{k}": v for k, v in backbone.state_dict().items()}

    def rename(state: Mapping[str, Tensor]) -> StateDict:
        return {k: v for k, v in to_lpx_names(state).items() if k in wanted}

    fitted = fit_weights(content, wanted, source, rename=rename)
    load_weights(backbone, {k.removeprefix("backbone."): v for k, v in fitted.state.items()})
    return fitted


def check_tensors(content: Mapping[Any, Any], source: str) -> None:
    """Refuse a file without a tensor under any name.

    Raises:
        LpxError: It holds none; its first keys are named.
    """
    if next(_places(content), None) is None:
        raise LpxError(
            f"{source} holds no tensors",
            f"its keys: {', '.join(map(str, list(content)[:5])) or 'none'}",
            "save the model's state dict with torch.save(model.state_dict(), ...)",
        )


def _places(content: Mapping[Any, Any]) -> Iterator[tuple[str, StateDict]]:
    """Every dictionary of tensors in a file, with the names that lead to it."""
    for place, one in containers(content):
        if isinstance(one, Mapping):
            tensors = {k: v for k, v in one.items() if isinstance(k, str) and isinstance(v, Tensor)}
            if tensors:
                yield place, tensors


def _unnamed(content: Mapping[Any, Any]) -> Iterator[str]:
    """Every list of tensors in a file, which has no names to map."""
    for place, one in containers(content):
        if not isinstance(one, Mapping) and one and all(isinstance(v, Tensor) for v in one):
            yield place


@dataclass(frozen=True)
class _Model:
    """What is looked for: a model's tensors, those of them that are trained, its other names."""

    wanted: Mapping[str, Tensor]
    parameters: frozenset[str]
    rename: Callable[[Mapping[str, Tensor]], StateDict]


def _attempts(place: str, tensors: StateDict, model: _Model) -> Iterator[_Attempt]:
    """Every way to read one dictionary of a file, those that change the fewest names first."""
    as_they_are = {name: name for name in tensors}, {name: name for name in model.wanted}
    unwrapped = _without_wrappers(tensors), _without_wrappers(model.wanted)
    for given, asked in (as_they_are, unwrapped) if unwrapped != as_they_are else (as_they_are,):
        needed = {name for name, full in asked.items() if is_needed(full)}
        trained = [name for name, full in asked.items() if full in model.parameters]
        for added in _common_prefixes(trained or list(asked)):
            # At least as many names as the model needs; a classifier's bias may be missing.
            least = sum(name.startswith(added) for name in needed) - 1
            for prefix in _prefixes(given, least):
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
    """Read a dictionary with `prefix` taken off and `added` put before its names.

    Args:
        place: Where the dictionary stands in the file.
        tensors: The dictionary.
        model: What is looked for.
        given: Names in the dictionary, without wrappers where these are taken out -> as they are.
        asked: The same of the model's names.
        prefix: Names without it are left out.
        added: Buffers of the model outside it are kept.
    """
    inside = {n.removeprefix(prefix): full for n, full in given.items() if n.startswith(prefix)}
    named = model.rename({added + name: tensors[full] for name, full in inside.items()})
    state = {asked.get(name, name): value for name, value in named.items()}
    strange = [n for n in state if n not in model.wanted and _OF_TRAINING.search(n)]
    kept = [
        full
        for name, full in asked.items()
        if not name.startswith(added) and full not in state and full not in model.parameters
    ]
    outside = [full for name, full in given.items() if not name.startswith(prefix)]
    return _Attempt(
        place,
        prefix,
        added,
        frozenset(part for n, full in given.items() if n != full for part in full.split("."))
        & _WRAPPERS,
        {n: v for n, v in state.items() if n not in strange} | {n: model.wanted[n] for n in kept},
        (*outside, *strange),
        tuple(kept),
    )


def _without_wrappers(names: Mapping[str, Tensor]) -> dict[str, str]:
    """Names without what wrappers put between their parts -> the names as they are.

    Where two names would become one, all stay as they are.
    """
    plain = {".".join(p for p in name.split(".") if p not in _WRAPPERS): name for name in names}
    return plain if len(plain) == len(names) else {name: name for name in names}


def _prefixes(names: Mapping[str, str], least: int) -> Iterator[str]:
    """Dotted prefixes that at least `least` names begin with, the shortest first."""
    counts: dict[str, int] = {"": len(names)}
    for name in names:
        parts = name.split(".")
        for end in range(1, len(parts)):
            prefix = ".".join(parts[:end]) + "."
            counts[prefix] = counts.get(prefix, 0) + 1
    yield ""
    yield from sorted((p for p, n in counts.items() if p and n >= max(least, 1)), key=len)


def _common_prefixes(names: Sequence[str]) -> list[str]:
    """The dotted prefixes that all names share, the shortest (none) first."""
    found, shared = [""], [name.split(".")[:-1] for name in names]
    for parts in zip(*shared, strict=False):
        if len(set(parts)) > 1:
            break
        found.append(f"{found[-1]}{parts[0]}.")
    return found


def _distinct(attempts: Sequence[_Attempt]) -> list[_Attempt]:
    """One attempt of each set of weights: the one that changes the fewest names."""
    kept: list[_Attempt] = []
    for attempt in sorted(attempts, key=lambda a: len(a.mapping())):
        if not any(_equal(attempt.state, other.state) for other in kept):
            kept.append(attempt)
    order = {id(attempt): number for number, attempt in enumerate(attempts)}
    return sorted(kept, key=lambda attempt: order[id(attempt)])


def _equal(one: StateDict, other: StateDict) -> bool:
    names = {name for name in (*one, *other) if is_needed(name)}
    return all(
        name in one
        and name in other
        and (one[name] is other[name] or torch.equal(one[name], other[name]))
        for name in names
    )
