"""What is installed on a node. Sent there by value, as another lpx, or none, may be installed."""

from __future__ import annotations

import platform

# Fields of `read_node`'s answer: name of the machine; its system and processor in words; versions
# of Python and of lpx, "" if lpx is not installed.
NodeFields = tuple[str, str, str, str]


def read_node() -> NodeFields:
    """Return what a node has, as plain values: its lpx may know no other."""
    machine = version = ""
    try:
        # Inside, as nothing else is sent with the function.
        import lpx
        from lpx.machine.machine import read_machine

        # Not the metadata: that of an editable installation may be older than the code.
        version = lpx.__version__
        machine = read_machine().words
    except (ImportError, AttributeError):
        # None is installed, or one that is refused for its version.
        pass
    return platform.node(), machine, platform.python_version(), version
