"""What is asked of a build, checked against what the library can do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from lpx.arguments import check_choice
from lpx.engines.manifest import MAX_BATCH
from lpx.engines.tensorrt.capabilities import Capabilities
from lpx.errors import LpxError

Precision = Literal["fp32", "fp16", "int8"]

_LEVELS = range(6)


@dataclass(frozen=True)
class BatchRange:
    """One profile for every batch size from `minimum` to `maximum`, tuned for `optimum`."""

    minimum: int
    optimum: int
    maximum: int


Batches = BatchRange | tuple[int, ...]
"""A range, or static batch sizes that get a profile each, so that each is tuned for."""


@dataclass(frozen=True)
class Request:
    """All that a build is asked; see `build_plan` for the fields."""

    onnx_model: bytes
    precision: Precision
    batches: Batches
    input_name: str = "faces"
    compute_capabilities: tuple[str, ...] = ()
    workspace_mib: int | None = None
    optimisation_level: int | None = None
    timing_cache: bytes | None = None
    calibration_cache: bytes | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    dla_core: int | None = None
    frozen_timing_cache: bool = False
    watch: tuple[str, ...] = ()
    tf32: bool = True

    def strongly_typed(self, capabilities: Capabilities) -> bool:
        """Whether the network is strongly typed.

        A DLA core takes no strongly typed network before 11, and a calibration cache none ever.
        """
        if capabilities.strongly_typed_only:
            return True
        implicit = self.dla_core is not None or self.calibration_cache is not None
        return capabilities.dialect == "strongly-typed" and not implicit

    def spans(self) -> tuple[BatchRange, ...]:
        """The profiles, smallest batch first."""
        return spans_of_batches(self.batches)


def spans_of_batches(batches: Batches) -> tuple[BatchRange, ...]:
    """The profiles that batch sizes stand for, smallest batch first."""
    if isinstance(batches, BatchRange):
        return (batches,)
    return tuple(BatchRange(size, size, size) for size in sorted(set(batches)))


def check_batches(batches: Batches) -> None:
    """Refuse batch sizes that no plan can have.

    Raises:
        LpxError: There are none, one is out of range, or a range is not in order.
    """
    spans = spans_of_batches(batches)
    if spans and all(1 <= s.minimum <= s.optimum <= s.maximum <= MAX_BATCH for s in spans):
        return
    raise LpxError(
        f"batch sizes {batches}",
        why=f"they must be whole numbers from 1 to {MAX_BATCH}, and minimum <= optimum <= maximum",
    )


def check(request: Request, capabilities: Capabilities) -> None:
    """Refuse what the library cannot do or would silently ignore.

    Raises:
        LpxError: A value is out of range, or the library lacks what was asked.
    """
    _check_values(request)
    name = f"{capabilities.flavour} {'.'.join(map(str, capabilities.version))}"
    rtx = capabilities.flavour == "tensorrt-rtx"
    if request.compute_capabilities and not capabilities.set_compute_capability:
        raise LpxError(
            f"compute capabilities {', '.join(request.compute_capabilities)} asked of {name}",
            why="it builds for the GPU of this machine and no other",
            fix="leave the compute capabilities out, or build for tensorrt-rtx",
        )
    if request.version_compatible and not capabilities.version_compatible:
        raise LpxError(f"{name} builds no version-compatible plans")
    if request.hardware_compatible and not capabilities.hardware_compatibility:
        why = "give it several compute capabilities instead" if rtx else ""
        raise LpxError(f"{name} builds no hardware-compatible plans", why=why)
    if request.dla_core is not None and not capabilities.dla:
        why = "it would ignore the setting and build for the GPU" if rtx else ""
        raise LpxError(
            f"DLA core {request.dla_core} asked of {name}",
            why=why or "DLA is in TensorRT up to 10.7 and from 11.4.1 on",
        )
    if request.frozen_timing_cache and not capabilities.error_on_timing_cache_miss:
        raise LpxError(
            f"a frozen timing cache asked of {name}",
            why="it keeps no timing cache" if rtx else "TensorRT can fail on a miss from 10 on",
            fix="leave the option out",
        )
    if request.calibration_cache is not None and not capabilities.calibrators:
        raise LpxError(
            f"a calibration cache was given to {name}",
            why="it takes INT8 only as Q/DQ nodes in the graph",
            fix=f"build the {capabilities.dialect} graph",
        )
    if request.dla_core is not None:
        check_dla(request.dla_core, request.precision, request.batches)


def check_dla(core: int, precision: Precision, batches: Batches) -> None:
    """Refuse what TensorRT would run on the GPU in place of a DLA core, without saying so.

    Args:
        core: The DLA core.
        precision: What it is to compute in.
        batches: Its batch sizes.

    Raises:
        LpxError: FP32, or a range of batch sizes.
    """
    if precision == "fp32":
        raise LpxError("FP32 on a DLA core", why="a DLA core computes in FP16 and INT8 only")
    ranges = [span for span in spans_of_batches(batches) if span.minimum != span.maximum]
    if ranges:
        span = ranges[0]
        raise LpxError(
            f"batch sizes {span.minimum} to {span.maximum} in one profile for DLA core {core}",
            why="a DLA core computes a fixed batch size: TensorRT would run all layers on the GPU",
            fix=f"name batch sizes, which get a profile each: --batch {span.minimum},{span.optimum}"
            if span.minimum != span.optimum
            else f"name a batch size: --batch {span.minimum}",
        )


def _check_values(request: Request) -> None:
    check_choice("precision", request.precision, get_args(Precision))
    check_batches(request.batches)
    if request.workspace_mib is not None and request.workspace_mib < 1:
        raise LpxError(f"a workspace of {request.workspace_mib} MiB", why="it must be 1 or more")
    if request.optimisation_level is not None and request.optimisation_level not in _LEVELS:
        raise LpxError(f"optimisation level {request.optimisation_level}", why="it is 0 to 5")
