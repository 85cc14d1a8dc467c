"""What `data prepare`, `calibrate`, `bench` and `ablate` have in common with `--ray`."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import click

from lpx.cli.options import Command
from lpx.errors import InvalidArgumentError

if TYPE_CHECKING:
    from lpx.cluster.options import RayOptions

# Options by the fields of `RayOptions`, but for the address.
_FLAGS = {
    "workers": "--ray-workers",
    "cpus": "--ray-cpus",
    "gpus": "--ray-gpus",
    "memory_gib": "--ray-memory",
}


def ray_options(command: Command) -> Command:
    """`--ray [ADDRESS]` and the resources of a worker: pass `ray`, a RayOptions or None.

    It stands above `workspace_option`, which takes `ray` into the workspace.
    """

    @functools.wraps(command)
    def packed(
        *arguments: Any,
        ray_address: str | None,
        ray_workers: int | None,
        ray_cpus: int | None,
        ray_gpus: float | None,
        ray_memory: float | None,
        **rest: Any,
    ) -> Any:
        values = {
            "workers": ray_workers,
            "cpus": ray_cpus,
            "gpus": ray_gpus,
            "memory_gib": ray_memory,
        }
        return command(*arguments, ray=_packed(ray_address, values), **rest)

    options = (
        click.option(
            "--ray",
            "ray_address",
            is_flag=False,
            flag_value="auto",
            callback=_checked_address,
            metavar="[ADDRESS]",
            help="Work on a Ray cluster: HOST:PORT, ray://HOST:PORT, or local for one of this "
            "machine's cores. Without ADDRESS, RAY_ADDRESS or the cluster on this machine, else "
            "local.",
        ),
        click.option(
            "--ray-workers",
            type=int,
            metavar="N",
            help="Maximum number of workers.  [default: as many as the cluster has room for]",
        ),
        click.option(
            "--ray-cpus",
            type=int,
            metavar="N",
            help="CPU cores of a worker.  [default: what suits the step]",
        ),
        click.option(
            "--ray-gpus",
            type=float,
            metavar="N",
            help="GPUs of a worker; 0.5 for two workers on each.  [default: 1 if a step needs one]",
        ),
        click.option(
            "--ray-memory",
            type=float,
            metavar="GIB",
            help="Memory that a worker reserves, GiB.  [default: none]",
        ),
    )
    decorated: Any = packed
    for option in reversed(options):
        decorated = option(decorated)
    passing: Command = decorated
    return passing


def _checked_address(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> str | None:
    """Check an address before anything else: `--ray ffpp-c23` takes the set for one."""
    if value is None:
        return None
    from lpx.cluster.options import RayOptions

    try:
        return RayOptions(value).address
    except InvalidArgumentError as error:
        what = error.what.removeprefix("address ")
        raise click.BadParameter(
            f"{what}; to name none, put --ray last or write --ray=auto"
        ) from None


def _packed(address: str | None, values: dict[str, Any]) -> RayOptions | None:
    if address is None:
        for name, value in values.items():
            if value is not None:
                raise click.UsageError(f"{_FLAGS[name]} needs --ray")
        return None
    from lpx.cluster.options import RayOptions

    try:
        return RayOptions(address, **values)
    except InvalidArgumentError as error:
        what = error.what.removeprefix(error.argument)
        raise click.UsageError(f"{_FLAGS[error.argument]}{what}") from None
