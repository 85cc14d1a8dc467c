"""Folders of data sets, and of faces prepared from them.

Arguments come first, then the environment, then the nearest `lpx.toml` in the current folder or
one above:

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
# Maximum size of an lpx.toml, bytes.
MAX_SETTINGS_BYTES = 1 << 20


@dataclass(frozen=True)
class DataPlaces:
    """Folders of data named by the caller; environment and lpx.toml have lower priority.

    Attributes:
        data_root: Folder with data sets, see `data_roots`.
        store: Folder for prepared faces, see `face_store`.
    """

    data_root: Path | None = None
    store: Path | None = None


def expanded(path: str | Path) -> Path:
    """Replace "~" by the home folder, like a shell.

    Raises:
        LpxError: "~name" names a user that this machine does not know.
    """
    text = os.fspath(path)
    full = os.path.expanduser(text)
    # expanduser leaves an unknown home folder as it is: "~user" would then be created here.
    if full.startswith("~"):
        raise LpxError(
            f"{text} begins with the home folder of a user",
            f"this machine knows no home folder of {text.partition('/')[0][1:] or 'yours'}",
            f"write the path in full; for a folder of that name here, ./{text}",
            code="not-found",
        )
    return Path(full)


def data_roots(data_root: Path | None = None) -> tuple[Path, ...]:
    """List the folders to search for data sets, in order of priority.

    Args:
        data_root: Folder named by the caller.

    Returns:
        `data_root`, the folders of LPX_DATA, and `root` of lpx.toml; each once. Only `data_root` is
        sure to exist: LPX_DATA may name an unmounted disk.

    Raises:
        LpxError: `data_root` is not a folder, or lpx.toml is damaged.
    """
    folders = []
    if data_root is not None:
        folder = expanded(data_root)
        # Only this folder is checked: one of LPX_DATA may be on a disk that is not mounted.
        if not folder.is_dir():
            state = "is a file" if folder.exists() else "does not exist"
            raise LpxError(
                f"data root {folder} {state}", "", "name a folder (`data_root`)", code="not-found"
            )
        folders.append(folder)
    for entry in os.environ.get("LPX_DATA", "").split(os.pathsep):
        # An empty entry, as in "a::b", would mean the current folder.
        if not entry:
            continue
        folders.append(expanded(entry))
    setting = _setting("root")
    if setting is not None:
        folders.append(setting)
    # The same folder may be named twice; dict keeps the first place, which has priority.
    return tuple(dict.fromkeys(folders))


def face_store(store: Path | None = None) -> Path:
    """Return the folder for prepared faces: `store`, LPX_FACE_STORE, lpx.toml, or ./lpx-faces.

    Raises:
        LpxError: lpx.toml is damaged.
    """
    if store is not None:
        return expanded(store)
    if named := os.environ.get("LPX_FACE_STORE"):
        return expanded(named)
    return _setting("store") or DEFAULT_STORE


def _find_settings() -> Path | None:
    """Find the nearest lpx.toml in the current folder or one above."""
    here = Path.cwd()
    for folder in (here, *here.parents):
        # The nearest one counts, so that a project can override what is above it.
        path = folder / SETTINGS
        if path.is_file():
            return path
    return None


def _setting(key: str) -> Path | None:
    """Read a folder from the nearest lpx.toml."""
    path = _find_settings()
    if path is None:
        return None
    try:
        # With a limit, as a file found by searching upwards may be anybody's. "-sig", as editors on
        # Windows write a byte-order mark, which tomllib refuses.
        table = tomllib.loads(read_regular(path, limit=MAX_SETTINGS_BYTES).decode("utf-8-sig"))
        check_plain(table)
    except (OSError, ValueError, RecursionError) as error:
        # RecursionError: arrays nested thousands deep.
        raise LpxError(
            f"{path} cannot be read", str(error), "fix or remove it", code="damaged"
        ) from error
    data = table.get("data", {})
    # A misspelt key would otherwise be ignored, and another folder be used.
    if not isinstance(data, dict) or set(data) - set(_KEYS):
        raise LpxError(
            f"{path}: [data] holds {str(data)[:80]!r}",
            f"[data] is a table with the keys {' and '.join(_KEYS)}",
            'write [data], and below it root = "DIR" or store = "DIR"',
        )
    value = data.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value:
        raise LpxError(
            f"{path}: {key} is {str(value)[:80]!r}", "it must be one folder", f'{key} = "DIR"'
        )
    # Relative to the file, not to the current folder, so that it means the same from everywhere.
    return path.parent / expanded(value)
