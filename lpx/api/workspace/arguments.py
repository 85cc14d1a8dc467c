"""Arguments that several steps take."""

from __future__ import annotations

import os
from pathlib import Path

from lpx.arguments import as_path
from lpx.reporter import Reporter
from lpx.workspace import WorkspaceFolder

StrPath = str | os.PathLike[str]


def optional_path(name: str, value: StrPath | None) -> Path | None:
    """Return a path that may be left out."""
    return None if value is None else as_path(name, value)


def face_set(name: str, value: StrPath | None) -> str | None:
    """Return the name of a face set, or the path of its folder, as `open_set` takes them."""
    return None if value is None else os.fspath(as_path(name, value))


def crop_recipe(workspace: WorkspaceFolder, crop: str | None, reporter: Reporter) -> str:
    """Return the crop recipe to prepare faces by: the one named, or that of the exported model."""
    if crop is not None:
        return crop
    from lpx.data.prepare import exported_card, recipe_for

    choice = recipe_for(exported_card(workspace))
    # Said aloud, as scores on faces cut in another way can be far off.
    reporter.say(f"crop {choice.recipe}: {choice.reason}")
    return choice.recipe
