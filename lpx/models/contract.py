"""What the module of a user's factory must return, and how its outputs become lpx's."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lpx.errors import LpxError, out_of_memory
from lpx.models.footprint import check_forward

Outputs = Literal["probabilities", "logits"]
WANTED = (
    "a score [B] or [B, 1] in [0, 1] or two classes [B, 2], or (score, map [B, h, w]), of faces "
    "[B, 3, H, W]"
)
FIXED_BATCH = (
    "take the number of faces from the input (x.shape[0], or -1) where reshape, view, expand or "
    "zeros name a number, and work on all faces at once where a loop, a split or int() takes one "
    "after the other"
)
_WRAP = "wrap the model in a module that returns these"
# Softmax leaves sums this close to 1, in half precision too.
_SUM_TOLERANCE = 2e-3


class Contract(nn.Module):
    """Gives a user's module the two outputs of a detector, float32, both of them 1 = fake.

    A missing map becomes [B, 1, 1]; two classes become the probability of the fake one.

    Args:
        inner: float32 [B, 3, H, W] -> score, or (score, map).
        fake_class: Which class is fake; of a single output, 0 says that it speaks for real.
        outputs: Whether `inner` returns probabilities or logits.
    """

    def __init__(self, inner: nn.Module, fake_class: int = 1, outputs: Outputs = "probabilities"):
        super().__init__()
        self.inner = inner
        self.fake_class = fake_class
        self.outputs: Outputs = outputs

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Score [B] and map [B, h, w], float32, of faces [B, 3, H, W]."""
        # lpx's pixels come with channels last in memory, which `view` does not take.
        out = self.inner(x.contiguous())
        score, patch_map = (out, None) if isinstance(out, Tensor) else out
        score = self._fake(score, 1)
        if patch_map is None:
            return score, score.reshape(-1, 1, 1)
        return score, self._fake(patch_map, 3)

    def _fake(self, values: Tensor, rank: int) -> Tensor:
        """The probability of fake, of outputs with or without a dimension of classes behind B."""
        # Half and double become float32 first: engines and metrics know no other.
        values = values if values.dtype == torch.float32 else values.to(torch.float32)
        logits = self.outputs == "logits"
        if values.ndim == rank + 1:
            if values.shape[1] == 2:
                fake = values[:, self.fake_class]
                # The sigmoid of the difference is the softmax over two.
                return (fake - values[:, 1 - self.fake_class]).sigmoid() if logits else fake
            values = values.squeeze(1)
        if logits:
            return (values if self.fake_class else -values).sigmoid()
        return values if self.fake_class else 1 - values


def check_module(module: nn.Module, spec: str) -> None:
    """Refuse a module whose weights are not plain tensors with values.

    Args:
        module: What the factory returned.
        spec: The factory, for errors.

    Raises:
        LpxError: It is TorchScript or quantised, or its weights are on the meta device, or lazy.
    """
    state = module.state_dict()
    odd = [name for name, value in state.items() if not isinstance(value, Tensor)]
    lazy = [n for n, value in state.items() if n not in odd and is_lazy(value)]
    meta = [n for n, value in state.items() if n not in (*odd, *lazy) and value.is_meta]
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
    raise LpxError(f"the model of --factory {spec} cannot be exported", why, fix)


def conclude(
    module: nn.Module, spec: str, size: int, fake_class: int | None, outputs: Outputs | None
) -> tuple[Contract, tuple[int, int]]:
    """Wrap a factory's module, after trying it on faces of noise.

    Args:
        module: What the factory returned, in eval mode.
        spec: The factory, for errors.
        size: Side of a face in pixels.
        fake_class: Which class is fake, 0 or 1; None for 1 where there is one output.
        outputs: Probabilities or logits; None to tell by their values.

    Returns:
        The wrapped module, and the grid (h, w) of its map.

    Raises:
        LpxError: It fails, fixes the number of faces, or returns something else than `WANTED`.
    """
    out = _run(module, 2, spec, size)
    score, patch_map = _parts(out, spec, size)
    shapes = f"{tuple(score.shape)}"
    shapes += "" if patch_map is None else f" and {tuple(patch_map.shape)}"
    for values, rank in ((score, 1), (patch_map, 3)):
        if values is None:
            continue
        classes = values.shape[1] if values.ndim == rank + 1 else 1
        if values.ndim not in (rank, rank + 1) or values.shape[0] != 2 or classes > 2:
            more = ""
            if values.ndim == rank + 1 and classes > 2 and values.shape[0] == 2:
                more = f"; of its {classes} classes, add up the probabilities of the fake ones"
            raise LpxError(
                f"the model of --factory {spec} returns {shapes} for 2 faces",
                f"it must return {WANTED}{more}",
                FIXED_BATCH if values.shape[:1] != (2,) else _WRAP,
            )
        if not values.is_floating_point():
            raise LpxError(
                f"the model of --factory {spec} returns {values.dtype} values",
                "score and map are probabilities or logits, of a floating-point type",
                "return what stands before argmax, a comparison or a complex transform",
            )
    outputs = _check_values(score, patch_map, spec, fake_class, outputs)
    wrapped = Contract(module, 1 if fake_class is None else fake_class, outputs).eval()
    for faces in (3, 1):
        _check_batch(wrapped, faces, spec, size)
    grid = (1, 1) if patch_map is None else (int(patch_map.shape[-2]), int(patch_map.shape[-1]))
    return wrapped, grid


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
        for other in (1, 4, 8, 16):
            if _runs(module, other, size):
                raise _fixed_batch(spec, faces, other, _said(error)) from error
        raise LpxError(
            f"the model of --factory {spec} fails on faces of {size} px",
            _said(error),
            f"it must return {WANTED}; set --input-size to what it takes",
        ) from error


def _runs(module: nn.Module, faces: int, size: int) -> bool:
    try:
        with torch.no_grad():
            module(_noise(faces, size))
    except Exception:
        return False
    return True


def _fixed_batch(spec: str, faces: int, other: int, why: str) -> LpxError:
    return LpxError(
        f"the model of --factory {spec} takes {other} {'face' if other == 1 else 'faces'} at a "
        f"time, and fails on {faces}: a batch size is fixed in its code",
        why,
        FIXED_BATCH,
    )


def _said(error: Exception) -> str:
    """The first line of a user's error, and the line of the user's code that it came from."""
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    torch_itself = str(Path(torch.__file__).parent)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((torch_itself, "<")) and frame.filename != __file__
    ]
    return (
        f"{said} ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else said
    )


def _parts(out: object, spec: str, size: int) -> tuple[Tensor, Tensor | None]:
    if isinstance(out, Tensor):
        return out, None
    if not isinstance(out, (tuple, list)) or len(out) != 2:
        if isinstance(out, (tuple, list)):
            what = f"it returns {len(out)} values"
        elif isinstance(out, Mapping):
            what = (
                f"it returns no tensors, but a {type(out).__name__} of {', '.join(map(str, out))}"
            )
        else:
            what = f"it returns a {type(out).__name__}"
        raise LpxError(
            f"the model of --factory {spec} fails on faces of {size} px: {what}",
            f"it must return {WANTED}",
            _WRAP,
        )
    score, patch_map = out
    if not (isinstance(score, Tensor) and isinstance(patch_map, Tensor)):
        raise LpxError(
            f"the model of --factory {spec} returns no tensors, but "
            f"{' and '.join(type(value).__name__ for value in out)}",
            f"it must return {WANTED}",
            _WRAP,
        )
    return score, patch_map


def _check_values(
    score: Tensor,
    patch_map: Tensor | None,
    spec: str,
    fake_class: int | None,
    outputs: Outputs | None,
) -> Outputs:
    """Probabilities or logits: by what the user says, else by the values.

    One output outside [0, 1] is refused without `outputs`: it may be a logit, or a mistake.
    """
    two = score.ndim == 2 and score.shape[1] == 2
    if two and fake_class is None:
        raise LpxError(
            f"the model of --factory {spec} returns two classes, and lpx cannot know which is fake",
            "folders in alphabetical order make fake class 0, most published detectors class 1",
            "add --fake-class 0 or --fake-class 1",
        )
    named = [("score", score), *([] if patch_map is None else [("map", patch_map)])]
    for name, values in named:
        if not torch.isfinite(values).all():
            raise LpxError(
                f"the {name} of --factory {spec} takes values from {float(values.min()):.3g} to "
                f"{float(values.max()):.3g}",
                "score and map must be finite",
                "check the model's weights, and that it is in eval mode",
            )
    if outputs == "logits":
        return outputs
    outside = [(name, v) for name, v in named if not (float(v.min()) >= 0 and float(v.max()) <= 1)]
    if outputs is None and two:
        if outside and outside[0][0] == "score":
            if len(outside) < len(named):
                raise LpxError(
                    f"the score of --factory {spec} looks like logits, and its map like "
                    "probabilities",
                    "lpx reads both in the same way",
                    "return both as logits or both as probabilities; --outputs logits if they are",
                )
            return "logits"
        if bool(((score.float().sum(1) - 1).abs() > _SUM_TOLERANCE).any()):
            raise LpxError(
                f"the two classes of --factory {spec} lie in [0, 1] and do not add up to 1",
                "they may be two sigmoids, or logits that happen to be small",
                "add --outputs probabilities or --outputs logits",
            )
    if outside:
        name, values = outside[0]
        raise LpxError(
            f"the {name} of --factory {spec} takes values from {float(values.min()):.3g} to "
            f"{float(values.max()):.3g}",
            "score and map are probabilities, in [0, 1]",
            "add --outputs logits where the model returns logits, and lpx applies the sigmoid",
        )
    return "probabilities"


def _check_batch(module: Contract, faces: int, spec: str, size: int) -> None:
    """Refuse a model that takes two faces and not `faces`, or mixes them up."""
    try:
        with torch.no_grad():
            score, patch_map = module(_noise(faces, size))
    except Exception as error:
        if short := out_of_memory(error):
            raise short from error
        raise _fixed_batch(spec, faces, 2, _said(error)) from error
    if score.shape != (faces,) or patch_map.shape[0] != faces:
        shapes = f"{tuple(score.shape)} and {tuple(patch_map.shape)}"
        why = f"it returns {shapes} for {faces} faces"
        raise _fixed_batch(spec, faces, 2, why)
