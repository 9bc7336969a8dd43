"""Jinja's immutable sandbox, extended to record the origin of each character of a prompt."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import jinja2.ext
import jinja2.sandbox
from jinja2 import nodes, runtime
from jinja2.filters import make_attrgetter

if TYPE_CHECKING:
    from llmlite.chat.worker.given import EXACT, Text, formatted, is_given, joined, own, percent, shown, whole
    from llmlite.chat.worker.messages import Nothing, variables
else:  # this folder runs as a program, which imports nothing else of llmlite
    from given import EXACT, Text, formatted, is_given, joined, own, percent, shown, whole
    from messages import Nothing, variables

# Filters that record characters: they return their argument, or use only a Text's own methods
_EXACT_FILTERS = frozenset(
    "attr batch capitalize count d default dictsort first format groupby items join last length list lower "
    "map max min reject rejectattr replace select selectattr slice sort string sum trim unique upper".split()
)
# Those of them that first turn their argument into a text
_OF_TEXT = frozenset({"capitalize", "lower", "string", "trim", "upper"})
_GIVEN = re.compile(b"\x00+")  # in a Text's _own


class GenerationTag(jinja2.ext.Extension):
    """`{% generation %}` marks an assistant's text for training. Here, only the text is used."""

    tags = {"generation"}  # noqa: RUF012 (jinja2's own declaration)

    def parse(self, parser: Any) -> nodes.Node | list[nodes.Node]:
        next(parser.stream)
        body: list[nodes.Node] = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return body


class Sandbox(jinja2.sandbox.ImmutableSandboxedEnvironment):
    """A sandbox that refuses a forbidden attribute when it is named. Jinja's refuses it when it is used.

    It records the origin of each character in all operations that join texts.
    """

    intercepted_binops = frozenset({"%"})
    concat = staticmethod(functools.partial(joined, ""))

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        if type(left) is str and is_given(right):
            return percent(left, right)
        return whole(super().call_binop(context, operator, left, right), left, right)

    def wrap_str_format(self, value: Any) -> Any:
        wrapped: Any = super().wrap_str_format(value)
        if wrapped is None:
            return None
        form, name = value.__self__, value.__name__
        if isinstance(form, Text):
            plain: Any = super().wrap_str_format(getattr("".join([form]), name))
            return lambda *args, **kwargs: Text(plain(*args, **kwargs))
        if name == "format_map":
            return lambda values: whole(wrapped(values), values)
        return lambda *args, **kwargs: formatted(wrapped, args, kwargs)

    def call(self, context: Any, obj: Any, *args: Any, **kwargs: Any) -> Any:
        owner, name = getattr(obj, "__self__", None), getattr(obj, "__name__", "")
        if isinstance(owner, str) and not isinstance(owner, Text):
            if not is_given([*args, *kwargs.values()]):
                return super().call(context, obj, *args, **kwargs)
            if name in EXACT:
                obj = getattr(Text(owner, own(owner)), name)
        result = super().call(context, obj, *args, **kwargs)
        exact = name in EXACT if isinstance(owner, str) else not isinstance(owner, datetime)
        return result if exact else whole(result, owner, args, kwargs)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Any:
        raise jinja2.sandbox.SecurityError(f"attribute {attribute!r} of {type(obj).__name__} is forbidden")


@jinja2.pass_environment
def _join(environment: Any, items: Any, separator: str = "", attribute: Any = None) -> str:
    """Do the same as Jinja's filter `join`."""
    if attribute is not None:
        items = map(make_attrgetter(environment, attribute), items)
    return str(joined(shown(separator), items))


def _percent_filter(form: Any, *args: Any, **kwargs: Any) -> str:
    """Do the same as Jinja's filter `format`."""
    plain = shown(form)
    return Text(plain % (kwargs or args)) if isinstance(plain, Text) else percent(plain, kwargs or args)


def _replaced(text: Any, old: Any, new: Any, count: int | None = None) -> str:
    """Do the same as Jinja's filter `replace`."""
    text = shown(text)
    return Text(text, own(text)).replace(shown(old), shown(new), -1 if count is None else count)


def _of_text(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that is applied to the text that a template would print for its argument."""

    @functools.wraps(function)
    def filtered(value: Any, *args: Any, **kwargs: Any) -> Any:
        return function(shown(value), *args, **kwargs)

    return filtered


def _accounted(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter whose result counts as the request's if one of its arguments does."""

    @functools.wraps(function)  # with Jinja's marks on it
    def filtered(*args: Any, **kwargs: Any) -> Any:
        return whole(function(*args, **kwargs), args, kwargs)

    return filtered


class Environment:
    """The sandbox, with the names that templates expect. The last compiled template is kept."""

    def __init__(self) -> None:
        self._jinja = Sandbox(
            trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, jinja2.ext.loopcontrols]
        )
        self._jinja.finalize = shown
        self._jinja.tests["none"] = lambda value: value is None or isinstance(value, Nothing)
        self._jinja.filters["tojson"] = _to_json
        self._jinja.filters |= {"replace": _replaced, "join": _join, "format": _percent_filter}
        for name, function in list(self._jinja.filters.items()):
            if name not in _EXACT_FILTERS:
                self._jinja.filters[name] = _accounted(function)
            elif name in _OF_TEXT:
                self._jinja.filters[name] = _of_text(function)
        runtime.str_join = functools.partial(joined, "")  # the function that `~` calls
        self._jinja.globals["raise_exception"] = _raise_exception
        self._jinja.globals.pop("lipsum", None)
        self._compiled: tuple[str, Any] = ("", None)

    def render(self, request: dict[str, Any]) -> tuple[str, list[tuple[int, int]]]:
        """Return the prompt, and its parts (begin, end) that came from the messages."""
        contents = [message.get("content", "") for message in request["variables"]["messages"]]
        try:
            return self._render(request, variables(request, flat=False))
        except Exception:
            if all(isinstance(content, str) for content in contents):
                raise
        # most templates support only text as content
        return self._render(request, variables(request, flat=True))

    def _render(self, request: dict[str, Any], values: dict[str, Any]) -> tuple[str, list[tuple[int, int]]]:
        if self._compiled[0] != request["template"] or self._compiled[1] is None:
            self._compiled = (request["template"], self._jinja.from_string(request["template"]))
        now = datetime.fromisoformat(request["now"])
        pieces: list[str] = []
        plain: list[tuple[int, int]] = []
        length = 0
        for piece in self._compiled[1].generate(**values, strftime_now=now.strftime):
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
    raise jinja2.TemplateError(str(message))


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Return plain JSON. Jinja's own filter escapes <, > and & for HTML, which no model was trained on."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
        default=_json_default,
    )


def _json_default(value: object) -> None:
    if not isinstance(value, Nothing):
        raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
