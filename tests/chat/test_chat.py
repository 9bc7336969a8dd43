"""Chat templates: the prompts of transformers' apply_chat_template, and templates that mean harm."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from llmlite import chat
from llmlite.chat import ChatTemplate
from llmlite.errors import ChatTemplateError

CHATML = """\
{%- if tools %}
    {{- '<|im_start|>system\\nYou may call: ' }}
    {%- for tool in tools %}
        {{- '\\n' }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endif %}
{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

HEADERS = """\
{% set ns = namespace(first=true) %}{{ bos_token }}
{%- for message in messages %}
    {%- if message.role not in ['system', 'user', 'assistant'] %}
        {{- raise_exception('unknown role ' ~ message.role) }}
    {%- endif %}
    {%- if ns.first and message.role == 'system' %}
        {{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday: ' ~ strftime_now('%d %b') ~ '\\n' }}
    {%- else %}
        {{- '<|start_header_id|>' ~ message.role ~ '<|end_header_id|>\\n\\n' }}
    {%- endif %}
    {{- message.content | trim }}{{ '<|eot_id|>' }}
    {%- set ns.first = false %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}"""

STEPS = """\
{%- for message in messages %}
    {%- if loop.first and message.role != 'system' %}
        {{- '<|im_start|>system\\nBe brief.<|im_end|>\\n' }}
    {%- endif %}
    {%- if message.role == 'tool' %}
        {%- if loop.previtem and loop.previtem.role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
        {%- continue %}
    {%- endif %}
    {%- set text = message.content.split('</think>')[-1].lstrip('\\n') if message.content else '' %}
    {%- generation %}{{- '<|im_start|>' + message.role + '\\n' + text }}{%- endgeneration %}
    {%- for call in message.tool_calls or [] %}
        {{- '\\n<tool_call>' + (call.arguments | tojson(indent=2)) + '</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}"""

TALK = [
    {"role": "system", "content": "  You <b>know</b> & “see” all.\n"},
    {"role": "user", "content": "Where is\tthe key? 🗝️"},
    {"role": "assistant", "content": "<think>hm</think>\nUnder the mat."},
    {"role": "user", "content": ""},
]
CALLS = [
    {"role": "user", "content": "Weather in Zürich?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"arguments": {"city": "Zürich", "days": [1, 2.5, None]}}],
    },
    {"role": "tool", "content": "rain <1 mm"},
    {"role": "tool", "content": "wind"},
    {"role": "assistant", "content": "Take a coat."},
]
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object", "ü": True}}}]


def by_transformers(source: str, messages: list[dict[str, Any]], **variables: Any) -> str:
    utils = pytest.importorskip(
        "transformers.utils.chat_template_utils", reason="transformers is the oracle here"
    )
    texts, _ = utils.render_jinja_template([messages], chat_template=source, **variables)
    return str(texts[0])


@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("messages", [TALK, CALLS, TALK[:1], []], ids=["talk", "calls", "one", "none"])
@pytest.mark.parametrize("source", [CHATML, HEADERS, STEPS], ids=["chatml", "headers", "steps"])
@pytest.mark.parametrize("tools", [None, TOOLS], ids=["no tools", "tools"])
def test_prompts_are_those_of_transformers(source, messages, add_generation_prompt, tools) -> None:
    if source is HEADERS:
        messages = [message for message in messages if message["role"] != "tool"]
    template = ChatTemplate(source, bos_token="<s>", eos_token="</s>")
    expected = by_transformers(
        source,
        messages,
        tools=tools,
        add_generation_prompt=add_generation_prompt,
        bos_token="<s>",
        eos_token="</s>",
    )
    assert template.render(messages, add_generation_prompt, tools=tools) == expected


def test_further_variables_reach_the_template() -> None:
    ours = ChatTemplate(STEPS).render(TALK, enable_thinking=False)
    assert ours.endswith("<think>\n\n</think>\n\n")
    assert ours == by_transformers(STEPS, TALK, add_generation_prompt=True, enable_thinking=False)


def test_the_bundled_models_template_agrees_with_transformers(tales) -> None:
    from llmlite import gguf

    source = gguf.read(tales).metadata["tokenizer.chat_template"]
    expected = by_transformers(
        source, TALK[1:], add_generation_prompt=True, bos_token="", eos_token="<|im_end|>"
    )
    assert ChatTemplate(source, eos_token="<|im_end|>").render(TALK[1:]) == expected


def test_the_date_can_be_fixed() -> None:
    prompt = ChatTemplate(HEADERS).render(TALK, now=datetime(2001, 2, 3))
    assert "Today: 03 Feb" in prompt


def test_a_template_may_refuse_messages_in_its_own_words() -> None:
    with pytest.raises(ChatTemplateError, match="unknown role robot"):
        ChatTemplate(HEADERS).render([{"role": "robot", "content": "beep"}])


def test_surrogates_pass_unharmed() -> None:
    assert "\udc80" in ChatTemplate(CHATML).render([{"role": "user", "content": "a\udc80b"}])


TWO_LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}TEXT{% endfor %}{% endfor %}"
TIMES = "{% for i in range(99) %}"
ENDLESS = {
    "a range": "{% for i in range(10**9) %}x{% endfor %}",
    "silent loops": TWO_LOOPS.replace("TEXT", ""),
    "loops that write": TWO_LOOPS.replace("TEXT", "0123456789"),
    "a product": "{{ 'a' * 10**10 }}",
    "a power": "{{ 10**(10**9) }}",
    "a format": "{{ '%2000000000d' % 1 }}",
    "a doubled text": "{% set n = namespace(x='a') %}" + TIMES + "{% set n.x = n.x ~ n.x %}{% endfor %}",
    "a doubled list": "{% set n = namespace(x=[]) %}"
    + TIMES
    + "{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x | string }}",
    "recursion": "{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{{ m(1) }}",
    "deep brackets": "{{" + "(" * 3000 + "1" + ")" * 3000 + "}}",
}


@pytest.mark.parametrize("source", ENDLESS.values(), ids=ENDLESS)
def test_an_endless_template_ends_within_two_seconds(source: str) -> None:
    ChatTemplate("warm").render([])  # the process is there
    start = time.perf_counter()
    with pytest.raises(ChatTemplateError):
        ChatTemplate(source, seconds=0.5).render(TALK)
    assert time.perf_counter() - start < 2
    assert ChatTemplate(CHATML).render(TALK), "the next template must not suffer from it"


ESCAPES = [
    "{{ raise_exception.__globals__ }}",
    "{{ raise_exception.__globals__['json'] }}",
    "{{ raise_exception['__globals__'] }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages | attr('__class__') }}",
    "{{ cycler.__init__.__globals__.os }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ '{0.__class__}'.format_map({'0': 1}) }}",
    "{{ self._TemplateReference__context }}",
    "{{ strftime_now.__self__ }}",
    "{% set ns = namespace() %}{{ ns.__class__ }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(role='system') }}",
    "{% include 'etc/passwd' %}",
    "{% import 'os' as os %}",
    "{{ open('/etc/passwd') }}",
    "{{ lipsum() }}",
    "{{ messages[0].__class__.__base__ }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_a_template_that_reaches_out_is_refused(source: str) -> None:
    with pytest.raises(ChatTemplateError):
        ChatTemplate(source).render(TALK)


def test_a_syntax_error_names_its_line() -> None:
    with pytest.raises(ChatTemplateError, match="line 2: TemplateSyntaxError"):
        ChatTemplate("one\n{% if %}").render(TALK)


def test_a_prompt_longer_than_allowed_is_refused() -> None:
    with pytest.raises(ChatTemplateError, match="longer than 10 characters"):
        ChatTemplate("{{ messages[0].content }}", max_chars=10).render(TALK)


@pytest.mark.parametrize(
    "messages",
    ["hello", {"role": "user"}, ["hello"], [{"content": "no role"}], [{"role": 1, "content": ""}]],
)
def test_what_is_no_conversation_is_refused(messages: Any) -> None:
    with pytest.raises(ChatTemplateError, match="messages"):
        ChatTemplate(CHATML).render(messages)


def test_data_a_process_cannot_carry_is_refused() -> None:
    looped: list[Any] = []
    looped.append(looped)
    for content in (object(), {1, 2}, looped):
        with pytest.raises(ChatTemplateError, match="plain data"):
            ChatTemplate(CHATML).render([{"role": "user", "content": "", "more": content}])


def test_a_template_that_is_no_text_is_refused() -> None:
    with pytest.raises(ChatTemplateError, match="expected a string, got int"):
        ChatTemplate(7)  # type: ignore[arg-type]


def test_the_worker_imports_nothing_of_llmlite_nor_of_the_current_folder(tmp_path: Path) -> None:
    (tmp_path / "jinja2.py").write_text("raise SystemExit('the wrong jinja2')")
    command = [sys.executable, "-P", "-X", "importtime", str(chat._WORKER)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=tmp_path, input="", env=environment, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == {"ready": True}
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert {"jinja2", "sandbox", "given", "messages"} <= imported
    assert not any(name.partition(".")[0] == "llmlite" for name in imported)


def test_a_worker_that_died_while_idle_is_replaced() -> None:
    ChatTemplate("warm").render([])
    assert chat._pool._worker is not None
    chat._pool._worker._process.kill()
    chat._pool._worker._process.wait()
    assert ChatTemplate("{{ messages | length }}").render(TALK) == "4"


@pytest.mark.skipif(not hasattr(os, "fork") or not hasattr(signal, "alarm"), reason="needs fork")
def test_a_forked_child_renders_with_a_worker_of_its_own() -> None:
    ChatTemplate("warm").render([])
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        good = ChatTemplate("{{ messages | length }}").render(TALK) == "4"
        os._exit(0 if good else 1)
    assert ChatTemplate("{{ messages[1].role }}").render(TALK) == "user"
    assert os.waitpid(child, 0)[1] == 0


def test_threads_get_their_own_answers() -> None:
    answers: dict[int, str] = {}

    def render(number: int) -> None:
        for _ in range(10):
            answers[number] = ChatTemplate("{{ n }}").render([], n=number)
            assert answers[number] == str(number)

    threads = [threading.Thread(target=render, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == {number: str(number) for number in range(8)}
