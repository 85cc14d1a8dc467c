"""Write the demo's checkpoint and faces as ordinary files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lpx.data.demo_set import CHECKPOINT, demo_set, folder
from lpx.errors import LpxError
from lpx.render import encode_png
from lpx.workspace import write_bytes


def unpack_demo(out: Path, progress: Callable[[int, int], None]) -> int:
    """Write `ckpt.pt` (first), `real/`, `fake/<method>/` and `LICENSE.md` below `out`.

    Returns:
        Number of faces written.

    Raises:
        LpxError: `out` cannot be written, or holds files of the same names already.
    """
    checkpoint = (folder() / CHECKPOINT).read_bytes()
    _check_free(out, checkpoint)
    write_bytes(out / CHECKPOINT, checkpoint)
    write_bytes(out / "LICENSE.md", (folder() / "LICENSE.md").read_bytes())
    faces = demo_set("test").faces
    for index, face in enumerate(faces):
        below = Path("fake") / face.method if face.label else Path("real")
        write_bytes(out / below / f"{face.video}.png", encode_png(face.source.read()))
        progress(index + 1, len(faces))
    return len(faces)


def _check_free(out: Path, checkpoint: bytes) -> None:
    own = out / CHECKPOINT
    if own.is_file() and own.read_bytes() == checkpoint:
        # Unpacked before, perhaps not to the end.
        return
    for name in (CHECKPOINT, "LICENSE.md", "real", "fake"):
        if (out / name).exists():
            raise LpxError(
                f"{out / name} exists already",
                "the demo's files would replace it, or mix with it",
                "name a new folder",
            )
