from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lpx.data import video_file
from lpx.data.decode import read_image
from lpx.data.demo_set import folder
from lpx.data.video_file import UnreadableVideoError, frame_indices, read_frames

COUNT, HEIGHT, WIDTH, STEP = 30, 96, 128, 4
ROOT = Path(__file__).parents[2]

# Container and codec, of those that OpenCV's wheels can write; all can be read.
KINDS = {
    "mp4": "mp4v",
    "avi": "MJPG",
    "xvid.avi": "XVID",
    "webm": "VP80",
    "vp9.webm": "VP90",
    "mkv": "FFV1",
    "mpg": "mpg1",
}


@pytest.fixture(scope="module")
def pictures():
    """Thirty frames, uint8 RGB: a portrait that moves `STEP` pixels to the right per frame."""
    face = cv2.resize(read_image(folder() / "p000_00.jpg"), (WIDTH, HEIGHT))
    return [np.roll(face, STEP * number, axis=1) for number in range(COUNT)]


@pytest.fixture(scope="module")
def videos(tmp_path_factory, pictures):
    """The frames as a video of each kind."""
    made = {}
    for suffix, codec in KINDS.items():
        made[suffix] = tmp_path_factory.mktemp("videos") / f"clip.{suffix}"
        write(made[suffix], codec, pictures)
    return made


def write(path, codec, pictures):
    size = pictures[0].shape[1::-1]
    fourcc = cv2.VideoWriter_fourcc(*codec)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, 25, size)
    assert writer.isOpened()
    for picture in pictures:
        writer.write(np.ascontiguousarray(picture[..., ::-1]))
    writer.release()


def assert_is(frame, pictures):
    """The frame is the one whose number it has, and no neighbour."""
    errors = [np.abs(frame.pixels.astype(int) - p).mean() for p in pictures]
    assert int(np.argmin(errors)) == frame.index
    assert errors[frame.index] < 12


@given(st.integers(1, 5000), st.integers(1, 300))
def test_indices_are_evenly_spaced_to_the_last(count, wanted):
    found = frame_indices(count, wanted)
    assert len(found) == min(count, wanted)
    assert found[0] == 0
    if wanted > 1:
        assert found[-1] == count - 1
        steps = np.diff(found)
        assert not len(steps) or steps.max() - steps.min() <= 1
        assert (steps > 0).all()
    if wanted >= count:
        assert found.tolist() == list(range(count))


def test_indices_of_nothing():
    assert frame_indices(0, 5).tolist() == []
    with pytest.raises(ValueError, match="at least 1"):
        frame_indices(10, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_frames_of_a_video(videos, pictures, kind):
    reader = read_frames(videos[kind], 6)
    frames = list(reader)
    assert [frame.index for frame in frames] == [0, 6, 12, 17, 23, 29]
    for frame in frames:
        assert frame.pixels.shape == (HEIGHT, WIDTH, 3)
        assert frame.pixels.dtype == np.uint8
        assert_is(frame, pictures)
    assert reader.count == COUNT
    assert reader.frames_per_second == pytest.approx(25)
    assert reader.note == ""
    assert next(reader, None) is None
    assert reader.note == ""


def test_all_frames_where_more_are_wanted(videos):
    assert [f.index for f in read_frames(videos["mp4"], 99)] == list(range(COUNT))


def test_one_frame_is_the_first(videos):
    assert [f.index for f in read_frames(videos["mp4"], 1)] == [0]


@pytest.mark.parametrize("kind", ["avi", "webm", "mkv", "xvid.avi"])
def test_a_video_that_was_cut_off_gives_what_is_there(tmp_path, videos, pictures, kind):
    data = videos[kind].read_bytes()
    path = tmp_path / videos[kind].name
    path.write_bytes(data[: len(data) // 2])
    reader = read_frames(path, 5)
    frames = list(reader)
    assert len(frames) == 5
    assert 5 < reader.count < COUNT
    assert frames[0].index == 0
    assert frames[-1].index == reader.count - 1
    assert_is(frames[2], pictures)
    assert f"names {COUNT} frames, {reader.count} are there" in reader.note


def test_an_mp4_that_was_cut_off_has_no_index(tmp_path, videos):
    data = videos["mp4"].read_bytes()
    path = tmp_path / "clip.mp4"
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UnreadableVideoError, match="cut off"):
        read_frames(path, 5)


def blank(data, numbers):
    """Overwrite frames of an AVI, whose frames stand alone in Motion JPEG."""
    start = data.index(b"movi") + 4
    for number in range(COUNT):
        name, size = struct.unpack_from("<4sI", data, start)
        assert name == b"00dc"
        if number in numbers:
            data[start + 8 : start + 8 + size] = bytes(size)
        start += 8 + size + size % 2
    return data


def test_frames_that_do_not_decode_are_passed_over(tmp_path, videos, pictures):
    path = tmp_path / "clip.avi"
    path.write_bytes(blank(bytearray(videos["avi"].read_bytes()), {6, 13}))
    reader = read_frames(path, 6)
    frames = list(reader)
    assert [frame.index for frame in frames] == [0, 7, 12, 17, 23, 29]
    for frame in frames:
        assert_is(frame, pictures)
    assert reader.note == f"2 of {COUNT} frames do not decode"


def test_a_video_none_of_whose_frames_decodes(tmp_path, videos):
    path = tmp_path / "clip.avi"
    path.write_bytes(blank(bytearray(videos["avi"].read_bytes()), range(COUNT)))
    with pytest.raises(UnreadableVideoError, match="decode"):
        list(read_frames(path, 6))


def test_the_content_counts_not_the_suffix(tmp_path, videos, pictures):
    path = tmp_path / "clip.avi"
    path.write_bytes(videos["mp4"].read_bytes())
    assert_is(list(read_frames(path, 3))[1], pictures)


@pytest.mark.parametrize("name", ["ünïcode 视频.mp4", "0001.mp4", "a%03d.mp4", "http:x.mp4"])
def test_names_that_mean_something_to_others(tmp_path, monkeypatch, videos, name):
    (tmp_path / name).write_bytes(videos["mp4"].read_bytes())
    monkeypatch.chdir(tmp_path)
    assert len(list(read_frames(Path(name), 4))) == 4


@pytest.mark.parametrize(
    "data", [b"just text\n" * 50, bytes(4000), b"RIFF" + bytes(60), b"\0\0\0\x18ftypisom"]
)
def test_a_file_that_is_no_video(tmp_path, data):
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    with pytest.raises(UnreadableVideoError) as caught:
        list(read_frames(path, 4))
    assert "clip.mp4" not in str(caught.value)


def test_empty_missing_looping_and_special_files(tmp_path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    for name, reason in {
        "empty.mp4": "file is empty",
        "absent.mp4": "No such file",
        "loop.mp4": "symbolic links",
        "pipe.mp4": "neither a file nor a folder",
    }.items():
        with pytest.raises(UnreadableVideoError, match=reason):
            read_frames(tmp_path / name, 4)


def test_too_large_frames_are_refused(videos, monkeypatch):
    monkeypatch.setattr(video_file, "MAX_FRAME_PIXELS", HEIGHT * WIDTH - 1)
    with pytest.raises(UnreadableVideoError, match=f"{WIDTH} x {HEIGHT}.*limit"):
        read_frames(videos["mp4"], 4)
    monkeypatch.setattr(video_file, "MAX_FRAME_PIXELS", HEIGHT * WIDTH)
    assert len(list(read_frames(videos["mp4"], 4))) == 4


def boxes(data, path, start=0, end=None):
    """Offsets of the MP4 boxes down to the one at `path`, outermost first."""
    end = len(data) if end is None else end
    while start < end:
        size, name = struct.unpack_from(">I4s", data, start)
        if name.decode() == path[0]:
            rest = boxes(data, path[1:], start + 8, start + size) if path[1:] else []
            return [start, *rest]
        start += size
    raise AssertionError(path)


def test_a_video_filmed_upright_comes_out_upright(tmp_path, videos, pictures):
    data = bytearray(videos["mp4"].read_bytes())
    header = boxes(data, ["moov", "trak", "tkhd"])[-1]
    # Turn clockwise by 90 degrees for display; the matrix is the last but eight bytes of the box.
    size = struct.unpack_from(">I", data, header)[0]
    one = 1 << 16
    matrix = (0, one, 0, -one, 0, 0, HEIGHT * one, 0, 1 << 30)
    struct.pack_into(">9i", data, header + size - 44, *matrix)
    path = tmp_path / "phone.mp4"
    path.write_bytes(data)
    frames = list(read_frames(path, 3))
    assert frames[0].pixels.shape == (WIDTH, HEIGHT, 3)
    for frame in frames:
        assert_is(frame, [np.rot90(picture, -1) for picture in pictures])


def test_a_variable_frame_rate_changes_nothing(tmp_path, videos, pictures):
    data = bytearray(videos["mp4"].read_bytes())
    chain = boxes(data, ["moov", "trak", "mdia", "minf", "stbl", "stts"])
    table = chain[-1]
    old_size = struct.unpack_from(">I", data, table)[0]
    count, duration = struct.unpack_from(">2I", data, table + 16)
    assert count == COUNT
    # Ten frames as before, ten quick, ten slow; together no longer than the file says.
    entries = [(10, duration), (10, duration // 5), (10, duration * 9 // 5)]
    new = struct.pack(">4s2I", b"stts", 0, 3) + b"".join(struct.pack(">2I", *e) for e in entries)
    data[table + 4 : table + old_size] = new
    for start in chain:
        size = struct.unpack_from(">I", data, start)[0]
        struct.pack_into(">I", data, start, size + len(new) + 4 - old_size)
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    reader = read_frames(path, 6)
    frames = list(reader)
    assert [frame.index for frame in frames] == [0, 6, 12, 17, 23, 29]
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    shown = [capture.get(cv2.CAP_PROP_POS_MSEC) for _ in range(COUNT) if capture.grab()]
    assert np.diff(shown).max() > 5 * np.diff(shown).min()
    for frame in frames:
        assert_is(frame, pictures)


@pytest.mark.parametrize("said", [0, 7, 500])
def test_a_header_with_a_wrong_count(tmp_path, videos, pictures, said):
    # An AVI says how many frames it has in its main header, and its stream's.
    data = bytearray(videos["avi"].read_bytes())
    struct.pack_into("<I", data, data.index(b"avih") + 8 + 16, said)
    struct.pack_into("<I", data, data.index(b"strh") + 8 + 32, said)
    path = tmp_path / "clip.avi"
    path.write_bytes(data)
    reader = read_frames(path, 6)
    frames = list(reader)
    assert [frame.index for frame in frames] == [0, 6, 12, 17, 23, 29]
    assert_is(frames[-1], pictures)


def dump(path, pictures, name):
    path.mkdir(exist_ok=True)
    for number, picture in enumerate(pictures):
        cv2.imwrite(str(path / name.format(number)), picture[..., ::-1])
    return path


@pytest.mark.parametrize("name", ["{:04d}.png", "{}.png", "frame_{}.png", "v2_f{:02d}.PNG"])
def test_frames_of_a_folder(tmp_path, pictures, name):
    frames_folder = dump(tmp_path / "video", pictures, name)
    (frames_folder / "notes.txt").write_text("not a frame")
    (frames_folder / ".hidden.png").write_bytes(b"")
    (frames_folder / "folder.png").mkdir()
    reader = read_frames(frames_folder, 6)
    frames = list(reader)
    assert [frame.index for frame in frames] == [0, 6, 12, 17, 23, 29]
    for frame in frames:
        assert np.array_equal(frame.pixels, pictures[frame.index])
    assert (reader.count, reader.note) == (COUNT, "")


def test_an_unreadable_image_of_a_folder_is_passed_over(tmp_path, pictures):
    frames_folder = dump(tmp_path / "video", pictures[:5], "{:03d}.png")
    (frames_folder / "002.png").write_bytes(b"text")
    reader = read_frames(frames_folder, 3)
    assert [frame.index for frame in reader] == [0, 3, 4]
    assert reader.note == "1 of 5 frames do not decode"


def test_folders_without_images(tmp_path):
    with pytest.raises(UnreadableVideoError, match="holds no images"):
        read_frames(tmp_path, 3)
    (tmp_path / "0.png").write_bytes(b"text")
    with pytest.raises(UnreadableVideoError, match="none of its 1 frames"):
        list(read_frames(tmp_path, 3))


def test_damage_is_not_written_to_standard_error(tmp_path, videos):
    broken = []
    for kind in KINDS:
        data = bytearray(videos[kind].read_bytes())
        for place in np.random.default_rng(0).integers(len(data) // 5, len(data) * 4 // 5, 20):
            data[place] ^= 0xFF
        broken.append(tmp_path / f"corrupt.{kind}")
        broken[-1].write_bytes(data)
        broken.append(tmp_path / f"half.{kind}")
        broken[-1].write_bytes(data[: len(data) // 2])
    broken.append(tmp_path / "text.mp4")
    broken[-1].write_bytes(b"text" * 99)
    code = (
        "import sys; from pathlib import Path\n"
        "from lpx.data.video_file import UnreadableVideoError, read_frames\n"
        "for name in sys.argv[1:]:\n"
        "    try: print(len(list(read_frames(Path(name), 4))))\n"
        "    except UnreadableVideoError as error: print(error)\n"
    )
    kept = {name: value for name, value in os.environ.items() if "OPENCV" not in name}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, broken)],
        env=kept | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(done.stdout.splitlines()) == len(broken)
    assert done.stderr == ""
