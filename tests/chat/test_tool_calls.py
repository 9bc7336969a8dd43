"""Calls of tools read back: each form, whole and by characters, and what only looks like one."""

from __future__ import annotations

import pytest

from llmlite.chat.tool_calls import Form, ToolCall, ToolCallStream, form_of, parse

ONE, TWO = ToolCall("weather", {"city": "Zürich", "n": 2}), ToolCall("time", {})
JSON_ONE, JSON_TWO = (
    '{"name": "weather", "arguments": {"city": "Zürich", "n": 2}}',
    '{"name": "time", "arguments": {}}',
)
CASES: list[tuple[Form, str, list[ToolCall], str]] = [
    ("hermes", f"<tool_call>\n{JSON_ONE}\n</tool_call>", [ONE], ""),
    (
        "hermes",
        f"Let me look.<tool_call>{JSON_ONE}</tool_call>\n<tool_call>\n{JSON_TWO}</tool_call>",
        [ONE, TWO],
        "Let me look.",
    ),
    ("hermes", f"<tool_call>{JSON_ONE}", [ONE], ""),
    ("hermes", "a < b and <tool_box>", [], "a < b and <tool_box>"),
    ("llama3", JSON_ONE.replace("arguments", "parameters"), [ONE], ""),
    ("llama3", f"<|python_tag|>{JSON_ONE}; {JSON_TWO}", [ONE, TWO], ""),
    ("llama3", '{"answer": 3} is JSON', [], '{"answer": 3} is JSON'),
    ("llama3", "The set {1}", [], "The set {1}"),
    ("mistral", f"[TOOL_CALLS] [{JSON_ONE}, {JSON_TWO}]", [ONE, TWO], ""),
    ("mistral", '[TOOL_CALLS]weather[ARGS]{"city": "Zürich", "n": 2}', [ONE], ""),
    ("mistral", "Hm.[TOOL_CALLS]time[CALL_ID]abc[ARGS]{}", [ToolCall("time", {}, "abc")], "Hm."),
    ("mistral", "[1] is a source", [], "[1] is a source"),
]


@pytest.mark.parametrize(("form", "text", "calls", "shown"), CASES)
def test_calls_are_read_in_one_piece_and_by_characters(
    form: Form, text: str, calls: list[ToolCall], shown: str
) -> None:
    found = parse(text, form)
    assert list(found.calls) == calls and found.text.strip() == shown and not found.broken
    stream = ToolCallStream(form)
    said = "".join(map(stream.push, text)) + stream.flush()
    assert stream.calls == calls and said.strip() == shown


@pytest.mark.parametrize(
    ("form", "text"),
    [
        ("hermes", '<tool_call>{"name": "x", </tool_call> more'),
        ("hermes", '<tool_call>{"nam": "x"}</tool_call>'),
        ("llama3", "<|python_tag|>print(1)"),
        ("mistral", "[TOOL_CALLS] [{]"),
        ("hermes", "<tool_call>" + "[" * 100_000),
    ],
)
def test_a_broken_call_is_text_and_known_to_be_broken(form: Form, text: str) -> None:
    found = parse(text, form)
    assert found.calls == () and found.text == text and found.broken


@pytest.mark.parametrize(
    ("form", "text", "shown"),
    [
        (
            "hermes",
            f"<tool_call>{{]</tool_call> <tool_call>{JSON_ONE}</tool_call>",
            "<tool_call>{]</tool_call>",
        ),
        ("llama3", f'<|python_tag|>{{"a": 1}}<|python_tag|>{JSON_ONE}', '<|python_tag|>{"a": 1}'),
        ("mistral", f"[TOOL_CALLS] {{}} [TOOL_CALLS][{JSON_ONE}]", "[TOOL_CALLS] {}"),
    ],
)
def test_a_call_after_a_broken_one_is_found_in_any_cut(form: Form, text: str, shown: str) -> None:
    for size in (len(text), 1, 2, 5, 11):
        stream = ToolCallStream(form)
        pieces = [text[start : start + size] for start in range(0, len(text), size)]
        said = "".join(map(stream.push, pieces)) + stream.flush()
        assert (stream.calls, said.strip(), stream.broken.strip()) == ([ONE], shown, shown)


def test_the_form_is_known_from_the_template() -> None:
    assert form_of("{{ '<tool_call>' }}") == "hermes" and form_of("[TOOL_CALLS]") == "mistral"
    assert form_of("<|python_tag|>") == "llama3" and form_of("{{ messages }}") is None
    with pytest.raises(ValueError, match="form must be"):
        ToolCallStream("x")  # type: ignore[arg-type]
