"""Functions that a model may call: offer them in the prompt, find calls in the text, force a call."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmlite.chat.tool_calls import MARKS, OPENINGS, Form, ToolCall, ToolCallStream
from llmlite.chat.tool_calls import form_of as form_of_template
from llmlite.serve.engine import Piece
from llmlite.serve.faults import Fault

if TYPE_CHECKING:
    from llmlite.model import Model
    from llmlite.tokenizers.base import Tokenizer


@dataclass(frozen=True)
class Offer:
    """The functions that one request offers.

    Attributes:
        tools: the tools for the template.
        form: the form of the template's calls.
        forced: names of functions, one of which must be called; () leaves the choice to the model.
        one: whether at most one call is returned.
    """

    tools: list[dict[str, Any]]
    form: Form
    forced: tuple[str, ...] = ()
    one: bool = False

    @property
    def begin(self) -> str:
        """The beginning of a forced call, which is made part of the prompt."""
        return "" if not self.forced or self.form == "llama3" else OPENINGS[self.form][0]

    @property
    def constraint(self) -> dict[str, Any]:
        """The option of `Batch.add` that forces a call: the schema of its JSON."""
        if not self.forced:
            return {}
        functions = [tool["function"] for tool in self.tools]
        forms = [self._schema(each) for each in functions if each["name"] in self.forced]
        return {"json_schema": forms[0] if len(forms) == 1 else {"anyOf": forms}}

    def _schema(self, function: Mapping[str, Any]) -> dict[str, Any]:
        key = "parameters" if self.form == "llama3" else "arguments"
        arguments = function.get("parameters") or {"type": "object"}
        return {
            "type": "object",
            "properties": {"name": {"const": function["name"]}, key: arguments},
            "required": ["name", key],
            "additionalProperties": False,
        }


def offered(
    model: Model,
    tools: Sequence[Mapping[str, Any]] | None,
    choice: str | Mapping[str, Any] | None,
    *,
    one: bool = False,
) -> Offer | None:
    """Return the functions that the prompt offers, or None if there are no tools or the choice is "none".

    Args:
        model: the model.
        tools: a request's tools.
        choice: a request's tool_choice.
        one: whether at most one call is returned.

    Raises:
        Fault: If a tool has no name, the choice isn't among the tools, or the template doesn't support tools.
    """
    names = []
    for index, tool in enumerate(tools or ()):
        function = tool.get("function")
        where = f"tools[{index}]"
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise Fault(
                400, f'{where}: expected {{"type": "function", "function": {{"name": …}}}}', param=where
            )
        if not isinstance(function.get("parameters") or {}, Mapping):
            raise Fault(400, f"{where}.function.parameters: expected a JSON schema", param=where)
        names.append(function["name"])
    forced = _forced(choice, names)
    if choice == "none" or not tools:
        return None
    program = model._template(None, tools).source  # the template that renders this request
    form = form_of_template(program)
    if form is None or "tools" not in program:
        raise Fault(
            400,
            "tools: this model's chat template doesn't support them",
            param="tools",
            code="model_refused",
        )
    return Offer([dict(tool) for tool in tools], form, forced, one)


def _forced(choice: str | Mapping[str, Any] | None, names: Sequence[str]) -> tuple[str, ...]:
    if choice in (None, "auto", "none"):
        return ()
    if not names:
        raise Fault(400, "tool_choice: there are no tools to choose from", param="tool_choice")
    if choice == "required":
        return tuple(names)
    function = choice.get("function") if isinstance(choice, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(name, str):
        raise Fault(
            400,
            'tool_choice: expected none, auto, required or {"type": "function", "function": {"name": …}}',
            param="tool_choice",
        )
    if name not in names:
        raise Fault(400, f"tool_choice: {name!r:.100} is not among the tools", param="tool_choice")
    return (name,)


class CallReader:
    """A reader that separates the calls from one text while it is written.

    Args:
        offer: the functions that were offered.
        tokenizer: has the names of control tokens, which texts leave out.
    """

    def __init__(self, offer: Offer, tokenizer: Tokenizer) -> None:
        self._offer, self._tokenizer = offer, tokenizer
        self._stream = ToolCallStream(offer.form)
        self._stream.push(offer.begin)
        self._n_given = 0
        self._decoder = tokenizer.stream(skip_special=True)
        self._reached = self._shown = 0  # characters of all tokens so far, and of all pieces so far
        self._marks: list[tuple[int, str]] = []  # marks that aren't placed yet: character, mark

    def push(self, piece: Piece) -> tuple[str, list[dict[str, Any]]]:
        """Return the new text that is in no call, and the calls that are now complete, in OpenAI's form."""
        for token in piece.ids:
            if self._tokenizer.vocabulary.is_hidden(token) and self._tokenizer.token(token) in MARKS:
                self._marks.append((self._reached, self._tokenizer.token(token)))
            self._reached += len(self._decoder.push(token))
        return self._taken(self._stream.push(self._marked(piece.text)))

    def _marked(self, text: str) -> str:
        """Return the next piece of text with its marks in their places.

        Text before a mark may be held back, because a stop string may begin there. The mark waits for it.
        """
        parts, begin, done = [], self._shown, 0
        self._shown += len(text)
        while self._marks and self._marks[0][0] <= self._shown:
            place, mark = self._marks.pop(0)
            at = max(done, place - begin)
            parts += [text[done:at], mark]
            done = at
        return "".join([*parts, text[done:]])

    def end(self) -> tuple[str, list[dict[str, Any]]]:
        """Return the rest that was held back, at the end of the text."""
        return self._taken(self._stream.flush())

    def _taken(self, text: str) -> tuple[str, list[dict[str, Any]]]:
        calls = self._stream.calls[:1] if self._offer.one else self._stream.calls
        new = calls[self._n_given :]
        self._n_given += len(new)
        return text, [_as_openai(call) for call in new]


def _as_openai(call: ToolCall) -> dict[str, Any]:
    return {
        "id": call.id or f"call_{secrets.token_hex(12)}",
        "type": "function",
        "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
    }
