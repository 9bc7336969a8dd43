"""Throw chat templates at the renderer: rendered or refused; what messages give is known as theirs.

The messages are written with a sign that no template has. Wherever it comes up in a prompt, in whatever way
the template moved it there, it must lie in the prompt's plain parts.

    python tests/fuzz/fuzz_templates.py --inputs 50000 --seed 1
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.fuzz import fuzzing
from tests.fuzz.fuzz_gguf import mutated
from tests.fuzz.fuzzing import FuzzFailureError

SIGN = "✿"
VALUES = (
    *(
        "m.content",
        "m",
        "messages",
        "m.role",
        "messages[0].content",
        "messages[-1]",
        "loop.index",
        "tools",
        "x",
    ),
    *("'<|im_end|>'", "'a'", "''", "5", "none", "[m.content, 'b']", "(m.content, 'b')", "{'k': m.content}"),
    *(
        "bos_token",
        "m.parts",
        "m.parts[0].text",
        "'%s|%s'",
        "'{}-{}'",
        "'%(k)s'",
        "true",
        "namespace(k=m.content)",
    ),
)
FILTERS = (
    "abs attr('k') batch(2) capitalize center(30) count default('d') dictsort e escape filesizeformat "
    "first float forceescape format(m.content) groupby('role') indent(3) int items join('-') "
    "join(m.content) last length list lower map('upper') map(attribute='content') max min pprint random "
    "reject('string') replace('a',m.content) replace(m.content,'<|im_end|>') reverse round safe select "
    "slice(2) sort string striptags sum title tojson tojson(indent=2) trim truncate(5) unique upper "
    "urlencode urlize wordcount wordwrap(3) xmlattr"
).split()
METHODS = (
    "split() split('✿') rsplit('|',1) splitlines() strip() lstrip('<') rstrip() upper() lower() title() "
    "swapcase() casefold() capitalize() center(40,'*') ljust(50) rjust(50) zfill(50) expandtabs() "
    "partition('|') rpartition('✿') replace('✿','b') replace('',m.content) replace('a',m.content,1) "
    "join(['a',m.content]) join(m.content) format(m.content,'b') format(k=m.content) "
    "format_map({'k':m.content}) startswith('a') find('i') encode() items() keys() values() "
    "get('content') removeprefix('<') removesuffix('>') translate({97:m.content}) __class__ _own "
    "isdigit() index('zz') maketrans('a','b')"
).split()
STATEMENTS = (
    "{{% for m in messages %}}{0}{{% endfor %}}",
    "{{% for c in {1} %}}{{{{ c }}}}{{% endfor %}}",
    "{{% if {1} %}}{0}{{% else %}}{0}{{% endif %}}",
    "{{% set x = {1} %}}{{{{ x }}}}{0}",
    "{{% set x %}}{0}{{% endset %}}{{{{ x | upper }}}}",
    "{{% macro f(a, b='c') %}}{0}{{{{ a }}}}{{% endmacro %}}{{{{ f({1}) }}}}",
    "{{% filter upper %}}{0}{{% endfilter %}}",
    "{{% call(u) f({1}) %}}{0}{{% endcall %}}",
    "{{% set n = namespace(a='') %}}{{% set n.a = n.a + {1} %}}{{{{ n.a }}}}",
    "{{% with x = {1} %}}{0}{{{{ x }}}}{{% endwith %}}",
    "{{% generation %}}{0}{{% endgeneration %}}",
    "{{{{ {1} }}}}",
)
OPERATORS = ("+", "~", "%", "*", "and", "or", "==", "in", "if x else", "//", "<", "is string", "is none or")


def expression(dice: random.Random, depth: int = 3) -> str:
    kind = dice.random()
    if depth == 0 or kind < 0.2:
        return dice.choice(VALUES)
    inner = expression(dice, depth - 1)
    if kind < 0.4:
        return f"({inner} {dice.choice(OPERATORS)} {expression(dice, depth - 1)})"
    if kind < 0.65:
        return f"({inner}) | {dice.choice(FILTERS)}"
    if kind < 0.9:
        return f"({inner}).{dice.choice(METHODS)}"
    return f"({inner})[{dice.choice(('0', '-1', '1:', '::2', ':-1', ':', repr('content')))}]"


def statement(dice: random.Random, depth: int = 3) -> str:
    if depth == 0 or dice.random() < 0.2:
        return dice.choice(
            ("<|im_start|>", "<|im_end|>\n", "{{ m.content }}", f"{{{{ {expression(dice)} }}}}")
        )
    inner = "".join(statement(dice, depth - 1) for _ in range(dice.choice((1, 1, 2))))
    return dice.choice(STATEMENTS).format(inner, expression(dice))


def inputs(n: int, seed: int) -> Iterator[bytes]:
    """n templates, most of them put together by Jinja's grammar, some with damaged bytes."""
    from tests.support.chat_templates import OWN

    dice, good = random.Random(seed), [form.encode() for form in OWN.values()]
    for _ in range(n):
        kind = dice.random()
        if kind < 0.15:
            yield mutated(dice.choice(good), good, dice)
        elif kind < 0.3:
            yield STATEMENTS[0].format(f"<|im_start|>{{{{ {expression(dice)} }}}}<|im_end|>").encode()
        else:
            yield STATEMENTS[0].format(statement(dice)).encode()


def check(data: bytes, folder: Path) -> str:
    """Render a template with messages of three kinds of content."""
    from llmlite.chat import ChatTemplate

    given = f"{SIGN}<|im_end|>{SIGN}|{SIGN}\n {SIGN}%s{{}} a"
    parts = [{"type": "text", "text": given}, {"type": "text", "text": SIGN}]
    messages = [
        {"role": "user", "content": given, "parts": parts},
        {"role": "assistant", "content": (None, given, parts)[len(data) % 3]},
        {"role": f"user{SIGN}", "content": given, SIGN: SIGN},
    ]

    def act() -> None:
        template = ChatTemplate(data.decode("utf-8", "replace"), seconds=2, max_chars=100_000)
        prompt = template.render(messages, tools=[{"name": SIGN}], x=SIGN)
        last = 0
        for begin, end in prompt.plain:
            if not last <= begin < end <= len(prompt):
                raise FuzzFailureError(f"plain parts {prompt.plain} of {len(prompt)} characters")
            if SIGN in prompt[last:begin]:
                raise FuzzFailureError(f"taken for the template's own: {prompt[last:begin]!r:.200}")
            last = end
        if SIGN in prompt[last:]:
            raise FuzzFailureError(f"taken for the template's own: {prompt[last:]!r:.200}")

    return fuzzing.outcome(act)


if __name__ == "__main__":
    fuzzing.main(__doc__, inputs, check)
