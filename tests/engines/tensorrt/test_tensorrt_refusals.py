"""Each refusal of TensorRT that is known leads to the right advice."""

from __future__ import annotations

import pytest

from lpx.engines.tensorrt.refusals import advice

KNOWN = [
    (
        "IRuntime::deserializeCudaEngine: Error Code 3: API Usage Error (Cannot deserialize engine "
        "with lean runtime since IRuntime::getEngineHostCodeAllowed() is false. In "
        "deserializeCudaEngineEx at /_src/runtime/dispatch/runtime.cpp:300)",
        "`allow_host_code=True`",
    ),
    ("CUDA initialization failure with error: 35. Please check your CUDA installation", "driver"),
    (
        "createInferRuntime: Error Code 6: API Usage Error (CUDA initialization failure with "
        "error: 35 In checkCudaInstallation at /_src/runtime/dispatch/runtime.cpp:960)",
        "driver",
    ),
    (
        "IRuntime::deserializeCudaEngine: Error Code 1: Cuda Runtime (In ScopedCudaStream at "
        "/_src/common/dispatch/cudaResources.cpp:25 (cudaError 35: CUDA driver version is "
        "insufficient for CUDA runtime version))",
        "driver",
    ),
    (
        "IExecutionContext::enqueueV3: Error Code 2: OutOfMemory (Requested size was 8388608 "
        "bytes.)",
        "smaller batches",
    ),
    (
        "Requested amount of GPU memory (8388608 bytes) could not be allocated. There may not be "
        "enough free memory for allocation to succeed.",
        "smaller batches",
    ),
    (
        "The engine cannot run on this GPU, which has compute capability 9.0. Supported compute "
        "capabilities: 8.0. TensorRT-RTX does not support this compute capability, so the engine "
        "cannot be rebuilt for it.",
        "target on this GPU: tensorrt, onnxruntime-cuda or onnxruntime",
    ),
    (
        "IRuntime::deserializeCudaEngine: Error Code 1: Internal Error (Unexpected call to stub "
        "loadRunner for ReformatRunner.)",
        "`version_compatible=True`",
    ),
    ("emitting debug tensors is not supported in the lean runtime", "the full TensorRT"),
    ("Runtime load failed: could not create lean runtime", "TMPDIR"),
    (
        "Use of temporary files for deserialization of lean runtime requires configuring a valid "
        "temporary directory via IRuntime::setTemporaryDirectory().",
        "TMPDIR",
    ),
    (
        "Error Code 6: API Usage Error (TensorRT plan major version does not match runtime major "
        "version. )",
        "the TensorRT of this machine",
    ),
    (
        "Engine Version Forward Compatibility supported starting TensorRT 8.6. This Engine was "
        "created with TensorRT 8.5",
        "the TensorRT of this machine",
    ),
    (
        "Failed due to an old deserialization call on a newer plan file. This might happen when "
        "the plan file was built from an older TensorRT version.",
        "the TensorRT of this machine",
    ),
    (
        "The current device only supports 4 multiprocessors but the engine file requires 8. "
        "Please rebuild the engine.",
        "nvpmodel",
    ),
    (
        "The current device is not compatible with this hardware-compatible engine. Expected "
        "compute capability >= 8.0 but got compute capability = 7.5",
        "on this GPU",
    ),
    (
        "The engine plan file is generated on an incompatible device, expecting compute 8.6 got "
        "compute 8.9, please rebuild.",
        "on this GPU",
    ),
    (
        "Platform specific tag mismatch detected. TensorRT plan files are only supported on the "
        "target runtime platform they were created on.",
        "operating system",
    ),
    (
        "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization assertion "
        "header.magicTag == kEXPECTED_MAGIC_TAG failed.Trying to load an engine created with "
        "incompatible serialization version (2021161080 != 1953657974). Check that the engine was "
        "not created using safety runtime, same OS was used and version compatibility parameters "
        "were set accordingly and that it is a TRT engine file.)",
        "not a plan of this library",
    ),
]


@pytest.mark.parametrize(("said", "fix"), KNOWN)
def test_what_tensorrt_says_leads_to_its_advice(said: str, fix: str) -> None:
    assert fix in advice(said)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "TensorRT gave no reason",
        "The engine plan file is not compatible with this version of TensorRT, expecting library "
        "version 9.2.0.5 got 9.2.0.4, please rebuild.",
        "Error Code 1: Cuda Driver (invalid resource handle)",
    ],
)
def test_what_is_not_known_gets_no_advice_of_its_own(said: str) -> None:
    assert advice(said) == ""
