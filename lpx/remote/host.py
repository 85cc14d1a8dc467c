"""Names of boards, as `ssh` takes them, that cannot be mistaken for an option or a command."""

from __future__ import annotations

import re

from lpx.errors import InvalidArgumentError

# A user, a host of letters, digits, dots, hyphens and colons (IPv6), or an alias of ssh's
# configuration. Shell characters and blanks would reach the shell by ProxyCommand's %h and %r.
_NAME = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9_.+-]*@)?[A-Za-z0-9_:\[][A-Za-z0-9_.:%\[\]-]*")
_LONGEST = 255


def check_host(host: object) -> str:
    """Return the name of a board, checked.

    Args:
        host: A host, `user@host`, or an alias of ssh's configuration.

    Raises:
        InvalidArgumentError: It could be taken for an option, or has characters of a shell.
    """
    requirement = "must be a host, user@host, or an alias of ssh's configuration"
    if not isinstance(host, str):
        raise InvalidArgumentError("host", requirement, host)
    if len(host) > _LONGEST or not _NAME.fullmatch(host):
        raise InvalidArgumentError(
            "host",
            requirement,
            host,
            why="it is passed to ssh, for which other characters could have a meaning",
            fix="put ports, keys and jump hosts into ~/.ssh/config, and name the alias",
        )
    return host


def folder_name(host: str) -> str:
    """Return the name of the folder with a board's results: of letters, digits and `.@_-`."""
    return re.sub(r"[^A-Za-z0-9.@_-]", "_", host).lstrip(".") or "_"
