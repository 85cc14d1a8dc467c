"""Options of a run on Ray."""

from __future__ import annotations

import re
from dataclasses import dataclass

from lpx.arguments import check_at_least, check_number
from lpx.errors import InvalidArgumentError

# The cluster that RAY_ADDRESS or this machine names; one of this machine's cores if there is none.
AUTO = "auto"
# One that is started for this run, and ends with it.
LOCAL = "local"
_ADDRESS = re.compile(r"(ray://)?(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+):([0-9]{1,5})")
_REQUIRED = f"must be {AUTO}, {LOCAL}, HOST:PORT or ray://HOST:PORT"


@dataclass(frozen=True)
class RayOptions:
    """Where the long steps of a workspace run, and with how many resources.

    Attributes:
        address: "auto" for the cluster that RAY_ADDRESS names or that runs on this machine, or
            else one that is started here for the run; "local" for the latter; "HOST:PORT" of a
            cluster that this machine is part of; or "ray://HOST:PORT" of any.
        workers: Maximum number of workers; None for as many as the cluster has room for.
        cpus: CPU cores of a worker; None for what suits the step.
        gpus: GPUs of a worker, such as 0.5 for two workers on each; None for what suits the step.
        memory_gib: Memory that a worker reserves, GiB; None reserves none.

    Raises:
        InvalidArgumentError: One has a value that it cannot have.
    """

    address: str = AUTO
    workers: int | None = None
    cpus: int | None = None
    gpus: float | None = None
    memory_gib: float | None = None

    def __post_init__(self) -> None:
        if self.address not in (AUTO, LOCAL):
            match = _ADDRESS.fullmatch(self.address) if isinstance(self.address, str) else None
            if match is None or not 0 < int(match[3]) < 65536:
                raise InvalidArgumentError("address", _REQUIRED, self.address)
        check_at_least("workers", self.workers, 1)
        check_at_least("cpus", self.cpus, 1)
        if self.gpus is not None:
            check_number("gpus", self.gpus, least=0)
            # Ray divides a GPU among workers, but gives none a GPU and a half.
            if self.gpus > 1 and self.gpus != int(self.gpus):
                raise InvalidArgumentError("gpus", "must be whole if it is above 1", self.gpus)
        if self.memory_gib is not None:
            check_number("memory_gib", self.memory_gib, least=0)

    def endpoint(self) -> tuple[str, int] | None:
        """Return host and port of the address; None if it names none."""
        match = _ADDRESS.fullmatch(self.address)
        return (match[2].strip("[]"), int(match[3])) if match else None
