"""Two texts compared: the place where the second departs from the first."""

from __future__ import annotations

from html import escape
from itertools import takewhile

MARK = "background:rgba(213,94,0,.28);color:inherit;border-bottom:3px solid #D55E00"


def common_words(first: str, second: str) -> int:
    """Return how many words two texts share before they differ."""
    return len(list(takewhile(lambda pair: pair[0] == pair[1], zip(first.split(), second.split()))))


def marked(text: str, reference: str) -> str:
    """Return a text as HTML, the first word that differs from the reference marked."""
    n = common_words(reference, text)
    words = text.split()
    if n == len(words) == len(reference.split()):
        return escape(text)
    if n == len(words):
        return f'{escape(text)} <mark style="{MARK}">(ends here)</mark>'
    before, after = " ".join(words[:n]), " ".join(words[n + 1 :])
    return f'{escape(before)} <mark style="{MARK}">{escape(words[n])}</mark> {escape(after)}'


def panel(heading: str, body: str) -> str:
    """Return HTML: a heading and a text beside others, in the page's own colours."""
    return (
        '<div style="flex:1;min-width:220px;border:1px solid currentColor;border-radius:6px;padding:8px 12px;'
        f'margin:4px;line-height:1.45"><b>{escape(heading)}</b><br>{body}</div>'
    )


def beside(*panels: str) -> str:
    """Return panels side by side, under each other if there is no room."""
    return f'<div style="display:flex;flex-wrap:wrap">{"".join(panels)}</div>'
