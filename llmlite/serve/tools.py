"""Functions that a model may call: offered in the prompt, parsed back from the text."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from llmlite.serve.faults import Fault

if TYPE_CHECKING:
    from llmlite.model import Model


def offered(
    tools: Sequence[Mapping[str, Any]] | None, choice: str | Mapping[str, Any] | None
) -> list[dict[str, Any]] | None:
    """Return the tools that the prompt names; None if there are none, or the choice is "none".

    Raises:
        Fault: a tool without a name, or a choice that can't be guaranteed.
    """
    for index, tool in enumerate(tools or ()):
        function = tool.get("function")
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            where = f"tools[{index}]"
            raise Fault(
                400, f'{where}: expected {{"type": "function", "function": {{"name": …}}}}', param=where
            )
    if choice not in (None, "auto", "none"):
        raise Fault(
            400, "tool_choice: only auto and none; this server can't force a call", param="tool_choice"
        )
    return None if choice == "none" or not tools else [dict(tool) for tool in tools]


def parsed(model: Model, text: str) -> tuple[str, list[dict[str, Any]]]:
    """Return the text around a model's calls, and the calls in OpenAI's form."""
    try:
        from llmlite.chat.tools import parse_tool_calls  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        return text, []
    content, calls = parse_tool_calls(text)
    return content, [
        {
            "id": f"call_{secrets.token_hex(12)}",
            "type": "function",
            "function": {"name": call.name, "arguments": json.dumps(call.arguments, ensure_ascii=False)},
        }
        for call in calls
    ]
