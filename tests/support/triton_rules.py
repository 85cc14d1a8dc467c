"""Triton's rules for a model repository, as far as lpx writes one.

The text is parsed with the classes that PyPI's tritonclient has of Triton's model_config.proto,
which refuse unknown fields and wrong types. The rules that follow are those of Triton 26.09:
core's model_config_utils.cc, backend_model_instance.cc (warm-up) and its repository manager, and
tensorrt_backend's model_state.cc and instance_state.cc.
"""

from __future__ import annotations

import importlib.util
import math
import re
import sys
from functools import cache
from importlib import metadata

import onnx
from google.protobuf import text_format

PLATFORMS = {"tensorrt": "tensorrt_plan", "onnxruntime": "onnxruntime_onnx"}
DEFAULT_FILES = {"tensorrt": "model.plan", "onnxruntime": "model.onnx"}
BYTES = {"TYPE_UINT8": 1, "TYPE_FP32": 4}
ONNX_TYPES = {"TYPE_UINT8": onnx.TensorProto.UINT8, "TYPE_FP32": onnx.TensorProto.FLOAT}
KINDS = {"KIND_GPU", "KIND_CPU", "KIND_MODEL"}


class RefusedError(Exception):
    """Triton would not load this."""


@cache
def messages():
    """The module of Triton's messages, without the rest of tritonclient.grpc, which needs gRPC."""
    name = "tritonclient/grpc/model_config_pb2.py"
    path = metadata.distribution("tritonclient").locate_file(name)
    spec = importlib.util.spec_from_file_location("triton_model_config_pb2", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def parse(text):
    """Parse config.pbtxt; an unknown field or a wrong type is refused."""
    try:
        return text_format.Parse(text, messages().ModelConfig())
    except text_format.ParseError as error:
        raise RefusedError(str(error)) from error


def check_repository(root):
    """Check every model in a repository; returns their configurations by name."""
    configs = {}
    for folder in sorted(root.iterdir()):
        if not folder.is_dir():
            raise RefusedError(f"{folder.name} is not a model's folder")
        config = parse((folder / "config.pbtxt").read_text())
        require(config.name == folder.name, "the name must be that of the folder")
        check_config(config)
        check_files(config, folder)
        configs[config.name] = config
    return configs


def require(condition, why):
    if not condition:
        raise RefusedError(why)


def check_config(config):
    require(config.name.strip() and "/" not in config.name, "the name is empty or has a slash")
    require(config.backend in PLATFORMS, "an unknown backend")
    require(config.platform == PLATFORMS[config.backend], "platform and backend do not fit")
    require(config.max_batch_size >= 0, "max_batch_size is negative")
    require(config.input and config.output, "there must be inputs and outputs")
    for tensor in (*config.input, *config.output):
        check_tensor(tensor, config.max_batch_size)
    formats = messages().ModelInput
    for tensor in config.input:
        if tensor.format in (formats.FORMAT_NHWC, formats.FORMAT_NCHW):
            require(len(tensor.dims) == 3, "NHWC and NCHW need three dims")
    check_batching(config)
    require(config.instance_group, "there must be an instance group")
    for group in config.instance_group:
        check_group(group, config)
    for spec in config.optimization.cuda.graph_spec:
        require(1 <= spec.batch_size <= config.max_batch_size, "a graph's batch is out of range")
    if config.optimization.cuda.graphs:
        require(config.backend == "tensorrt", "only TensorRT has CUDA graphs")
    check_capabilities(config)


def check_tensor(tensor, max_batch_size):
    require(tensor.name, "a tensor has no name")
    require(tensor.data_type != messages().TYPE_INVALID, "a tensor has no type")
    require(len(tensor.dims) > 0, "a tensor has no dims")
    require(all(size >= 1 or size == -1 for size in tensor.dims), "a dim must be >= 1, or -1")
    if not tensor.HasField("reshape"):
        return
    shape = tensor.reshape.shape
    require(len(shape) > 0 or max_batch_size > 0, "an empty reshape without a batch")
    require(all(size >= 1 or size == -1 for size in shape), "a reshape must be >= 1, or -1")
    # lpx writes no dims of any size: those have rules of their own.
    require(-1 not in tensor.dims and -1 not in shape, "sizes that are not fixed")
    require(math.prod(tensor.dims) == math.prod(shape), "dims and reshape differ in size")


def check_batching(config):
    if not config.HasField("dynamic_batching"):
        return
    for size in config.dynamic_batching.preferred_batch_size:
        require(size > 0, "a preferred size must be positive")
        require(size <= config.max_batch_size, "a preferred size above the largest batch")


def check_group(group, config):
    kind = messages().ModelInstanceGroup.Kind.Name(group.kind)
    require(kind in KINDS, f"an instance of {kind}")
    require(group.count >= 1, "there must be an instance")
    if kind != "KIND_GPU":
        require(not group.gpus, "GPUs of an instance that is not on a GPU")
        require(config.backend != "tensorrt", "TensorRT runs on GPUs")
    for profile in group.profile:
        require(config.backend == "tensorrt", "only TensorRT has profiles")
        require(re.fullmatch("[0-9]+", profile), "a profile must be a number")
    for device in group.secondary_devices:
        kinds = messages().ModelInstanceGroup.SecondaryDevice
        require(device.kind == kinds.KIND_NVDLA, "the secondary device is a DLA")
        require(device.device_id >= 0, "a DLA has a number")


def check_capabilities(config):
    for capability, name in config.cc_model_filenames.items():
        require(re.fullmatch(r"[0-9]+\.[0-9]+", capability), "a compute capability is a number")
        require(name and "/" not in name, "a plan must be in the version's folder")


def check_files(config, folder):
    versions = [path for path in folder.iterdir() if path.name.isdigit()]
    require(versions, "there is no version")
    for version in versions:
        names = set(config.cc_model_filenames.values())
        # The default file serves every GPU without an entry; without one, such GPUs are refused.
        if not names or config.default_model_filename:
            names.add(config.default_model_filename or DEFAULT_FILES[config.backend])
        require(names == {path.name for path in version.iterdir()}, "files that no GPU loads")
    for sample in config.model_warmup:
        check_warm_up(sample, config, folder)


def check_warm_up(sample, config, folder):
    require(1 <= sample.batch_size <= config.max_batch_size, "a warm-up batch out of range")
    names = {tensor.name: tensor for tensor in config.input}
    require(sample.inputs.keys() == names.keys(), "a warm-up must have every input")
    for name, given in sample.inputs.items():
        require(given.data_type == names[name].data_type, "a warm-up of another type")
        require(list(given.dims) == list(names[name].dims), "a warm-up of another shape")
        require(given.WhichOneof("input_data_type") == "input_data_file", "a warm-up without data")
        path = folder / "warmup" / given.input_data_file
        require(path.is_file(), "a warm-up's file is missing")
        kind = messages().DataType.Name(given.data_type)
        size = math.prod(given.dims) * BYTES[kind]
        require(path.stat().st_size >= size, "a warm-up's file is too small")


def check_profiles(config, profiles):
    """Check a configuration against a plan: `profiles` are (smallest, largest) batches."""
    (group,) = config.instance_group
    numbers = [int(number) for number in group.profile] or [0]
    require(max(numbers) < len(profiles), "there is no such profile")
    used = [profiles[number] for number in numbers]
    require(config.max_batch_size <= max(high for _, high in used), "above the largest profile")
    for batch in range(1, config.max_batch_size + 1):
        require(any(low <= batch <= high for low, high in used), f"no profile takes {batch}")


def check_graph(config, data):
    """Check a configuration against the inputs and outputs of an ONNX graph."""
    graph = onnx.load_model_from_string(data).graph
    tensors = {one.name: one.type.tensor_type for one in (*graph.input, *graph.output)}
    given = {tensor.name: tensor for tensor in (*config.input, *config.output)}
    require(tensors.keys() == given.keys(), "other names than the graph's")
    for name, tensor in given.items():
        kind = messages().DataType.Name(tensor.data_type)
        require(tensors[name].elem_type == ONNX_TYPES[kind], f"another type of {name}")
        shape = list(tensor.reshape.shape if tensor.HasField("reshape") else tensor.dims)
        sizes = [one.dim_value or -1 for one in tensors[name].shape.dim]
        require(sizes == [-1, *shape], f"another shape of {name}: {sizes}")
