"""Close the site, as a hook of mkdocs: no link leaves it, and no page loads anything from a network.

Links from docs/ to files of the repository become text. A script that search needs in pages opened as files
would come from another server, so it is left out. Search works if the folder is served (`python -m
http.server`).

mkdocs itself reports broken links between pages. tests/test_docs.py checks links to the repository, in the
checkout.
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
    """Return a page without scripts from other servers."""
    return SHIM.sub("", output)


def on_post_template(output_content: str, **_: Any) -> str:
    """Return a page without scripts from other servers, for pages without a document, such as 404.html."""
    return SHIM.sub("", output_content)
