from __future__ import annotations

from lpx.data.face_sets.demo import folder
from lpx.data.face_sets.demo_clip import clip_path, clip_spans
from lpx.data.images.video_file import read_frames
from lpx.data.pseudo_fakes.blend import KINDS
from lpx.data.pseudo_fakes.landmarked import load_landmarked


def test_every_frame_of_the_clip_is_of_one_part():
    parts = clip_spans()
    frames = [frame for part in parts for frame in range(part.first, part.last + 1)]
    assert frames == list(range(read_frames(clip_path(), None).count))
    assert {part.forgery for part in parts if part.fake} <= set(KINDS)
    assert {part.fake for part in parts} == {False, True}
    assert all((part.head != part.face) == part.fake for part in parts)


def test_a_scene_begins_real_and_is_forged_from_its_middle():
    by_scene = {}
    for part in clip_spans():
        by_scene.setdefault(part.scene, []).append(part.fake)
    assert [False, True] in by_scene.values()


def test_nobody_in_the_clip_is_in_the_demo_set():
    shown = {person for part in clip_spans() for person in (part.head, part.face)}
    assert not shown & {face.identity for face in load_landmarked(folder())}


def test_the_clip_is_small():
    assert clip_path().stat().st_size < 800_000
