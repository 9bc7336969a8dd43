"""The diagram of a token's way: its headings fit on it, in large type, too."""

from __future__ import annotations

import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from matplotlib.backends.backend_agg import FigureCanvasAgg

import llmlite as ll
from llmlite import plots
from llmlite.lessons.one_token import STEPS, Walk, walk
from llmlite.plots import base, one_token


@pytest.fixture(scope="module")
def way() -> Walk:
    return walk(ll.load("tales", executor="eager", kv_dtype="f32"), "The fox was")


@pytest.mark.parametrize("scale", [1.0, 1.3])
def test_the_longest_heading_fits_on_the_figure(way: Walk, scale: float) -> None:
    longest = max(STEPS, key=lambda step: len(step.says))
    usual = dict(base.FONT)
    plots.set_type_size(scale)
    try:
        picture = one_token.diagram(way, longest.key, layer=0, token=2)
    finally:
        base.FONT.update(usual)
    FigureCanvasAgg(picture.figure).draw()
    heading = picture.figure.axes[0]._left_title
    assert heading.get_text().replace("\n", " ") == picture.labels["title"]
    box = heading.get_window_extent()
    assert box.x0 >= 0 and box.x1 <= picture.figure.bbox.x1 and box.y1 <= picture.figure.bbox.y1
