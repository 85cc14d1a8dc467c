"""The Jinja environment of all of lpx's pages."""

from __future__ import annotations

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from lpx.plain import plain

# Package with the style sheet that all pages include.
_SHARED = "lpx.bench.report"


def environment(package: str = _SHARED) -> Environment:
    """Return the Jinja environment for the templates of a package.

    HTML is escaped, and control characters are replaced by what `lpx.plain` makes of them.

    Args:
        package: Package that contains `templates/`.
    """
    return Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader(_SHARED)]),
        autoescape=True,
        finalize=lambda value: plain(value, keep="\n\t") if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
