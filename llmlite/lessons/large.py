"""Large type for a projector: the sizes of the page, and whether somebody asked for them.

`llmlite.plots` reads the same switch for its figures; `llmlite.widgets.large_type` changes both in one.
"""

from __future__ import annotations

import os

from llmlite.lessons import progress

SWITCH = "LLMLITE_LARGE"
SCALE = 1.3
# JupyterLab's own sizes, in pixels; everything on its page is set in these.
SIZES = {
    "--jp-content-font-size1": 14,
    "--jp-code-font-size": 13,
    "--jp-ui-font-size1": 13,
    "--jp-widgets-font-size": 13,
    "--jp-widgets-inline-height": 28,
}


def style(scale: float) -> str:
    """Return the style sheet that sets JupyterLab's sizes, as one HTML element."""
    rules = "".join(f"{name}:{size * scale:.0f}px!important;" for name, size in SIZES.items())
    return f"<style>:root,body{{{rules}}}</style>"


def wished() -> bool:
    """Whether LLMLITE_LARGE asks for large type and somebody has the notebook open."""
    return os.environ.get(SWITCH, "0") not in ("", "0") and progress.somebody_clicks()


def show(scale: float) -> None:
    """Put the style sheet into the page, and say so."""
    from IPython.display import publish_display_data

    text = f"Large type is {'on' if scale > 1 else 'off'}."
    publish_display_data({"text/html": style(scale) + text, "text/plain": text})
