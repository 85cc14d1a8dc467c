"""Options of TensorRT's builder: the one list of them, from the command line to the manifest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from lpx.arguments import check_at_least, check_choice, check_number
from lpx.errors import InvalidArgumentError
from lpx.schema import SchemaError, read_record

MAX_BATCH = 1 << 20
"""Largest number of faces in one call."""


@dataclass(frozen=True)
class BatchRange:
    """One profile for every batch size from `minimum` to `maximum`, tuned for `optimum`."""

    minimum: int
    optimum: int
    maximum: int


Batches = BatchRange | tuple[int, ...]
"""A range, or static batch sizes that get a profile each, so that each is tuned for."""
DEFAULT_BATCHES = BatchRange(1, 8, 32)


@dataclass(frozen=True)
class TensorRTOptions:
    """Options of TensorRT's builder. ONNX Runtime's TensorRT providers take some of them.

    Attributes:
        batches: Batch sizes of the profiles: a `BatchRange`, or one or several sizes that get a
            profile each. None for 1 to 32 tuned for 8, and for 1 on a DLA core, which takes no
            range.
        compute_capabilities: GPUs to build for, such as "8.6", one or several; target tensorrt-rtx
            only. Empty for its default set.
        workspace_mib: Maximum scratch memory, MiB; None for the library's default.
        optimisation_level: Search for kernels, 0 (fast build) to 5 (long); None for the default.
        version_compatible: Let later TensorRT releases load the plan, which then contains host
            code.
        hardware_compatible: Let other GPU models, Ampere and later, load the plan.
        dla_core: DLA core to run on, with the GPU for layers that it does not support.
        frozen_timing_cache: Use kernel times from an earlier build only, and fail without them.
        builds: Number of builds; the most typical plan is kept, and the spread recorded.
        tf32: Multiply float32 tensors in TF32, with 10 bits of mantissa.

    Raises:
        InvalidArgumentError: A value has the wrong type, or is out of range.
    """

    batches: Batches | int | None = None
    compute_capabilities: tuple[str, ...] | str = ()
    workspace_mib: int | None = None
    optimisation_level: int | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    dla_core: int | None = None
    frozen_timing_cache: bool = False
    builds: int = 1
    tf32: bool = True

    def __post_init__(self) -> None:
        # A single size or capability, and lists, become tuples, so that readers find only tuples.
        # `object.__setattr__`, as the dataclass is frozen.
        object.__setattr__(self, "batches", _as_batches(self.batches))
        capabilities = _as_capabilities(self.compute_capabilities)
        object.__setattr__(self, "compute_capabilities", capabilities)
        check_at_least("workspace_mib", self.workspace_mib, 1)
        _check_level(self.optimisation_level)
        check_at_least("dla_core", self.dla_core, 0)
        if self.builds is None:
            raise InvalidArgumentError("builds", "must be a whole number", None)
        check_at_least("builds", self.builds, 1)
        for name in ("version_compatible", "hardware_compatible", "frozen_timing_cache", "tf32"):
            check_choice(name, getattr(self, name), (True, False))

    @property
    def profiles(self) -> tuple[BatchRange, ...]:
        """Profiles, the smallest batch first."""
        if self.batches is None and self.dla_core is None:
            return (DEFAULT_BATCHES,)
        if self.batches is None:
            return (BatchRange(1, 1, 1),)
        if isinstance(self.batches, BatchRange):
            return (self.batches,)
        assert isinstance(self.batches, tuple), "one size has become a tuple"
        return tuple(BatchRange(size, size, size) for size in sorted(set(self.batches)))

    @property
    def gpus(self) -> tuple[str, ...]:
        """Compute capabilities to build for; empty for the library's own choice."""
        assert isinstance(self.compute_capabilities, tuple), "one text has become a tuple"
        return self.compute_capabilities

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a manifest, with the batch sizes spelled out."""
        batches: Batches
        if len(self.profiles) == 1:
            (batches,) = self.profiles
        else:
            batches = tuple(profile.maximum for profile in self.profiles)
        return asdict(replace(self, batches=batches))


@dataclass(frozen=True)
class _Lists:
    """Fields of `TensorRTOptions` that take more than one type, as a manifest holds them."""

    batches: tuple[int, ...] = ()
    compute_capabilities: tuple[str, ...] = ()


def read_tensorrt_options(values: object, where: str) -> TensorRTOptions:
    """Return the options that `TensorRTOptions.to_dict` wrote, checked.

    Args:
        values: From JSON.
        where: Name of the values in errors.

    Raises:
        SchemaError: A value is unknown, of another type, or out of range.
    """
    if not isinstance(values, Mapping):
        raise SchemaError(f"{where}: expected an object")
    rest = dict(values)
    lists = {"compute_capabilities": rest.pop("compute_capabilities", [])}
    batches = rest.pop("batches", None)
    try:
        if isinstance(batches, Mapping):
            sizes: Batches | None = read_record(BatchRange, batches, f"{where}.batches")
        elif batches is None:
            sizes = None
        else:
            sizes = read_record(_Lists, {"batches": batches}, where).batches
        capabilities = read_record(_Lists, lists, where).compute_capabilities
        options = read_record(TensorRTOptions, rest, where)
        return replace(options, batches=sizes, compute_capabilities=capabilities)
    except InvalidArgumentError as error:
        raise SchemaError(f"{where}: {error.what}") from error


def _as_batches(batches: object) -> Batches | None:
    if batches is None:
        return None
    if isinstance(batches, BatchRange):
        ends = (batches.minimum, batches.optimum, batches.maximum)
        for end in ends:
            _check_batch_size(end)
        if list(ends) != sorted(ends):
            raise InvalidArgumentError("batches", "must be in ascending order", ends)
        return batches
    if isinstance(batches, Iterable) and not isinstance(batches, (str, bytes, Mapping)):
        sizes = tuple(batches)
    else:
        sizes = (batches,)
    if not sizes:
        raise InvalidArgumentError("batches", "must have at least one size", batches)
    for size in sizes:
        _check_batch_size(size)
    return sizes


def _check_batch_size(size: object) -> None:
    # The checks take None for "not given".
    if size is None:
        raise InvalidArgumentError("batches", "must be whole numbers", None)
    check_at_least("batches", size, 1)
    if isinstance(size, int) and size > MAX_BATCH:
        raise InvalidArgumentError("batches", f"must be between 1 and {MAX_BATCH}", size)


def _as_capabilities(given: object) -> tuple[str, ...]:
    if isinstance(given, str):
        capabilities: tuple[object, ...] = (given,)
    elif isinstance(given, Iterable) and not isinstance(given, (bytes, Mapping)):
        capabilities = tuple(given)
    else:
        capabilities = (given,)
    texts = []
    for capability in capabilities:
        if not isinstance(capability, str) or not re.fullmatch(r"[0-9]{1,2}\.[0-9]", capability):
            raise InvalidArgumentError(
                "compute_capabilities", 'must be texts such as "8.6"', capability
            )
        texts.append(capability)
    return tuple(texts)


def _check_level(level: int | None) -> None:
    check_number("optimisation_level", level, least=0, most=5)
    # check_number takes fractions, which TensorRT does not.
    check_at_least("optimisation_level", level, 0)


DEFAULT_TENSORRT = TensorRTOptions()
