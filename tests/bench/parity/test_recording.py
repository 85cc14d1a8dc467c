"""Recorded scores of the checkpoint: kept face by face, refused where they do not fit."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lpx.bench.parity.recording import (
    Origin,
    Recording,
    Subject,
    has_recordings,
    read_recordings,
    record,
    recorded_scores,
)
from lpx.bench.parity.score import score
from lpx.data.face_sets.face_set import Face, FaceSet, ImageFile
from lpx.engines.base import Prediction
from lpx.errors import LpxError
from lpx.render.encode import encode_png
from lpx.schema import sealed

SUBJECT = Subject("m" * 64, "w" * 64, 8)
ORIGIN = Origin("2.13.0", "cpu", "a machine", "2026-01-01T00:00:00+00:00", "0.1.0")
GRID = (2, 3)


def prediction(count: int, seed: int = 0) -> Prediction:
    random = np.random.default_rng(seed)
    return Prediction(random.random(count, np.float32), random.random((count, *GRID), np.float32))


def recording(faces: FaceSet, seed: int = 0, **changes: object) -> Recording:
    made = Recording(
        SUBJECT, ORIGIN, (faces.crop,), faces.contents, prediction(len(faces.faces), seed)
    )
    return replace(made, **changes)  # type: ignore[arg-type]


@pytest.fixture
def faces(tmp_path: Path) -> FaceSet:
    """Twelve crops in files."""
    made = []
    for index in range(12):
        path = tmp_path / f"{index:02d}.png"
        pixels = np.random.default_rng(index).integers(0, 256, (8, 8, 3), np.uint8)
        path.write_bytes(encode_png(pixels))
        made.append(Face(path.name, index % 2, "real", path.name, (), ImageFile(path)))
    return FaceSet("set", "test", "square", tuple(made))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "reference"


def test_scores_come_back_in_the_order_of_any_set(faces: FaceSet, folder: Path) -> None:
    made = recording(faces)
    record(folder, made)
    rows = np.array([7, 0, 3, 7])
    found = recorded_scores(folder, SUBJECT, faces.take(rows))
    np.testing.assert_array_equal(found.prediction.score, made.prediction.score[rows])
    np.testing.assert_array_equal(found.prediction.patch_map, made.prediction.patch_map[rows])
    assert found.origin == ORIGIN


def test_files_are_the_same_whatever_the_order_of_the_faces(
    faces: FaceSet, folder: Path, tmp_path: Path
) -> None:
    made = recording(faces)
    order = np.random.default_rng(1).permutation(12)
    record(folder, made)
    other = tmp_path / "other"
    shuffled = Prediction(made.prediction.score[order], made.prediction.patch_map[order])
    record(other, replace(made, contents=made.contents[order], prediction=shuffled))
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == {
        p.name: p.read_bytes() for p in other.iterdir()
    }


def test_a_later_bench_adds_faces_and_replaces_scores(faces: FaceSet, folder: Path) -> None:
    first, second = faces.take(np.arange(8)), faces.take(np.arange(4, 12))
    record(folder, recording(first, 1))
    later = recording(second, 2, crops=("other",))
    record(folder, later)
    (kept,) = read_recordings(folder)
    assert len(kept.contents) == 12
    assert kept.crops == ("other", "square")
    found = recorded_scores(folder, SUBJECT, faces).prediction
    np.testing.assert_array_equal(found.score[:4], prediction(8, 1).score[:4])
    np.testing.assert_array_equal(found.score[4:], later.prediction.score)
    # The file of the earlier scores is not left behind.
    assert len(list(folder.iterdir())) == 2


def test_another_model_torch_or_machine_has_a_recording_of_its_own(
    faces: FaceSet, folder: Path
) -> None:
    record(folder, recording(faces))
    record(folder, recording(faces, 1, origin=replace(ORIGIN, torch="2.14.0", created="2027")))
    record(folder, recording(faces, 2, subject=replace(SUBJECT, model_sha256="n" * 64)))
    assert len(read_recordings(folder)) == 3
    # Of two that have all faces, the latest.
    assert recorded_scores(folder, SUBJECT, faces).origin.torch == "2.14.0"
    few = faces.take(np.arange(3))
    record(folder, recording(few, 3, origin=replace(ORIGIN, torch="2.15.0", created="2028")))
    assert recorded_scores(folder, SUBJECT, faces).origin.torch == "2.14.0"


def test_faces_that_cannot_be_read_are_not_recorded_and_not_missed(
    faces: FaceSet, folder: Path, tmp_path: Path
) -> None:
    record(folder, recording(faces))
    (tmp_path / "03.png").unlink()
    broken = replace(faces)  # contents are read once for each set
    found = recorded_scores(folder, SUBJECT, broken)
    assert len(found.prediction.score) == 12
    record(folder, recording(broken, 1))
    (kept,) = read_recordings(folder)
    assert len(kept.contents) == 12


def test_contents_can_be_added_under_another_name(faces: FaceSet, folder: Path) -> None:
    made = recording(faces)
    record(folder, made)
    (kept,) = read_recordings(folder)
    new = hashlib.sha256(b"the same face as PNG").digest()
    unknown = hashlib.sha256(b"never scored").digest()
    more = kept.renamed({faces.contents[5].tobytes(): new, unknown: unknown[::-1]})
    assert len(more.contents) == 13
    (row,) = more.rows(np.frombuffer(new, np.uint8)[None])
    assert more.prediction.score[row] == made.prediction.score[5]
    assert kept.renamed({}) is kept


def test_a_content_that_ends_in_zeros_is_itself(folder: Path, faces: FaceSet) -> None:
    contents = np.array(faces.contents[:4])
    contents[1] = contents[0]
    contents[1, -2:], contents[0, -2:], contents[0, -1] = 0, 0, 1
    pair = faces.take(np.arange(4))
    pair.__dict__["contents"] = contents
    made = recording(pair)
    record(folder, made)
    found = recorded_scores(folder, SUBJECT, pair).prediction
    np.testing.assert_array_equal(found.score, made.prediction.score)


def test_constant_maps_can_be_read_again(faces: FaceSet, folder: Path) -> None:
    flat = Prediction(np.full(12, 0.5, np.float32), np.zeros((12, 200, 200), np.float32))
    record(folder, recording(faces, prediction=flat))
    assert not recorded_scores(folder, SUBJECT, faces).prediction.patch_map.any()


def test_without_a_recording_the_error_says_where_to_make_one(faces: FaceSet, folder: Path) -> None:
    assert not has_recordings(folder)
    with pytest.raises(LpxError, match="has no recorded scores") as caught:
        recorded_scores(folder, SUBJECT, faces)
    assert caught.value.code == "not-found"


@pytest.mark.parametrize("changed", ["model_sha256", "weights_sha256", "input_size"])
def test_scores_of_another_model_are_refused(faces: FaceSet, folder: Path, changed: str) -> None:
    record(folder, recording(faces))
    other = replace(SUBJECT, **{changed: 9 if changed == "input_size" else "x" * 64})
    with pytest.raises(LpxError, match="of another model"):
        recorded_scores(folder, other, faces)


def test_faces_without_a_score_are_counted(faces: FaceSet, folder: Path) -> None:
    record(folder, recording(faces.take(np.arange(5))))
    with pytest.raises(LpxError, match="7 of 12 faces of set") as caught:
        recorded_scores(folder, SUBJECT, faces)
    assert "05.png" in caught.value.why


def test_another_crop_is_named(faces: FaceSet, folder: Path) -> None:
    record(folder, recording(faces.take(np.arange(5))))
    with pytest.raises(LpxError, match="7 of 12") as caught:
        recorded_scores(folder, SUBJECT, replace(faces, crop="wide"))
    assert "cropped by wide, the recorded faces by square" in caught.value.why


def altered(path: Path, **changes: object) -> None:
    """Change values of a record, and seal it again as its maker would."""
    values = json.loads(path.read_text())
    del values["checksum"]
    path.write_text(json.dumps(sealed(values | changes)))


def _shorter(folder: Path) -> None:
    (file,) = folder.glob("*.scores")
    file.write_bytes(file.read_bytes()[:-9])


def _gone(folder: Path) -> None:
    next(folder.glob("*.scores")).unlink()


def _unsealed(folder: Path) -> None:
    (path,) = folder.glob("*.json")
    path.write_text(path.read_text().replace("2.13.0", "2.14.0"))


def _changed(**changes: object):
    return lambda folder: altered(next(folder.glob("*.json")), **changes)


def _rewritten(change):
    """Replace the scores by others, with the digest of these."""

    def damage(folder: Path) -> None:
        import zlib

        (file,) = folder.glob("*.scores")
        file.write_bytes(zlib.compress(change(zlib.decompress(file.read_bytes()))))
        altered(next(folder.glob("*.json")), sha256=hashlib.sha256(file.read_bytes()).hexdigest())

    return damage


@pytest.mark.parametrize(
    ("found", "who"), [("lpx-recording/0", "an earlier"), ("lpx-recording/9", "a newer")]
)
def test_a_recording_of_another_version_is_not_damaged(
    faces: FaceSet, folder: Path, found: str, who: str
) -> None:
    record(folder, recording(faces))
    _changed(format=found)(folder)
    with pytest.raises(LpxError, match=f"was written by {who} version of lpx") as caught:
        recorded_scores(folder, SUBJECT, faces)
    assert caught.value.code == "unsupported"


@pytest.mark.parametrize(
    "damage",
    [
        _shorter,
        _gone,
        _unsealed,
        _changed(format="lpx-score/1"),
        _changed(format=1),
        _changed(format="lpx-recording"),
        _changed(faces=11),
        _changed(faces=0),
        _changed(faces=1 << 39),
        _changed(grid=[2, 4]),
        _changed(grid=[0, 3]),
        _changed(file="../../secret.scores"),
        _changed(file="/etc/passwd"),
        _rewritten(lambda plain: plain + b"more"),
        _rewritten(lambda plain: plain[:-4]),
        _rewritten(lambda plain: plain[32:64] + plain[:32] + plain[64:]),
        _rewritten(lambda plain: plain[:-12] + b"\xff" * 12),
    ],
)
def test_a_damaged_recording_is_refused_and_the_next_bench_replaces_it(
    faces: FaceSet, folder: Path, damage
) -> None:
    record(folder, recording(faces))
    damage(folder)
    with pytest.raises(LpxError) as caught:
        recorded_scores(folder, SUBJECT, faces)
    assert caught.value.code == "damaged"
    warnings: list[str] = []
    record(folder, recording(faces, 1), warnings.append)
    assert len(warnings) == 1
    found = recorded_scores(folder, SUBJECT, faces).prediction
    np.testing.assert_array_equal(found.score, prediction(12, 1).score)


def test_a_recording_of_a_newer_lpx_is_named_and_kept(faces: FaceSet, folder: Path) -> None:
    record(folder, recording(faces))
    (path,) = folder.glob("*.json")
    altered(path, format="lpx-recording/2")
    newer = path.rename(folder / "of-a-newer-lpx.json")
    with pytest.raises(LpxError, match="written by a newer version") as caught:
        recorded_scores(folder, SUBJECT, faces)
    assert caught.value.code == "unsupported"
    kept = newer.read_bytes()
    record(folder, recording(faces))
    assert newer.read_bytes() == kept


def test_what_was_written_before_a_crash_does_not_matter(faces: FaceSet, folder: Path) -> None:
    """The scores are written first, under a name of their own."""
    record(folder, recording(faces))
    (path,) = folder.glob("*.json")
    (folder / f"{path.stem}.0123456789abcdef.scores").write_bytes(b"half")
    np.testing.assert_array_equal(
        recorded_scores(folder, SUBJECT, faces).prediction.score, prediction(12).score
    )
    record(folder, recording(faces))
    assert len(list(folder.iterdir())) == 2


class Broken:
    def infer(self, pixels: np.ndarray) -> Prediction:
        raise RuntimeError("no memory")


def test_if_no_engine_can_score_the_error_says_so(faces: FaceSet) -> None:
    with pytest.raises(LpxError, match="no engine can score") as caught:
        score(
            {"a": Broken()},  # type: ignore[dict-item]
            faces,
            8,
            needed=(),
            known={"torch": prediction(12)},
        )
    assert "a: RuntimeError: no memory" in caught.value.why
