"""What a board refuses, as errors that say what to do."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from lpx.errors import LpxError
from lpx.plain import plain


def refused(host: str, reply: Mapping[str, Any]) -> LpxError:
    """Make the error for a reply of the board that is a refusal."""
    kind = str(reply["refused"])
    if kind == "busy":
        return _busy(host, reply.get("holder"))
    if kind == "disk":
        return LpxError(
            f"the disk of {host} is full",
            f"{_text(reply, 'path')}: {_text(reply, 'text')}",
            f"free some space there (`ssh {host} df -h`), and run the same command again; what "
            "arrived whole is not sent again",
            code="unwritable",
        )
    if kind == "system":
        return LpxError(
            f"{host} cannot work in {_text(reply, 'path')}",
            _text(reply, "text"),
            "check the permissions there, or name another folder of the board with `remote_folder`",
            code="unwritable",
        )
    if kind == "python":
        return LpxError(
            f"{_text(reply, 'path')} on {host} is not a Python that starts",
            _text(reply, "text"),
            "name an interpreter of the board with `python`",
            code="not-found",
        )
    if kind == "setup":
        return not_set_up(host)
    if kind in ("cut", "digest", "changed"):
        return LpxError(
            f"{_text(reply, 'name') or 'the workspace'} did not arrive at {host} as it was sent",
            "it was cut off, altered on the way, or changed by another command there",
            "run the same command again",
            code="damaged",
        )
    if kind == "job":
        return LpxError(
            f"{host} does not know this command any more",
            "its output was removed, or the folder of lpx there was",
            "run the command again",
            code="not-found",
        )
    return LpxError(
        f"{host} refuses: {plain(kind)[:100]}", _text(reply, "name"), "", code="invalid-input"
    )


def not_set_up(host: str) -> LpxError:
    """Make the error for a board without lpx."""
    return LpxError(
        f"lpx is not set up on {host}",
        "its folder there is missing or incomplete",
        f"run `lpx remote {host} setup`",
        code="not-found",
    )


def _busy(host: str, holder: object) -> LpxError:
    values = holder if isinstance(holder, Mapping) else {}
    since = values.get("since")
    when = ""
    if isinstance(since, (int, float)) and 0 <= since < 1e11:
        when = time.strftime(" since %Y-%m-%d %H:%M UTC", time.gmtime(since))
    who = _text(values, "who") or "somebody"
    command = _text(values, "command")
    return LpxError(
        f"{host} is in use by {who}{when}",
        f"it runs {command}; two commands at once would spoil each other's timings"
        if command
        else "two commands at once would spoil each other's timings",
        f"wait until it has ended; if it is yours, `lpx remote {host} attach` shows it",
        code="in-use",
    )


def _text(values: Mapping[str, Any], name: str) -> str:
    """Return a text of the board, safe to show."""
    return plain(str(values.get(name, "")))[:300]
