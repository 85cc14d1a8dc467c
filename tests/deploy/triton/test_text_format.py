"""The text that lpx writes is what protobuf's own parser reads."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lpx.deploy.triton.text_format import Enum, Field, Message, entry, message, text_of
from tests.support.triton_rules import messages, parse


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_is_read_back(text):
    value = message(Field("string_value", text))
    config = parse(text_of(message(Field("name", text), Field("parameters", entry("k", value)))))
    assert config.name == text
    assert config.parameters["k"].string_value == text


def test_numbers_lists_enums_flags_and_messages():
    config = parse(
        text_of(
            message(
                Field("max_batch_size", 32),
                Field("dynamic_batching", message(Field("preferred_batch_size", (4, 8)))),
                Field("optimization", message(Field("cuda", message(Field("graphs", True))))),
                Field("instance_group", message(Field("kind", Enum("KIND_CPU")))),
                Field("instance_group", message(Field("profile", ("0", "1")))),
                Field("output", message(Field("reshape", Message(())))),
            )
        )
    )
    assert config.max_batch_size == 32
    assert list(config.dynamic_batching.preferred_batch_size) == [4, 8]
    assert config.optimization.cuda.graphs is True
    assert config.instance_group[0].kind == messages().ModelInstanceGroup.KIND_CPU
    assert list(config.instance_group[1].profile) == ["0", "1"]
    assert config.output[0].HasField("reshape")
