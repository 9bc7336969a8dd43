"""What is written on a picture of real measurements can be read: no text touches another, none is cut off."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="matplotlib is not installed")

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from llmlite import plots
from llmlite.bench.samples import Comparison
from llmlite.bench.summary import METRICS, summarize
from llmlite.lessons import type_sweep
from llmlite.plots import base, labels
from tests.support.synthetic import synthetic_comparison

ROOT = Path(__file__).resolve().parents[2]
MEASURED = (
    ROOT / "docs/measurements/smollm2/comparison.jsonl",
    ROOT / "docs/measurements/smollm2/frameworks/comparison.jsonl",
    ROOT / "data/samples/comparison-two-cores.jsonl",
)
AIR = 2.0  # pixels of a text's box that no letter fills


def builders() -> dict[str, Any]:
    """Return the builder of every picture of the kit, as benchmarks/pictures.py has them."""
    spec = importlib.util.spec_from_file_location("pictures", ROOT / "benchmarks/pictures.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    small, large = map(Comparison.load, MEASURED[:2])
    for model in large.models:
        model["model_n_params"] *= 9
    return module.builders(small, {"small": small, "large": large})


def written(figure: Figure) -> tuple[list[str], np.ndarray]:
    """Return every text that is drawn, and its box; an axis has more texts than it draws."""
    drawn: list[Text] = []
    draw = Text.draw

    def noting(text: Text, *rest: Any, **options: Any) -> None:
        drawn.append(text)
        draw(text, *rest, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Text, "draw", noting)
        FigureCanvasAgg(figure).draw()
    shown = [text for text in dict.fromkeys(drawn) if text.get_visible() and text.get_text().strip()]
    return [text.get_text() for text in shown], labels.boxes(shown, figure)


def touching(figure: Figure) -> list[tuple[str, str]]:
    texts, found = written(figure)
    pairs = np.argwhere(np.triu(labels.overlaps(found, found, gap=-AIR), 1))
    return [(texts[i], texts[j]) for i, j in pairs]


def cut_off(figure: Figure) -> list[str]:
    texts, found = written(figure)
    width, height = figure.get_size_inches() * figure.dpi
    edges = np.array([-1.0, -1.0, width + 1, height + 1])
    return [
        text for text, box in zip(texts, found) if (box[:2] < edges[:2]).any() or (box[2:] > edges[2:]).any()
    ]


@pytest.mark.parametrize("name", builders())
def test_on_no_picture_of_the_kit_one_text_touches_another(name: str) -> None:
    picture = builders()[name]("light")
    assert touching(picture.figure) == []
    assert cut_off(picture.figure) == []


@pytest.mark.slow
@pytest.mark.parametrize("path", MEASURED, ids=lambda path: path.parent.name)
def test_on_no_picture_of_a_metric_one_text_touches_another(path: Path) -> None:
    found = Comparison.load(path)
    drawn = [metric for metric in METRICS if summarize(found, metric)]
    assert len(drawn) > 6
    for metric in drawn:
        figure = plots.benchmark.metric_bars(found, metric, theme="page").figure
        assert touching(figure) == [] and cut_off(figure) == [], metric


@pytest.mark.parametrize("largest", [1.7e-4, 9.9e-4, 3.1e-8, 2.4e-3, 0.17])
def test_numbers_on_the_axis_do_not_touch_if_they_are_small(largest: float) -> None:
    found = synthetic_comparison()
    long = {"torch-f32": "torch-compile"}  # a long name leaves the axis little room
    found.measurements = [replace(m, backend=long.get(m.backend, m.backend)) for m in found.measurements]
    for number, record in enumerate(found.agreement):
        record["kl"] = largest / (1 + number)
        record["backend"] = long.get(record["backend"], record["backend"])
    figure = plots.benchmark.metric_bars(found, "kl", theme="page").figure
    assert touching(figure) == [] and cut_off(figure) == []


@pytest.mark.parametrize("cost", plots.type_sweep.COSTS)
@pytest.mark.parametrize("scope", [("tensors",), ("mix",), ("tensors", "mix")])
def test_names_of_types_keep_off_points_and_other_names(cost: str, scope: tuple[str, ...]) -> None:
    points = [point for point in type_sweep.shipped().points if point.scope in scope]
    figure = plots.type_sweep.scatter(points, cost, budget=4.5, theme="dark").figure
    assert touching(figure) == []
    ax = figure.axes[0]
    names = {point.name for point in points}
    texts = [text for text in ax.texts if text.get_text() in names]
    assert len(texts) >= 8
    places = [(p.bits_per_weight, max(getattr(p, cost), plots.type_sweep.FLOORS[cost])) for p in points]
    marks = ax.transData.transform(places)
    assert not labels.overlaps(labels.boxes(texts, figure), np.concatenate([marks, marks], axis=1)).any()


def test_the_check_sees_texts_that_touch() -> None:
    drawn, (ax,) = plots.figure(4, 3)
    ax.text(0.5, 0.5, "one text")
    ax.text(0.52, 0.5, "another")
    assert ("one text", "another") in touching(drawn)
    ax.text(0.9, 0.2, "a text that is longer than the picture is wide, and then some", in_layout=False)
    assert len(cut_off(drawn)) == 1


def test_a_name_without_room_is_left_out_and_a_far_one_is_joined_by_a_line() -> None:
    _, (ax,) = plots.figure(4, 3)
    grid = [(x, y) for x in np.linspace(0, 1, 40) for y in np.linspace(0, 1, 40)]
    ax.plot(*zip(*grid), "o")
    assert labels.name_points(ax, ["name"], [(0.5, 0.5)], around=grid, colour="black", size=11) == []
    _, (ax,) = plots.figure(4, 3)
    close = [(x, y) for x in np.linspace(0.4, 0.6, 9) for y in np.linspace(0.4, 0.6, 9)]
    ax.set_xlim(0, 1)
    ax.set_ylim(0, 1)
    [text] = labels.name_points(ax, ["name"], [(0.5, 0.5)], around=close, colour="black", size=11)
    assert text.get_text() == "name" and len(ax.lines) == 1
    assert labels.name_points(ax, [], [], colour="black", size=11) == []


@pytest.mark.parametrize("scale", [1.0, 1.3])
@pytest.mark.parametrize("measured", MEASURED, ids=lambda path: path.parent.name + "-" + path.stem)
def test_titles_and_ticks_do_not_touch_in_large_type_either(scale: float, measured: Path) -> None:
    usual = dict(base.FONT)
    plots.set_type_size(scale)
    try:
        drawn = plots.comparison(Comparison.load(measured)).figure
    finally:
        base.FONT.update(usual)
    FigureCanvasAgg(drawn).draw()
    left, middle, right = (
        next(t for t in ax.findobj(Text) if t.get_text() == ax.get_title(loc="left")).get_window_extent()
        for ax in drawn.axes
    )
    assert left.x1 < middle.x0 and middle.x1 < right.x0 and right.x1 <= drawn.bbox.x1
    for ax in drawn.axes:
        boxes = [label.get_window_extent() for label in ax.get_xticklabels() if label.get_text()]
        inside = [box for box in boxes if ax.bbox.x0 - 1 <= (box.x0 + box.x1) / 2 <= ax.bbox.x1 + 1]
        assert len(inside) >= 2 and all(a.x1 < b.x0 for a, b in pairwise(inside))
