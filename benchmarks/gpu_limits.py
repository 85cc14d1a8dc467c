"""What a device allows: its bandwidth and rates, measured, and the floors that follow."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lpx.errors import LpxError
from lpx.models.checkpoint import Detector

BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
"""Precision -> bytes of a value."""


@dataclass(frozen=True)
class Limits:
    """What the device reaches, measured here: GB/s of a copy, 10^12 operations/s of a GEMM."""

    gigabytes_per_second: float
    tera_operations_per_second: dict[str, float]
    not_measured: dict[str, str]


def limits(device: str) -> Limits:
    """Time a copy (read and write counted) and a square matrix product in each precision."""
    gpu = device == "cuda"
    # Random values throughout: a GPU draws less power on constants, and so clocks higher.
    count = (1 << 28) if gpu else (1 << 22)
    source = torch.randint(0, 256, (count,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * source.numel() / _seconds(lambda: target.copy_(source), gpu) / 1e9
    side = 8192 if gpu else 128
    rates, reasons = {}, {}
    for precision in BYTES:
        rate = _rate(precision, side, device)
        if isinstance(rate, str):
            reasons[precision] = rate
        else:
            rates[precision] = rate
    return Limits(bandwidth, rates, reasons)


def _rate(precision: str, side: int, device: str) -> float | str:
    """10^12 operations/s of a matrix product; why not, where this device cannot do it."""
    try:
        return 2 * side**3 / _seconds(_product(precision, side, device), device == "cuda") / 1e12
    except Exception as error:  # whatever it is, it is told
        return words(error)


def _product(precision: str, side: int, device: str) -> Callable[[], Any]:
    if precision == "int8":
        a = torch.randint(-128, 128, (side, side), dtype=torch.int8, device=device)
        b = torch.randint(-128, 128, (side, side), dtype=torch.int8, device=device).t()
        return lambda: torch._int_mm(a, b)
    x = torch.randn((side, side), device=device)
    x = x.half() if precision == "fp16" else x
    return lambda: x @ x


def _seconds(run: Callable[[], Any], gpu: bool) -> float:
    wait = torch.cuda.synchronize if gpu else lambda: None
    times = []
    for _ in range(13):
        wait()
        began = time.perf_counter()
        run()
        wait()
        times.append(time.perf_counter() - began)
    return statistics.median(times[3:])


@dataclass(frozen=True)
class Cost:
    """What a layer, or all of a detector, moves and computes for one face.

    Values are numbers of elements, to be multiplied by a precision's width; operations count a
    multiplication and an addition as two.
    """

    weights: int
    values: int
    operations: int


def costs(detector: Detector) -> list[Cost]:
    """The cost of every convolution, by running one face through it on the CPU."""
    found: list[Cost] = []

    def hook(module: nn.Conv2d, given: tuple[Tensor, ...], made: Tensor) -> None:
        weights = module.weight.numel()
        operations = 2 * made[0, 0].numel() * weights
        found.append(Cost(weights, given[0].numel() + made.numel(), operations))

    handles = [
        module.register_forward_hook(hook)
        for module in detector.module.modules()
        if isinstance(module, nn.Conv2d)
    ]
    size = detector.card.input_size
    with torch.inference_mode():
        detector.module.cpu()(torch.zeros(1, 3, size, size))
    for handle in handles:
        handle.remove()
    return found


def floors_ms(
    layers: list[Cost], batch: int, precision: str, found: Limits, size: int
) -> tuple[float | None, float | None]:
    """(floor, floor layer by layer) of a batch, ms; None where the rate was not measured."""
    rate = found.tera_operations_per_second.get(precision)
    if rate is None:
        return None, None
    bandwidth, width = found.gigabytes_per_second * 1e9, BYTES[precision]

    def bound(moved: float, operations: float) -> float:
        return 1e3 * max(moved / bandwidth, operations / (rate * 1e12))

    weights = sum(layer.weights for layer in layers) * width
    operations = batch * sum(layer.operations for layer in layers)
    whole = bound(weights + batch * size * size * 3, operations)
    single = sum(
        bound(width * (layer.weights + batch * layer.values), batch * layer.operations)
        for layer in layers
    )
    return whole, single


def words(error: Exception) -> str:
    """An exception on one line."""
    parts = [error.what, error.why] if isinstance(error, LpxError) else [str(error)]
    text = " ".join(": ".join(filter(None, parts)).split())
    return text if isinstance(error, LpxError) else f"{type(error).__name__}: {text[:400]}"
