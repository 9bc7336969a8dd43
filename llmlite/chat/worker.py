"""The process in which chat templates run; started by llmlite.chat, one line of JSON in, one out.

It imports nothing of llmlite, so that it starts fast and holds nothing worth reaching.

A prompt is made of the template's own text and of what the messages say. Only the first may end a turn, so
each string that comes in with a request is a Text, which remembers which of its characters are the template's
own and which aren't, through all that a template does with it. A plain str is the template's. What comes out
of an operation not known here, given a Text, counts as the messages' as a whole.
"""

from __future__ import annotations

import functools
import json
import re
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

MAX_MEMORY_BYTES = 1 << 30  # about 0.1 GiB of address space is in use
MAX_ERROR_CHARS = 300


class Text(str):
    """A string, some of whose characters come from a request.

    _own: a byte for each character: 1 if it is the template's own.
    """

    __slots__ = ("_own",)

    _own: bytes

    def __new__(cls, text: str, own: bytes | None = None) -> Text:
        self = str.__new__(cls, text)
        self._own = bytes(len(self)) if own is None else own
        return self

    def __str__(self) -> str:
        return self

    def __add__(self, other: str) -> Text:
        if not isinstance(other, str):
            return NotImplemented
        return Text(str.__add__(self, other), self._own + _own(other))

    def __radd__(self, other: str) -> Text:
        return Text(str.__add__(other, self), _own(other) + self._own)

    def __mul__(self, n: Any) -> Text:
        return Text(str.__mul__(self, n), self._own * n)

    __rmul__ = __mul__

    def __getitem__(self, key: Any) -> Text:
        own = self._own[key]
        return Text(str.__getitem__(self, key), own if isinstance(own, bytes) else bytes([own]))

    def __iter__(self) -> Iterator[Text]:
        return (self[i] for i in range(len(self)))

    def _cuts(self, pieces: Iterable[str], gap: int | None) -> list[Text]:
        """Pieces of this text in order, `gap` characters between them; None: as few as needed."""
        found, at = [], 0
        for piece in pieces:
            at = str.find(self, piece, at) if gap is None else at
            found.append(self[at : at + len(piece)])
            at += len(piece) + (gap or 0)
        return found

    def split(self, sep: Any = None, maxsplit: Any = -1) -> list[Text]:  # type: ignore[override]
        return self._cuts(str.split(self, sep, maxsplit), None if sep is None else len(sep))

    def rsplit(self, sep: Any = None, maxsplit: Any = -1) -> list[Text]:  # type: ignore[override]
        return self._cuts(str.rsplit(self, sep, maxsplit), None if sep is None else len(sep))

    def splitlines(self, keepends: bool = False) -> list[Text]:  # type: ignore[override]
        whole = self._cuts(str.splitlines(self, True), 0)
        ends = str.splitlines(self, keepends)
        return [line[: len(end)] for line, end in zip(whole, ends)]

    def partition(self, sep: str) -> tuple[Text, Text, Text]:
        return tuple(self._cuts(str.partition(self, sep), 0))  # type: ignore[return-value]

    def rpartition(self, sep: str) -> tuple[Text, Text, Text]:
        return tuple(self._cuts(str.rpartition(self, sep), 0))  # type: ignore[return-value]

    def lstrip(self, chars: str | None = None) -> Text:
        return self[len(self) - len(str.lstrip(self, chars)) :]

    def rstrip(self, chars: str | None = None) -> Text:
        return self[: len(str.rstrip(self, chars))]

    def strip(self, chars: str | None = None) -> Text:
        return self.lstrip(chars).rstrip(chars)

    def removeprefix(self, prefix: str) -> Text:
        return self[len(prefix) :] if str.startswith(self, prefix) else self

    def removesuffix(self, suffix: str) -> Text:
        return self[: len(self) - len(suffix)] if suffix and str.endswith(self, suffix) else self

    def replace(self, old: str, new: str, count: Any = -1) -> Text:
        if not old:
            return Text(str.replace(self, old, new, count))
        return _joined(new, self.split(old, count))

    def join(self, items: Iterable[str]) -> Text:
        return _joined(self, items)


def _same_length(name: str) -> Callable[..., Text]:
    """A method that changes letters but, as a rule, not their number."""
    method = getattr(str, name)

    def changed(self: Text) -> Text:
        new = method(self)
        return Text(new, self._own if len(new) == len(self) else None)

    return changed


for _name in ("lower", "upper", "capitalize", "title", "swapcase", "casefold"):
    setattr(Text, _name, _same_length(_name))

# What a Text does by itself, keeping account of each character; other methods of strings give text as a whole
_EXACT = frozenset(name for name in vars(Text) if not name.startswith("_"))
# Filters that keep account: they hand their argument on, or use only what a Text does by itself
_EXACT_FILTERS = frozenset(
    "attr batch capitalize count d default dictsort first format groupby items join last length list lower "
    "map max min reject rejectattr replace select selectattr slice sort string sum trim unique upper".split()
)
# Those of them that make a text of whatever they get first
_OF_TEXT = frozenset({"capitalize", "lower", "string", "trim", "upper"})
_HOLD_NOTHING = frozenset({"Sandbox", "Context", "EvalContext", "Undefined", "LoopContext"})  # Jinja's own
_MARK = re.compile("\x00([0-9]+)\x01")


def _own(text: str) -> bytes:
    return text._own if isinstance(text, Text) else b"\1" * len(text)


def _joined(separator: str, items: Iterable[Any]) -> Any:
    """separator.join(items); a plain str if all are the template's own."""
    pieces = [item if isinstance(item, str) else _shown(item) for item in items]
    text = str.join(separator, pieces)
    if not any(isinstance(piece, Text) for piece in (separator, *pieces)):
        return text
    return Text(text, _own(separator).join(map(_own, pieces)))


def _shown(value: Any) -> str:
    """What a template prints for a value."""
    if isinstance(value, str):
        return str(value)
    text = str(value)
    return Text(text) if _is_given(value) else text


def _is_given(value: Any) -> bool:
    """Whether a value holds something of the request's, or may: other objects print what they hold."""
    if isinstance(value, dict):
        return any(map(_is_given, value)) or any(map(_is_given, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_is_given, value))
    if isinstance(value, str):
        return isinstance(value, Text)
    return not isinstance(value, int | float | None) and type(value).__name__ not in _HOLD_NOTHING


def _whole(result: Any, *inputs: Any) -> Any:
    """The result of something that keeps no account of its inputs."""
    if isinstance(result, str) and any(map(_is_given, inputs)):
        return Text(result)
    return result


def _formatted(form: Callable[..., str], args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """form(*args, **kwargs) of a format of the template's own, given texts put in where they belong."""
    given: list[Text] = []

    def mark(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(mark, value))
        if not _is_given(value):
            return value
        given.append(value if isinstance(value, Text) else Text(str(value)))
        return f"\0{len(given) - 1}\1"

    plain = form(*args, **kwargs)
    try:
        marked = form(*map(mark, args), **{key: mark(value) for key, value in kwargs.items()})
    except Exception:  # a format that wants a number, or looks into a value
        return Text(plain)
    pieces: list[str] = []
    at = 0
    for match in _MARK.finditer(marked):
        if int(match[1]) < len(given):
            pieces += [marked[at : match.start()], given[int(match[1])]]
            at = match.end()
    text = _joined("", [*pieces, marked[at:]])
    # a width or a precision was meant for the text, not for the mark: account is lost
    return text if text == plain else Text(plain)


def _percent(form: str, values: Any) -> str:
    """form % values, of a format of the template's own."""
    if isinstance(values, dict):
        return _formatted(lambda **named: form % named, (), values)
    return _formatted(lambda *args: form % args, values if isinstance(values, tuple) else (values,), {})


def _percent_filter(form: Any, *args: Any, **kwargs: Any) -> str:
    """Jinja's filter `format`."""
    plain = _shown(form)
    return Text(plain % (kwargs or args)) if isinstance(plain, Text) else _percent(plain, kwargs or args)


def _replaced(text: Any, old: Any, new: Any, count: int | None = None) -> str:
    """Jinja's filter `replace`."""
    text = _shown(text)
    return Text(text, _own(text)).replace(_shown(old), _shown(new), -1 if count is None else count)


def _of_text(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that works on what a template would print for its argument."""

    @functools.wraps(function)
    def filtered(value: Any, *args: Any, **kwargs: Any) -> Any:
        return function(_shown(value), *args, **kwargs)

    return filtered


def _accounted(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter whose result counts as the messages' if one of its arguments does."""

    @functools.wraps(function)  # with Jinja's marks on it
    def filtered(*args: Any, **kwargs: Any) -> Any:
        return _whole(function(*args, **kwargs), args, kwargs)

    return filtered


class _RawContentError(TypeError):
    """A template prints content that isn't text as Python would."""


class _Parts(list[Any]):
    """A content that is a list: for templates that look into it, not to be printed."""

    def __str__(self) -> str:
        raise _RawContentError

    __repr__ = __str__


class _Nothing:
    """A content that is None: false, equal to None, not to be printed."""

    def __bool__(self) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, _Nothing)

    def __hash__(self) -> int:
        return hash(None)

    def __str__(self) -> str:
        raise _RawContentError

    __repr__ = __str__


_GIVEN = re.compile(b"\x00+")  # in a Text's _own
_ROLE = re.compile("[A-Za-z0-9_. -]{1,64}")


def _given(value: Any) -> Any:
    """A value of the request, each string in it a Text."""
    if isinstance(value, str):
        return Text(value)
    if isinstance(value, list):
        return [_given(item) for item in value]
    if isinstance(value, dict):
        return {_given(key): _given(item) for key, item in value.items()}
    return value


def _variables(request: dict[str, Any], *, flat: bool) -> dict[str, Any]:
    """What the template gets. flat: contents that aren't text made text; otherwise they are as they came."""
    names = request["variables"]
    found = {key: value if key.endswith("_token") else _given(value) for key, value in names.items()}
    found["messages"] = [_message(message, flat) for message in names["messages"]]
    return found


def _message(message: dict[str, Any], flat: bool) -> dict[str, Any]:
    found: dict[str, Any] = _given(message)
    found["role"] = _word(message["role"])
    content = message.get("content", "")
    if isinstance(content, list):
        parts = [_given(part) | {"type": _word(part["type"])} for part in content]
        found["content"] = _flat(parts) if flat else _Parts(parts)
    elif content is None:
        found["content"] = Text("") if flat else _Nothing()
    return found


def _word(value: str) -> str:
    """A role or a kind: the application's own word, which templates write between signs: <|user|>."""
    return value if _ROLE.fullmatch(value) else Text(value)


def _flat(parts: list[dict[str, Any]]) -> Text:
    """A list of parts as text, one part a line, as llama.cpp has it."""
    for part in parts:
        if part["type"] != "text" or not isinstance(part.get("text"), str):
            raise ValueError(f"it takes text only, not a part of type {part['type']!s:.40}")
    return Text("") + _joined(Text("\n"), [part["text"] for part in parts])


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
        text, plain = environment.render(request)
        return {"text": text, "plain": plain}
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
        from jinja2 import nodes, runtime
        from jinja2.filters import make_attrgetter

        class Generation(jinja2.ext.Extension):
            """`{% generation %}` marks what an assistant wrote, for training; here only its text counts."""

            tags = {"generation"}  # noqa: RUF012 (jinja2's own declaration)

            def parse(self, parser: Any) -> nodes.Node | list[nodes.Node]:
                next(parser.stream)
                body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
                return body

        class Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
            """Refuses a forbidden attribute when it is named; Jinja's own waits until it is used.

            It keeps account of whose each character is, wherever templates put texts together.
            """

            intercepted_binops = frozenset({"%"})
            concat = staticmethod(functools.partial(_joined, ""))

            def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
                if type(left) is str and _is_given(right):
                    return _percent(left, right)
                return _whole(super().call_binop(context, operator, left, right), left, right)

            def wrap_str_format(self, value: Any) -> Any:
                wrapped: Any = super().wrap_str_format(value)
                if wrapped is None:
                    return None
                form, name = value.__self__, value.__name__
                if isinstance(form, Text):
                    plain: Any = super().wrap_str_format(getattr("".join([form]), name))
                    return lambda *args, **kwargs: Text(plain(*args, **kwargs))
                if name == "format_map":
                    return lambda values: _whole(wrapped(values), values)
                return lambda *args, **kwargs: _formatted(wrapped, args, kwargs)

            def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
                owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
                if isinstance(owner, str) and not isinstance(owner, Text):
                    if not _is_given([*args, *kwargs.values()]):
                        return super().call(context, obj, *args, **kwargs)
                    if name in _EXACT:
                        obj = getattr(Text(owner, _own(owner)), name)
                result = super().call(context, obj, *args, **kwargs)
                exact = name in _EXACT if isinstance(owner, str) else not isinstance(owner, datetime)
                return result if exact else _whole(result, owner, args, kwargs)

            def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
                raise jinja2.sandbox.SecurityError(
                    f"attribute {attribute!r} of {type(obj).__name__} is forbidden"
                )

        @jinja2.pass_environment
        def join(environment: Any, items: Any, separator: str = "", attribute: Any = None) -> str:
            """Jinja's filter `join`."""
            if attribute is not None:
                items = map(make_attrgetter(environment, attribute), items)
            return str(_joined(_shown(separator), items))

        self._jinja = Sandbox(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols]
        )
        self._jinja.finalize = _shown
        self._jinja.tests["none"] = lambda value: value is None or isinstance(value, _Nothing)
        self._jinja.filters["tojson"] = _to_json
        self._jinja.filters |= {"replace": _replaced, "join": join, "format": _percent_filter}
        for name, function in list(self._jinja.filters.items()):
            if name not in _EXACT_FILTERS:
                self._jinja.filters[name] = _accounted(function)
            elif name in _OF_TEXT:
                self._jinja.filters[name] = _of_text(function)
        runtime.str_join = functools.partial(_joined, "")  # what `~` compiles to
        self._jinja.globals["raise_exception"] = _raise_exception
        self._jinja.globals.pop("lipsum", None)
        self._compiled: tuple[str, Any] = ("", None)

    def render(self, request: dict[str, Any]) -> tuple[str, list[tuple[int, int]]]:
        """The prompt, and the parts of it (begin, end) that are the messages'."""
        contents = [message.get("content", "") for message in request["variables"]["messages"]]
        try:
            return self._render(request, _variables(request, flat=False))
        except Exception:
            if all(isinstance(content, str) for content in contents):
                raise
        # most templates know no contents but text
        return self._render(request, _variables(request, flat=True))

    def _render(
        self, request: dict[str, Any], variables: dict[str, Any]
    ) -> tuple[str, list[tuple[int, int]]]:
        if self._compiled[0] != request["template"] or self._compiled[1] is None:
            self._compiled = (request["template"], self._jinja.from_string(request["template"]))
        now = datetime.fromisoformat(request["now"])
        pieces: list[str] = []
        plain: list[tuple[int, int]] = []
        length = 0
        for piece in self._compiled[1].generate(**variables, strftime_now=now.strftime):
            if length + len(piece) > request["max_chars"]:
                raise ValueError(f"its text is longer than {request['max_chars']} characters")
            for run in _GIVEN.finditer(piece._own) if isinstance(piece, Text) else ():
                begin, end = length + run.start(), length + run.end()
                if plain and plain[-1][1] == begin:
                    begin = plain.pop()[0]
                plain.append((begin, end))
            length += len(piece)
            pieces.append(piece)
        return "".join(pieces), plain


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
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
        default=_json_default,
    )


def _json_default(value: object) -> None:
    if not isinstance(value, _Nothing):
        raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")


if __name__ == "__main__":
    main()
