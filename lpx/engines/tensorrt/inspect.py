"""Which precision each layer of a plan really got, and an error where it is not the one asked."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lpx.engines.tensorrt.request import Precision
from lpx.errors import LpxError, NotAsAskedError

_UNKNOWN = "unknown"
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
_ONNX_NODE = re.compile(r"\[ONNX Layer: (.*?)\](?=\W*(?:\[ONNX|$))")
# The compiler of fused kernels names them after what they do: __myl_CorrCastSigm.
_CONVOLUTION_NAME = re.compile(r"__myl_[A-Za-z]*Corr")
_ONE_LINE = re.compile(
    r"^Name: (?P<name>.*?), LayerType: (?P<type>\S+), Inputs: \[(?P<inputs>.*?)\], "
    r"Constants: \[(?P<constants>.*?)\], Outputs: \[(?P<outputs>.*?)\], TacticName"
    r"(?:.*?Metadata: (?P<metadata>.*))?",
    re.MULTILINE,
)
_ONE_LINE_TENSOR = re.compile(r"\{ Name: .*?, Datatype: (\w+)")
_SHOWN = 12
_NARROWER: dict[str, frozenset[str]] = {
    "fp32": frozenset({"fp16", "bf16", "fp8", "int8", "int4", "fp4"}),
    "fp16": frozenset({"fp8", "int8", "int4", "fp4"}),
    "int8": frozenset({"int4", "fp4"}),
}


@dataclass(frozen=True)
class Layer:
    """One layer of a plan.

    Attributes:
        name: TensorRT's name for it, usually the ONNX nodes fused in it.
        type: TensorRT's type, such as "CaskConvolution", "correlation", "kgen", "Reformat".
        precision: "fp32", "fp16", "int8" or another data type: of the data that a convolution
            reads, of the first output of any other layer; "unknown" where TensorRT tells none.
        convolution: Whether it convolves.
        nodes: Names of the ONNX nodes that are computed in it, as far as TensorRT tells.
    """

    name: str
    type: str
    precision: str
    convolution: bool
    nodes: tuple[str, ...] = ()

    @property
    def dla(self) -> bool:
        """Whether it is a loadable of a DLA core: many nodes of the graph in one layer."""
        return self.type.upper() == "DLA"


@dataclass(frozen=True)
class LayerTable:
    """All layers of a plan; a plan with several profiles lists its layers once for each."""

    rows: tuple[Layer, ...]

    @property
    def convolutions(self) -> tuple[Layer, ...]:
        """The layers that convolve."""
        return tuple(row for row in self.rows if row.convolution)

    @property
    def beside_dla(self) -> tuple[str, ...]:
        """Names of the layers that fall back to the GPU in a plan for a DLA core."""
        return tuple(row.name for row in self.rows if not row.dla)

    def precision_of_nodes(self) -> dict[str, str]:
        """Precision of the layer that computes each ONNX node; unknown ones are left out.

        Where parts of a node are in several layers, the one that convolves or multiplies counts.
        """
        found: dict[str, str] = {}
        for row in sorted(self.rows, key=_multiplies):
            if row.precision != _UNKNOWN:
                found.update(dict.fromkeys(row.nodes, row.precision))
        return found

    def share_of_layers(self) -> dict[str, float]:
        """Share of layers per precision, in [0, 1]; layers of unknown precision are left out."""
        return _share(self.rows)

    def share_of_convolutions(self) -> dict[str, float]:
        """Share of convolutions per precision, in [0, 1]; unknown precisions are left out."""
        return _share(self.convolutions)


def _multiplies(row: Layer) -> int:
    """How surely a layer does the multiplying of the nodes in it."""
    return 2 if row.convolution else int(bool(_PRODUCT_TYPE.search(row.type)))


def _share(rows: Iterable[Layer]) -> dict[str, float]:
    counts = Counter(row.precision for row in rows if row.precision != _UNKNOWN)
    return {precision: count / counts.total() for precision, count in counts.most_common()}


def assert_precision(table: LayerTable, asked: Precision) -> None:
    """Make sure that the precision asked for is in the plan.

    It is there when at least one convolution computes in it and none in a narrower one. Where a
    table names no convolution, all layers count.

    Args:
        table: The layers of the plan.
        asked: The precision asked for.

    Raises:
        NotAsAskedError: The precision is absent, or a narrower one is there; lists the layers.
        LpxError: The table does not tell.
    """
    rows = [r for r in table.convolutions or table.rows if r.precision != _UNKNOWN]
    if not rows:
        raise LpxError(
            f"cannot tell whether the plan computes in {asked.upper()}",
            why="TensorRT names no precision for any of its layers",
            fix="build the plan with lpx, which asks TensorRT for detail",
        )
    present = {row.precision for row in rows}
    if asked in present and not present & _NARROWER[asked]:
        return
    lines = [f"{row.precision:<5} {row.type:<16} {row.name}" for row in rows[:_SHOWN]]
    if len(rows) > _SHOWN:
        lines.append(f"... and {len(rows) - _SHOWN} more")
    raise NotAsAskedError(
        f"{asked.upper()} was asked for, but the plan computes in "
        f"{', '.join(sorted(p.upper() for p in present))}",
        why="its layers are\n    " + "\n    ".join(lines),
        fix=_fix(asked),
    )


def assert_on_dla(table: LayerTable) -> None:
    """Make sure that a plan for a DLA core leaves something to it.

    Raises:
        NotAsAskedError: All layers run on the GPU; lists them.
    """
    if any(row.dla for row in table.rows):
        return
    lines = [f"{row.type:<16} {row.name}" for row in table.rows[:_SHOWN]]
    raise NotAsAskedError(
        "a DLA core was asked for, but the whole plan runs on the GPU",
        why="its layers are\n    " + "\n    ".join(lines),
        fix="build for the GPU, which runs INT8 faster than a plan that changes hands",
    )


def _fix(asked: Precision) -> str:
    if asked == "int8":
        return (
            "build --fp16 instead: to TensorRT a Q/DQ pair is an option, and where it has no INT8 "
            "kernel, or a faster float one, it computes in floats. Compute capability 7.5 "
            "of TensorRT for RTX has no INT8 convolutions, and in one plan with other GPUs takes "
            "INT8 from them too: leave it out of --compute-capability"
        )
    return f"precision lies in the graph: build the {asked.upper()} graph, not another one"


def parse_inspector(text: str) -> LayerTable:
    """Read the engine inspector's JSON, of releases before 11 and from 11 on.

    Layers may be objects (detailed) or strings (names only). A tensor's data type is under
    "Format/Datatype", mixed with its layout, or under "Datatype".

    Raises:
        LpxError: The text is not the inspector's JSON.
    """
    try:
        return LayerTable(tuple(_from_json(layer) for layer in json.loads(text)["Layers"]))
    except (ValueError, KeyError, TypeError, AttributeError) as problem:
        raise LpxError(
            "the engine inspector's answer is not as expected", why=f"{problem!r}: {text[:200]!r}"
        ) from problem


def _from_json(layer: str | dict[str, Any]) -> Layer:
    if isinstance(layer, str):
        return Layer(layer, _UNKNOWN, _UNKNOWN, convolution=False)
    kind = str(layer.get("LayerType", _UNKNOWN))
    inputs = [_datatype(entry) for entry in layer.get("Inputs", ())]
    outputs = [_datatype(entry) for entry in layer.get("Outputs", ())]
    weights = layer.get("Weights")
    stored = _datatype_in(str(weights.get("Type"))) if isinstance(weights, dict) else _UNKNOWN
    name, parameters = str(layer.get("Name", "")), str(layer.get("ParameterType", ""))
    nodes = _nodes(str(layer.get("Metadata", "")), name)
    return _layer(name, kind, parameters, inputs, outputs, stored, nodes)


def _datatype(entry: str | dict[str, Any]) -> str:
    if isinstance(entry, str):
        return _UNKNOWN
    # Dynamic shapes hide it before 11: "N/A due to dynamic shapes".
    return _datatype_in(str(entry.get("Datatype") or entry.get("Format/Datatype", "")))


def _datatype_in(text: str) -> str:
    """The data type named in a text such as "Row major linear FP16 format"."""
    match = _DATATYPE.search(text)
    return _SAME.get(match.group().lower(), match.group().lower()) if match else _UNKNOWN


def _nodes(metadata: str, name: str) -> tuple[str, ...]:
    """The ONNX nodes in a layer: by its metadata, or by its name where it has none."""
    return tuple(_ONNX_NODE.findall(metadata)) or tuple(name.split(" + "))


def _layer(
    name: str,
    kind: str,
    parameters: str,
    inputs: list[str],
    outputs: list[str],
    weights: str,
    nodes: tuple[str, ...],
) -> Layer:
    convolution = bool(
        _CONVOLUTION_TYPE.search(kind)
        or _CONVOLUTION_TYPE.search(parameters)
        or _CONVOLUTION_NAME.search(name)
    )
    sources = [*inputs[:1], weights] if convolution else [*outputs[:1], *inputs[:1]]
    precision = next((source for source in sources if source != _UNKNOWN), _UNKNOWN)
    return Layer(name, kind, precision, convolution, nodes)


def parse_build_log(text: str) -> LayerTable:
    """Read the table of layers that a detailed build logs, one layer a line.

    It tells the precision of a plan where no GPU is there to load it.

    Args:
        text: The message that begins with "Layers:".
    """
    return LayerTable(tuple(_from_line(match) for match in _ONE_LINE.finditer(text)))


def _from_line(match: re.Match[str]) -> Layer:
    inputs, constants, outputs = (
        [_datatype_in(found) for found in _ONE_LINE_TENSOR.findall(match[part])]
        for part in ("inputs", "constants", "outputs")
    )
    weights = constants[0] if constants else _UNKNOWN
    nodes = _nodes(match["metadata"] or "", match["name"])
    return _layer(match["name"], match["type"], "", inputs, outputs, weights, nodes)


def inspect_engine(trt: Any, engine: Any, context: Any = None) -> LayerTable:
    """Ask a loaded engine for its layers.

    Args:
        trt: The library.
        engine: An `ICudaEngine`.
        context: An `IExecutionContext` whose input shapes are set: before 11, a plan of dynamic
            shape tells its data types for a shape only. None makes one at the optimum shape of
            the first profile.

    Raises:
        LpxError: The inspector's answer is not as expected.
    """
    inspector = engine.create_engine_inspector()
    inspector.execution_context = _at_optimum(trt, engine) if context is None else context
    return parse_inspector(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def _at_optimum(trt: Any, engine: Any) -> Any:
    context = engine.create_execution_context()
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        inward = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        if inward and -1 in tuple(engine.get_tensor_shape(name)):
            context.set_input_shape(name, tuple(engine.get_tensor_profile_shape(name, 0)[1]))
    return context
