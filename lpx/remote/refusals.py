"""Errors for what a board refuses, which say what to do."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from lpx.errors import ErrorCode, LpxError
from lpx.plain import plain


class _Refusal(NamedTuple):
    """Texts of an error, in which {host}, {path}, {name} and {text} are replaced; and its code."""

    what: str
    why: str
    fix: str
    code: ErrorCode


_NOT_AS_SENT = _Refusal(
    "{name} did not arrive at {host} as it was sent",
    "it was cut off, altered on the way, or changed by another command there",
    "run the same command again",
    "damaged",
)
# By the kind that `agent.files.RefusedError` has.
_REFUSALS = {
    "disk": _Refusal(
        "the disk of {host} is full",
        "{path}: {text}",
        "free some space there (`ssh {host} df -h`), and run the same command again; files that "
        "have arrived are not sent again",
        "unwritable",
    ),
    "system": _Refusal(
        "{host} cannot work in {path}",
        "{text}",
        "check the permissions there, or name another folder of the board with `remote_folder`",
        "unwritable",
    ),
    "foreign": _Refusal(
        "{path} on {host} has files that lpx did not put there",
        "setup could remove some of them: it replaces what is in folders such as lib and wheels",
        "name a folder that does not exist yet with `remote_folder`",
        "invalid-argument",
    ),
    "python": _Refusal(
        "{path} on {host} is not a Python that starts",
        "{text}",
        "name an interpreter of the board with `python`",
        "not-found",
    ),
    "setup": _Refusal(
        "lpx is not set up on {host}",
        "its folder there is missing or incomplete",
        "run `lpx remote {host} setup`",
        "not-found",
    ),
    "cut": _NOT_AS_SENT,
    "digest": _NOT_AS_SENT,
    "changed": _NOT_AS_SENT,
    "job": _Refusal(
        "{host} does not know this command any more",
        "its output was removed, or the folder of lpx there was",
        "run the command again",
        "not-found",
    ),
}


def refused(host: str, reply: Mapping[str, Any]) -> LpxError:
    """Make the error for a reply of the board that is a refusal."""
    kind = str(reply["refused"])
    if kind == "busy":
        return _busy(host, reply.get("holder"))
    known = _REFUSALS.get(kind)
    if known is None:
        return LpxError(f"{host} refuses: {plain(kind)[:100]}", _text(reply, "name"))
    texts = {
        "host": host,
        "path": _text(reply, "path"),
        "name": _text(reply, "name") or "the workspace",
        "text": _text(reply, "text"),
    }
    what, why, fix = (text.format(**texts) for text in known[:3])
    return LpxError(what, why, fix, code=known.code)


def not_set_up(host: str) -> LpxError:
    """Make the error for a board without lpx."""
    return refused(host, {"refused": "setup"})


def _busy(host: str, holder: object) -> LpxError:
    values = holder if isinstance(holder, Mapping) else {}
    since = values.get("since")
    when = ""
    if isinstance(since, (int, float)) and 0 <= since < 1e11:
        when = time.strftime(" since %Y-%m-%d %H:%M UTC", time.gmtime(since))
    who = _text(values, "who") or "somebody"
    command = _text(values, "command")
    why = "two commands at once would spoil each other's timings"
    if command:
        why = f"it runs {command}; {why}"
    return LpxError(
        f"{host} is in use by {who}{when}",
        why,
        f"wait until it has ended; if it is yours, `lpx remote {host} attach` shows it",
        code="in-use",
    )


def _text(values: Mapping[str, Any], name: str) -> str:
    """Return a text of the board, safe to show."""
    return plain(str(values.get(name, "")))[:300]
