"""Encode pictures for files, and as data URIs for pages."""

from __future__ import annotations

import base64

import cv2

from lpx.render.face import Image

_QUALITY = 80
# OpenCV's value for lossless WebP.
_LOSSLESS = 101


def encode_png(image: Image) -> bytes:
    """Encode an image, uint8 RGB [H, W, 3], as PNG."""
    _, data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return bytes(data)


def encode_webp(image: Image, quality: int) -> bytes:
    """Encode an image, uint8 RGB [H, W, 3], as WebP; `quality` up to 100, or 101 for lossless."""
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    _, data = cv2.imencode(".webp", bgr, [cv2.IMWRITE_WEBP_QUALITY, quality])
    return bytes(data)


def lossy(image: Image) -> str:
    """Encode a photograph as a data URI."""
    return _data_uri(encode_webp(image, _QUALITY))


def lossless(image: Image) -> str:
    """Encode a picture of few colours as a data URI, without loss."""
    return _data_uri(encode_webp(image, _LOSSLESS))


def _data_uri(webp: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(webp).decode()}"
