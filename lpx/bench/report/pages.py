"""What every page of lpx is rendered with."""

from __future__ import annotations

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from lpx.plain import plain

_SHARED = "lpx.bench.report"
"""Holds the style sheet that all pages include."""


def environment(package: str = _SHARED) -> Environment:
    """Jinja for the templates of a package: HTML is escaped, and no control character is obeyed.

    Args:
        package: Holds `templates/`.
    """
    return Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader(_SHARED)]),
        autoescape=True,
        finalize=lambda value: plain(value, keep="\n\t") if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
