"""Write a comparison as one HTML page that fetches nothing: pictures, tables, notes and the samples."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from html import escape

from llmlite.bench.report import PROSE, all_tables, headline, titled
from llmlite.bench.samples import Comparison
from llmlite.bench.summary import summarize
from llmlite.plots.base import Picture, svg
from llmlite.plots.benchmark import metric_bars

PICTURES = (
    "decode",
    "decode_deep",
    "prefill",
    "prefill64",
    "first_token",
    "compile",
    "private",
    "file",
    "energy",
    "kl",
)
STYLE = """\
:root { color-scheme: light dark; --text: #1a1a1a; --back: #ffffff; --line: #d8d8d8; --weak: #555555; }
@media (prefers-color-scheme: dark) {
  :root { --text: #f0f0f0; --back: #16181c; --line: #44484f; --weak: #b8bcc4; }
}
body { color: var(--text); background: var(--back); font: 1.05rem/1.5 system-ui, sans-serif;
  max-width: 75rem; margin: 0 auto; padding: 1.5rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.5rem; }
figure { margin: 1rem 0 2rem; } figcaption { color: var(--weak); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0 2rem; font-size: .95rem; }
caption { text-align: left; color: var(--weak); padding-bottom: .5rem; max-width: 60rem; }
th, td { border-bottom: 1px solid var(--line); padding: .3rem .8rem; text-align: right;
  vertical-align: top; font-variant-numeric: tabular-nums; white-space: nowrap; }
th[scope=row], .prose { text-align: left; }
.prose { white-space: normal; }
a { color: inherit; }
@media print { body { max-width: none; } details { display: none; } }
"""
# The addresses that a browser fetches without a click. Links and namespaces are not among them.
FETCHES = re.compile(
    r"""(?:src|srcset|poster|data|action|background)\s*=\s*["']?\s*(?:https?:)?//"""
    r"""|url\(\s*["']?\s*(?:https?:)?//|@import|<(?:script|link|iframe|object|embed)\b[^>]*(?:src|href|data)=""",
    re.IGNORECASE,
)


def comparison_page(result: Comparison) -> str:
    """Return the page as HTML, with the samples in it as a file to save.

    Raises:
        ValueError: the comparison has no measurements.
    """
    pictures = [metric_bars(result, key, theme="page") for key in PICTURES if summarize(result, key)]
    if not pictures:
        raise ValueError("nothing in this comparison was measured")
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(_title(result))}</title><style>{STYLE}</style></head><body><main>",
        f"<h1>{escape(_title(result))}</h1><p>{escape(headline(result))}</p>",
        "<h2>Pictures</h2><p>Bars are medians, lines are their 95 % intervals, points are blocks.</p>",
        *(_figure(number, each) for number, each in enumerate(pictures)),
        "<h2>Tables</h2>",
        *(_table(title, headings, rows) for title, headings, rows in all_tables(result) if rows),
        _notes(result),
        _environment(result),
        _samples(result),
        "</main></body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _title(result: Comparison) -> str:
    return f"llmlite compare: {titled(result)}"


def _figure(number: int, picture: Picture) -> str:
    """Return an inline picture. Its ids get a prefix, because they must be unique on the page."""
    drawn = svg(picture)
    drawn = re.sub(r'(\bid="|xlink:href="#|href="#|url\(#)', rf"\g<1>p{number}-", drawn)
    rows = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in picture.table()
    )
    return (
        f"<figure>{drawn}<figcaption><details><summary>In words and numbers</summary>"
        f"<p>{escape(picture.alt)}</p><table>{rows}</table></details></figcaption></figure>"
    )


def _table(title: str, headings: list[str], rows: list[list[str]]) -> str:
    words = ' class="prose"' if headings[-1] in (*PROSE, "") else ""
    last = len(headings) - 1
    head = "".join(
        f'<th scope="col"{words if n == last else ""}>{escape(cell)}</th>' for n, cell in enumerate(headings)
    )
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td{words if n == last else ''}>{escape(cell)}</td>" for n, cell in enumerate(rest, 1))
        + "</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="wide"><table><caption>{escape(title)}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _notes(result: Comparison) -> str:
    if not result.notes:
        return ""
    return "<h2>Notes</h2><ul>" + "".join(f"<li>{escape(note)}</li>" for note in result.notes) + "</ul>"


def _environment(result: Comparison) -> str:
    canaries = result.environment.get("canary_ns") or []
    said = {
        key: value
        for key, value in result.environment.items()
        if key not in ("canary_ns", "packages", "cpu_features") and value not in (None, "", [])
    }
    said |= {f"version of {name}": text for name, text in (result.environment.get("packages") or {}).items()}
    if canaries:
        spread = max(canaries) / min(canaries) - 1
        said["canary"] = f"{len(canaries)} blocks, slowest {spread:.0%} slower than the fastest"
    rows = [[name.replace("_", " "), _short(value)] for name, value in said.items()]
    return "<h2>Machine</h2>" + _table("The machine and the versions.", ["", ""], rows)


def _short(value: object) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(_short, value))
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _samples(result: Comparison) -> str:
    lines: Iterable[str] = (json.dumps(record, allow_nan=False) for record in result.records())
    encoded = base64.b64encode(("\n".join(lines) + "\n").encode()).decode()
    return (
        '<h2>Samples</h2><p><a download="comparison.jsonl" '
        f'href="data:application/jsonl;base64,{encoded}">comparison.jsonl</a>, every sample of this page. '
        "<code>llmlite compare --from comparison.jsonl</code> draws it again.</p>"
    )
