"""Where data sets lie, and where faces that were prepared from them go.

The command line comes first, then the environment, then the nearest `lpx.toml` from the current
folder upwards:

    [data]
    root = "/data/deepfakes"      # relative to lpx.toml
    store = "/scratch/lpx-faces"
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from lpx.errors import LpxError
from lpx.schema import check_plain
from lpx.workspace import read_regular

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SETTINGS = "lpx.toml"
DEFAULT_STORE = Path("lpx-faces")
_KEYS = ("root", "store")
MAX_SETTINGS_BYTES = 1 << 20
"""Size of an lpx.toml, bytes."""


@dataclass(frozen=True)
class DataPlaces:
    """What the command line says of where data lie; environment and lpx.toml come after it.

    Attributes:
        data_root: `--data-root`, see `data_roots`.
        store: `--store`, see `face_store`.
    """

    data_root: Path | None = None
    store: Path | None = None


def expanded(path: str | Path) -> Path:
    """A path with the home folder in place of "~", as a shell would read it.

    Raises:
        LpxError: "~name" names a user whom this machine does not have.
    """
    text = os.fspath(path)
    found = os.path.expanduser(text)
    if found.startswith("~"):
        raise LpxError(
            f"{text} begins with the home folder of a user",
            f"this machine knows no home folder of {text.partition('/')[0][1:] or 'yours'}",
            f"write the path in full; for a folder of that name here, ./{text}",
        )
    return Path(found)


def data_roots(given: Path | None = None) -> tuple[Path, ...]:
    """Folders to look for data sets in, in this order; () where the user named none.

    Args:
        given: `--data-root`.

    Returns:
        `given`, the folders of LPX_DATA, `root` of lpx.toml; each once. Only `given` is sure to
        exist: a disk that LPX_DATA names may be unmounted.

    Raises:
        LpxError: `given` is not a folder, or lpx.toml is damaged.
    """
    found = []
    if given is not None:
        folder = expanded(given)
        if not folder.is_dir():
            state = "is a file" if folder.exists() else "does not exist"
            raise LpxError(f"data root {folder} {state}", "", "name a folder with --data-root DIR")
        found.append(folder)
    listed = os.environ.get("LPX_DATA", "").split(os.pathsep)
    found += [expanded(entry) for entry in listed if entry]
    if (setting := _setting("root")) is not None:
        found.append(setting)
    return tuple(dict.fromkeys(found))


def face_store(given: Path | None = None) -> Path:
    """The folder that prepared faces go into: given, LPX_FACE_STORE, lpx.toml, `./lpx-faces`.

    Raises:
        LpxError: lpx.toml is damaged.
    """
    if given is not None:
        return expanded(given)
    if named := os.environ.get("LPX_FACE_STORE"):
        return expanded(named)
    return _setting("store") or DEFAULT_STORE


def _setting(key: str) -> Path | None:
    """A folder that the nearest lpx.toml names."""
    here = Path.cwd()
    path = next((p for f in (here, *here.parents) if (p := f / SETTINGS).is_file()), None)
    if path is None:
        return None
    try:
        # Editors on Windows put a byte-order mark in front, which TOML does not know.
        table = tomllib.loads(read_regular(path, limit=MAX_SETTINGS_BYTES).decode("utf-8-sig"))
        check_plain(table)
    except (OSError, ValueError, RecursionError) as error:
        raise LpxError(f"{path} cannot be read", str(error), "fix or remove it") from error
    data = table.get("data", {})
    if not isinstance(data, dict) or set(data) - set(_KEYS):
        raise LpxError(
            f"{path}: [data] holds {str(data)[:80]!r}",
            f"[data] is a table that knows {' and '.join(_KEYS)}",
            'write [data], and below it root = "DIR" or store = "DIR"',
        )
    if (value := data.get(key)) is None:
        return None
    if not isinstance(value, str) or not value:
        raise LpxError(
            f"{path}: {key} is {str(value)[:80]!r}", "it names one folder", f'{key} = "DIR"'
        )
    return path.parent / expanded(value)
