"""The process in which chat templates run; started by llmlite.chat, one line of JSON in, one out.

It imports nothing of llmlite, so that it starts fast and holds nothing worth reaching.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from datetime import datetime
from typing import Any

MAX_MEMORY_BYTES = 1 << 30  # about 0.1 GiB of address space is in use
MAX_ERROR_CHARS = 300


def main() -> None:
    """Answer requests until the parent closes the pipe."""
    # Templates must not write to the pipe, nor read from it: they have no way to, but a stray print would do.
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    try:
        environment = _Environment()
    except Exception as error:  # jinja2 missing or broken: the parent tells the user
        answer: dict[str, Any] = {"error": f"{type(error).__name__}: {error}"}
    else:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
        _limit("RLIMIT_AS", MAX_MEMORY_BYTES)
        _limit("RLIMIT_CORE", 0)
        answer = {"ready": True}
    _send(answers, answer)
    if "error" in answer:
        return
    for line in requests:
        _send(answers, _answer(environment, line))


def _send(answers: Any, answer: dict[str, Any]) -> None:
    answers.write(json.dumps(answer).encode("ascii") + b"\n")
    answers.flush()


def _limit(name: str, value: int) -> None:
    """Set the soft limit `name` of the module `resource`, where the system has it."""
    try:
        import resource

        limit = getattr(resource, name)
        resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))
    except (ImportError, ValueError, OSError):
        pass  # Windows has no such module, macOS ignores some limits: the parent's caps remain


def _answer(environment: _Environment, line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
        # Should the parent die meanwhile, nobody else would end an endless template.
        _limit("RLIMIT_CPU", int(time.process_time() + request["seconds"]) + 5)
        return {"text": environment.render(request)}
    except Exception as error:  # whatever a template does wrong is its author's: say it in one line
        number = getattr(error, "lineno", None)
        where = f"line {number}: " if number else ""
        kind = "" if type(error).__name__ == "TemplateError" else f"{type(error).__name__}: "
        text = " ".join(str(error)[:MAX_ERROR_CHARS].split())
        return {"error": (where + kind + text).rstrip(": ")}


class _Environment:
    """Jinja's immutable sandbox with the names that templates expect."""

    def __init__(self) -> None:
        import jinja2.ext
        import jinja2.sandbox
        from jinja2 import nodes

        class Generation(jinja2.ext.Extension):
            """`{% generation %}` marks what an assistant wrote, for training; here only its text counts."""

            tags = {"generation"}  # noqa: RUF012 (jinja2's own declaration)

            def parse(self, parser: Any) -> nodes.Node | list[nodes.Node]:
                next(parser.stream)
                body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
                return body

        class Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
            """Refuses a forbidden attribute when it is named; Jinja's own waits until it is used."""

            def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
                raise jinja2.sandbox.SecurityError(
                    f"attribute {attribute!r} of {type(obj).__name__} is forbidden"
                )

        self._jinja = Sandbox(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
        )
        self._jinja.filters["tojson"] = _to_json
        self._jinja.globals["raise_exception"] = _raise_exception
        self._jinja.globals.pop("lipsum", None)
        self._compiled: tuple[str, Any] = ("", None)

    def render(self, request: dict[str, Any]) -> str:
        if self._compiled[0] != request["template"] or self._compiled[1] is None:
            self._compiled = (request["template"], self._jinja.from_string(request["template"]))
        now = datetime.fromisoformat(request["now"])
        pieces = []
        room = request["max_chars"]
        for piece in self._compiled[1].generate(**request["variables"], strftime_now=now.strftime):
            room -= len(piece)
            if room < 0:
                raise ValueError(f"its text is longer than {request['max_chars']} characters")
            pieces.append(piece)
        return "".join(pieces)


def _raise_exception(message: object) -> None:
    from jinja2.exceptions import TemplateError

    raise TemplateError(str(message))


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON: Jinja's own filter escapes <, > and & for HTML, which no model was trained on."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


if __name__ == "__main__":
    main()
