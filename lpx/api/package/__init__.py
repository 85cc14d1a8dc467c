"""Packages for programs that run engines without lpx: a module for each kind.

No kind is imported here: `lpx.Workspace.package` imports the module of the kind.
"""

from typing import Literal, get_args

from lpx.errors import InvalidArgumentError

PackageKind = Literal["cpp", "triton", "deepstream"]
"""What a package is for: a program in C++, Triton Inference Server, or DeepStream."""
KINDS: tuple[PackageKind, ...] = get_args(PackageKind)
# Arguments of `lpx.Workspace.package` that not every kind takes.
_ARGUMENTS: dict[PackageKind, tuple[str, ...]] = {
    "cpp": ("engine",),
    "triton": ("engines", "also", "name", "vnni"),
    "deepstream": ("engine", "own_crop"),
}


def refuse_others(kind: PackageKind, **given: object) -> None:
    """Refuse arguments that a kind of package would ignore.

    Args:
        kind: The kind.
        given: Arguments by name; None, False and an empty sequence are not given.

    Raises:
        InvalidArgumentError: One is given that the kind does not take.
    """
    for name, value in given.items():
        is_given = value is not None and value is not False and value not in ((), [])
        if is_given and name not in _ARGUMENTS[kind]:
            raise InvalidArgumentError(name, f'must be left out for `kind="{kind}"`', value)
