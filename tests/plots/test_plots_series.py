"""The data taken from a figure is what was drawn in it."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from matplotlib.figure import Figure

from llmlite import plots


def test_lines_bars_points_and_images_are_the_numbers_that_were_drawn() -> None:
    figure = Figure()
    one, other = figure.subplots(1, 2)
    one.plot([1, 2], [3, np.nan], label="loss")
    one.bar([0, 1], [5, 6], width=1.0)
    one.set_ylabel("nats")
    other.scatter([7], [8])
    other.imshow([[9.0, 10.0]])
    found = plots.series(figure, rtol=1e-3).series()
    assert found["rtol"] == 1e-3 and found["labels"]["axes 1: y"] == "nats"
    values = list(found["y"].values())
    assert values[0] == [1, 2] and values[1][0] == 3 and np.isnan(values[1][1])
    assert values[2] == [-0.5, 0, 0.5, 5, 0.5, 0, 1.5, 6]
    assert values[3] == [7, 8] and values[4] == [9, 10]


def test_a_changed_name_of_a_category_is_a_changed_label() -> None:
    def labels(names: list[str]) -> object:
        figure = Figure()
        figure.subplots().bar(names, [1, 2])
        return plots.series(figure).series()["labels"]

    assert labels(["a", "b"]) == labels(["a", "b"]) != labels(["a", "c"])


def test_an_empty_figure_and_a_tolerance_that_forgives_all_are_refused() -> None:
    with pytest.raises(ValueError, match="no lines, bars"):
        plots.series(Figure())
    with pytest.raises(ValueError, match="rtol"):
        plots.series(Figure(), rtol=1.5)
