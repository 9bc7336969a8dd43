"""Large type for a projector: the sizes of the page, and whether they were asked for.

`llmlite.plots` reads the same environment variable for its figures. `llmlite.widgets.large_type` changes the
page and the figures together.
"""

from __future__ import annotations

import os

from llmlite.lessons import progress

SWITCH = "LLMLITE_LARGE"
SCALE = 1.3
# JupyterLab's default sizes in pixels, by CSS variable. All text on its page uses these variables.
SIZES = {
    "--jp-content-font-size1": 14,
    "--jp-code-font-size": 13,
    "--jp-ui-font-size1": 13,
    "--jp-widgets-font-size": 13,
    "--jp-widgets-inline-height": 28,
}


def style(scale: float) -> str:
    """Return an HTML style element that sets JupyterLab's sizes to `scale` times their defaults."""
    rules = "".join(f"{name}:{size * scale:.0f}px!important;" for name, size in SIZES.items())
    return f"<style>:root,body{{{rules}}}</style>"


def wished() -> bool:
    """Return whether LLMLITE_LARGE asks for large type and somebody has the notebook open."""
    return os.environ.get(SWITCH, "0") not in ("", "0") and progress.somebody_clicks()


def show(scale: float) -> None:
    """Display the style element, with a line that says whether large type is on."""
    from IPython.display import publish_display_data

    text = f"Large type is {'on' if scale > 1 else 'off'}."
    publish_display_data({"text/html": style(scale) + text, "text/plain": text})
