"""Advice on errors of TensorRT, chosen by its messages.

The patterns match messages in NVIDIA's libraries: TensorRT 8.5 to 11.4, its lean runtime, and
TensorRT for RTX 1.7.
"""

from __future__ import annotations

import re

_ADVICE: tuple[tuple[str, str], ...] = (
    (
        # "getEngineHostCodeAllowed() is false"; earlier releases write "host code".
        r"host[ _]?code",
        "it contains host code: if you trust its source, pass `allow_host_code=True`",
    ),
    (
        r"cuda initialization failure|cuda driver version is insufficient|cudaError 35\b|"
        r"no cuda-capable device|cudaErrorNoDevice|failed to query cuda driver version",
        "`lpx doctor` shows the driver and the GPU that this machine has: install a driver as new "
        "as this TensorRT's CUDA, or a TensorRT for the CUDA version that the driver supports",
    ),
    (
        r"out of memory|outofmemory|insufficient memory|memory is insufficient|bad_alloc|"
        r"cudaErrorMemoryAllocation|\bcould not be allocated",
        "close other programs on the GPU, or build with smaller batches",
    ),
    (
        r"does not support this compute capability",
        "use another target on this GPU: tensorrt, onnxruntime-cuda or onnxruntime",
    ),
    (
        r"unexpected call to stub",
        "the lean runtime runs only version-compatible plans: build it with "
        "`version_compatible=True`, or install the full TensorRT here",
    ),
    (
        r"not supported in the lean runtime",
        "install the full TensorRT here: its lean runtime does not support this",
    ),
    (
        r"runtime load failed|temporary (files|directory)|TempfileControlFlag|temporary DLL",
        "a version-compatible plan contains a runtime that TensorRT unpacks into a temporary file: "
        "make sure that TMPDIR is writable and not mounted noexec",
    ),
    (
        r"old deserialization call on a newer plan|major version does not match|"
        r"forward compatibility supported starting",
        "build it again with the TensorRT of this machine, or install the release that built it",
    ),
    (
        r"multiprocessors but the engine file requires",
        "on a Jetson, set the power mode that it was built in (`sudo nvpmodel -m MODE`), as power "
        "modes switch off parts of the GPU; otherwise build it again here",
    ),
    (
        r"this hardware-compatible engine|generated on an incompatible device|"
        r"got compute capability",
        "build it again on this GPU: it was built for another",
    ),
    (
        r"platform specific tag mismatch",
        "build it again here: a plan runs only on the operating system and processor architecture "
        "that it was built on",
    ),
    (
        r"magicTag|magic tag",
        "this is not a plan of this library: the file is damaged, or is a plan of TensorRT for RTX "
        "in place of TensorRT or the reverse; build it again",
    ),
)


def advice(said: str) -> str:
    """Return advice on messages of TensorRT; "" if none of them is known.

    Args:
        said: One or more messages.
    """
    # The list is in order from causes to consequences, so the first match is the cause.
    for pattern, fix in _ADVICE:
        if re.search(pattern, said, re.IGNORECASE):
            return fix
    return ""
