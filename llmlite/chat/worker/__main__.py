"""The program that renders chat templates. A request and an answer are a line of JSON each.

llmlite.chat starts this folder as a program. It imports nothing else of llmlite. So it starts fast, and has
nothing in memory that a template should not reach.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmlite.chat.worker.sandbox import Environment

MAX_MEMORY_BYTES = 1 << 30  # about 0.1 GiB of address space is in use
MAX_ERROR_CHARS = 300


def main() -> None:
    """Answer requests until the parent closes the pipe."""
    # Templates can't access the pipes, but a stray print would write to one.
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr
    try:
        if not TYPE_CHECKING:
            from sandbox import Environment
        environment = Environment()
    except Exception as error:  # jinja2 is missing or broken; the parent reports this
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
    """Set the soft limit `name` of the module `resource`, if the system has it."""
    try:
        import resource

        limit = getattr(resource, name)
        resource.setrlimit(limit, (value, resource.getrlimit(limit)[1]))
    except (ImportError, AttributeError, ValueError, OSError):
        pass  # Windows has no such module, macOS ignores some limits; the parent's limits remain


def _answer(environment: Environment, line: bytes) -> dict[str, Any]:
    try:
        request = json.loads(line)
        # If the parent dies, this limit ends an endless template.
        _limit("RLIMIT_CPU", int(time.process_time() + request["seconds"]) + 5)
        text, plain = environment.render(request)
        return {"text": text, "plain": plain}
    except Exception as error:  # a fault of the template is reported in one line
        number = getattr(error, "lineno", None)
        where = f"line {number}: " if number else ""
        kind = "" if type(error).__name__ == "TemplateError" else f"{type(error).__name__}: "
        text = " ".join(str(error)[:MAX_ERROR_CHARS].split())
        return {"error": (where + kind + text).rstrip(": ")}


if __name__ == "__main__":
    main()
