"""A signal in the middle of a long command; `python -m tools.drills.signals` sends many more."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time

import pytest

from tools.drills import running
from tools.drills.running import JOBS, leftovers, run


@pytest.fixture(scope="module")
def material(built, tmp_path_factory):
    """What the jobs need; the workspaces are those that other tests made already."""
    from lpx.data.face_sets.demo import CHECKPOINT, demo_set, folder
    from lpx.render.encode import encode_png
    from tests.data.trees import ffpp_tree, portrait, write_video
    from tests.training.small import write_faces

    root = tmp_path_factory.mktemp("material")
    for name in ("exported", "built"):
        shutil.copytree(built.root, root / name)
    shutil.rmtree(root / "exported" / "engines")
    for number, face in enumerate(demo_set("test").first(48).faces):
        path = root / "faces" / ("real", "fake")[face.label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_png(face.source.read()))
    for number in range(3):
        write_video(root / "media" / f"{number}.mp4", portrait(number)[0], frames=16)
    ffpp_tree(root / "ffpp", frames=8)
    splits = ["val" if number > 5 else "train" for number in range(8)]
    write_faces(root / "landmarked", [f"person{number}" for number in range(8)], splits)
    shutil.copy(folder() / CHECKPOINT, root / "ckpt.pt")
    return root


def at(folder, sign, number):
    """Send a signal once a file appears, or 0.3 s after lpx has started where none is named."""

    def disturb(process: subprocess.Popen[bytes]) -> bool:
        end = time.monotonic() + (60 if sign else 0.3)
        while process.poll() is None and time.monotonic() < end:
            if sign and any(path.stat().st_size for path in folder.glob(sign)):
                break
            time.sleep(0.01)
        process.send_signal(number)
        return True

    return disturb


@pytest.mark.parametrize(
    ("name", "sign", "signal_name"),
    [
        ("export", "", "SIGHUP"),
        ("calibrate", "", "SIGTERM"),
        ("build", "", "SIGINT"),
        ("bench", "lpx-out/bench.partial/*", "SIGTERM"),
        ("predict", "predictions/results.jsonl", "SIGHUP"),
        ("explain", "", "SIGTERM"),
        ("prepare", "store/*/journal.jsonl", "SIGINT"),
        ("train", "ckpt.pt.run/recipe.json", "SIGTERM"),
        ("demo", "", "SIGINT"),
    ],
)
def test_a_signal_ends_a_command_in_order(material, tmp_path, name, sign, signal_name):
    if name == "train":
        pytest.importorskip("lightning", reason="training needs lpx[train]")
    job, number = JOBS[name], getattr(signal, signal_name)
    place = running.lay_out(job, material, tmp_path / "run")
    ended = run(place, job.arguments, at(place, sign, number))
    assert ended.code == 128 + number, ended.err
    assert "Traceback" not in ended.err
    assert ended.err.splitlines()[-1].startswith(f"interrupted by {signal_name}: ")
    assert "the same command" in ended.err.splitlines()[-1]
    assert ended.orphans == 0
    assert leftovers(place) == []
    if name in ("predict", "prepare"):
        again = run(place, job.arguments)
        assert again.code == 0, again.err
        kept = {"predict": "were scored by an earlier run", "prepare": ""}[name]
        assert kept in again.err
