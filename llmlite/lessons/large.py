"""Large type for a projector: one switch for the page, the widgets and the figures."""

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


def large_type(on: bool = True) -> None:
    """Show this page, its widgets and the figures drawn from now on in large type; or as usual again.

    `llmlite lab --large-type`, or the environment variable LLMLITE_LARGE=1, turns it on in every lesson.
    """
    from IPython.display import publish_display_data

    from llmlite import plots

    plots.set_type_size(SCALE if on else 1.0)
    text = f"Large type is {'on' if on else 'off'}. Figures drawn before stay as they are."
    publish_display_data({"text/html": style(SCALE if on else 1.0) + text, "text/plain": text})


def style(scale: float) -> str:
    """Return the style sheet that sets JupyterLab's sizes, as one HTML element."""
    rules = "".join(f"{name}:{size * scale:.0f}px!important;" for name, size in SIZES.items())
    return f"<style>:root,body{{{rules}}}</style>"


def if_wished() -> None:
    """Turn large type on if LLMLITE_LARGE asks for it and somebody has the notebook open."""
    if os.environ.get(SWITCH, "0") not in ("", "0") and progress.somebody_clicks():
        large_type()
