"""Messages and settings from JSON values: valid values are read, and an error names the wrong value."""

import json
from typing import Any

import pytest

from eftlocal import Message, Settings
from eftlocal.emulation import from_json
from eftlocal.errors import EftError


def test_settings_written_as_json_are_read_as_they_were() -> None:
    settings = Settings().turned(
        beta=0.5, mix={"a": 2.0}, reward_top_p=0.9, max_tokens=7, seed=3, draft=2, stop=["x", "y"], temperature=0.7,
        top_k=5, logit_bias={3: -1.5, 4: float("-inf")}, logprobs=2, alone="base",
    )  # fmt: skip
    fields = json.loads(json.dumps(settings.dials()))
    assert Settings().turned(**from_json.dials(fields)) == settings


def test_other_fields_and_nulls_are_not_settings() -> None:
    assert from_json.dials({"id": 7, "prompt": "x", "beta": None, "top_k": 3}) == {"top_k": 3}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"beta": "1"}, "beta is '1'; it must be a number"),
        ({"beta": True}, "beta is true; it must be a number"),
        ({"max_tokens": 2.5}, "max_tokens is 2.5; it must be a whole number"),
        ({"max_tokens": float("inf")}, "max_tokens is Infinity; it must be a whole number"),
        ({"stop": ["a", 3]}, "stop is 3; it must be a string"),
        ({"mix": [1]}, "mix is a list; it must be an object of numbers"),
        ({"mix": {"a": {}}}, "mix of a is empty; it must be a number"),
        ({"logit_bias": {"x": 1}}, "logit_bias has 'x'; its keys must be token ids"),
        ({"draft": "text"}, "draft is 'text'; it must be a whole number"),
    ],
)
def test_a_setting_of_the_wrong_kind_is_told_with_its_name(fields: dict[str, Any], told: str) -> None:
    with pytest.raises(EftError) as raised:
        from_json.dials(fields)
    assert raised.value.message == told


def test_a_conversation_is_read_message_by_message() -> None:
    value = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi", "name": "carried by some"}]
    assert from_json.messages(value) == [Message("system", "Be brief."), Message("user", "Hi")]


def test_a_developer_is_the_system_and_parts_of_text_are_lines() -> None:
    parts = [{"type": "text", "text": "Hi,"}, {"type": "text", "text": "you"}]
    value = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    assert from_json.messages(value) == [Message("system", "Be brief."), Message("user", "Hi,\nyou")]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            "messages[0].content[0].type is 'image_url'; only parts of the type 'text' can be read",
        ),
        (
            [{"role": "user", "content": ["a"]}],
            "messages[0].content[0] is 'a'; it must be an object with type and text",
        ),
        ([{"role": "user", "content": [{"type": "text"}]}], "messages[0].content[0].text is null; it must be a string"),
        ([{"role": "user", "content": []}], "messages[0].content is empty; it must be a string"),
        ([], "messages is empty; it must be a list of messages"),
        ("Hi", "messages is 'Hi'; it must be a list of messages"),
        ([{"role": "user", "content": "a"}, 3], "messages[1] is 3; it must be an object with role and content"),
        ([{"role": "user"}], "messages[0].content is null; it must be a string"),
        ([{"role": "robot", "content": "a"}], "A message has the role 'robot'."),
    ],
)
def test_a_message_that_is_wrong_is_told_with_its_place(value: Any, told: str) -> None:
    with pytest.raises(EftError) as raised:
        from_json.messages(value)
    assert raised.value.message == told
