from __future__ import annotations

import os
import struct
import threading
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lpx.data.images import decode
from lpx.data.images.decode import UnreadableImageError, read_image
from lpx.data.images.header import image_size, is_animated

SIDES = [(1, 1), (7, 300), (300, 7), (640, 481)]
FORMATS = {
    "png": (".png", []),
    "jpeg": (".jpg", []),
    "jpeg-progressive": (".jpg", [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]),
    "webp-lossy": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 60]),
    "webp-lossless": (".webp", [cv2.IMWRITE_WEBP_QUALITY, 101]),
    "bmp": (".bmp", []),
    "tiff": (".tiff", []),
}


@pytest.mark.parametrize("size", SIDES, ids=str)
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_size_is_what_decoding_gives(kind, size, channels):
    suffix, options = FORMATS[kind]
    if suffix == ".jpg" and channels == 4:
        channels = 3
    image = np.random.default_rng(0).integers(0, 256, (size[1], size[0], channels), np.uint8)
    data = cv2.imencode(suffix, image, options)[1].tobytes()
    assert image_size(data) == size


@pytest.mark.parametrize("size", [(64, 48), (40, 300), (640, 481)], ids=str)
@pytest.mark.parametrize("suffix", [".gif", ".jp2", ".j2k", ".avif", ".ppm", ".pgm", ".pbm"])
def test_sizes_of_formats_that_opencv_may_be_built_without(tmp_path, suffix, size):
    assert suffix in decode.SUFFIXES
    image = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    image = image[..., 0] if suffix in (".pgm", ".pbm") else image
    data = cv2.imencode(suffix.replace("j2k", "jp2"), image)[1].tobytes()
    # A bare code stream is what a .jp2 holds in its last box.
    data = data[data.index(b"\xff\x4f\xff\x51") :] if suffix == ".j2k" else data
    assert image_size(data) == size
    path = tmp_path / f"x{suffix}"
    path.write_bytes(data)
    assert read_image(path).shape == (size[1], size[0], 3)
    path.write_bytes(data[:20])
    with pytest.raises(UnreadableImageError):
        read_image(path)


def test_netpbm_with_comments_between_its_numbers():
    assert image_size(b"P5\n# made by hand # or not\n 7 # wide\n300\n255\n" + bytes(9)) == (7, 300)


def gif(count, suffix=".gif"):
    """A GIF, or another, of 16 x 16 pixels with this many pictures."""
    animation = cv2.Animation()
    animation.frames = [np.full((16, 16, 3), 40 * i, np.uint8) for i in range(count)]
    animation.durations = [100] * count
    return cv2.imencodeanimation(suffix, animation)[1].tobytes()


def test_gif_that_moves():
    still = cv2.imencode(".gif", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    assert [is_animated(data) for data in (still, gif(2), gif(5))] == [False, True, True]
    assert not any(is_animated(gif(1)[:end]) for end in range(len(gif(1))))
    png = cv2.imencode(".png", np.zeros((16, 16, 3), np.uint8))[1].tobytes()
    assert [is_animated(data) for data in (png, gif(3, ".apng"))] == [False, True]
    assert not is_animated(b"\x89PNG\r\n\x1a\n" + bytes(40))


@pytest.mark.parametrize("box", [b"\0\0\0\x09irot\1", b"\0\0\0\x09irot\2", b"\0\0\0\x09imir\0"])
def test_avif_that_is_to_be_turned_is_refused(tmp_path, box):
    """OpenCV does not turn it: a face would be scored lying on its side."""
    data = cv2.imencode(".avif", np.zeros((64, 96, 3), np.uint8))[1].tobytes()
    path = tmp_path / "x.avif"
    path.write_bytes(with_property(data, b"\0\0\0\x09irot\0"))
    assert read_image(path).shape == (64, 96, 3)
    path.write_bytes(with_property(data, box))
    with pytest.raises(UnreadableImageError, match="to be turned or mirrored"):
        read_image(path)


def with_property(avif, box):
    """An AVIF file with a property more, which none of its items uses: only where it is counts."""
    grown = bytearray(avif)
    place = avif.index(b"ipco") - 4
    end = place + int.from_bytes(avif[place : place + 4], "big")
    for name in (b"meta", b"iprp", b"ipco"):
        at = avif.index(name) - 4
        grown[at : at + 4] = (int.from_bytes(avif[at : at + 4], "big") + len(box)).to_bytes(
            4, "big"
        )
    grown[end:end] = box
    # Where the pixels are is counted from the beginning of the file.
    at = grown.index(b"mdat") + 4
    grown = grown.replace((at - len(box)).to_bytes(4, "big"), at.to_bytes(4, "big"), 1)
    return bytes(grown)


def test_webp_with_alpha_and_a_canvas():
    """An extended header, as files with alpha, EXIF or a colour profile have it."""
    plain = cv2.imencode(".webp", np.zeros((33, 70, 3), np.uint8), [cv2.IMWRITE_WEBP_QUALITY, 60])
    body = plain[1].tobytes()[12:]
    head = b"VP8X" + struct.pack("<IB3x", 10, 0) + (69).to_bytes(3, "little")
    data = head + (32).to_bytes(3, "little") + body
    assert image_size(b"RIFF" + struct.pack("<I", len(data) + 4) + b"WEBP" + data) == (70, 33)


def tiff(order, big, width, height, kind):
    mark = {"<": b"II", ">": b"MM"}[order]
    entries = [(256, width), (257, height)]
    if not big:
        head = mark + struct.pack(order + "HI", 42, 8) + struct.pack(order + "H", len(entries))
        shapes = {3: "HHIHxx", 4: "HHII"}
    else:
        head = mark + struct.pack(order + "HHHQQ", 43, 8, 0, 16, len(entries))
        shapes = {3: "HHQH6x", 4: "HHQI4x", 16: "HHQQ"}
    return head + b"".join(struct.pack(order + shapes[kind], tag, kind, 1, v) for tag, v in entries)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("big", "kind"), [(False, 3), (False, 4), (True, 3), (True, 4), (True, 16)]
)
def test_tiff_in_both_byte_orders(order, big, kind):
    assert image_size(tiff(order, big, 40_000, 50_001, kind)) == (40_000, 50_001)


def test_old_bmp():
    assert image_size(b"BM" + bytes(12) + struct.pack("<IHHHH", 12, 640, 480, 1, 24)) == (640, 480)
    upside = struct.pack("<Iii", 40, 640, -480)
    assert image_size(b"BM" + bytes(12) + upside) == (640, 480)


def png_bomb(width, height):
    """A PNG of a few kilobytes that says it holds that many pixels, all black."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(1000 * (1 + width // 8)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def jpeg_bomb(width, height):
    data = bytearray(cv2.imencode(".jpg", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    place = data.index(b"\xff\xc0")
    data[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize(
    "data",
    [
        png_bomb(30_000, 30_000),
        jpeg_bomb(30_000, 30_000),
        tiff("<", False, 30_000, 30_000, 4),
        b"BM" + bytes(12) + struct.pack("<Iii", 40, 30_000, -30_000) + bytes(40),
    ],
    ids=["png", "jpeg", "tiff", "bmp"],
)
def test_bomb_is_refused_before_it_is_decoded(tmp_path, data):
    def decoded(*_):
        raise AssertionError("it was decoded")

    path = tmp_path / "bomb.png"
    path.write_bytes(data)
    with pytest.raises(UnreadableImageError) as caught:
        read_image(path, decode=decoded)
    assert str(caught.value) == "30000 x 30000 pixels are over the limit of 64 megapixels"


def test_file_that_is_too_large_is_not_read(tmp_path):
    path = tmp_path / "large.png"
    with path.open("wb") as stream:
        stream.truncate((1 << 20) + 1)
    with pytest.raises(UnreadableImageError, match="over the limit of 1 MiB"):
        read_image(path, max_bytes=1 << 20)


def test_pipe_and_device_do_not_hang(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "zero.png"):
        with pytest.raises(UnreadableImageError, match="not a regular file"):
            read_image(tmp_path / name)


def test_format_that_lpx_does_not_read(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 4 +X 4\n" + bytes(64))
    with pytest.raises(UnreadableImageError, match="not an image"):
        read_image(path)


STARTS = [
    b"",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8",
    b"RIFF....WEBPVP8X",
    b"RIFF....WEBPVP8L",
    b"RIFF....WEBPVP8 ",
    b"BM",
    b"II*\0",
    b"MM\0+",
]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(STARTS), st.binary(max_size=80))
def test_any_bytes_have_a_size_or_none(start, rest):
    size = image_size(start + rest)
    assert size is None or (len(size) == 2 and min(size) >= 0)


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([".png", ".jpg", ".webp", ".bmp", ".tiff"]), st.data())
def test_any_damage_is_an_image_or_is_said(tmp_path_factory, suffix, data):
    image = np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)
    whole = bytearray(cv2.imencode(suffix, image)[1].tobytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, min(len(whole), 120) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / f"damaged{suffix}"
    path.write_bytes(whole)
    try:
        found = read_image(path)
    except UnreadableImageError:
        return
    size = image_size(bytes(whole))
    assert sorted(found.shape[:2]) == sorted(size)


def test_log_level_survives_many_threads(tmp_path):
    path = tmp_path / "text.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    before = decode._set_log_level(3)
    try:

        def work():
            for _ in range(200):
                with pytest.raises(UnreadableImageError):
                    read_image(path)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert decode._set_log_level(3) == 3
    finally:
        decode._set_log_level(before)
