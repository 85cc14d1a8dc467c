"""State dicts of other training code: their names, mapped to lpx's."""

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
# DeepfakeBench's Xception has this branch in every checkpoint, but uses it in other modes only.
_UNUSED = ("adjust_channel.", "backbone.adjust_channel.")
# Blocks per stage of EfficientNet-Lite0, to turn a running block number into stage and block.
_LITE0_DEPTHS = (1, 2, 2, 3, 3, 4, 1)
# Mismatches of each kind that an error names.
_NAMED = 3


def digest(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, dtypes, shapes and bytes, the same for any file and order."""
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
        wanted: Names of the module's tensors; a prefix that they have too is not a wrapper's.
    """
    out = dict(state)
    # Wrappers nest, so a prefix may follow another.
    while prefix := _shared_wrapper(out):
        if not out.keys().isdisjoint(wanted):
            break
        out = {name.removeprefix(prefix): value for name, value in out.items()}
    return out


def _shared_wrapper(names: Collection[str]) -> str:
    """Return the wrapper's prefix that all names have, "" if there is none."""
    for prefix in _WRAPPERS:
        if names and all(name.startswith(prefix) for name in names):
            return prefix
    return ""


def to_lpx_names(state: Mapping[str, Tensor], fake_class: int = 1) -> StateDict:
    """Rename a torchvision-, timm- or DeepfakeBench-style state dict to `backbone.*`, `head.*`.

    A linear classifier becomes the head's 1x1 convolution. A classifier of two classes becomes a
    single logit, fake minus real: softmax over two logits is the sigmoid of their difference.

    Args:
        state: Any state dict.
        fake_class: Index of the class that is fake; 0 for a single logit that is high for real.
    """
    state = {name: v for name, v in unwrap(state).items() if not name.startswith(_UNUSED)}
    if any(name.startswith("_blocks.") for name in state):
        state = {_lite0_name(name): value for name, value in state.items()}
    out: StateDict = {}
    for prefix in _CLASSIFIERS:
        weight = state.pop(f"{prefix}.weight", None)
        bias = state.pop(f"{prefix}.bias", None)
        if weight is not None and weight.ndim in (2, 4) and weight.shape[0] in (1, 2):
            if bias is None:
                bias = torch.zeros(weight.shape[0])
            if weight.shape[0] == 2:
                weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
            if fake_class == 0:
                weight, bias = -weight, -bias
            out["head.classifier.weight"] = weight.reshape(1, -1, 1, 1)
            out["head.classifier.bias"] = bias
            break
    for name, value in state.items():
        if name.startswith(("backbone.", "head.")):
            out[name] = value
        else:
            out[f"backbone.{name}"] = value
    return out


def _lite0_name(key: str) -> str:
    """Return timm's name for a key of the original PyTorch port (`_blocks.3._bn1...`)."""
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
    # The port numbers blocks through the whole network, timm within each stage.
    stage = 0
    while stage < len(_LITE0_DEPTHS) and number >= _LITE0_DEPTHS[stage]:
        number -= _LITE0_DEPTHS[stage]
        stage += 1
    if stage == 0:
        # Blocks of the first stage have no expansion, so their layers have other numbers.
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
        # A larger EfficientNet, or squeeze-excite: comparing the keys will show it.
        return key
    return f"blocks.{stage}.{number}.{names[layer]}.{rest}"


def is_needed(name: str) -> bool:
    """Return whether inference uses a tensor: it does not use a batch norm's count of batches."""
    return not name.endswith("num_batches_tracked")


def _not_copied(given: Tensor, wanted: Tensor) -> str:
    """Return the kind of a tensor whose values cannot be copied into a weight, "" if they can."""
    if given.layout != torch.strided:
        return "sparse"
    if given.is_meta:
        return "without values (meta)"
    # Integers and 8-bit floats would be copied as they are, without the scale that belongs to them.
    scaled = given.is_floating_point() and given.element_size() == 1
    if scaled or given.is_floating_point() != wanted.is_floating_point():
        return str(given.dtype)
    return ""


def misfits(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Compare names, shapes and types of weights.

    Args:
        wanted: Tensors of the model.
        given: Tensors to load into it.

    Returns:
        Descriptions of the tensors that do not fit, by kind ("missing", "unexpected", "misshapen",
        "of another type"); empty if all fit.
    """
    missing: list[str] = []
    misshapen: list[str] = []
    other_type: list[str] = []
    for name, tensor in wanted.items():
        if not is_needed(name):
            continue
        if name not in given:
            missing.append(name)
            continue
        shape = tuple(given[name].shape)
        if shape != tensor.shape:
            misshapen.append(f"{name} is {shape}, expected {tuple(tensor.shape)}")
        if kind := _not_copied(given[name], tensor):
            other_type.append(f"{name} is {kind}, expected {tensor.dtype}")
    unexpected = [name for name in given if name not in wanted and is_needed(name)]
    differences = {
        "missing": missing,
        "unexpected": unexpected,
        "misshapen": misshapen,
        "of another type": other_type,
    }
    return {kind: names for kind, names in differences.items() if names}


def load_weights(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load weights that `check_keys` or `misfits` found to fit."""
    wanted = module.state_dict()
    fitting: StateDict = {}
    for name, value in state.items():
        # A count of batches is not compared: it is loaded if it happens to fit.
        fits = name in wanted and not misfits({"": wanted[name]}, {"": value})
        if is_needed(name) or fits:
            fitting[name] = value
    module.load_state_dict(fitting, strict=False)


def check_keys(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], source: str) -> None:
    """Compare names, shapes and types.

    Args:
        wanted: Tensors of the model.
        given: Tensors to load into it.
        source: Name of the file, for the error.

    Raises:
        LpxError: They differ; the first mismatches of each kind are named.
    """
    if not (differences := misfits(wanted, given)):
        return
    parts = []
    for kind, names in differences.items():
        more = " ..." if len(names) > _NAMED else ""
        parts.append(f"{len(names)} {kind}: {', '.join(names[:_NAMED])}{more}")
    raise LpxError(
        f"{source}: the weights do not fit the model",
        "; ".join(parts),
        "describe the model that they were trained with (`backbone`, `cut`, `bottleneck`), or make "
        "it with `factory=package.module:function`",
    )
