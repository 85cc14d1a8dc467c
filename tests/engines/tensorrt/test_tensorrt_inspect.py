"""Reading a plan's layers, and the error where the precision asked for is not in them.

The JSON samples are written in the style of the engine inspector's answers, after NVIDIA's
documentation; they were not recorded. `BUILD_LOG` was: it is a part of what TensorRT for RTX
1.7.1 logs while it builds, which it does without a GPU.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tensorrt_fakes import FakeLibrary, Spy
from tensorrt_nets import one_convolution
from tensorrt_surfaces import RELEASES

from lpx.engines.tensorrt.inspect import (
    inspect_engine,
    parse_build_log,
    parse_inspector,
)
from lpx.engines.tensorrt.layer_table import (
    LayerTable,
    PlanLayer,
    assert_precision,
    of_graph,
)
from lpx.errors import LpxError, NotAsAskedError


def entry(text: str, **more: Any) -> dict[str, Any]:
    return {"Name": "t", "Location": "Device", "Dimensions": [1, 64, 8, 8], **more} | (
        {"Format/Datatype": text} if text else {}
    )


BEFORE_11 = {
    "Layers": [
        {
            "Name": "Reformatting CopyNode for Input Tensor 0 to conv1",
            "LayerType": "Reformat",
            "Inputs": [entry("Row major linear FP16 format")],
            "Outputs": [entry("Thirty-two wide channel vectorized row major Int8 format")],
            "ParameterType": "Reformat",
            "Origin": "REFORMAT",
        },
        {
            "Name": "conv1 + relu1",
            "LayerType": "CaskConvolution",
            "Inputs": [entry("Thirty-two wide channel vectorized row major Int8 format")],
            "Outputs": [entry("Channel major FP16 format where channel % 8 == 0")],
            "ParameterType": "Convolution",
            "Weights": {"Type": "Int8", "Count": 36864},
        },
        {
            "Name": "head",
            "LayerType": "CaskGemmConvolution",
            "Inputs": [entry("Half")],
            "Outputs": [entry("Half")],
            "ParameterType": "Convolution",
            "Weights": {"Type": "Half", "Count": 64},
        },
        {
            "Name": "PWN(sigmoid)",
            "LayerType": "PointWiseV2",
            "Inputs": [entry("Row major linear FP32")],
            "Outputs": [entry("Row major linear FP32")],
        },
    ],
    "Bindings": ["faces", "score", "patch_map"],
}
FROM_11 = {
    "Layers": [
        {
            "Name": "conv1_myl0_1",
            "LayerType": "correlation",
            "Inputs": [entry("", Datatype="Int8", Format="(NHWC) Channel major format")],
            "Outputs": [entry("", Datatype="Float", Format="(NHWC) Channel major format")],
            "Metadata": "[ONNX Layer: conv1]",
        },
        {
            "Name": "__myl_CorrCastSigm_myl0_2",
            "LayerType": "runtime_fusion",
            "Inputs": [entry("", Datatype="Half", Format="(NHWC) Channel major format")],
            "Outputs": [entry("", Datatype="Float", Format="(NHWC) Channel major format")],
        },
        {"Name": "__mye1_0_myl0_0", "LayerType": "shape_call", "Inputs": [], "Outputs": []},
    ],
    "I/O Tensors": [{"Name": "faces", "IOMode": "Input", "DataType": "UInt8"}],
}
BUILD_LOG = """Layers:
Name: __mye489_0_myl0_0, LayerType: shape_call, Inputs: [], Constants: [], Outputs: [], \
TacticName: , StreamId: 0, Metadata:
Name: __myl_MulMinMaxRounCast_myl0_3, LayerType: kgen, Inputs: [ { Name: relu.1_10_myl0, \
Dimensions: [-1,64,16,16], Strides: [16384,1,1024,64], StrideOrder: [3,0,2,1], Datatype: Half, \
Format: (NHWC) Channel major format }], Constants: [ { Name: __mye1_const_myl0, Dimensions: [1], \
Strides: [1], StrideOrder: [0], Datatype: Half, Format: (Linear) Row major linear format }], \
Outputs: [ { Name: conv.1_11_myl0, Dimensions: [-1,64,16,16], Strides: [16384,1,1024,64], \
StrideOrder: [3,0,2,1], Datatype: Int8, Format: (NHWC) Channel major format }], \
TacticName: __myl_MulMinMaxRounCast_0x3b6b, StreamId: 0, Metadata: [ONNX Layer: QuantizeLinear_14]
Name: Conv_17_myl0_4, LayerType: correlation, Inputs: [ { Name: conv.1_11_myl0, \
Dimensions: [-1,64,16,16], Strides: [16384,1,1024,64], StrideOrder: [3,0,2,1], Datatype: Int8, \
Format: (NHWC) Channel major format }], Constants: [ { Name: __mye2_dconst_myl0, \
Dimensions: [64,64,3,3], Strides: [576,1,192,64], StrideOrder: [3,0,2,1], Datatype: Int8, \
Format: (NHWC) Channel major format }], Outputs: [ { Name: relu.2_12_myl0, \
Dimensions: [-1,64,16,16], Strides: [16384,1,1024,64], StrideOrder: [3,0,2,1], Datatype: Half, \
Format: (NHWC) Channel major format }], TacticName: __myelin_CASK_STUB, StreamId: 0, \
Metadata: [ONNX Layer: Conv_17][ONNX Layer: Relu_18]

I/O Tensors:
 Name: faces, IOMode: Input, DataType: UInt8, Dimensions: [-1,32,32,3], Location: Device
"""


def test_the_json_before_11_is_read() -> None:
    table = parse_inspector(json.dumps(BEFORE_11))
    assert [(row.type, row.precision, row.convolution) for row in table.rows] == [
        ("Reformat", "int8", False),
        ("CaskConvolution", "int8", True),
        ("CaskGemmConvolution", "fp16", True),
        ("PointWiseV2", "fp32", False),
    ]
    assert table.share_of_layers() == {"int8": 0.5, "fp16": 0.25, "fp32": 0.25}
    assert table.count_convolutions() == {"int8": 1, "fp16": 1}


def test_the_json_from_11_on_is_read() -> None:
    table = parse_inspector(json.dumps(FROM_11))
    assert [(row.name, row.precision, row.convolution) for row in table.rows] == [
        ("conv1_myl0_1", "int8", True),
        ("__myl_CorrCastSigm_myl0_2", "fp16", True),
        ("__mye1_0_myl0_0", "unknown", False),
    ]
    assert table.share_of_layers() == {"int8": 0.5, "fp16": 0.5}


def log_line(
    name: str,
    kind: str,
    *,
    reads: str = "Half",
    weights: tuple[str, str] | None = ("[64,64,1,1]", "Half"),
    metadata: str = "",
    tensor: str = "x",
) -> str:
    """A line as TensorRT for RTX 1.7.1 logs it."""

    def entry(name: str, shape: str, datatype: str) -> str:
        form = "Format: (NHWC) Channel major format"
        return f"{{ Name: {name}, Dimensions: {shape}, Datatype: {datatype}, {form} }}"

    scale = entry("__mye5238_const_myl0", "[1]", "Float")
    constants = f" {scale}, {entry('w', *weights)}, {scale}" if weights else ""
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: [ {entry(tensor, '[-1,64,8,8]', reads)}], "
        f"Constants: [{constants}], Outputs: [ {entry('y', '[-1,64,8,8]', 'Float')}], "
        f"TacticName: __myelin_CASK_STUB, StreamId: 0, Metadata: {metadata}"
    )


def log(*lines: str) -> LayerTable:
    return parse_build_log("\n".join(["Layers:", *lines, "", "I/O Tensors:", " Name: x"]))


POINTWISE = "[ONNX Layer: Conv_21:pointwise]__gemm_from_conv1x1"
FUSED = "[ONNX Layer: Conv_27:pointwise][ONNX Layer: Relu_28]__gemm_from_conv1x1"
CONVOLUTIONS = ("Conv_20", "Conv_21:pointwise", "Conv_27:pointwise", "Conv_35:head")


def of_xception() -> tuple[str, ...]:
    """What becomes of 1x1 convolutions in an FP16 plan of Xception."""
    return (
        log_line("Conv_20_myl0_13", "correlation", metadata="[ONNX Layer: Conv_20]"),
        log_line("__mye2192_myl0_14", "gemm", metadata=POINTWISE),
        log_line("__myl_FcRelu_myl0_19", "runtime_fusion", metadata=FUSED),
        log_line("__myl_CorrCast_myl0_25", "runtime_fusion", metadata="[ONNX Layer: Conv_35:head]"),
        log_line("__myl_ReshSigm_myl0_27", "kgen", weights=None, metadata="[ONNX Layer: Sigm_38]"),
    )


def test_a_1x1_convolution_that_became_a_matrix_product_counts() -> None:
    table = replace(log(*of_xception()), graph_convolutions=CONVOLUTIONS)
    assert table.count_convolutions() == {"fp16": 4}
    assert table.unrecognised == ()
    assert len(table.convolutions) == 4
    assert set(CONVOLUTIONS) <= table.precision_of_nodes().keys()


def test_a_matrix_product_that_says_nothing_of_a_convolution_is_known_by_the_graph() -> None:
    """As TensorRT 10 writes it: no word of where the product came from."""
    lines = [line.replace("__gemm_from_conv1x1", "") for line in of_xception()]
    assert replace(log(*lines), graph_convolutions=CONVOLUTIONS).count_convolutions() == {"fp16": 4}
    assert len(log(*lines).convolutions) == 2


def test_several_profiles_count_their_convolutions_once() -> None:
    """A fused layer names its profile by its tensors, or not at all."""
    second = [
        log_line(
            "Conv_20 [profile 1]_myl1_13",
            "correlation",
            metadata="[ONNX Layer: Conv_20]",
            tensor="a [profile 1].1_2_myl1",
        ),
        log_line("__mye2192_myl1_14", "gemm", metadata=POINTWISE, tensor="b [profile 1]_myl1"),
        log_line("__myl_FcRelu_myl1_19", "runtime_fusion", metadata=FUSED),
        log_line("__myl_CorrCast_myl1_25", "runtime_fusion", metadata="[ONNX Layer: Conv_35:head]"),
    ]
    alone = log(*of_xception(), *second)
    table = replace(alone, graph_convolutions=CONVOLUTIONS)
    assert [row.profile for row in table.rows] == [0] * 5 + [1] * 4
    assert len(table.convolutions) == 8
    assert table.count_convolutions() == alone.count_convolutions() == {"fp16": 4}
    assert_precision(table, "fp16")


def test_a_profile_that_lost_the_precision_is_an_error() -> None:
    first = log_line("Conv_1", "correlation", reads="Int8", weights=("[8,8,3,3]", "Int8"))
    second = log_line("Conv_1 [profile 1]", "correlation")
    table = replace(log(first, second), graph_convolutions=("Conv_1",))
    assert table.count_convolutions() == {"fp16": 1}
    with pytest.raises(NotAsAskedError, match="the plan computes in FP16 in profile 1"):
        assert_precision(table, "int8")
    lost = replace(log(first, "Conv_1 [profile 1]"), graph_convolutions=("Conv_1",))
    assert lost.unrecognised == ("Conv_1",)


def test_a_copy_is_no_proof_where_no_convolution_is_recognised() -> None:
    layers = [
        BEFORE_11["Layers"][0],
        {"Name": "{ForeignNode[conv1...head]}", "LayerType": "Myelin", "Inputs": [], "Outputs": []},
    ]
    table = parse_inspector(json.dumps({"Layers": layers}))
    assert_precision(table, "int8")
    with pytest.raises(LpxError, match="not known whether"):
        assert_precision(replace(table, graph_convolutions=("conv1",)), "int8")


def test_no_line_of_a_log_is_left_out() -> None:
    table = log(
        "Name: new, LayerType: novelty, Shapes: none",
        "conv1 + relu1",
        log_line("Conv_1", "correlation"),
    )
    assert [(row.name, row.precision) for row in table.rows] == [
        ("new", "unknown"),
        ("conv1 + relu1", "unknown"),
        ("Conv_1", "fp16"),
    ]


def test_the_one_line_form_of_10_is_read() -> None:
    """No constants, layout and type in one, weights for themselves, layers of two compilers."""
    tensor = "{ Name: t, Location: Device, Dimensions: [1,8,8,8], Format/Datatype: Row major FP16 }"
    table = log(
        f"Name: conv1 + relu1, LayerType: CaskConvolution, Inputs: [ {tensor}], Outputs: [ "
        f"{tensor.replace('FP16', 'FP32')}], ParameterType: Convolution, Kernel: [5,5], "
        'Weights: {"Type": "Half", "Count": 800}, Bias: {"Type": "Float", "Count": 32}, '
        "TacticName: t, TacticValue: 0x1, StreamId: 0, "
        "Metadata: [ONNX Layer: conv1][ONNX Layer: relu1]",
        "Name: fc_myl5_2, LayerType: gemm, Inputs: [ { Name: a, Dimensions: [-1,9], "
        "Format/Datatype: Half }], Outputs: [ { Name: b, Dimensions: [-1,9], Format/Datatype: Float"
        " }], TacticName: sm90_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize64x64x64, StreamId: 0, "
        "Metadata: [ONNX Layer: fc]",
    )
    assert [(row.precision, row.convolution, row.nodes) for row in table.rows] == [
        ("fp16", True, ("conv1", "relu1")),
        ("fp16", False, ("fc",)),
    ]


@pytest.mark.parametrize(
    ("tactic", "precision"),
    [
        ("sm80_xmma_fprop_implicit_gemm_i8i8_i8i32_f32_nhwckrsc_nhwc_tilesize128x64x64", "int8"),
        ("sm80_xmma_fprop_implicit_gemm_interleaved_i8f32_i8i32_f32_nchw_vect_c_32", "int8"),
        ("sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc", "fp16"),
        ("sm86_xmma_gemm_f32f32_tf32f32_f32_tn_n_tilesize64x64x64", "fp32"),
        ("", "unknown"),
    ],
)
def test_where_shapes_hide_every_type_the_kernel_tells_it(tactic: str, precision: str) -> None:
    hidden = [entry("N/A due to dynamic shapes")]
    layer = {"Name": "c", "LayerType": "CaskGemmConvolution", "Inputs": hidden, "Outputs": hidden}
    (row,) = parse_inspector(json.dumps({"Layers": [layer | {"TacticName": tactic}]})).rows
    assert (row.precision, row.convolution) == (precision, True)


def test_data_and_weights_of_different_types_do_not_tell() -> None:
    (row,) = log(log_line("Conv_1", "correlation", weights=("[8,8,3,3]", "Int8"))).rows
    assert row.precision == "unknown"


NODE_NAMES = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1).filter(
    lambda name: "ONNX" not in name
)


@given(st.lists(NODE_NAMES, min_size=1, max_size=4), st.sampled_from(["", "\x1e", "\x1f"]))
def test_any_name_of_a_node_comes_out_of_the_metadata(names: list[str], separator: str) -> None:
    metadata = separator.join(f"[ONNX Layer: {name}]" for name in names)
    layer = {"Name": "n", "LayerType": "gemm", "Metadata": metadata + "__gemm_from_conv1x1"}
    (row,) = parse_inspector(json.dumps({"Layers": [layer]})).rows
    assert row.nodes == tuple(names)


def test_the_graphs_convolutions_are_named_as_the_parser_names_them() -> None:
    assert of_graph(LayerTable(()), one_convolution("a")).graph_convolutions == ("a",)
    assert of_graph(LayerTable(()), one_convolution("")).graph_convolutions == ("node_of_y",)


def test_names_alone_give_no_precision() -> None:
    table = parse_inspector(json.dumps({"Layers": ["conv1 + relu1", "head"], "Bindings": []}))
    assert [row.name for row in table.rows] == ["conv1 + relu1", "head"]
    assert table.share_of_layers() == {}
    with pytest.raises(LpxError, match="not known whether"):
        assert_precision(table, "int8")


def test_where_dynamic_shapes_hide_the_type_the_weights_tell_it() -> None:
    layer = BEFORE_11["Layers"][1] | {"Inputs": [entry("N/A due to dynamic shapes")]}
    (row,) = parse_inspector(json.dumps({"Layers": [layer]})).rows
    assert row.precision == "int8"


def test_a_build_log_is_read() -> None:
    assert parse_build_log(BUILD_LOG).rows == (
        PlanLayer("__mye489_0_myl0_0", "shape_call", "unknown", False),
        PlanLayer("__myl_MulMinMaxRounCast_myl0_3", "kgen", "int8", False, ("QuantizeLinear_14",)),
        PlanLayer(
            "Conv_17_myl0_4",
            "correlation",
            "int8",
            True,
            ("Conv_17", "Relu_18"),
            multiplies=True,
        ),
    )
    assert parse_build_log("").rows == ()


def test_precision_of_a_node_is_that_of_the_layer_that_multiplies() -> None:
    rows = (
        PlanLayer("Conv_3", "correlation", "int8", True, ("Conv_3", "Relu_4")),
        # Casts and copies beside it carry its name too.
        PlanLayer("__myl_Cast", "kgen", "fp16", False, ("Conv_3", "Sub_2")),
        PlanLayer("head", "gemm", "fp16", False, ("Gemm_9",), multiplies=True),
        PlanLayer("__myl_Add", "kgen", "fp32", False, ("Gemm_9",)),
        PlanLayer("shape", "shape_call", "unknown", False, ("Shape_1",)),
        # What multiplies Conv_5 is not among the layers.
        PlanLayer("__myl_MulCastAddRelu", "kgen", "fp16", False, ("Conv_5", "Relu_6")),
    )
    found = {"Conv_3": "int8", "Relu_4": "int8", "Gemm_9": "fp16"}
    assert LayerTable(rows).precision_of_nodes() == found
    assert LayerTable(rows[::-1]).precision_of_nodes() == found
    table = LayerTable(rows, graph_convolutions=("Conv_3", "Conv_5"))
    assert table.count_convolutions() == {"int8": 1, "unknown": 1}
    assert table.unrecognised == ("Conv_5",)


def test_nodes_are_found_in_the_inspectors_answer() -> None:
    metadata = "[ONNX Layer: /block.0/conv[1]/Conv]\x1e[ONNX Layer: Relu_4]"
    layer = BEFORE_11["Layers"][1] | {"Metadata": metadata}
    (row,) = parse_inspector(json.dumps({"Layers": [layer]})).rows
    assert row.nodes == ("/block.0/conv[1]/Conv", "Relu_4")
    (row,) = parse_inspector(json.dumps({"Layers": [layer | {"Metadata": ""}]})).rows
    assert row.nodes == tuple(layer["Name"].split(" + "))


@pytest.mark.parametrize("text", ["", "[]", "null", '{"layers": []}', "not JSON"])
def test_another_answer_is_an_error(text: str) -> None:
    with pytest.raises(LpxError, match="not as expected"):
        parse_inspector(text)


KEYS = ("Name", "LayerType", "Inputs", "Outputs", "Weights", "Datatype")
ANY_JSON = st.recursive(
    st.none() | st.text() | st.integers(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(KEYS), inner),
)


@given(ANY_JSON | st.fixed_dictionaries({"Layers": ANY_JSON | st.lists(ANY_JSON)}))
def test_any_json_gives_a_table_or_an_lpx_error(content: Any) -> None:
    try:
        table = parse_inspector(json.dumps(content))
    except LpxError:
        return
    assert isinstance(table, LayerTable)


def table_of(*precisions: str, convolution: bool = True) -> LayerTable:
    return LayerTable(
        tuple(PlanLayer(f"layer {i}", "type", p, convolution) for i, p in enumerate(precisions))
    )


@pytest.mark.parametrize(
    ("precisions", "asked"),
    [
        (("int8", "fp16"), "int8"),
        (("fp16", "fp32"), "fp16"),
        (("fp32", "fp32"), "fp32"),
        (("unknown", "int8"), "int8"),
    ],
)
def test_the_precision_that_is_there_passes(precisions: tuple[str, ...], asked: Any) -> None:
    assert_precision(table_of(*precisions), asked)


@pytest.mark.parametrize(
    ("precisions", "asked", "found"),
    [
        (("fp16", "fp16"), "int8", "FP16"),
        (("fp32",), "fp16", "FP32"),
        (("fp16", "fp32"), "fp32", "FP16, FP32"),
        (("fp16", "int8"), "fp16", "FP16, INT8"),
    ],
)
def test_a_precision_that_is_not_there_is_an_error_with_the_layers(
    precisions: tuple[str, ...], asked: Any, found: str
) -> None:
    with pytest.raises(LpxError) as caught:
        assert_precision(table_of(*precisions), asked)
    assert caught.value.what.startswith(f"{asked.upper()} was requested")
    assert caught.value.what.endswith(found)
    for index in range(len(precisions)):
        assert f"layer {index}" in caught.value.why


def test_int8_in_a_copy_is_no_int8_convolution() -> None:
    rows = table_of("fp16").rows + table_of("int8", convolution=False).rows
    with pytest.raises(LpxError, match="INT8 was requested"):
        assert_precision(LayerTable(rows), "int8")


def test_without_convolutions_all_layers_count() -> None:
    assert_precision(table_of("int8", convolution=False), "int8")


def test_a_long_list_is_cut() -> None:
    with pytest.raises(LpxError) as caught:
        assert_precision(table_of(*["fp16"] * 40), "int8")
    assert "and 28 more" in caught.value.why


@pytest.mark.parametrize("release", RELEASES)
@pytest.mark.parametrize("given_context", [True, False])
def test_the_inspector_is_asked_at_a_set_shape(release: str, given_context: bool) -> None:
    library = FakeLibrary(release)
    shapes: dict[str, Any] = {}

    def make() -> Spy:
        return Spy("IExecutionContext", library, set_input_shape=shapes.__setitem__)

    inspector = Spy(
        "EngineInspector", library, get_engine_information=lambda form: json.dumps(FROM_11)
    )
    engine = Spy(
        "ICudaEngine",
        library,
        num_io_tensors=2,
        get_tensor_name=lambda index: ("faces", "score")[index],
        get_tensor_mode=lambda name: library.TensorIOMode["INPUT" if name == "faces" else "OUTPUT"],
        get_tensor_shape=lambda name: (-1, 4, 4, 3) if name == "faces" else (-1,),
        get_tensor_profile_shape=lambda name, index: [(n, 4, 4, 3) for n in (1, 2, 3)],
        create_execution_context=make,
        create_engine_inspector=lambda: inspector,
    )
    context = make() if given_context else None
    table = inspect_engine(library, engine, context)
    assert len(table.rows) == 3
    assert shapes == ({} if given_context else {"faces": (2, 4, 4, 3)})
    ((_, asked),) = library.named("EngineInspector.execution_context =")
    assert asked() is context
