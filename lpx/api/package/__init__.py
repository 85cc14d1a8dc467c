"""Packages for programs that run engines without lpx: a module for each kind.

Nothing is imported here: `lpx.Workspace.package` imports the module of the kind.
"""

from typing import Literal, get_args

PackageKind = Literal["cpp", "deepstream"]
"""What a package is for: a program in C++, DeepStream."""
KINDS: tuple[PackageKind, ...] = get_args(PackageKind)
