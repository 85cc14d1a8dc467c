"""The pipelines whose pixels `lpx bench --pixels` scores.

Each is a function from a face crop to the input of a model, as far as a crop alone tells. The
sources are public; nothing was compared with NVIDIA's hardware or libraries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lpx.data.images.decode import Image, fit
from lpx.data.pipelines.nv12 import through_nv12
from lpx.data.pipelines.resize import antialiased, bilinear, even, nearest
from lpx.errors import InvalidArgumentError


@dataclass(frozen=True)
class Pipeline:
    """A way to make a model's input from a face crop.

    Attributes:
        name: Name on the command line and in reports.
        version: Raised when its pixels change, so that scores of earlier ones are not used.
        text: What it does, and who does it so.
        make: Takes uint8 RGB [H, W, 3] and a side S; returns uint8 RGB [S, S, 3].
    """

    name: str
    version: int
    text: str
    make: Callable[[Image, int], Image]


def _deepstream(image: Image, size: int) -> Image:
    return bilinear(through_nv12(even(image)), size)


def _deepstream_nearest(image: Image, size: int) -> Image:
    return nearest(through_nv12(even(image)), size)


def _nv12(image: Image, size: int) -> Image:
    return fit(through_nv12(image), size)


def _nv12_wrong_matrix(image: Image, size: int) -> Image:
    return fit(through_nv12(image, written="bt709", read="bt601"), size)


# DeepStream: NVIDIA/DeepStream at GitHub, commit 581889d (9.1). Of a box, nvinfer
# (src/gst-plugins/gst-nvinfer/gstnvinfer.cpp, get_converted_buffer) and nvinferserver
# (src/utils/nvdsinferserver/infer_preprocess.cpp) round left and top up to even numbers, width and
# height down. Their default filter is NvBufSurfTransformInter_Default, which
# includes/nvbufsurftransform.h describes as nearest, on the GPU and on a Jetson's VIC. The library
# that resizes is closed: where it samples, and whether before or after the conversion from NV12, is
# not known. includes/nvbufsurface.h: NVBUF_COLOR_FORMAT_NV12 is BT.601, limited range.
#
# Triton: triton-inference-server/client. image_client.cc calls cv::resize without a method, which
# is bilinear; image_client.py calls Pillow's resize with BILINEAR.
_ALL = (
    Pipeline(
        "deepstream",
        1,
        "DeepStream's nvinfer or nvinferserver with scaling-filter=1: size rounded down to even, "
        "NV12 (BT.601), bilinear without antialiasing",
        _deepstream,
    ),
    Pipeline(
        "deepstream-nearest",
        1,
        "DeepStream without scaling-filter: the same, but each pixel the nearest of the crop",
        _deepstream_nearest,
    ),
    Pipeline(
        "opencv-linear",
        1,
        "cv2.resize as it is called most often, INTER_LINEAR: bilinear without antialiasing; also "
        "Triton's C++ example client",
        bilinear,
    ),
    Pipeline(
        "pillow-bilinear",
        1,
        "Pillow and torchvision's Resize, bilinear with antialiasing; also Triton's Python example "
        "client",
        antialiased,
    ),
    Pipeline(
        "nv12",
        1,
        "the colours of a video decoder alone: NV12 (BT.601) and back, then resized as by lpx",
        _nv12,
    ),
    Pipeline(
        "nv12-wrong-matrix",
        1,
        "HD video read as SD: NV12 written by BT.709 and read by BT.601, then resized as by lpx",
        _nv12_wrong_matrix,
    ),
)
# Pipelines by name.
PIPELINES: dict[str, Pipeline] = {pipeline.name: pipeline for pipeline in _ALL}
# Triton does not resize: its clients do, most simply as its first example does.
ALIASES = {"triton": "opencv-linear"}


def find_pipelines(argument: str, names: Sequence[str]) -> tuple[Pipeline, ...]:
    """Return pipelines by name or alias, in order and without repeats.

    Args:
        argument: Name of the argument that they come from, for the error.
        names: Keys of `PIPELINES` or `ALIASES`.

    Raises:
        InvalidArgumentError: No pipeline has this name; the error lists those that exist.
    """
    found: dict[str, Pipeline] = {}
    for name in names:
        known = ALIASES.get(name, name)
        if known not in PIPELINES:
            listed = ", ".join((*PIPELINES, *ALIASES))
            raise InvalidArgumentError(
                argument, f"must name pipelines that lpx knows: {listed}", name
            )
        found[known] = PIPELINES[known]
    return tuple(found.values())
