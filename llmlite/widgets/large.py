"""Large type in one notebook, and back."""

from __future__ import annotations

from llmlite import plots
from llmlite.lessons import large


def large_type(on: bool = True) -> None:
    """Show this page, its widgets and the figures drawn from now on in large type; or as usual again.

    `llmlite lab --large-type`, or the environment variable LLMLITE_LARGE=1, turns it on in every lesson.
    Figures drawn before stay as they are.
    """
    scale = large.SCALE if on else 1.0
    plots.set_type_size(scale)
    large.show(scale)
