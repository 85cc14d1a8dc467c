"""Check that a release names one version everywhere; exits with 1 where it does not.

    python tools/check_version.py            # package, citation
    TAG=v0.2.0 python tools/check_version.py  # the tag and the changelog too

Needs nothing but Python: the release workflow runs it before anything is installed.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def versions(root: Path, tag: str = "") -> dict[str, str]:
    """Return the version that each place names, by the place; "" where a place names none.

    Args:
        root: Folder of the repository.
        tag: Name of the tag, such as v0.2.0; "" while nothing is released.
    """
    named = {
        "pyproject.toml": _first(r'^version = "(.+)"', root / "pyproject.toml"),
        "lpx/__init__.py": _first(r'^__version__ = "(.+)"', root / "lpx/__init__.py"),
        "CITATION.cff": _first(r"^version: (\S+)", root / "CITATION.cff"),
    }
    if tag:
        named["tag"] = tag.removeprefix("v")
        named["CHANGELOG.md"] = _first(r"^## (\d+\.\d+\.\S+)", root / "CHANGELOG.md")
    return named


def _first(pattern: str, path: Path) -> str:
    match = re.search(pattern, path.read_text(encoding="utf-8"), re.MULTILINE)
    return "" if match is None else match[1]


def main() -> int:
    """Print the versions, and return the exit code."""
    named = versions(ROOT, os.environ.get("TAG", ""))
    for place, version in named.items():
        print(f"{place}: {version or 'none'}")
    if len(set(named.values())) == 1:
        return 0
    print("these versions differ: see docs/releasing.md", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
