"""Chat templates turn messages into the prompt that a model was trained on, by the Jinja program in its file.

A template is a program in a file that anybody may have written. It runs behind three barriers. The first is
Jinja's immutable sandbox: no underscore attributes, no changes in place, `range` of at most 100,000. The
second is a separate process, which can't access this one's memory. The third is limits on time, output and
(on Linux) memory. Only killing a process ends every loop: a thread can't be stopped, and a trace of its
lines sees neither `'a' * 10**10` nor the inside of a filter. The process starts once, in about 0.1 s. After
that, it renders a template in about 0.3 ms. It ends with this process.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from llmlite.errors import ChatTemplateError

SECONDS = 1.0
MAX_CHARS = 4_000_000
STARTUP_SECONDS = 30.0
_WORKER = Path(__file__).with_name("worker")  # a folder with a __main__.py


class Prompt(str):
    """A rendered conversation: a string that records which of its characters came from the messages.

    Attributes:
        plain: these parts, as (begin, end) in characters, in order, for `Tokenizer.encode(text, plain=...)`.
            A control token in them is only text. The rest is the template's own, and may end a turn and
            begin another.
    """

    plain: tuple[tuple[int, int], ...] = ()


class ChatTemplate:
    """A model's chat template (`tokenizer.chat_template`).

        template = ChatTemplate(source, bos_token="<s>", eos_token="</s>")
        prompt = template.render([{"role": "user", "content": "Hello"}])

    Args:
        source: the Jinja program.
        bos_token, eos_token: texts of these tokens, which templates may write.
        seconds: the time limit of a rendering.
        max_chars: the maximum length of a prompt, in characters.

    Raises:
        ChatTemplateError: the source isn't a string.
        ValueError: a limit isn't positive.

    Source: the variables and functions that templates expect are those of transformers'
    `apply_chat_template`.
    """

    def __init__(
        self,
        source: str,
        *,
        bos_token: str = "",
        eos_token: str = "",
        seconds: float = SECONDS,
        max_chars: int = MAX_CHARS,
    ) -> None:
        if not isinstance(source, str):
            raise ChatTemplateError(
                f"tokenizer.chat_template: expected a string, got {type(source).__name__}"
            )
        if not seconds > 0 or not max_chars > 0:
            raise ValueError(f"seconds and max_chars must be positive, got {seconds} and {max_chars}")
        self.source = source
        self.bos_token = bos_token
        self.eos_token = eos_token
        self.seconds = seconds
        self.max_chars = max_chars

    def __repr__(self) -> str:
        return f"ChatTemplate({self.source[:60]!r}{'…' if len(self.source) > 60 else ''})"

    def reads(self, name: str) -> bool:
        """Return whether the program has this variable. Texts and attributes with this name don't count."""
        return name in self._names

    @cached_property
    def _names(self) -> frozenset[str]:
        from jinja2 import Environment, TemplateError

        names, before = set(), ""
        try:
            for _, kind, text in Environment().lex(self.source):
                if kind == "name" and before != ".":
                    names.add(text)
                if kind != "whitespace":
                    before = text
        except TemplateError:  # `render` says what is wrong
            return frozenset(re.findall(r"\w+", self.source))
        return frozenset(names)

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        now: datetime | None = None,
        **variables: Any,
    ) -> Prompt:
        """Return the prompt for a conversation.

        Args:
            messages: a dict {"role": "user" | "assistant" | "system" …, "content": text} for each message. A
                content may also be None, or a list of parts {"type": "text", "text": text}. A template that
                doesn't support this gets the content as text, one part per line.
            add_generation_prompt: end with the beginning of the assistant's answer.
            tools: descriptions of functions that the model may call, for templates that support them.
            now: the time for `strftime_now`; None for the present.
            variables: other variables of the template, such as enable_thinking=False.

        Raises:
            ChatTemplateError: the template is malformed, refuses these messages, uses something forbidden, or
                exceeds a limit; or the messages have another form.
        """
        request = {
            "template": self.source,
            "max_chars": self.max_chars,
            "seconds": self.seconds,
            "now": (now or datetime.now()).isoformat(),
            "variables": {
                "bos_token": self.bos_token,
                "eos_token": self.eos_token,
                "tools": tools,
                "documents": None,
                **variables,
                "messages": _checked(messages),
                "add_generation_prompt": bool(add_generation_prompt),
            },
        }
        try:
            line = json.dumps(request, default=_plain)
        except (TypeError, ValueError, RecursionError) as error:
            raise ChatTemplateError(f"messages, tools and variables must be plain data: {error}") from None
        answer = _pool.ask(line, self.seconds)
        if "error" in answer:
            raise ChatTemplateError(f"tokenizer.chat_template: {answer['error']}")
        prompt = Prompt(answer["text"])
        prompt.plain = tuple((begin, end) for begin, end in answer["plain"])
        return prompt


def _checked(messages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    if isinstance(messages, (str, bytes, Mapping)):
        raise ChatTemplateError(f"messages: expected a list of messages, got {type(messages).__name__}")
    checked = []
    for index, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ChatTemplateError(
                f'messages[{index}]: expected {{"role": …, "content": …}}, got {message!r:.80}'
            )
        _check_content(index, message.get("content"))
        checked.append(dict(message))
    return checked


def _check_content(index: int, content: object) -> None:
    """Refuse content that a template would print in Python's notation."""
    if isinstance(content, str | None):
        return
    if not isinstance(content, Sequence) or isinstance(content, (bytes, bytearray)):
        kind = type(content).__name__
        raise ChatTemplateError(
            f"messages[{index}]: content: expected text, None or a list of parts, got {kind}"
        )
    for part, value in enumerate(content):
        if not isinstance(value, Mapping) or not isinstance(value.get("type"), str):
            expected = '{"type": "text", "text": …}'
            raise ChatTemplateError(
                f"messages[{index}]: content[{part}]: expected {expected}, got {value!r:.80}"
            )


def _plain(value: object) -> object:
    """Convert any mapping to a dict and any sequence to a list, because `json` encodes only these."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(f"{type(value).__name__} is not plain data")


class _Worker:
    """One child process that renders templates. A request and an answer are a line of JSON each."""

    def __init__(self) -> None:
        if not sys.executable:
            raise ChatTemplateError(
                "chat templates run in a separate Python process, but sys.executable is not set"
            )
        try:
            # -P: only the worker's own folder is on its path, not the current one
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(_WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as error:
            raise ChatTemplateError(f"the process for chat templates can't be started: {error}") from error
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        # Only a thread can wait for a pipe with a time limit on every system.
        threading.Thread(target=self._read_lines, daemon=True, name="chat-template-reader").start()
        ready = self._next_answer(STARTUP_SECONDS)
        if "error" in ready:
            self.kill()
            raise ChatTemplateError(f"the process for chat templates can't be started: {ready['error']}")

    def ask(self, line: str, seconds: float) -> dict[str, Any]:
        """Send a request and return the answer. Without one in time, it has "error" and "ended"."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode("ascii") + b"\n")
            self._process.stdin.flush()
        except OSError:
            return {"error": "its process has ended", "ended": True}
        return self._next_answer(seconds)

    def kill(self) -> None:
        """Kill the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):  # unwritten data can't be flushed any more
                self._process.stdin.close()

    def _next_answer(self, seconds: float) -> dict[str, Any]:
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            return {"error": f"took longer than {seconds:g} s and was stopped", "ended": True, "late": True}
        if not line:
            return {"error": "ran out of memory or crashed; its process has ended", "ended": True}
        return dict(json.loads(line))

    def _read_lines(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stdout:
            for line in stdout:
                self._lines.put(line)
        self._lines.put(b"")  # the end: the process has ended


class _Pool:
    """The one worker. It is started on first use, and again after one was killed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._worker: _Worker | None = None
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def ask(self, line: str, seconds: float) -> dict[str, Any]:
        """Return the answer to a request. If the worker ended while it was idle, it is replaced once."""
        with self._lock:
            for _ in range(2):
                is_new = self._worker is None
                worker = self._worker = self._worker or _Worker()
                finished = False
                try:
                    answer = worker.ask(line, seconds)
                    finished = not answer.get("ended")
                finally:  # also after Ctrl-C, because a late answer must not reach the next request
                    if not finished:
                        worker.kill()
                        self._worker = None
                if finished or is_new or "late" in answer:
                    break
            return answer

    def _forget(self) -> None:
        """Forget the worker in a forked child, which must not share its parent's pipes."""
        self._lock = threading.Lock()
        self._worker = None


_pool = _Pool()
