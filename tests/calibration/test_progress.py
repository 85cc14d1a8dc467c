from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from lpx.calibration.observe import calibrate
from lpx.calibration.observer import Observer
from lpx.calibration.progress import PassProgress, load_progress, save_progress
from tests.support.calibration_nets import SIZE, face_set, model, noise

KILLED = """
import os, signal, sys
from pathlib import Path
from lpx.calibration.observe import calibrate
from calibration_nets import SIZE, face_set, model, noise
images = noise(40)
images[3] = images[17] = None
def die(done, total):
    if done >= 28:
        os.kill(os.getpid(), signal.SIGKILL)
calibrate(
    model()[0], face_set(*images), SIZE,
    resume=Path(sys.argv[1]), progress=die, shard=8, largest_batch=4,
)
"""


# Small enough for several shards and batches.
SMALL: dict[str, int] = {"shard": 8, "largest_batch": 4}


@pytest.fixture
def faces():
    images = noise(40)
    images[3] = images[17] = None
    return face_set(*images)


def test_resuming_a_killed_calibration_equals_an_uninterrupted_one(tmp_path, faces):
    path = tmp_path / "partial.npz"
    folders = os.pathsep.join([str(Path(__file__).parents[1] / "support"), *sys.path])
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)],
        check=False,
        env=os.environ | {"PYTHONPATH": folders},
    )
    assert killed.returncode == -signal.SIGKILL
    left = path.read_bytes()
    told = []
    data, _ = model()
    small = partial(calibrate, **SMALL)
    resumed = small(data, faces, SIZE, resume=path, progress=lambda *done: told.append(done[0]))
    assert told[0] > 8  # it did not begin at the beginning
    # Whoever is stopped before the result is written has not to observe again.
    told.clear()
    again = small(data, faces, SIZE, resume=path, progress=lambda *done: told.append(done[0]))
    assert set(told) == {40}
    assert again == resumed
    whole = calibrate(data, faces, SIZE)
    assert resumed == whole
    assert whole.faces.count == 38
    # Nothing of it is left behind half written.
    assert list(tmp_path.iterdir()) == [path]
    for damage in (b"", left[: len(left) // 2], b"no zip at all"):
        path.write_bytes(damage)
        messages = []
        assert calibrate(data, faces, SIZE, resume=path, say=messages.append) == whole
        assert "starting calibration from the beginning" in messages[0]


def test_progress_of_another_model_or_other_faces_is_not_used(tmp_path, faces):
    path = tmp_path / "partial.npz"

    def stop(done, total):
        if done >= 28:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        calibrate(model()[0], faces, SIZE, resume=path, progress=stop, **SMALL)
    assert path.exists()
    other, _ = model(seed=1)
    messages = []
    resumed = calibrate(other, faces, SIZE, resume=path, say=messages.append)
    assert resumed == calibrate(other, faces, SIZE)
    assert messages[0].endswith("it was saved for another model")
    part = faces.first(20)
    calibrate(other, part, SIZE, resume=path, say=messages.append)
    assert messages[1].endswith("it was saved for other faces, or some of them have changed")


def test_progress_on_other_tensors_is_not_used(tmp_path, faces):
    path = tmp_path / "partial.npz"
    data, _ = model()
    key = {"model": hashlib.sha256(data).hexdigest(), "faces": faces.digest(), "size": str(SIZE)}
    save_progress(path, key, PassProgress(24, (), {"b": Observer(16)}))
    assert load_progress(path, key) is not None
    assert calibrate(data, faces, SIZE, resume=path) == calibrate(data, faces, SIZE)


def test_missing_progress(tmp_path):
    assert load_progress(tmp_path / "none.npz", {}) is None
