"""The round trip of pixels through NV12, the format of frames from video decoders.

NV12 holds a luma value for each pixel and two chroma values for each square of 2 x 2 pixels, 8 bits
each, in the limited range of video (luma 16 to 235, chroma 16 to 240).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lpx.data.images.decode import Image

# Standards of the conversion: for SD and for HD video.
Standard = Literal["bt601", "bt709"]

# Shares of red and blue in luma: Recommendations ITU-R BT.601-7, 2.5.1, and BT.709-6, 3.2.
_LUMA_SHARES: dict[Standard, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
}
# Rows converted at a time, even: the float32 copies of a large crop would take gigabytes.
_ROWS = 256


def through_nv12(image: Image, *, written: Standard = "bt601", read: Standard = "bt601") -> Image:
    """Convert to NV12 and back.

    A chroma value is the mean of its square, and on the way back all pixels of the square have it.
    A last row or column without a partner is a square of its own.

    Args:
        image: uint8 RGB [H, W, 3].
        written: Standard of the conversion to NV12.
        read: Standard of the conversion back; another one gives other colours.

    Returns:
        uint8 RGB [H, W, 3].
    """
    made = np.empty_like(image)
    for top in range(0, len(image), _ROWS):
        rows = image[top : top + _ROWS]
        luma, chroma = _to_nv12(rows, written)
        made[top : top + _ROWS] = _to_rgb(luma, chroma, read)
    return made


def _to_nv12(image: Image, standard: Standard) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return luma [H, W] and chroma [ceil(H / 2), ceil(W / 2), 2] (Cb, Cr): whole numbers."""
    red_share, blue_share = _LUMA_SHARES[standard]
    height, width = image.shape[:2]
    # Repeating the last row or column does not change the mean of its square.
    padded = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    red, green, blue = np.moveaxis(padded.astype(np.float32) / 255, 2, 0)
    luma = red_share * red + (1 - red_share - blue_share) * green + blue_share * blue
    blue_difference = (blue - luma) / (2 * (1 - blue_share))
    red_difference = (red - luma) / (2 * (1 - red_share))
    chroma = np.stack([_means(blue_difference), _means(red_difference)], axis=2)
    return _rounded(16 + 219 * luma[:height, :width]), _rounded(128 + 224 * chroma)


def _to_rgb(luma: NDArray[np.float32], chroma: NDArray[np.float32], standard: Standard) -> Image:
    """Return RGB, uint8 [H, W, 3]."""
    red_share, blue_share = _LUMA_SHARES[standard]
    height, width = luma.shape
    whole = chroma.repeat(2, axis=0).repeat(2, axis=1)[:height, :width]
    brightness = (luma - 16) / 219
    blue_difference, red_difference = np.moveaxis((whole - 128) / 224, 2, 0)
    red = brightness + 2 * (1 - red_share) * red_difference
    blue = brightness + 2 * (1 - blue_share) * blue_difference
    green = (brightness - red_share * red - blue_share * blue) / (1 - red_share - blue_share)
    return _rounded(255 * np.stack([red, green, blue], axis=2)).astype(np.uint8)


def _means(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the mean of each square of 2 x 2 values."""
    height, width = values.shape
    squares = values.reshape(height // 2, 2, width // 2, 2)
    return np.asarray(squares.mean(axis=(1, 3)), np.float32)


def _rounded(values: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.clip(np.floor(values + 0.5), 0, 255), np.float32)
