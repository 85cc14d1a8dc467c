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

from lpx.data.face_sets.demo import folder
from lpx.data.images.decode import read_image
from lpx.data.images.video_file import UnreadableVideoError, frame_indices, read_frames

COUNT, HEIGHT, WIDTH, STEP = 30, 96, 128, 4
ROOT = Path(__file__).parents[3]
FIXTURES = Path(__file__).parents[2] / "fixtures" / "videos"
"""Files that OpenCV cannot write, of FFmpeg's test pictures. trimmed.mp4: H.264 of 60 frames, of
which the edit list shows the last six (`-ss 1.8 -c copy`). dvd.mpg: MPEG-2 of 72 x 48 pixels shown
as 16:9."""

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
    with pytest.raises(ValueError, match="must be >= 1"):
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
    with pytest.raises(UnreadableVideoError, match="truncated"):
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


def test_too_large_frames_are_refused(videos):
    with pytest.raises(UnreadableVideoError, match=f"{WIDTH} x {HEIGHT}.*limit"):
        read_frames(videos["mp4"], 4, max_pixels=HEIGHT * WIDTH - 1)
    assert len(list(read_frames(videos["mp4"], 4, max_pixels=HEIGHT * WIDTH))) == 4


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


def turned(data):
    """An MP4 that is to be turned clockwise by 90 degrees for display."""
    data = bytearray(data)
    header = boxes(data, ["moov", "trak", "tkhd"])[-1]
    # The matrix is the last but eight bytes of the box.
    size = struct.unpack_from(">I", data, header)[0]
    one = 1 << 16
    matrix = (0, one, 0, -one, 0, 0, HEIGHT * one, 0, 1 << 30)
    struct.pack_into(">9i", data, header + size - 44, *matrix)
    return bytes(data)


def test_a_video_filmed_upright_comes_out_upright(tmp_path, videos, pictures):
    path = tmp_path / "phone.mp4"
    path.write_bytes(turned(videos["mp4"].read_bytes()))
    frames = list(read_frames(path, 3))
    assert frames[0].pixels.shape == (WIDTH, HEIGHT, 3)
    for frame in frames:
        assert_is(frame, [np.rot90(picture, -1) for picture in pictures])


def with_table(data, path, new):
    """An MP4 with another box at `path`; its own box is replaced, or `new` put before `path`'s."""
    data = bytearray(data)
    *chain, last = boxes(data, path)
    end = last
    if data[last + 4 : last + 8] == new[4:8]:
        end += struct.unpack_from(">I", data, last)[0]
    data[last:end] = new
    for start in chain:
        size = struct.unpack_from(">I", data, start)[0]
        struct.pack_into(">I", data, start, size + len(new) - (end - last))
    return bytes(data)


def box(name, *values, form=">{}I"):
    body = struct.pack(form.format(len(values)), *values)
    return struct.pack(">I4s", 8 + len(body), name.encode()) + body


def ticks(data):
    """Ticks per second of an MP4's movie, and of its track."""
    movie, track = (
        struct.unpack_from(">I", data, boxes(data, path)[-1] + 20)[0]
        for path in (["moov", "mvhd"], ["moov", "trak", "mdia", "mdhd"])
    )
    return movie, track


def test_a_variable_frame_rate_changes_no_frame_and_every_time(tmp_path, videos, pictures):
    data = videos["mp4"].read_bytes()
    path = ["moov", "trak", "mdia", "minf", "stbl", "stts"]
    count, duration = struct.unpack_from(">2I", data, boxes(data, path)[-1] + 16)
    assert count == COUNT
    # Ten frames as before, ten quick, ten slow; together no longer than the file says.
    quick, slow = duration // 5, duration * 9 // 5
    new = box("stts", 0, 3, 10, duration, 10, quick, 10, slow)
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(with_table(data, path, new))
    reader = read_frames(clip, 6)
    frames = list(reader)
    assert [frame.index for frame in frames] == [0, 6, 12, 17, 23, 29]
    for frame in frames:
        assert_is(frame, pictures)
    # Frame 12 is the third quick one.
    shown = [0, 6, 10 + 2 / 5, 10 + 7 / 5, 12 + 3 * 9 / 5, 12 + 9 * 9 / 5]
    assert [frame.seconds for frame in frames] == pytest.approx([n / 25 for n in shown], abs=0.002)


def test_times_of_a_constant_rate(videos):
    for kind in KINDS:
        times = [frame.seconds for frame in read_frames(videos[kind], None)]
        assert times == pytest.approx(np.arange(COUNT) / 25, abs=0.002), kind


@pytest.mark.parametrize(
    ("edits", "shown"),
    [
        ([(1.2, 0)], range(30)),
        ([(0.48, 0.72)], range(18, 30)),
        ([(0.4, 0)], range(10)),
        ([(0.32, 0.2)], range(5, 13)),
        ([(0.4, 0), (0.4, 0.4)], range(20)),
        ([(0.5, None), (0.48, 0.72)], range(18, 30)),
    ],
)
def test_an_edit_list_says_what_is_shown(tmp_path, videos, pictures, edits, shown):
    data = videos["mp4"].read_bytes()
    movie, track = ticks(data)
    entries = []
    for duration, start in edits:
        media_time = 0xFFFFFFFF if start is None else round(start * track)
        entries += [round(duration * movie), media_time, 1 << 16]
    table = box("elst", 0, len(edits), *entries)
    edits_box = struct.pack(">I4s", 8 + len(table), b"edts") + table
    plain = videos["mp4"].read_bytes().replace(b"edts", b"free")
    path = tmp_path / "clip.mp4"
    path.write_bytes(with_table(plain, ["moov", "trak", "mdia"], edits_box))
    reader = read_frames(path, 5)
    frames = list(reader)
    assert (reader.count, reader.note) == (len(shown), "")
    assert len(frames) == 5
    assert [frame.index for frame in frames] == frame_indices(len(shown), 5).tolist()
    for frame in frames:
        errors = [np.abs(frame.pixels.astype(int) - p).mean() for p in pictures]
        assert int(np.argmin(errors)) == shown[frame.index]
    assert [frame.seconds for frame in frames] == pytest.approx(
        [frame.index / 25 for frame in frames], abs=0.002
    )
    # What FFmpeg itself shows.
    assert len(list(read_frames(path, None))) == len(shown)


@pytest.mark.parametrize("wanted", [1, 4, 8, 32, None])
def test_h264_trimmed_without_encoding_gives_every_frame_that_plays(tmp_path, wanted):
    path = FIXTURES / "trimmed.mp4"
    reader = read_frames(path, wanted)
    frames = list(reader)
    assert (reader.count, reader.note) == (6, "")
    assert [frame.index for frame in frames] == frame_indices(6, wanted).tolist()
    (tmp_path / "whole.mp4").write_bytes(path.read_bytes().replace(b"edts", b"free"))
    whole = [frame.pixels for frame in read_frames(tmp_path / "whole.mp4", None)]
    assert len(whole) == 60
    for frame in frames:
        assert np.array_equal(frame.pixels, whole[54 + frame.index])


def test_a_damaged_edit_list_is_no_reason_to_give_up(tmp_path):
    data = bytearray((FIXTURES / "trimmed.mp4").read_bytes())
    start = data.index(b"elst")
    struct.pack_into(">I", data, start + 8, 0xFFFFFF)
    path = tmp_path / "clip.mp4"
    path.write_bytes(data)
    frames = list(read_frames(path, 8))
    assert [frame.index for frame in frames] == list(range(6))
    assert frames[0].seconds == 0


def with_pixels(data, wide, high):
    """An MP4 whose header says how wide and high a pixel is."""
    entry = boxes(data, ["moov", "trak", "mdia", "minf", "stbl", "stsd"])
    # The description of a video stream holds 78 bytes before its own boxes.
    place = entry[-1] + 16
    own = place + 8 + 78
    data = bytearray(data.replace(b"pasp", b"free"))
    new = box("pasp", wide, high)
    data[own:own] = new
    for start in [*entry, place]:
        struct.pack_into(">I", data, start, struct.unpack_from(">I", data, start)[0] + len(new))
    return bytes(data)


@pytest.mark.parametrize(
    ("wide", "high", "shape"),
    [
        (1, 2, (HEIGHT, WIDTH // 2)),
        (2, 1, (HEIGHT, WIDTH * 2)),
        (64, 45, (HEIGHT, round(WIDTH * 64 / 45))),
        (1, 1, (HEIGHT, WIDTH)),
        (200, 199, (HEIGHT, WIDTH)),
        (1000, 1, (HEIGHT, WIDTH)),
        (0, 1, (HEIGHT, WIDTH)),
    ],
)
def test_frames_have_square_pixels(tmp_path, videos, pictures, wide, high, shape):
    path = tmp_path / "clip.mp4"
    path.write_bytes(with_pixels(videos["mp4"].read_bytes(), wide, high))
    frames = list(read_frames(path, 3))
    for frame in frames:
        assert frame.pixels.shape == (*shape, 3)
        assert_is(
            frame, [cv2.resize(p, shape[::-1], interpolation=cv2.INTER_AREA) for p in pictures]
        )


def test_pixels_of_a_video_filmed_upright_are_turned_too(tmp_path, videos, pictures):
    path = tmp_path / "clip.mp4"
    path.write_bytes(with_pixels(turned(videos["mp4"].read_bytes()), 2, 1))
    frames = list(read_frames(path, 3))
    for frame in frames:
        assert frame.pixels.shape == (2 * WIDTH, HEIGHT, 3)
        wide = [
            cv2.resize(p, (2 * WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR) for p in pictures
        ]
        assert_is(frame, [np.rot90(picture, -1) for picture in wide])


def test_pixels_of_a_dvd_are_known_with_the_first_frame():
    frames = list(read_frames(FIXTURES / "dvd.mpg", None))
    assert [frame.pixels.shape for frame in frames] == [(48, 85, 3)] * 3
    assert [frame.seconds for frame in frames] == pytest.approx([0, 1 / 30, 2 / 30], abs=0.002)


@pytest.mark.parametrize("rate", [0.0, float("nan"), float("inf"), 1e6, -25.0])
def test_a_rate_that_cannot_be_is_unknown(videos, monkeypatch, rate):
    class Capture:
        def __init__(self, *opened):
            self.real = real(*opened)

        def get(self, name):
            return rate if name == cv2.CAP_PROP_FPS else self.real.get(name)

        def __getattr__(self, name):
            return getattr(self.real, name)

    real = cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", Capture)
    reader = read_frames(videos["mp4"], 3)
    assert reader.frames_per_second == 0
    assert [frame.seconds for frame in reader] == pytest.approx([0, 14 / 25, 29 / 25], abs=0.03)


def test_a_file_that_must_not_be_read_says_so(videos):
    class Forbidden(type(Path())):
        def open(self, *_, **__):
            raise PermissionError(13, "Permission denied")

    with pytest.raises(UnreadableVideoError, match="Permission denied"):
        read_frames(Forbidden(videos["mp4"]), 3)


def with_sound(data, number, chunks):
    """An AVI with so many chunks of sound, a sample each, before its frame of this number."""

    def chunk(name, body):
        return struct.pack("<4sI", name, len(body)) + body + bytes(len(body) % 2)

    sound = struct.pack(
        "<4s4sIHHIIIIIIIIhhhh",
        b"auds",
        bytes(4),
        0,
        0,
        0,
        0,
        1,
        8000,
        0,
        chunks,
        1,
        0,
        1,
        0,
        0,
        0,
        0,
    )
    wave = struct.pack("<HHIIHH", 1, 1, 8000, 8000, 1, 8)
    stream = chunk(b"LIST", b"strl" + chunk(b"strh", sound) + chunk(b"strf", wave))
    header = data.index(b"hdrl") - 8
    (size,) = struct.unpack_from("<I", data, header + 4)
    head = bytearray(data[header : header + 8 + size] + stream)
    struct.pack_into("<I", head, 4, size + len(stream))
    struct.pack_into("<I", head, head.index(b"avih") + 8 + 24, 2)
    start = data.index(b"movi") + 4
    frames = []
    for _ in range(COUNT):
        (size,) = struct.unpack_from("<I", data, start + 4)
        end = start + 8 + size + size % 2
        frames.append(data[start:end])
        start = end
    silence = chunk(b"01wb", b"\x80") * chunks
    movie = b"movi" + b"".join([*frames[:number], silence, *frames[number:]])
    return chunk(b"RIFF", b"AVI " + bytes(head) + chunk(b"LIST", movie))


def test_much_sound_between_two_frames(tmp_path, videos, pictures):
    path = tmp_path / "clip.avi"
    path.write_bytes(with_sound(videos["avi"].read_bytes(), 20, 6000))
    reader = read_frames(path, 6)
    frames = list(reader)
    assert [frame.index for frame in frames] == [0, 6, 12, 17, 23, 29]
    assert_is(frames[-1], pictures)
    assert reader.note == ""


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


@pytest.mark.parametrize("kind", ["webm", "mkv"])
@pytest.mark.parametrize(("longer_ms", "noted"), [(60, False), (200, False), (4000, True)])
def test_sound_that_ends_a_little_later_is_not_damage(tmp_path, videos, kind, longer_ms, noted):
    # Matroska states a length, that of the longest stream, and no number of frames.
    data = bytearray(videos[kind].read_bytes())
    place = data.index(b"\x44\x89\x88") + 3
    (length_ms,) = struct.unpack_from(">d", data, place)
    struct.pack_into(">d", data, place, length_ms + longer_ms)
    path = tmp_path / videos[kind].name
    path.write_bytes(data)
    reader = read_frames(path, 6)
    assert [frame.index for frame in reader] == [0, 6, 12, 17, 23, 29]
    assert bool(reader.note) == noted


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
    assert reader.note == "1 of 5 frames does not decode"


def test_folders_without_images(tmp_path):
    with pytest.raises(UnreadableVideoError, match="holds no images"):
        read_frames(tmp_path, 3)
    (tmp_path / "0.png").write_bytes(b"text")
    with pytest.raises(UnreadableVideoError, match="its only frame"):
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
        "from lpx.data.images.video_file import UnreadableVideoError, read_frames\n"
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
