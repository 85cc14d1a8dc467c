"""The contract of a factory's module: the outputs that it may have, converted to lpx's."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lpx.errors import LpxError, first_line, out_of_memory
from lpx.models.footprint import check_forward

Outputs = Literal["probabilities", "logits"]
WANTED = (
    "a score [B] or [B, 1] in [0, 1] or two classes [B, 2], or (score, map [B, h, w]), of faces "
    "[B, 3, H, W]"
)
FIXED_BATCH = (
    "take the number of faces from the input (x.shape[0], or -1) instead of a constant in reshape, "
    "view, expand or zeros, and process all faces at once instead of one by one in a loop, a split "
    "or int()"
)
_WRAP = "wrap the model in a module that returns these"
# Sums of softmax outputs are this close to 1, in half precision too.
_SUM_TOLERANCE = 2e-3


class Contract(nn.Module):
    """Wraps a user's module so that it has the two outputs of a detector.

    Both are float32 probabilities of fake. A missing map becomes [B, 1, 1].

    Args:
        inner: float32 [B, 3, H, W] -> score, or (score, map).
        fake_class: Index of the class that is fake; 0 for a single output that is high for real.
        outputs: Whether `inner` returns probabilities or logits.
    """

    def __init__(self, inner: nn.Module, fake_class: int = 1, outputs: Outputs = "probabilities"):
        super().__init__()
        self.inner = inner
        self.fake_class = fake_class
        self.outputs: Outputs = outputs

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the score [B] and the map [B, h, w], float32, of faces [B, 3, H, W]."""
        # lpx's pixels have channels last in memory, which `view` in a user's module refuses.
        out = self.inner(x.contiguous())
        if isinstance(out, Tensor):
            score, patch_map = out, None
        else:
            score, patch_map = out
        score = self._fake(score, 1)
        if patch_map is None:
            return score, score.reshape(-1, 1, 1)
        return score, self._fake(patch_map, 3)

    def _fake(self, values: Tensor, rank: int) -> Tensor:
        """Return the probability of fake.

        Args:
            values: Outputs of the inner module, [B, ...] or [B, classes, ...].
            rank: Number of dimensions of outputs without a dimension for classes.
        """
        # Half and double become float32 first: engines and metrics have no other type.
        if values.dtype != torch.float32:
            values = values.to(torch.float32)
        logits = self.outputs == "logits"
        if values.ndim == rank + 1:
            if values.shape[1] == 2:
                fake = values[:, self.fake_class]
                if not logits:
                    return fake
                # Softmax over two logits is the sigmoid of their difference.
                return (fake - values[:, 1 - self.fake_class]).sigmoid()
            values = values.squeeze(1)
        if logits:
            return (values if self.fake_class else -values).sigmoid()
        return values if self.fake_class else 1 - values


class Conclusion(NamedTuple):
    """Result of trying a factory's module.

    Attributes:
        module: The module, wrapped.
        grid: Units (h, w) of its map.
    """

    module: Contract
    grid: tuple[int, int]


class _Outputs(NamedTuple):
    """Outputs of a factory's module: the score, and the map if there is one."""

    score: Tensor
    patch_map: Tensor | None

    def named(self) -> list[tuple[str, Tensor]]:
        named = [("score", self.score)]
        if self.patch_map is not None:
            named.append(("map", self.patch_map))
        return named


def check_module(module: nn.Module, spec: str) -> None:
    """Refuse a module whose weights are not plain tensors with values.

    Args:
        module: Module that the factory returned.
        spec: The factory, for errors.

    Raises:
        LpxError: It is TorchScript or quantised, or its weights are on the meta device, or lazy.
    """
    state = module.state_dict()
    odd: list[str] = []
    lazy: list[str] = []
    meta: list[str] = []
    for name, value in state.items():
        if not isinstance(value, Tensor):
            odd.append(name)
        elif is_lazy(value):
            lazy.append(name)
        elif value.is_meta:
            meta.append(name)
    if isinstance(module, torch.jit.ScriptModule):
        why = "it is a TorchScript program, which PyTorch's exporter does not take"
        fix = "return the Python module, and load the program's state_dict() into it"
    elif odd:
        why = f"it keeps {odd[0]} as a {type(state[odd[0]]).__name__}, as a quantised module does"
        fix = "return the module as it was before quantisation; lpx build makes it INT8"
    elif meta:
        why = f"{meta[0]} is on the meta device, which stores no values"
        fix = "make the module without torch.device('meta') or init_empty_weights"
    elif lazy:
        why = f"the shape of {lazy[0]} is not known before the first call"
        fix = "call the module once on a face in the factory, or name the channels"
    else:
        return
    raise LpxError(f"the model of factory {spec} cannot be exported", why, fix, code="unsupported")


def conclude(
    module: nn.Module, spec: str, size: int, fake_class: int | None, outputs: Outputs | None
) -> Conclusion:
    """Wrap a factory's module, after trying it on faces of noise.

    Args:
        module: Module that the factory returned, in eval mode.
        spec: The factory, for errors.
        size: Side of a face, pixels.
        fake_class: Index of the class that is fake, 0 or 1; None for 1, if there is one output.
        outputs: Probabilities or logits; None to infer it from the values.

    Raises:
        LpxError: The module fails, fixes the number of faces, or returns anything but `WANTED`.
    """
    returned = _parts(_run(module, 2, spec, size), spec, size)
    shapes = " and ".join(str(tuple(values.shape)) for _, values in returned.named())
    for name, values in returned.named():
        rank = 1 if name == "score" else 3
        classes = values.shape[1] if values.ndim == rank + 1 else 1
        if values.ndim not in (rank, rank + 1) or values.shape[0] != 2 or classes > 2:
            more = ""
            if values.ndim == rank + 1 and classes > 2 and values.shape[0] == 2:
                more = f"; of its {classes} classes, add up the probabilities of the fake ones"
            raise LpxError(
                f"the model of factory {spec} returns {shapes} for 2 faces",
                f"it must return {WANTED}{more}",
                FIXED_BATCH if values.shape[:1] != (2,) else _WRAP,
            )
        if not values.is_floating_point():
            raise LpxError(
                f"the model of factory {spec} returns {values.dtype} values",
                "score and map must be probabilities or logits, of a floating-point type",
                "return the values before argmax, a comparison or a complex transform",
            )
    outputs = _check_values(returned, spec, fake_class, outputs)
    wrapped = Contract(module, 1 if fake_class is None else fake_class, outputs).eval()
    for faces in (3, 1):
        _check_batch(wrapped, faces, spec, size)
    if returned.patch_map is None:
        return Conclusion(wrapped, (1, 1))
    height, width = returned.patch_map.shape[-2:]
    return Conclusion(wrapped, (int(height), int(width)))


def _noise(faces: int, size: int) -> Tensor:
    return torch.randn(faces, 3, size, size, generator=torch.Generator().manual_seed(0))


def _run(module: nn.Module, faces: int, spec: str, size: int) -> object:
    check_forward(module, (faces, 3, size, size))
    try:
        with torch.no_grad():
            return module(_noise(faces, size))
    except Exception as error:
        # The user's code may raise anything.
        if short := out_of_memory(error):
            raise short from error
        # Does it work on another number of faces? Then the number is fixed in its code.
        for other in (1, 4, 8, 16):
            if _runs(module, other, size):
                raise _fixed_batch(spec, faces, other, _message(error)) from error
        raise LpxError(
            f"the model of factory {spec} fails on faces of {size} px",
            _message(error),
            f"it must return {WANTED}; set `input_size` to the size that it takes",
        ) from error


def _runs(module: nn.Module, faces: int, size: int) -> bool:
    try:
        with torch.no_grad():
            module(_noise(faces, size))
    except Exception:
        return False
    return True


def _fixed_batch(spec: str, faces: int, other: int, why: str) -> LpxError:
    works = "1 face" if other == 1 else f"{other} faces"
    return LpxError(
        f"the model of factory {spec} works on {works} at a time, and fails on {faces}: a batch "
        "size is fixed in its code",
        why,
        FIXED_BATCH,
    )


def _message(error: Exception) -> str:
    """Return the first line of an error, and the line of the user's code that it came from."""
    torch_itself = str(Path(torch.__file__).parent)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        # "<" begins the names of generated code.
        if not frame.filename.startswith((torch_itself, "<")) and frame.filename != __file__:
            return f"{first_line(error)} ({Path(frame.filename).name}, line {frame.lineno})"
    return first_line(error)


def _parts(out: object, spec: str, size: int) -> _Outputs:
    """Return the outputs of a module by name.

    Raises:
        LpxError: They are not one or two tensors.
    """
    if isinstance(out, Tensor):
        return _Outputs(out, None)
    if isinstance(out, Mapping):
        what = f"it returns a {type(out).__name__} of {', '.join(map(str, out))}, not tensors"
    elif not isinstance(out, (tuple, list)):
        what = f"it returns a {type(out).__name__}"
    elif len(out) != 2:
        what = f"it returns {len(out)} values"
    else:
        score, patch_map = out
        if isinstance(score, Tensor) and isinstance(patch_map, Tensor):
            return _Outputs(score, patch_map)
        kinds = " and ".join(type(value).__name__ for value in out)
        what = f"it returns {kinds}, not tensors"
    raise LpxError(
        f"the model of factory {spec} fails on faces of {size} px: {what}",
        f"it must return {WANTED}",
        _WRAP,
    )


def _check_values(
    returned: _Outputs, spec: str, fake_class: int | None, outputs: Outputs | None
) -> Outputs:
    """Return whether outputs are probabilities or logits, as the user says or as the values show.

    Raises:
        LpxError: The values do not show it, or contradict the user. A single output outside [0, 1]
            may be a logit or a mistake.
    """
    score, named = returned.score, returned.named()
    two_classes = score.ndim == 2 and score.shape[1] == 2
    if two_classes and fake_class is None:
        raise LpxError(
            f"the model of factory {spec} returns two classes, and lpx cannot know which is fake",
            "folders in alphabetical order make fake class 0, most published detectors class 1",
            "add `fake_class=0` or `fake_class=1`",
        )
    for name, values in named:
        if not torch.isfinite(values).all():
            raise LpxError(
                f"the {name} of factory {spec} takes {_extent(values)}",
                "score and map must be finite",
                "check the model's weights, and that it is in eval mode",
            )
    if outputs == "logits":
        return outputs
    outside = [(name, values) for name, values in named if not _in_unit_interval(values)]
    if outputs is None and two_classes:
        if outside and outside[0][0] == "score":
            if len(outside) < len(named):
                raise LpxError(
                    f"the score of factory {spec} looks like logits, and its map like "
                    "probabilities",
                    "lpx reads both in the same way",
                    "return logits for both or probabilities for both; if both are logits, add "
                    '`outputs="logits"`',
                )
            return "logits"
        if bool(((score.float().sum(1) - 1).abs() > _SUM_TOLERANCE).any()):
            raise LpxError(
                f"the two classes of factory {spec} are in [0, 1] and do not add up to 1",
                "they may be two sigmoids, or logits that happen to be small",
                'add `outputs="probabilities"` or `outputs="logits"`',
            )
    if outside:
        name, values = outside[0]
        raise LpxError(
            f"the {name} of factory {spec} takes {_extent(values)}",
            "score and map are expected to be probabilities, in [0, 1]",
            'add `outputs="logits"` if the model returns logits: lpx then applies the sigmoid',
        )
    return "probabilities"


def _in_unit_interval(values: Tensor) -> bool:
    return float(values.min()) >= 0 and float(values.max()) <= 1


def _extent(values: Tensor) -> str:
    return f"values from {float(values.min()):.3g} to {float(values.max()):.3g}"


def _check_batch(module: Contract, faces: int, spec: str, size: int) -> None:
    """Refuse a model that works on two faces but not on `faces`, or mixes them up."""
    try:
        with torch.no_grad():
            score, patch_map = module(_noise(faces, size))
    except Exception as error:
        if short := out_of_memory(error):
            raise short from error
        raise _fixed_batch(spec, faces, 2, _message(error)) from error
    if score.shape != (faces,) or patch_map.shape[0] != faces:
        shapes = f"{tuple(score.shape)} and {tuple(patch_map.shape)}"
        why = f"it returns {shapes} for {faces} faces"
        raise _fixed_batch(spec, faces, 2, why)
