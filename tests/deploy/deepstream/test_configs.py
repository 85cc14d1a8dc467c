"""Configurations, checked against the keys and fields that DeepStream 9.1's sources read."""

from __future__ import annotations

import configparser
import re
from dataclasses import replace

import numpy as np
import pytest

from lpx.card import ModelCard
from lpx.deploy.deepstream.configs import (
    FORMS,
    Settings,
    attribute_threshold,
    engine_file,
    nvinfer_config,
    nvinferserver_config,
    takes_nvinferserver,
)

CARD = ModelCard("resnet18", "layer1", "mean_prob", 224, crop="square-1.3", threshold=0.37)
SETTINGS = Settings(CARD, "int8", 32, "detector")


def whole(low, high=2**31 - 1):
    return lambda text: bool(re.fullmatch(r"-?\d+", text)) and low <= int(text) <= high


def number(low):
    return lambda text: low <= float(text) < float("inf")


def switch(text):
    return text in ("0", "1")


def some_text(text):
    return bool(text) and text == text.strip()


def sizes(text):
    parts = text.split(";")
    return len(parts) == 3 and all(whole(1)(part) for part in parts)


# Keys of [property] and values that gstnvinfer_property_parser.cpp accepts. Those that a form of
# ours may not have are left out: a mean file, offsets, an ONNX file, a custom library.
KEYS = {
    "gpu-id": whole(0),
    "gie-unique-id": whole(1),
    "model-engine-file": some_text,
    "batch-size": whole(1, 1024),
    "process-mode": whole(1, 2),
    "operate-on-gie-id": whole(-1),
    "operate-on-class-ids": whole(0),
    "input-object-min-width": whole(0),
    "input-object-min-height": whole(0),
    "infer-dims": sizes,
    "network-input-order": whole(0, 1),
    "model-color-format": whole(0, 2),
    "net-scale-factor": number(1e-9),
    "maintain-aspect-ratio": switch,
    "scaling-filter": whole(0, 6),
    "scaling-compute-hw": whole(0, 2),
    "network-type": lambda text: text in ("0", "1", "2", "3", "100"),
    "output-tensor-meta": switch,
    "classifier-type": some_text,
    "classifier-threshold": number(0),
    "classifier-async-mode": switch,
    "labelfile-path": some_text,
    "secondary-reinfer-interval": whole(0),
}


def properties(text):
    """The keys of a GLib key file, as strictly as GLib reads them."""
    parser = configparser.ConfigParser(
        comment_prefixes=("#",), delimiters=("=",), interpolation=None, strict=True
    )
    parser.optionxform = str
    # GLib knows no key without a group, and comments on lines of their own only.
    parser.read_string(text)
    assert parser.sections() == ["property"]
    found = dict(parser["property"])
    assert not any("#" in value or "\n" in value for value in found.values())
    return found


@pytest.mark.parametrize("form", FORMS)
def test_every_key_and_value_is_one_that_nvinfer_reads(form):
    found = properties(nvinfer_config(form, SETTINGS))
    assert set(found) <= set(KEYS)
    for key, value in found.items():
        assert KEYS[key](value), (key, value)


@pytest.mark.parametrize("form", FORMS)
def test_pixels_reach_the_engine_unchanged(form):
    found = properties(nvinfer_config(form, SETTINGS))
    assert found["infer-dims"] == "3;224;224"
    assert found["network-input-order"] == "0"
    assert found["model-color-format"] == "0"
    assert float(found["net-scale-factor"]) == 1
    assert found["maintain-aspect-ratio"] == "0"
    assert not {"offsets", "mean-file"} & set(found)
    # Otherwise the nearest pixel, and on a Jetson another machine.
    assert (found["scaling-filter"], found["scaling-compute-hw"]) == ("1", "1")


@pytest.mark.parametrize("form", FORMS)
def test_faces_of_the_face_detector_are_scored(form):
    found = properties(nvinfer_config(form, SETTINGS))
    assert found["process-mode"] == "2"
    assert (found["operate-on-gie-id"], found["operate-on-class-ids"]) == ("1", "0")
    assert found["gie-unique-id"] == "2"
    assert found["batch-size"] == "32"


@pytest.mark.parametrize("form", FORMS)
def test_nvinfer_can_only_load_the_engine_of_the_form(form):
    found = properties(nvinfer_config(form, SETTINGS))
    assert found["model-engine-file"] == f"{form}.onnx_b32_gpu0_int8.engine"
    assert found["model-engine-file"] == engine_file(form, SETTINGS)
    # Nothing to build an engine from, unasked.
    sources = {"onnx-file", "model-file", "custom-lib-path", "engine-create-func-name"}
    assert not sources & set(found)


def test_forms():
    score, tensors = (properties(nvinfer_config(form, SETTINGS)) for form in FORMS)
    assert (score["network-type"], tensors["network-type"]) == ("1", "100")
    assert "output-tensor-meta" not in score
    assert tensors["output-tensor-meta"] == "1"
    assert "classifier-threshold" not in tensors
    # A label is needed: nvinfer attaches nothing without one.
    assert score["labelfile-path"] == "labels.txt"
    assert score["classifier-async-mode"] == "0"
    assert score["secondary-reinfer-interval"] == "0"


def label_of_nvinfer(scores, threshold):
    """As nvinfer's parser of softmax layers labels an output of one class."""
    threshold = np.float32(threshold)
    labelled = []
    for score in scores:
        labelled.append(bool(score > threshold and score > np.float32(0)))
    return labelled


@pytest.mark.parametrize("threshold", [0.5, 0.37, 0.1 + 0.2, 1.0, 1e-30, 1 / 3, 0.31505])
def test_nvinfer_labels_what_lpx_calls_fake(threshold):
    at = np.float32(threshold)
    scores = np.array(
        [0, np.nextafter(at, np.float32(0)), at, np.nextafter(at, np.float32(2)), 1], np.float32
    )
    found = label_of_nvinfer(scores, float(attribute_threshold(threshold)))
    assert found == (scores >= threshold).tolist()


def test_threshold_of_zero_labels_all_but_a_score_of_zero():
    text = attribute_threshold(0.0)
    assert KEYS["classifier-threshold"](text)
    assert label_of_nvinfer(np.float32([0, 1e-45, 1]), float(text)) == [False, True, True]


@pytest.mark.parametrize(("size", "taken"), [(224, True), (299, False), (1, False)])
def test_nvinferserver_takes_even_sizes(size, taken):
    assert takes_nvinferserver(replace(CARD, input_size=size)) == taken


# Fields of nvdsinferserver_plugin.proto and _config.proto that we may use, and their types.
FIELDS = {
    "infer_config": {
        "unique_id": int,
        "gpu_ids": [int],
        "max_batch_size": int,
        "backend": {
            "triton": {
                "model_name": str,
                "version": int,
                "model_repo": {"root": str, "strict_model_config": bool},
            }
        },
        "preprocess": {
            "network_format": {"IMAGE_FORMAT_RGB", "IMAGE_FORMAT_BGR", "IMAGE_FORMAT_GRAY"},
            "tensor_order": {"TENSOR_ORDER_LINEAR", "TENSOR_ORDER_NHWC"},
            "tensor_name": str,
            "maintain_aspect_ratio": int,
            "frame_scaling_hw": {"FRAME_SCALING_HW_GPU", "FRAME_SCALING_HW_VIC"},
            "frame_scaling_filter": int,
            "normalize": {"scale_factor": float},
        },
        "postprocess": {"other": {"type_name": str}},
    },
    "input_control": {
        "process_mode": {"PROCESS_MODE_FULL_FRAME", "PROCESS_MODE_CLIP_OBJECTS"},
        "operate_on_gie_id": int,
        "operate_on_class_ids": [int],
        "async_mode": bool,
        "object_control": {"bbox_filter": {"min_width": int, "min_height": int}},
    },
    "output_control": {"output_tensor_meta": bool},
}
_TOKEN = re.compile(r'\s*(?:#[^\n]*\s*)*("[^"]*"|[A-Za-z_]\w*|-?[\d.]+|[{}:\[\],])')


def parse_text(text):
    """Parse protobuf's text format strictly: known fields, each at most once, of their types."""
    tokens, position = [], 0
    while text[position:].strip():
        match = _TOKEN.match(text, position)
        assert match, text[position : position + 40]
        tokens.append(match[1])
        position = match.end()
    tokens.reverse()
    found = message(tokens, FIELDS)
    assert not tokens
    return found


def message(tokens, fields):
    found = {}
    while tokens and tokens[-1] != "}":
        name = tokens.pop()
        assert name in fields, f"unknown field {name}"
        assert name not in found, f"{name} twice"
        kind = fields[name]
        if isinstance(kind, dict):
            assert tokens.pop() == "{"
            found[name] = message(tokens, kind)
            assert tokens.pop() == "}"
        else:
            assert tokens.pop() == ":"
            found[name] = value(tokens, kind)
    return found


def value(tokens, kind):
    token = tokens.pop()
    if isinstance(kind, list):
        assert token == "["
        values = [value(tokens, kind[0])]
        while tokens.pop() == ",":
            values.append(value(tokens, kind[0]))
        return values
    if isinstance(kind, set):
        assert token in kind
        return token
    if kind is bool:
        return {"true": True, "false": False}[token]
    if kind is str:
        assert token[0] == token[-1] == '"'
        return token[1:-1]
    return kind(token)


def test_nvinferserver_configuration():
    found = parse_text(nvinferserver_config(SETTINGS))
    assert set(found) == set(FIELDS)
    infer = found["infer_config"]
    assert (infer["unique_id"], infer["max_batch_size"]) == (2, 32)
    assert infer["backend"]["triton"]["model_name"] == "detector"
    pixels = infer["preprocess"]
    assert (pixels["network_format"], pixels["tensor_order"]) == (
        "IMAGE_FORMAT_RGB",
        "TENSOR_ORDER_NHWC",
    )
    assert pixels["tensor_name"] == "faces"
    assert pixels["normalize"] == {"scale_factor": 1.0}
    assert infer["postprocess"] == {"other": {}}
    assert found["input_control"]["process_mode"] == "PROCESS_MODE_CLIP_OBJECTS"
    assert found["input_control"]["operate_on_gie_id"] == 1
    assert found["output_control"] == {"output_tensor_meta": True}


@pytest.mark.parametrize(
    "text",
    [
        "infer_config { unknown: 1 }",
        "infer_config { unique_id: 1 unique_id: 2 }",
        "infer_config { unique_id: true }",
        "infer_config { unique_id 1 }",
        "infer_config { unique_id: 1",
        "output_control { output_tensor_meta: 2 }",
    ],
)
def test_parser_of_this_test_is_strict(text):
    with pytest.raises((AssertionError, ValueError, KeyError, IndexError)):
        parse_text(text)
