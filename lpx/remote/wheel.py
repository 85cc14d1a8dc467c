"""A wheel of the lpx that is running, and wheels of what it needs on another machine."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import lpx
from lpx.errors import LpxError
from lpx.plain import plain

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PACKAGE = Path(lpx.__file__).parent
# Files of the package that are not for the board: what was compiled for this machine, and caches.
_LEFT_OUT = {".so", ".pyc", ".pyd", ".o"}
# ZIP knows no earlier day. A fixed one makes the bytes of the wheel a function of its contents.
_TIME = (1980, 1, 1, 0, 0, 0)
# Releases of glibc from manylinux2014's on.
_OLDEST_GLIBC = 17
_LIBC = re.compile(r"glibc 2\.(\d{1,3})")


def wheel_name() -> str:
    """Return the file name of the wheel."""
    return f"lpx-{lpx.__version__}-py3-none-any.whl"


def write_wheel(folder: Path) -> Path:
    """Write a wheel of this lpx for any machine, without its compiled part.

    Without it calibration is slower, and gives the same ranges. The same files give the same bytes.

    Args:
        folder: Folder to write it to.

    Raises:
        OSError: It cannot be written.
    """
    information = f"lpx-{lpx.__version__}.dist-info"
    contents = {f"lpx/{name}": data for name, data in _package_files()}
    contents[f"{information}/METADATA"] = _metadata().encode()
    contents[f"{information}/WHEEL"] = (
        b"Wheel-Version: 1.0\nGenerator: lpx\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    )
    contents[f"{information}/entry_points.txt"] = b"[console_scripts]\nlpx = lpx.cli.main:main\n"
    record = f"{information}/RECORD"
    contents[record] = _record(contents, record)
    path = folder / wheel_name()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, data in contents.items():
            entry = zipfile.ZipInfo(name, _TIME)
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, data)
    return path


def _package_files() -> Iterator[tuple[str, bytes]]:
    """Yield names below the package, sorted, and contents."""
    for path in sorted(PACKAGE.rglob("*")):
        if path.suffix in _LEFT_OUT or "__pycache__" in path.parts or not path.is_file():
            continue
        yield path.relative_to(PACKAGE).as_posix(), path.read_bytes()


def _record(contents: Mapping[str, bytes], own: str) -> bytes:
    lines = []
    for name, data in contents.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.append(f"{name},sha256={digest},{len(data)}\n")
    lines.append(f"{own},,\n")
    return "".join(lines).encode()


def _metadata() -> str:
    requirements = core_requirements()
    lines = ["Metadata-Version: 2.1", "Name: lpx", f"Version: {lpx.__version__}"]
    lines += ["Requires-Python: >=3.10", *(f"Requires-Dist: {one}" for one in requirements)]
    return "\n".join(lines) + "\n"


def core_requirements() -> tuple[str, ...]:
    """Return what lpx needs on every machine, without its extras: not PyTorch.

    Raises:
        LpxError: lpx was copied here without its metadata.
    """
    project = PACKAGE.parent / "pyproject.toml"
    # A source checkout comes first: metadata beside it may be that of an earlier installation.
    if project.is_file():
        values: dict[str, Any] = tomllib.loads(project.read_text(encoding="utf-8")).get(
            "project", {}
        )
        if values.get("name") == "lpx":
            return tuple(values["dependencies"])
    try:
        requires = metadata.requires("lpx") or []
    except metadata.PackageNotFoundError:
        raise LpxError(
            "this lpx does not know what it needs",
            "it was copied here without its metadata",
            "install it with pip, or run it from a source checkout",
            code="not-found",
        ) from None
    return tuple(one for one in requires if "extra ==" not in one)


def download_wheels(
    folder: Path,
    architecture: str,
    python: Sequence[int],
    libc: str,
    more: Sequence[str] = (),
) -> None:
    """Download what lpx needs on another machine, with this machine's pip.

    Args:
        folder: Folder for the wheels.
        architecture: Architecture there, such as "aarch64".
        python: Version of Python there, such as (3, 10).
        libc: C library there, such as "glibc 2.35".
        more: Requirements beyond those of lpx.

    Raises:
        LpxError: pip is missing, or cannot download them.
    """
    match = _LIBC.match(libc)
    newest = int(match[1]) if match else _OLDEST_GLIBC
    words = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input"]
    words += ["--quiet", "--only-binary=:all:", "--dest", str(folder)]
    for minor in range(newest, _OLDEST_GLIBC - 1, -1):
        words += ["--platform", f"manylinux_2_{minor}_{architecture}"]
    words += ["--platform", f"manylinux2014_{architecture}"]
    words += ["--python-version", f"{python[0]}.{python[1]}", "--implementation", "cp"]
    # pip judges markers by this machine's Python, not by the other one's.
    own = [one.partition(";")[0].strip() for one in core_requirements()]
    if tuple(python[:2]) >= (3, 11):
        own = [one for one in own if not one.startswith("tomli")]
    done = subprocess.run(
        [*words, *own, *more], stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or ["pip said nothing"]
        raise LpxError(
            f"pip cannot download wheels for Python {python[0]}.{python[1]} on {architecture}",
            plain(said[-1])[:300],
            "check this machine's connection, or carry a folder of wheels with `wheels`",
            code="not-found",
        )
