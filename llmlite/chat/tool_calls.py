"""Parse calls of tools in the text that a model writes.

Three forms are supported:

| form | models | text |
|---|---|---|
| "hermes" | Hermes, Qwen | `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, any number |
| "llama3" | Llama 3.1 and later | `{"name": …, "parameters": {…}}`, alone or after `<|python_tag|>` |
| "mistral" | Mistral | `[TOOL_CALLS] [{"name": …, "arguments": {…}}, …]`, or `[TOOL_CALLS]name[ARGS]{…}` |

Source: the chat templates in these models' repositories.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Form = Literal["hermes", "llama3", "mistral"]
OPENINGS: dict[Form, tuple[str, ...]] = {
    "hermes": ("<tool_call>",),
    "llama3": ("<|python_tag|>",),
    "mistral": ("[TOOL_CALLS]",),
}
HERMES_END = "</tool_call>"
ARGUMENTS = "[ARGS]"
CALL_ID = "[CALL_ID]"
MARKS = frozenset([*(mark for marks in OPENINGS.values() for mark in marks), HERMES_END, ARGUMENTS, CALL_ID])
_decoder = json.JSONDecoder()


class TokenizerLike(Protocol):
    """The part of a tokenizer that this module uses."""

    vocabulary: Any

    def token(self, token_id: int) -> str: ...

    def stream(self, *, skip_special: bool) -> Any: ...


@dataclass(frozen=True)
class ToolCall:
    """One call.

    Attributes:
        name: the tool's name.
        arguments: the arguments, by name.
        id: the id that the model wrote, or None.
    """

    name: str
    arguments: dict[str, Any]
    id: str | None = None


@dataclass(frozen=True)
class Parsed:
    """A parsed answer of a model.

    Attributes:
        text: the text outside of calls.
        calls: the calls, in order.
        broken: text that begins like a call but isn't one, each up to the next opening; or "". `text` has it
            too.
    """

    text: str
    calls: tuple[ToolCall, ...]
    broken: str = ""


class Answer(str):
    """A model's answer to a conversation with tools: a string, the text outside of calls.

    Attributes:
        tool_calls: the calls, in order.
        broken: as in `Parsed`. It is part of the string too.
    """

    tool_calls: tuple[ToolCall, ...] = ()
    broken: str = ""

    @classmethod
    def of(cls, parsed: Parsed) -> Answer:
        """Return the answer for its parsed form."""
        answer = cls(parsed.text)
        answer.tool_calls, answer.broken = parsed.calls, parsed.broken
        return answer


def with_marks(text: str, ids: Iterable[int], tokenizer: TokenizerLike) -> str:
    """Return a text with the control tokens that begin or end calls, which decoding omitted.

    Args:
        text: the text of the tokens. A stop string may have cut it.
        ids: all tokens.
        tokenizer: the tokenizer of these tokens.
    """
    decoder, reached, begin, parts = tokenizer.stream(skip_special=True), 0, 0, []
    for token in ids:
        is_mark = tokenizer.vocabulary.is_hidden(token) and tokenizer.token(token) in MARKS
        if is_mark and reached <= len(text):
            parts += [text[begin:reached], tokenizer.token(token)]
            begin = reached
        reached += len(decoder.push(token))
    return "".join([*parts, text[begin:]])


def form_of(template: str) -> Form | None:
    """Return the form of calls in a chat template; None if it doesn't support tools."""
    if "<tool_call>" in template:
        return "hermes"
    if "[TOOL_CALLS]" in template:
        return "mistral"
    if "python_tag" in template or ('"parameters"' in template and "ipython" in template):
        return "llama3"
    return None


def parse(text: str, form: Form) -> Parsed:
    """Parse a whole answer with calls of this form."""
    stream = ToolCallStream(form)
    shown = stream.push(text)
    shown += stream.flush()
    return Parsed(shown, tuple(stream.calls), stream.broken)


@dataclass
class ToolCallStream:
    """Parse an answer while it is written: return text, and collect calls.

        stream = ToolCallStream("hermes")
        for piece in generation:
            print(stream.push(piece), end="")
        print(stream.flush())
        stream.calls

    Attributes:
        form: the form of calls.
        calls: the complete calls so far.
        broken: as in `Parsed`. It is final after `flush`.

    Raises:
        ValueError: the form is unknown.
    """

    form: Form
    calls: list[ToolCall] = field(default_factory=list)
    broken: str = ""
    _held: str = ""
    _at_start: bool = True
    _in_broken: bool = False

    def __post_init__(self) -> None:
        if self.form not in OPENINGS:
            raise ValueError(f"form must be one of {', '.join(OPENINGS)}; got {self.form!r}")

    def push(self, piece: str) -> str:
        """Add a piece, and return the new text that is certainly not part of a call."""
        self._held += piece
        return self._read(final=False)

    def flush(self) -> str:
        """Return the rest of the text, which was held back. Call this at the end of the answer."""
        return self._read(final=True)

    def _read(self, *, final: bool) -> str:
        shown = ""
        while self._held:
            bare = self._at_start and self.form == "llama3" and self._held.lstrip()[:1] in ("{", "")
            opening = next((mark for mark in OPENINGS[self.form] if mark in self._held), None)
            if bare:
                done = self._calls(self._held, final)
                if done is None:
                    return shown
                if done < 0 and opening is None:
                    self._at_start = False  # JSON that is part of the answer
                    continue
                if done >= 0:
                    self._held = self._held[done:]
                    continue
            if opening is None:
                kept = 0 if final else self._open_end()
                shown += self._text(len(self._held) - kept)
                self._at_start &= not shown.strip()
                return shown
            start = self._held.index(opening)
            before = self._text(start)
            if before.strip():
                shown += before
            self._at_start = self._in_broken = False
            done = self._calls(self._held[len(opening) :], final)
            if done is None:
                return shown
            if done < 0:  # not a call after all, but one may follow
                self._in_broken = True
                shown += self._text(len(opening))
                continue
            self._held = self._held[len(opening) + done :]
        return shown

    def _text(self, n: int) -> str:
        """Take the next `n` characters, which are text."""
        text, self._held = self._held[:n], self._held[n:]
        if self._in_broken:
            self.broken += text
        return text

    def _open_end(self) -> int:
        """Return the number of characters at the end that may be the beginning of an opening."""
        longest = 0
        for mark in OPENINGS[self.form]:
            for n in range(1, len(mark)):
                if self._held.endswith(mark[:n]):
                    longest = max(longest, n)
        return longest

    def _calls(self, text: str, final: bool) -> int | None:
        """Parse calls at the beginning. Return their length; None if they are incomplete; -1 for no calls."""
        if self.form == "mistral" and not text.lstrip().startswith(("[", "{")):
            return self._named_call(text, final)
        start = len(text) - len(text.lstrip())
        try:
            value, end = _decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            ended = self.form == "hermes" and HERMES_END in text
            return -1 if ended or final else None
        listed = value if isinstance(value, list) else [value]
        found = [_call(item) for item in listed]
        if not found or None in found:
            return -1
        rest = text[end:].lstrip()
        if self.form == "hermes":
            if rest.startswith(HERMES_END):
                end = len(text) - len(rest) + len(HERMES_END)
            elif rest or not (final or HERMES_END.startswith(rest)):
                return None if HERMES_END.startswith(rest) and not final else -1
            elif not final:
                return None
        elif self.form == "llama3":
            if rest.startswith(";"):
                end = len(text) - len(rest) + 1
                self._at_start = True  # another call follows
            elif not rest and not final:
                return None
        self.calls += [call for call in found if call is not None]
        return end

    def _named_call(self, text: str, final: bool) -> int | None:
        """Parse name[CALL_ID]id[ARGS]{…}, Mistral's later form. Returns as `_calls` does."""
        head, mark, rest = text.partition(ARGUMENTS)
        if not mark:
            return -1 if final else None
        try:
            arguments, end = _decoder.raw_decode(rest, len(rest) - len(rest.lstrip()))
        except (ValueError, RecursionError):
            return -1 if final else None
        name, _, call_id = head.partition(CALL_ID)
        if not name.strip() or not isinstance(arguments, dict):
            return -1
        self.calls.append(ToolCall(name.strip(), arguments, call_id.strip() or None))
        return len(head) + len(mark) + end


def _call(value: Any) -> ToolCall | None:
    """Return a call from its JSON, or None. Arguments may be JSON in a string, as in OpenAI's API."""
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    if not isinstance(arguments, dict):
        return None
    call_id = value.get("id")
    return ToolCall(value["name"], arguments, call_id if isinstance(call_id, str) else None)
