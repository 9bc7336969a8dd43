"""A hook of mkdocs: the site holds no link that leads out of it, and loads nothing from a network.

Links from docs/ to files of the repository become text. A script that search needs in pages
opened as files comes from another server, so it is left out: search works if the folder is served
(`python -m http.server`).

mkdocs itself reports links between pages that lead nowhere. Those to the repository are checked by
tests/test_docs.py, in the checkout.
"""

from __future__ import annotations

import re
from typing import Any

SHIM = re.compile(r'<script src="https?://[^"]+"></script>')
OUTSIDE = re.compile(r"\[([^\]]+)\]\(\.\./[^)]+\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return a page without its links to files outside docs/."""
    return OUTSIDE.sub(r"\1", markdown)


def on_post_page(output: str, **_: Any) -> str:
    """Return a page without scripts of other servers."""
    return SHIM.sub("", output)


def on_post_template(output_content: str, **_: Any) -> str:
    """As `on_post_page`, for pages that no document makes: 404.html."""
    return SHIM.sub("", output_content)
