"""The memory timeline, without a browser."""

from __future__ import annotations

import pytest

pytest.importorskip("ipywidgets")

from llmlite import plots, resources, widgets
from llmlite.bench import timeline


@pytest.fixture()
def explorer() -> widgets.Explorer:
    return widgets.memory_timeline(timeline.load(resources.data_path("samples/memory-timeline.jsonl")))


def test_the_slider_tells_each_moment_and_its_stage(explorer: widgets.Explorer) -> None:
    assert ", done: " in explorer.words.value
    explorer.moment.value = 0
    assert ", start: " in explorer.words.value and "MB private" in explorer.words.value


def test_another_process_has_its_own_length_and_figure(explorer: widgets.Explorer) -> None:
    title = explorer.picture.labels["title"]
    explorer.which.value = 1
    assert explorer.picture.labels["title"] != title
    assert explorer.moment.max == len(explorer.timelines[1].seconds) - 1


def test_all_processes_have_the_same_axes_of_time_and_memory(explorer: widgets.Explorer) -> None:
    limits = set()
    for number, each in enumerate(explorer.timelines):
        explorer.which.value = number
        (ax,) = explorer.picture.figure.axes
        limits.add((ax.get_xlim(), ax.get_ylim()))
        assert ax.get_xlim()[1] >= each.seconds[-1]
    assert len(limits) == 1
    side_by_side = explorer.static_view().figure.axes
    assert len({(ax.get_xlim(), ax.get_ylim()) for ax in side_by_side}) == 1


def test_names_of_stages_that_are_close_to_each_other_are_written_on_lines_of_their_own() -> None:
    stages = [("start", 0.0), ("import", 0.1), ("load", 5.0), ("read", 5.01), ("write", 9.0)]
    assert plots.memory._levels(stages, 10.0) == [0, 1, 0, 1, 0]


def test_without_a_kernel_all_of_them_stay(explorer: widgets.Explorer) -> None:
    data = explorer.static_bundle()
    assert list(data[plots.MIME]["x"]) == [t.backend for t in explorer.timelines]


def test_nothing_to_show_is_refused() -> None:
    with pytest.raises(ValueError, match="no timeline"):
        widgets.memory_timeline([])
