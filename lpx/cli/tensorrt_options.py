"""Options of TensorRT's builder, which `lpx build` passes on as a `TensorRTOptions`."""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import Any, cast

import click

from lpx.cli.options import Command


def tensorrt_options(command: Command) -> Command:
    """Options of TensorRT's builder: pass `tensorrt`, a TensorRTOptions."""

    @functools.wraps(command)
    def packed(
        *arguments: Any,
        batch_range: tuple[int, int, int] | None,
        compute_capabilities: str,
        no_tf32: bool,
        **rest: Any,
    ) -> Any:
        from lpx.engines.tensorrt_options import BatchRange, TensorRTOptions

        if rest["batches"] and batch_range:
            raise click.UsageError("--batch and --batch-range are mutually exclusive")
        if batch_range:
            rest["batches"] = BatchRange(*batch_range)
        # Empty parts are dropped, so that a trailing comma is accepted.
        rest["compute_capabilities"] = tuple(compute_capabilities.replace(",", " ").split())
        rest["tf32"] = not no_tf32
        # The command's parameters have the names of the fields, which are listed in one place only.
        values = {field.name: rest.pop(field.name) for field in fields(TensorRTOptions)}
        return command(*arguments, tensorrt=TensorRTOptions(**values), **rest)

    options = (
        click.option(
            "--compute-capability",
            "compute_capabilities",
            default="",
            metavar="8.6,8.9,...",
            help="Comma-separated compute capabilities of the GPUs to build for (tensorrt-rtx "
            "only); they need not be in this machine. By default 8.0, 8.6, 8.9, 12.0 and later.",
        ),
        click.option(
            "--workspace-mib", type=int, help="Maximum scratch memory of TensorRT, in MiB."
        ),
        click.option(
            "--batch",
            "batches",
            metavar="1,8,32",
            callback=lambda _, __, value: _sizes(value),
            help="Comma-separated batch sizes, with a TensorRT profile each: fastest at these "
            "sizes; other batches are padded. Excludes --batch-range.",
        ),
        click.option(
            "--batch-range",
            metavar="MIN:BEST:MAX",
            callback=lambda _, __, value: _range(value),
            help="Range of batch sizes with one TensorRT profile, tuned for BEST. By default "
            "1:8:32, and batch 1 with --dla.",
        ),
        click.option(
            "--optimisation-level",
            type=int,
            help="TensorRT's search for kernels, from 0 (fast build) to 5 (long search). By "
            "default TensorRT's own.",
        ),
        click.option(
            "--builds",
            default=1,
            show_default=True,
            help="Number of builds; the plan of median latency is kept, and the spread reported "
            "(TensorRT).",
        ),
        click.option(
            "--frozen-timing-cache",
            is_flag=True,
            help="Fail if a kernel's time is not in the workspace's timing cache, for repeatable "
            "builds (TensorRT 10 and later).",
        ),
        click.option(
            "--version-compatible",
            is_flag=True,
            help="Let later TensorRT releases load the plan. It then contains host code, which "
            "runs in the process that loads it: share it only with users who trust you.",
        ),
        click.option(
            "--hardware-compatible",
            is_flag=True,
            help="Let other GPU models, Ampere and later, load the plan. It may be slower.",
        ),
        click.option(
            "--dla",
            "dla_core",
            type=int,
            metavar="CORE",
            help="Number of the Jetson's DLA core to build for, with the GPU for layers that it "
            "does not support (FP16 and INT8 only). Takes fixed batch sizes (--batch), not a "
            "range.",
        ),
        click.option(
            "--no-tf32",
            is_flag=True,
            help="Multiply float32 with all 23 bits of its mantissa. By default TensorRT may round "
            "to 10 bits (TF32), which is faster.",
        ),
    )
    decorated: Any = packed
    # Decorators are applied from the bottom up, and --help lists options from the top down.
    for option in reversed(options):
        decorated = option(decorated)
    return cast(Command, decorated)


def _sizes(text: str | None) -> tuple[int, ...] | None:
    """Parse the sizes of `--batch 1,8,32`."""
    if text is None:
        return None
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise click.BadParameter(f"must be positive integers such as 1,8,32 (got {text!r})")
    return sizes


def _range(text: str | None) -> tuple[int, int, int] | None:
    """Parse the sizes of `--batch-range 1:8:32`."""
    if text is None:
        return None
    parts = text.split(":")
    if len(parts) == 3 and all(part.isdecimal() for part in parts):
        least, best, most = map(int, parts)
        if 1 <= least <= best <= most:
            return least, best, most
    raise click.BadParameter(f"must be a range such as 1:8:32, smallest first (got {text!r})")
