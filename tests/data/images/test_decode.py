from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest

from lpx.data.images import decode
from lpx.data.images.decode import UnreadableImageError, fit, read_image

HEIGHT, WIDTH = 48, 64


@pytest.fixture(scope="module")
def picture():
    """uint8 RGB [48, 64, 3], smooth, different in every corner and channel."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (6, 8, 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    return smooth.clip(0, 255).astype(np.uint8)


def encoded(image, suffix=".png", *options):
    """Bytes of an image file; the last axis is in OpenCV's order, blue first."""
    done, data = cv2.imencode(suffix, image, list(options))
    assert done
    return data.tobytes()


def read(tmp_path, data):
    path = tmp_path / "face.png"
    path.write_bytes(data)
    image = read_image(path)
    assert image.dtype == np.uint8
    return image


def bgr(image):
    return np.ascontiguousarray(image[..., ::-1])


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tiff", ".webp"])
def test_lossless_files_come_back_as_rgb(tmp_path, picture, suffix):
    # WebP is lossless at a quality over 100.
    options = (cv2.IMWRITE_WEBP_QUALITY, 101) if suffix == ".webp" else ()
    image = read(tmp_path, encoded(bgr(picture), suffix, *options))
    assert np.array_equal(image, picture)


def test_jpeg_comes_back_nearly(tmp_path, picture):
    image = read(tmp_path, encoded(bgr(picture), ".jpg", cv2.IMWRITE_JPEG_QUALITY, 98))
    assert image.shape == picture.shape
    assert np.abs(image.astype(int) - picture).mean() < 3
    assert np.abs(image.astype(int) - bgr(picture)).mean() > 20


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff"])
def test_grey_becomes_three_equal_channels(tmp_path, picture, suffix):
    grey = picture[..., 0]
    image = read(tmp_path, encoded(grey, suffix))
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert np.array_equal(image[..., 0], image[..., 1])
    assert np.array_equal(image[..., 0], image[..., 2])
    assert np.abs(image[..., 0].astype(int) - grey).mean() < 3


def test_alpha_is_dropped_not_blended(tmp_path, picture):
    alpha = np.zeros((HEIGHT, WIDTH, 1), np.uint8)
    alpha[:, 20:40] = 128
    image = read(tmp_path, encoded(np.concatenate([bgr(picture), alpha], axis=2)))
    assert np.array_equal(image, picture)


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_16_bits_are_scaled_to_8(tmp_path, picture, suffix):
    deep = bgr(picture).astype(np.uint16) * 257
    image = read(tmp_path, encoded(deep, suffix))
    assert np.abs(image.astype(int) - picture).max() <= 1


def test_16_bit_grey(tmp_path, picture):
    image = read(tmp_path, encoded(picture[..., 0].astype(np.uint16) * 257))
    assert image.shape == (HEIGHT, WIDTH, 3)
    assert np.abs(image - picture[..., :1].astype(int)).max() <= 1


def with_orientation(jpeg, orientation, byte_order):
    """The JPEG with an EXIF segment after its first marker: one entry, the orientation."""
    order = "<" if byte_order == b"II" else ">"
    tiff = byte_order + struct.pack(f"{order}HI", 42, 8)
    entry = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    body = b"Exif\0\0" + tiff + struct.pack(f"{order}H", 1) + entry + bytes(4)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


# What a viewer does to the stored pixels, for each of EXIF's eight orientations.
UPRIGHT = {
    1: lambda image: image,
    2: lambda image: image[:, ::-1],
    3: lambda image: image[::-1, ::-1],
    4: lambda image: image[::-1],
    5: lambda image: image.transpose(1, 0, 2),
    6: lambda image: np.rot90(image, -1),
    7: lambda image: image[::-1, ::-1].transpose(1, 0, 2),
    8: lambda image: np.rot90(image),
}


@pytest.mark.parametrize("byte_order", [b"II", b"MM"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation_is_applied(tmp_path, picture, orientation, byte_order):
    jpeg = encoded(bgr(picture), ".jpg", cv2.IMWRITE_JPEG_QUALITY, 98)
    stored = read(tmp_path, jpeg)
    image = read(tmp_path, with_orientation(jpeg, orientation, byte_order))
    assert np.array_equal(image, UPRIGHT[orientation](stored))


def test_missing_file(tmp_path):
    with pytest.raises(UnreadableImageError, match="No such file"):
        read_image(tmp_path / "absent.png")


def test_folder(tmp_path):
    with pytest.raises(UnreadableImageError, match="directory"):
        read_image(tmp_path)


def test_empty_file(tmp_path):
    with pytest.raises(UnreadableImageError, match="file is empty"):
        read(tmp_path, b"")


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tiff", ".webp"])
@pytest.mark.parametrize("kept", [0.02, 0.3, 0.6, 0.9, 0.99])
def test_truncated_file(tmp_path, picture, suffix, kept, capfd):
    data = encoded(bgr(picture), suffix)
    with pytest.raises(UnreadableImageError, match=r"not an image|it is truncated"):
        read(tmp_path, data[: int(len(data) * kept)])
    # What is raised is not said on standard error too; libpng's own words cannot be helped.
    assert "imgcodecs" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "data",
    [
        b"just text\n",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        bytes(100),
        b"\x00",
        b"{}",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    ],
    ids=["text", "png-mark", "jpeg-mark", "zeros", "one-byte", "json", "svg"],
)
def test_file_that_is_no_image(tmp_path, data):
    with pytest.raises(UnreadableImageError, match="not an image"):
        read(tmp_path, data)


def test_reason_does_not_repeat_the_path(tmp_path):
    # Whoever lists unreadable files names them.
    with pytest.raises(UnreadableImageError) as caught:
        read(tmp_path, b"text")
    assert "face.png" not in str(caught.value)


def test_too_large_an_image_is_refused(tmp_path, picture):
    path = tmp_path / "face.png"
    path.write_bytes(encoded(bgr(picture)))
    with pytest.raises(UnreadableImageError, match="megapixels"):
        read_image(path, max_pixels=HEIGHT * WIDTH - 1)
    assert read_image(path, max_pixels=HEIGHT * WIDTH).shape == picture.shape


def test_log_level_is_restored_after_an_error(tmp_path):
    before = decode._set_log_level(3)
    try:
        with pytest.raises(UnreadableImageError):
            read(tmp_path, b"text")
        assert decode._set_log_level(3) == 3
    finally:
        decode._set_log_level(before)


@pytest.mark.parametrize("size", [16, 48, 200])
def test_fit_makes_squares(picture, size):
    fitted = fit(picture, size)
    assert fitted.shape == (size, size, 3)
    assert fitted.dtype == np.uint8
    assert np.abs(fitted.mean(axis=(0, 1)) - picture.mean(axis=(0, 1))).max() < 3


def test_fit_leaves_what_fits(picture):
    square = picture[:, :HEIGHT]
    assert fit(square, HEIGHT) is square


def test_fit_averages_when_shrinking():
    # A fine checkerboard becomes grey; taking every other pixel would leave it black or white.
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    fitted = fit(np.repeat(board[..., None], 3, axis=2).astype(np.uint8), 16)
    assert np.abs(fitted.astype(int) - 127.5).max() <= 0.5


@pytest.mark.parametrize(
    "flags",
    [
        [],
        [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
        [cv2.IMWRITE_JPEG_RST_INTERVAL, 2],
    ],
)
def test_a_truncated_jpeg_is_refused(tmp_path, flags):
    rng = np.random.default_rng(3)
    picture = rng.integers(0, 256, (64, 64, 3), np.uint8)
    data = bytes(cv2.imencode(".jpg", picture, flags)[1])
    # A thumbnail in EXIF data has an end of its own.
    thumbnail = b"\xff\xe1" + (len(data) + 2).to_bytes(2, "big") + data
    path = tmp_path / "a.jpg"
    for whole in (data, data[:2] + thumbnail + data[2:], data + b"more"):
        path.write_bytes(whole)
        read_image(path)
    for whole in (data, data[:2] + thumbnail + data[2:]):
        for share in (0.3, 0.6, 0.9):
            path.write_bytes(whole[: int(len(whole) * share)])
            with pytest.raises(UnreadableImageError):
                read_image(path)
        path.write_bytes(whole[:-2])
        with pytest.raises(UnreadableImageError, match="it is truncated"):
            read_image(path)
