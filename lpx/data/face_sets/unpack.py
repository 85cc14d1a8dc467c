"""Write the demo's checkpoint and faces as ordinary files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath

from lpx.data.face_sets.csv import FILE as CSV
from lpx.data.face_sets.demo import CHECKPOINT, demo_set, folder
from lpx.errors import LpxError
from lpx.render.encode import encode_png
from lpx.workspace import write_bytes


def unpack_demo(out: Path, progress: Callable[[int, int], None]) -> int:
    """Write `ckpt.pt` (first), `real/`, `fake/<method>/`, `faces.csv` and `LICENSE.md` below `out`.

    `faces.csv` says whose each face is and which are frames of one video, so that a bench of the
    folder judges it as it does the demo set.

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
    rows = ["file,method,video,identity"]
    for index, face in enumerate(faces):
        below = PurePosixPath("fake") / face.method if face.label else PurePosixPath("real")
        place = below / f"{PurePosixPath(face.name).stem[:4]}_{face.video}.png"
        write_bytes(out / place, encode_png(face.source.read()), durable=False)
        rows.append(f"{place},{face.method},{face.video},{';'.join(face.identities)}")
        progress(index + 1, len(faces))
    write_bytes(out / CSV, "".join(f"{row}\n" for row in rows).encode())
    return len(faces)


def _check_free(out: Path, checkpoint: bytes) -> None:
    own = out / CHECKPOINT
    if own.is_file() and own.read_bytes() == checkpoint:
        # Unpacked before, perhaps not to the end.
        return
    for name in (CHECKPOINT, "LICENSE.md", CSV, "real", "fake"):
        if (out / name).exists():
            raise LpxError(
                f"{out / name} exists already",
                "the demo's files would replace it, or mix with it",
                "name a new folder",
            )
