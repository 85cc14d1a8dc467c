"""Which precision each layer of a plan really got, and an error where it is not the one asked."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from lpx.engines.manifest import UNKNOWN
from lpx.engines.tensorrt.request import Precision
from lpx.errors import LpxError, NotAsAskedError

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
_FROM_CONVOLUTION = "__gemm_from_conv1x1"  # stands behind the nodes in a layer's metadata
# The compiler of fused kernels names them after what they do: __myl_CorrCastSigm, __myl_FcRelu.
_FUSED = re.compile(r"__myl_([A-Za-z0-9]+)")
_FUSED_STEP = re.compile(r"[A-Z][a-z0-9]*")
_FUSED_CONVOLUTIONS = frozenset({"Corr", "Conv"})
_FUSED_PRODUCTS = frozenset({"Fc", "Gemm", "Bmm", "Mm"})
# What a kernel's name says that it multiplies and adds up in: ..._i8i8_i8i32_f32_...
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
_CONVOLUTIONS = frozenset({"Conv", "ConvTranspose"})
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
_WIDEST_FIRST = ("fp32", "bf16", "fp16", "fp8", "int8", "fp4", "int4")
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
        precision: "fp32", "fp16", "int8" or another data type: what a convolution or matrix product
            multiplies, the first output of any other layer; "unknown" where TensorRT does not
            report one.
        convolution: Whether it convolves, as far as its type, kernel or name shows.
        nodes: Names of the ONNX nodes that are computed in it, as far as TensorRT reports them.
        profile: Index of the optimisation profile that it belongs to.
        multiplies: Whether it convolves or multiplies matrices.
    """

    name: str
    type: str
    precision: str
    convolution: bool
    nodes: tuple[str, ...] = ()
    profile: int = 0
    multiplies: bool = False

    @property
    def dla(self) -> bool:
        """Whether it is a loadable of a DLA core: many nodes of the graph in one layer."""
        return self.type.upper() == "DLA"


@dataclass(frozen=True)
class LayerTable:
    """All layers of a plan; a plan with several profiles lists its layers once for each.

    Attributes:
        rows: The layers.
        graph_convolutions: Names of the convolutions of the graph that the plan was built from, by
            which they are found again; empty where the graph is not at hand.
    """

    rows: tuple[Layer, ...]
    graph_convolutions: tuple[str, ...] = ()

    @property
    def convolutions(self) -> tuple[Layer, ...]:
        """The layers that convolve, those of every profile.

        A 1x1 convolution may have become a matrix product, which only the graph shows.
        """
        names = frozenset(self.graph_convolutions)
        return tuple(
            row
            for row in self.rows
            if row.convolution or (row.multiplies and not names.isdisjoint(row.nodes))
        )

    @property
    def beside_dla(self) -> tuple[str, ...]:
        """Names of the layers that fall back to the GPU in a plan for a DLA core."""
        return tuple(row.name for row in self.rows if not row.dla)

    @property
    def unrecognised(self) -> tuple[str, ...]:
        """Names of the graph's convolutions whose precision the table does not show."""
        found = self.precision_of_nodes()
        return tuple(name for name in self.graph_convolutions if name not in found)

    def precision_of_nodes(self) -> dict[str, str]:
        """Precision that each ONNX node is computed in, of those in layers that multiply.

        Pointwise layers beside a convolution, such as the scaling behind an INT8 one, carry its
        name too, and their precision is not that of the convolution. A node is left out where a
        profile has no layer that multiplies it, or one of unknown precision. Where several layers
        or profiles compute it in different precisions, the widest counts.
        """
        computed: dict[str, dict[int, list[str]]] = {}
        for row in self.rows:
            for node in row.nodes if row.multiplies or row.convolution else ():
                computed.setdefault(node, {}).setdefault(row.profile, []).append(row.precision)
        return {
            node: _widest(precision for each in by_profile.values() for precision in each)
            for node, by_profile in computed.items()
            if len(by_profile) == self._profiles
            and not any(UNKNOWN in each for each in by_profile.values())
        }

    def count_convolutions(self) -> dict[str, int]:
        """Number of convolutions per precision, most first; the unrecognised are "unknown".

        They are the graph's where it is at hand, else the first profile's layers.
        """
        return dict(Counter(self._precisions()).most_common())

    def share_of_layers(self) -> dict[str, float]:
        """Share of layers per precision, in [0, 1]; layers of unknown precision are left out."""
        return _share(row.precision for row in self.rows)

    def share_of_convolutions(self) -> dict[str, float]:
        """Share of convolutions per precision, in [0, 1]; unknown precisions are left out."""
        return _share(self._precisions())

    @property
    def _profiles(self) -> int:
        return len({row.profile for row in self.rows})

    def _precisions(self) -> list[str]:
        if self.graph_convolutions:
            found = self.precision_of_nodes()
            return [found.get(name, UNKNOWN) for name in self.graph_convolutions]
        first = min((row.profile for row in self.rows), default=0)
        return [row.precision for row in self.convolutions if row.profile == first]


def _widest(precisions: Iterable[str]) -> str:
    rank = {precision: index for index, precision in enumerate(_WIDEST_FIRST)}
    return min(precisions, key=lambda precision: rank.get(precision, -1))


def _share(precisions: Iterable[str]) -> dict[str, float]:
    counts = Counter(precision for precision in precisions if precision != UNKNOWN)
    return {precision: count / counts.total() for precision, count in counts.most_common()}


def of_graph(table: LayerTable, model: bytes) -> LayerTable:
    """The same table, with the convolutions that the graph has.

    Args:
        table: The layers of a plan.
        model: The ONNX model that the plan was built from.
    """
    from lpx.graph.proto import parse_proto  # imports onnx, which running a plan does without

    nodes = parse_proto(model, "the graph").graph.node
    # TensorRT's parser names a node that has no name after its first output.
    names = (
        node.name or f"node_of_{node.output[0]}" for node in nodes if node.op_type in _CONVOLUTIONS
    )
    return replace(table, graph_convolutions=tuple(names))


def note_on_unrecognised(table: LayerTable) -> str:
    """What a user must know of convolutions that the table does not show; "" where it shows all."""
    if not (lacking := table.unrecognised):
        return ""
    listed = ", ".join(lacking[:_SHOWN]) + (", ..." if len(lacking) > _SHOWN else "")
    return (
        f"the precision of {len(lacking)} of {len(table.graph_convolutions)} convolutions is not "
        f"verified: TensorRT's table of layers does not show what computes them ({listed})"
    )


def assert_precision(table: LayerTable, asked: Precision) -> None:
    """Make sure that the precision asked for is in the plan, in each of its profiles.

    It is there when at least one convolution computes in it and none in a narrower one. Of a plan
    whose graph is not at hand and whose table names no convolution, all layers count.

    Args:
        table: The layers of the plan.
        asked: The precision asked for.

    Raises:
        NotAsAskedError: The precision is absent, or a narrower one is there; lists the layers.
        LpxError: The table does not tell.
    """
    for profile in sorted({row.profile for row in table.rows}) or [0]:
        _assert_precision_in(table, asked, profile)


def _assert_precision_in(table: LayerTable, asked: Precision, profile: int) -> None:
    # Of a graph with convolutions, other layers show nothing: copies have a precision too.
    counted = table.convolutions or (() if table.graph_convolutions else table.rows)
    rows = [row for row in counted if row.precision != UNKNOWN and row.profile == profile]
    where = f" in profile {profile}" if any(row.profile for row in table.rows) else ""
    if not rows:
        raise LpxError(
            f"cannot tell whether the plan computes in {asked.upper()}{where}",
            why="TensorRT's table of layers shows no precision for any of its convolutions",
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
        f"{', '.join(sorted(p.upper() for p in present))}{where}",
        why="its layers are\n    " + "\n    ".join(lines),
        fix=_fix(asked),
    )


def assert_on_dla(table: LayerTable) -> None:
    """Make sure that a plan for a DLA core leaves something to it, in each of its profiles.

    Raises:
        NotAsAskedError: All layers of a profile run on the GPU; lists them.
    """
    profiles = sorted({row.profile for row in table.rows}) or [0]
    for profile in profiles:
        rows = [row for row in table.rows if row.profile == profile]
        if any(row.dla for row in rows):
            continue
        what = "the whole plan runs" if len(profiles) == 1 else f"all of profile {profile} runs"
        lines = [f"{row.type:<16} {row.name}" for row in rows[:_SHOWN]]
        raise NotAsAskedError(
            f"a DLA core was asked for, but {what} on the GPU",
            why="its layers are\n    " + "\n    ".join(lines),
            fix="build for the GPU, which runs INT8 faster than a plan that changes hands"
            + ("; or name one batch size" if len(profiles) > 1 else ""),
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


@dataclass(frozen=True)
class _Entry:
    """A layer as TensorRT describes it, in either of its two forms.

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
            "the engine inspector's answer is not as expected", why=f"{problem!r}: {text[:200]!r}"
        ) from problem


def _from_json(layer: str | dict[str, Any]) -> _Entry:
    if isinstance(layer, str):
        return _Entry(layer, UNKNOWN)
    tensors = [*layer.get("Inputs", ()), *layer.get("Outputs", ())]
    weights = layer.get("Weights")
    return _Entry(
        name=str(layer.get("Name", "")),
        type=str(layer.get("LayerType", UNKNOWN)),
        parameters=str(layer.get("ParameterType", "")),
        tactic=str(layer.get("TacticName", "")),
        metadata=str(layer.get("Metadata", "")),
        inputs=tuple(_datatype(entry) for entry in layer.get("Inputs", ())),
        outputs=tuple(_datatype(entry) for entry in layer.get("Outputs", ())),
        weights=(
            _datatype_in(str(weights.get("Type")))
            if isinstance(weights, dict)
            else _largest(
                (math.prod(entry["Dimensions"]), _datatype(entry))
                for entry in layer.get("Constants", ())
            )
        ),
        tensors=" ".join(str(entry.get("Name")) for entry in tensors if isinstance(entry, dict)),
    )


def _datatype(entry: str | dict[str, Any]) -> str:
    if isinstance(entry, str):
        return UNKNOWN
    # Dynamic shapes hide it before 11: "N/A due to dynamic shapes".
    return _datatype_in(str(entry.get("Datatype") or entry.get("Format/Datatype", "")))


def _datatype_in(text: str) -> str:
    """The data type named in a text such as "Row major linear FP16 format"."""
    match = _DATATYPE.search(text)
    return _SAME.get(match.group().lower(), match.group().lower()) if match else UNKNOWN


def _largest(constants: Iterable[tuple[int, str]]) -> str:
    """Data type of a layer's weights, which are larger than the scales beside them."""
    return max(constants, default=(0, UNKNOWN), key=lambda constant: constant[0])[1]


def parse_build_log(text: str) -> LayerTable:
    """Read a table of layers that has one layer a line.

    A detailed build logs it, which shows the precision of a plan where there is no GPU to load it;
    it is the inspector's answer in its one-line form too. A line that cannot be read is a layer of
    unknown precision: none is left out.

    Args:
        text: The message that begins with "Layers:".
    """
    listed = _TENSORS.split(text.partition(_LAYERS)[2], maxsplit=1)[0]
    return _table(_from_line(line) for line in listed.splitlines() if line.strip())


def _from_line(line: str) -> _Entry:
    match = _ONE_LINE.match(line)
    if match is None:
        name = line.removeprefix("Name: ").partition(", LayerType: ")[0]
        return _Entry(name.strip(), UNKNOWN)
    inputs, constants, outputs = (
        [_sized(tensor) for tensor in _ONE_LINE_TENSOR.findall(match[part] or "")]
        for part in ("inputs", "constants", "outputs")
    )
    rest, _, metadata = (match["rest"] or "").partition("Metadata:")
    values = dict(_ONE_LINE_FIELD.findall(rest))
    weights = _ONE_LINE_WEIGHTS.search(rest)
    return _Entry(
        name=match["name"],
        type=match["type"],
        parameters=values.get("ParameterType", ""),
        tactic=values.get("TacticName", ""),
        metadata=metadata.strip(),
        inputs=tuple(datatype for _, datatype in inputs),
        outputs=tuple(datatype for _, datatype in outputs),
        weights=_datatype_in(weights[1]) if weights else _largest(constants),
        tensors=f"{match['inputs']} {match['outputs']}",
    )


def _sized(tensor: str) -> tuple[int, str]:
    """Number of values and data type of a tensor as a line describes it."""
    shape, datatype = _ONE_LINE_SHAPE.search(tensor), _ONE_LINE_DATATYPE.search(tensor)
    size = math.prod(int(side) for side in shape[1].split(",") if side) if shape else 0
    return size, _datatype_in(datatype[1]) if datatype else UNKNOWN


def _table(entries: Iterable[_Entry]) -> LayerTable:
    """The layers with the profile of each: they are listed profile by profile.

    A fused layer's own name does not say the profile, but its tensors' names may; one that reads
    only tensors of the compiler's own is of the same profile as the layer before it.
    """
    rows: list[Layer] = []
    profile = 0
    for entry in entries:
        if marks := _PROFILE.findall(entry.name) or _PROFILE.findall(entry.tensors):
            profile = int(marks[-1])
        rows.append(_layer(entry, profile))
    return LayerTable(tuple(rows))


def _layer(entry: _Entry, profile: int) -> Layer:
    fused = _FUSED.search(entry.name)
    steps = set(_FUSED_STEP.findall(fused[1])) if fused else set()
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
    return Layer(
        name=entry.name,
        type=entry.type,
        precision=_multiplied_in(entry) if multiplies else _first([*entry.outputs, *entry.inputs]),
        convolution=convolution,
        nodes=_nodes(entry, multiplies=multiplies),
        profile=profile,
        multiplies=multiplies,
    )


def _multiplied_in(entry: _Entry) -> str:
    """What a convolution or product multiplies: as its kernel is named, else by data and weights.

    Data and weights of different types, as where a kernel converts one of them first, do not tell.
    """
    if kernel := _TACTIC.search(f"{entry.tactic}_"):
        return _TACTIC_PRECISION[kernel[1]]
    data = entry.inputs[0] if entry.inputs else UNKNOWN
    known = {data, entry.weights} - {UNKNOWN}
    return known.pop() if len(known) == 1 else UNKNOWN


def _first(datatypes: Iterable[str]) -> str:
    return next((datatype for datatype in datatypes if datatype != UNKNOWN), UNKNOWN)


def _nodes(entry: _Entry, *, multiplies: bool) -> tuple[str, ...]:
    """The ONNX nodes in a layer: by its metadata, or where it has none by a convolution's name.

    Metadata is "[ONNX Layer: a][ONNX Layer: b]", with control characters between and words of the
    compiler's behind; a name of a node may have brackets.
    """
    if parts := entry.metadata.split(_ONNX_NODE)[1:]:
        return tuple(part.rpartition("]")[0] for part in parts)
    if not multiplies:
        return ()
    name = _PROFILE.sub("", _MYELIN_SUFFIX.sub("", entry.name))
    return tuple(part.strip() for part in re.split(r" \+ | \|\| ", name))


def inspect_engine(trt: Any, engine: Any, context: Any = None) -> LayerTable:
    """Ask a loaded engine for its layers.

    Args:
        trt: The library.
        engine: An `ICudaEngine`.
        context: An `IExecutionContext` whose input shapes are set: before 11, a plan of dynamic
            shape tells its data types for a shape only. None makes one at the optimum shape of
            the first profile.

    Raises:
        LpxError: No context can be made, or the inspector's answer is not as expected.
    """
    inspector = engine.create_engine_inspector()
    inspector.execution_context = _at_optimum(trt, engine) if context is None else context
    return parse_inspector(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def _at_optimum(trt: Any, engine: Any) -> Any:
    context = engine.create_execution_context()
    if context is None:
        raise LpxError(
            "TensorRT made no execution context, so the plan's precision cannot be read",
            why="most often the GPU lacks memory for the plan's activations",
            fix="build with smaller batches, or close other programs on the GPU",
        )
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        inward = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        if inward and -1 in tuple(engine.get_tensor_shape(name)):
            context.set_input_shape(name, tuple(engine.get_tensor_profile_shape(name, 0)[1]))
    return context
