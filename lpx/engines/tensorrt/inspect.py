"""Read the layers of a plan from the engine inspector, or from the log of its build."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from lpx.engines.manifest import UNKNOWN
from lpx.engines.tensorrt.layer_table import LayerTable, PlanLayer
from lpx.errors import LpxError

_DATATYPE = re.compile(
    r"\b(uint8|int8|int4|int32|int64|half|fp16|float16|bf16|bfloat16|fp8|fp4|float32|fp32|float"
    r"|bool)\b",
    re.IGNORECASE,
)
_SAME = {
    "half": "fp16",
    "float16": "fp16",
    "float": "fp32",
    "float32": "fp32",
    "bfloat16": "bf16",
}
_CONVOLUTION_TYPE = re.compile(r"conv|correlation", re.IGNORECASE)
_PRODUCT_TYPE = re.compile(r"gemm|matmul|matrix|fully", re.IGNORECASE)
_ONNX_NODE = "[ONNX Layer: "
_FROM_CONVOLUTION = "__gemm_from_conv1x1"  # after the nodes in a layer's metadata
# The compiler of fused kernels names them after what they do: __myl_CorrCastSigm, __myl_FcRelu.
_FUSED = re.compile(r"__myl_([A-Za-z0-9]+)")
_FUSED_STEP = re.compile(r"[A-Z][a-z0-9]*")
_FUSED_CONVOLUTIONS = frozenset({"Corr", "Conv"})
_FUSED_PRODUCTS = frozenset({"Fc", "Gemm", "Bmm", "Mm"})
# The types in which a kernel multiplies and accumulates, in its name: ..._i8i8_i8i32_f32_...
_TACTIC = re.compile(
    r"_(i8i32|f16f16|f16f32|bf16f32|bf16bf16|tf32f32|f32f32|e4m3f32)_(?:[a-z0-9]+_)"
)
_TACTIC_PRECISION = {
    "i8i32": "int8",
    "f16f16": "fp16",
    "f16f32": "fp16",
    "bf16f32": "bf16",
    "bf16bf16": "bf16",
    "tf32f32": "fp32",
    "f32f32": "fp32",
    "e4m3f32": "fp8",
}
_PROFILE = re.compile(r"\[profile (\d+)\]")
_MYELIN_SUFFIX = re.compile(r"_myl\d+_\d+$")
_LAYERS, _TENSORS = "Layers:", re.compile(r"^(?:I/O Tensors|Bindings):", re.MULTILINE)
_ONE_LINE = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<type>\S+), Inputs: \[(?P<inputs>|.*?\})\]"
    r"(?:, Constants: \[(?P<constants>|.*?\})\])?, Outputs: \[(?P<outputs>|.*?\})\]"
    r"(?:, (?P<rest>.*))?$"
)
_ONE_LINE_TENSOR = re.compile(r"\{ Name: (.*?)(?=\{ Name: |$)")
_ONE_LINE_SHAPE = re.compile(r"Dimensions: \[([-\d,]*)\]")
_ONE_LINE_DATATYPE = re.compile(r"Datatype: ([^,}]*)")
_ONE_LINE_FIELD = re.compile(r"(ParameterType|TacticName): ([^,]*)")
_ONE_LINE_WEIGHTS = re.compile(r'\bWeights: \{"Type": "(\w+)"')


@dataclass(frozen=True)
class _Entry:
    """TensorRT's description of a layer, in JSON or in one line.

    Attributes:
        inputs: Data type of each input.
        outputs: Data type of each output.
        weights: Data type of the weights.
        tensors: Names of inputs and outputs.
    """

    name: str
    type: str
    parameters: str = ""
    tactic: str = ""
    metadata: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    weights: str = UNKNOWN
    tensors: str = ""


def parse_inspector(text: str) -> LayerTable:
    """Read the engine inspector's JSON, of releases before 11 and from 11 on.

    Layers may be objects (detailed) or strings (names only). A tensor's data type is under
    "Format/Datatype", mixed with its layout, or under "Datatype".

    Raises:
        LpxError: The text is not the inspector's JSON.
    """
    try:
        return _table(_from_json(layer) for layer in json.loads(text)["Layers"])
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise LpxError(
            "the output of the engine inspector is not as expected",
            why=f"{problem!r}: {text[:200]!r}",
        ) from problem


def _from_json(layer: str | dict[str, Any]) -> _Entry:
    if isinstance(layer, str):
        return _Entry(layer, UNKNOWN)
    inputs, outputs = layer.get("Inputs", ()), layer.get("Outputs", ())
    names = []
    for entry in (*inputs, *outputs):
        if isinstance(entry, dict):
            names.append(str(entry.get("Name")))
    return _Entry(
        name=str(layer.get("Name", "")),
        type=str(layer.get("LayerType", UNKNOWN)),
        parameters=str(layer.get("ParameterType", "")),
        tactic=str(layer.get("TacticName", "")),
        metadata=str(layer.get("Metadata", "")),
        inputs=tuple(map(_datatype, inputs)),
        outputs=tuple(map(_datatype, outputs)),
        weights=_weights_datatype(layer),
        tensors=" ".join(names),
    )


def _weights_datatype(layer: dict[str, Any]) -> str:
    """Return the data type of a layer's weights, by its entry for them or by its constants."""
    weights = layer.get("Weights")
    if isinstance(weights, dict):
        return _datatype_in(str(weights.get("Type")))
    # Other layers list their weights among their constants, beside scales.
    constants = []
    for constant in layer.get("Constants", ()):
        constants.append(_Sized(math.prod(constant["Dimensions"]), _datatype(constant)))
    return _largest(constants)


def _datatype(entry: str | dict[str, Any]) -> str:
    if isinstance(entry, str):
        return UNKNOWN
    # Before TensorRT 11, a dynamic shape hides the type: "N/A due to dynamic shapes".
    return _datatype_in(str(entry.get("Datatype") or entry.get("Format/Datatype", "")))


def _datatype_in(text: str) -> str:
    """Return the data type named in a text such as "Row major linear FP16 format"."""
    match = _DATATYPE.search(text)
    if match is None:
        return UNKNOWN
    name = match.group().lower()
    return _SAME.get(name, name)


class _Sized(NamedTuple):
    """Number of values and data type of a tensor."""

    size: int
    datatype: str


def _largest(constants: Iterable[_Sized]) -> str:
    """Return the data type of a layer's weights, which are larger than the scales beside them."""
    largest = max(constants, default=_Sized(0, UNKNOWN), key=lambda constant: constant.size)
    return largest.datatype


def parse_build_log(text: str) -> LayerTable:
    """Read a table of layers with one layer per line.

    A build with detailed profiling verbosity logs it, so that the precision of a plan is known
    without a GPU to load it; the inspector's one-line format is the same. A line that cannot be
    parsed becomes a layer of unknown precision, so that none is left out.

    Args:
        text: The message that begins with "Layers:".
    """
    listed = _TENSORS.split(text.partition(_LAYERS)[2], maxsplit=1)[0]
    return _table(map(_from_line, filter(str.strip, listed.splitlines())))


def _from_line(line: str) -> _Entry:
    match = _ONE_LINE.match(line)
    if match is None:
        name = line.removeprefix("Name: ").partition(", LayerType: ")[0]
        return _Entry(name.strip(), UNKNOWN)
    rest, _, metadata = (match["rest"] or "").partition("Metadata:")
    values = dict(_ONE_LINE_FIELD.findall(rest))
    if stated := _ONE_LINE_WEIGHTS.search(rest):
        weights = _datatype_in(stated[1])
    else:
        weights = _largest(_tensors_in(match["constants"]))
    return _Entry(
        name=match["name"],
        type=match["type"],
        parameters=values.get("ParameterType", ""),
        tactic=values.get("TacticName", ""),
        metadata=metadata.strip(),
        inputs=tuple(sized.datatype for sized in _tensors_in(match["inputs"])),
        outputs=tuple(sized.datatype for sized in _tensors_in(match["outputs"])),
        weights=weights,
        tensors=f"{match['inputs']} {match['outputs']}",
    )


def _tensors_in(part: str | None) -> list[_Sized]:
    """Return the tensors that a part of a line describes; None for a part that is missing."""
    return [_sized(tensor) for tensor in _ONE_LINE_TENSOR.findall(part or "")]


def _sized(tensor: str) -> _Sized:
    shape, stated = _ONE_LINE_SHAPE.search(tensor), _ONE_LINE_DATATYPE.search(tensor)
    size = 0
    if shape is not None:
        size = math.prod(map(int, filter(None, shape[1].split(","))))
    if stated is None:
        return _Sized(size, UNKNOWN)
    return _Sized(size, _datatype_in(stated[1]))


def _table(entries: Iterable[_Entry]) -> LayerTable:
    """Return the table of layers with the profile of each.

    Layers are listed profile by profile. The profile is in the name of a layer, or in the names of
    the tensors of a fused layer. If neither has it, the layer belongs to the same profile as the
    one before it.
    """
    rows: list[PlanLayer] = []
    profile = 0
    for entry in entries:
        if marks := _PROFILE.findall(entry.name) or _PROFILE.findall(entry.tensors):
            profile = int(marks[-1])
        rows.append(_layer(entry, profile))
    return LayerTable(tuple(rows))


def _layer(entry: _Entry, profile: int) -> PlanLayer:
    steps: set[str] = set()
    if fused := _FUSED.search(entry.name):
        steps.update(_FUSED_STEP.findall(fused[1]))
    convolution = bool(
        _CONVOLUTION_TYPE.search(entry.type)
        or _CONVOLUTION_TYPE.search(entry.parameters)
        or "fprop" in entry.tactic
        or _FROM_CONVOLUTION in entry.metadata
        or steps & _FUSED_CONVOLUTIONS
    )
    multiplies = bool(
        convolution
        or _PRODUCT_TYPE.search(entry.type)
        or "gemm" in entry.tactic
        or steps & _FUSED_PRODUCTS
    )
    if multiplies:
        precision = _multiplied_in(entry)
    else:
        precision = _first([*entry.outputs, *entry.inputs])
    return PlanLayer(
        name=entry.name,
        type=entry.type,
        precision=precision,
        convolution=convolution,
        nodes=_nodes(entry, multiplies=multiplies),
        profile=profile,
        multiplies=multiplies,
    )


def _multiplied_in(entry: _Entry) -> str:
    """Return the precision of a convolution or product, by its kernel or by its data and weights.

    It is unknown if data and weights have different types, since a kernel may convert either.
    """
    if kernel := _TACTIC.search(f"{entry.tactic}_"):
        return _TACTIC_PRECISION[kernel[1]]
    known = {*entry.inputs[:1], entry.weights} - {UNKNOWN}
    if len(known) == 1:
        return known.pop()
    return UNKNOWN


def _first(datatypes: Iterable[str]) -> str:
    """Return the first data type that is known, or else "unknown"."""
    for datatype in datatypes:
        if datatype != UNKNOWN:
            return datatype
    return UNKNOWN


def _nodes(entry: _Entry, *, multiplies: bool) -> tuple[str, ...]:
    """Return the ONNX nodes in a layer, by its metadata or, without metadata, by its name.

    Metadata is "[ONNX Layer: a][ONNX Layer: b]", with control characters in between, and words of
    the compiler at the end. Names of nodes may contain brackets.
    """
    if parts := entry.metadata.split(_ONNX_NODE)[1:]:
        return tuple(part.rpartition("]")[0] for part in parts)
    if not multiplies:
        return ()
    name = _PROFILE.sub("", _MYELIN_SUFFIX.sub("", entry.name))
    return tuple(part.strip() for part in re.split(r" \+ | \|\| ", name))


def inspect_engine(trt: Any, engine: Any, context: Any = None) -> LayerTable:
    """Return the layers of a loaded engine.

    Args:
        trt: The library.
        engine: An `ICudaEngine`.
        context: An `IExecutionContext` whose input shapes are set, since before TensorRT 11 a plan
            with dynamic shapes shows data types only for given shapes. None creates one with the
            optimum shapes of the first profile.

    Raises:
        LpxError: No context can be created, or the output of the inspector is not as expected.
    """
    inspector = engine.create_engine_inspector()
    # This variable keeps the context alive, which the inspector does not: the process would end
    # if the context was released before the call.
    at_shape = context
    if at_shape is None:
        at_shape = _at_optimum(trt, engine)
    inspector.execution_context = at_shape
    return parse_inspector(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def _at_optimum(trt: Any, engine: Any) -> Any:
    context = engine.create_execution_context()
    if context is None:
        raise LpxError(
            "TensorRT created no execution context, so the plan's precision cannot be read",
            why="most often the GPU has not enough memory for the plan's activations",
            fix="build with smaller batches, or close other programs on the GPU",
        )
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        inward = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        if inward and -1 in tuple(engine.get_tensor_shape(name)):
            context.set_input_shape(name, tuple(engine.get_tensor_profile_shape(name, 0)[1]))
    return context
