"""Foreign state dicts: names of other training code, mapped to lpx's."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from lpx.errors import LpxError

StateDict = dict[str, Tensor]

_WRAPPERS = ("module.", "_orig_mod.", "model.", "net.", "encoder.")
_CLASSIFIERS = (
    "head.classifier",
    "classifier.1",
    "classifier",
    "last_linear",
    "last_linear.1",
    "fc",
    "head.fc",
    "backbone.last_linear",
    "backbone.last_linear.1",
    "backbone.fc",
    "backbone.classifier",
)
# DeepfakeBench's Xception carries this branch in every checkpoint, and uses it in other modes only.
_UNUSED = ("adjust_channel.", "backbone.adjust_channel.")
# Blocks per stage of EfficientNet-Lite0, to turn a running block number into stage and block.
_LITE0_DEPTHS = (1, 2, 2, 3, 3, 4, 1)


def digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and bytes: the same for the same weights in any file."""
    sha = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        sha.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


def unwrap(state: Mapping[str, Tensor], wanted: Collection[str] = ()) -> StateDict:
    """Strip prefixes that wrappers put before every key (DataParallel, torch.compile, ...).

    Args:
        state: Any state dict.
        wanted: The names of the module; a prefix that they have too is not a wrapper's.
    """
    out = dict(state)
    while prefix := next((p for p in _WRAPPERS if out and all(k.startswith(p) for k in out)), None):
        if not out.keys().isdisjoint(wanted):
            break
        out = {k.removeprefix(prefix): v for k, v in out.items()}
    return out


def to_lpx_names(state: Mapping[str, Tensor], fake_class: int = 1) -> StateDict:
    """Rename a torchvision-, timm- or DeepfakeBench-style state dict to `backbone.*`, `head.*`.

    A linear classifier becomes the head's 1x1 convolution; one of two classes becomes a single
    logit, fake minus real, which is what softmax over the two amounts to.

    Args:
        state: Any state dict.
        fake_class: Which of two classes is fake; of a single logit, 0 says that it speaks for real.
    """
    state = {k: v for k, v in unwrap(state).items() if not k.startswith(_UNUSED)}
    if any(k.startswith("_blocks.") for k in state):
        state = {_lite0_name(k): v for k, v in state.items()}
    out: StateDict = {}
    for prefix in _CLASSIFIERS:
        weight = state.pop(f"{prefix}.weight", None)
        bias = state.pop(f"{prefix}.bias", None)
        if weight is not None and weight.ndim in (2, 4) and weight.shape[0] in (1, 2):
            bias = torch.zeros(weight.shape[0]) if bias is None else bias
            if weight.shape[0] == 2:
                weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
            if fake_class == 0:
                weight, bias = -weight, -bias
            out["head.classifier.weight"] = weight.reshape(1, -1, 1, 1)
            out["head.classifier.bias"] = bias
            break
    for key, value in state.items():
        own = key.startswith(("backbone.", "head."))
        out[key if own else f"backbone.{key}"] = value
    return out


def _lite0_name(key: str) -> str:
    """Timm's name of a key in the style of the original PyTorch port (`_blocks.3._bn1...`)."""
    for old, new in {
        "_conv_stem.": "conv_stem.",
        "_bn0.": "bn1.",
        "_conv_head.": "conv_head.",
        "_bn1.": "bn2.",
        "_fc.": "classifier.",
    }.items():
        if key.startswith(old):
            return new + key.removeprefix(old)
    match = re.match(r"_blocks\.(\d+)\.(_\w+?)\.(.+)$", key)
    if not match:
        return key
    number, layer, rest = int(match[1]), match[2], match[3]
    stage = 0
    while stage < len(_LITE0_DEPTHS) and number >= _LITE0_DEPTHS[stage]:
        number -= _LITE0_DEPTHS[stage]
        stage += 1
    if stage == 0:
        names = {
            "_depthwise_conv": "conv_dw",
            "_bn1": "bn1",
            "_project_conv": "conv_pw",
            "_bn2": "bn2",
        }
    else:
        names = {
            "_expand_conv": "conv_pw",
            "_bn0": "bn1",
            "_depthwise_conv": "conv_dw",
            "_bn1": "bn2",
            "_project_conv": "conv_pwl",
            "_bn2": "bn3",
        }
    if stage == len(_LITE0_DEPTHS) or layer not in names:
        # A larger EfficientNet, or squeeze-excite: the comparison of keys will say so.
        return key
    return f"blocks.{stage}.{number}.{names[layer]}.{rest}"


def is_needed(name: str) -> bool:
    """Whether a tensor takes part in inference: a batch norm's count of batches does not."""
    return not name.endswith("num_batches_tracked")


def _not_copied(given: Tensor, wanted: Tensor) -> str:
    """What a tensor is whose values cannot be copied into a weight; empty if they can."""
    if given.layout != torch.strided or given.is_meta:
        return "sparse" if given.layout != torch.strided else "without values (meta)"
    # Integers and 8-bit floats would be copied as they are, without their scale.
    scaled = given.is_floating_point() and given.element_size() == 1
    differs = given.is_floating_point() != wanted.is_floating_point() or scaled
    return str(given.dtype) if differs else ""


def misfits(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Differences of names, shapes and types of weights, by sort; empty where all fits."""
    both = [k for k in wanted if k in given and is_needed(k)]
    found = {
        "missing": [k for k in wanted if k not in given and is_needed(k)],
        "unexpected": [k for k in given if k not in wanted and is_needed(k)],
        "misshapen": [
            f"{k} is {tuple(given[k].shape)}, expected {tuple(wanted[k].shape)}"
            for k in both
            if given[k].shape != wanted[k].shape
        ],
        "of another type": [
            f"{k} is {sort}, expected {wanted[k].dtype}"
            for k in both
            if (sort := _not_copied(given[k], wanted[k]))
        ],
    }
    return {label: names for label, names in found.items() if names}


def load_weights(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load weights that `check_keys` or `misfits` found to fit; counts of batches where they do."""
    wanted = module.state_dict()
    fitting = {
        name: value
        for name, value in state.items()
        if is_needed(name) or (name in wanted and not misfits({"": wanted[name]}, {"": value}))
    }
    module.load_state_dict(fitting, strict=False)


def check_keys(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], source: str) -> None:
    """Compare names, shapes and types.

    Raises:
        LpxError: They differ; the first mismatches of each sort are named.
    """
    if not (found := misfits(wanted, given)):
        return
    parts = [
        f"{len(names)} {label}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}"
        for label, names in found.items()
    ]
    raise LpxError(
        f"{source}: the weights do not fit the model",
        "; ".join(parts),
        "name the architecture they were trained with: --backbone, --cut, --bottleneck, or bring "
        "the model with --factory package.module:function",
    )
