"""The dashboard without a browser: what the fields do to the figure. tests/browser looks at it in one."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("ipywidgets")
pytest.importorskip("matplotlib")

import ipywidgets

from llmlite import plots, widgets
from llmlite.bench.samples import Comparison
from llmlite.widgets import base
from tests.support.synthetic import synthetic_comparison


@pytest.fixture
def dashboard() -> widgets.ComparisonDashboard:
    return widgets.compare_dashboard(synthetic_comparison())


def test_choosing_a_metric_redraws_and_says_so(dashboard: widgets.ComparisonDashboard) -> None:
    before = dashboard.figure.value
    dashboard.metric.value = "private"
    assert dashboard.picture.labels["y"] == "private memory, MB"
    assert dashboard.figure.value != before and "private memory" in dashboard.words.value


def test_unticking_a_backend_and_a_quantization_takes_them_away(
    dashboard: widgets.ComparisonDashboard,
) -> None:
    dashboard.backends["torch-f32"].value = False
    assert list(dashboard.picture.x) == ["llmlite F16", "llmlite Q4_0"]
    dashboard.types["F16"].value = False
    assert list(dashboard.picture.x) == ["llmlite Q4_0"]


def test_unticking_everything_leaves_words_not_an_error(dashboard: widgets.ComparisonDashboard) -> None:
    for box in dashboard.types.values():
        box.value = False
    assert dashboard.figure.value == "" and "nothing was measured" in dashboard.words.value


def test_the_words_are_announced_to_screen_readers(dashboard: widgets.ComparisonDashboard) -> None:
    assert 'aria-live="polite"' in dashboard.words.value


def test_every_field_has_a_label(dashboard: widgets.ComparisonDashboard) -> None:
    for field in (dashboard.metric, *dashboard.backends.values(), *dashboard.types.values()):
        assert field.description


def test_only_metrics_that_were_measured_are_offered() -> None:
    comparison = synthetic_comparison()
    comparison.memory.clear()
    offered = {value for _, value in widgets.compare_dashboard(comparison).metric.options}
    assert "private" not in offered and "decode" in offered


def test_behind_the_widget_stands_a_picture_for_viewers_without_a_kernel(
    dashboard: widgets.ComparisonDashboard,
) -> None:
    data = dashboard.static_bundle()
    assert "<img alt=" in data["text/html"] and plots.MIME in data


def test_displaying_it_shows_the_widget_then_the_picture(
    dashboard: widgets.ComparisonDashboard, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[dict[str, object]] = []
    monkeypatch.setattr("llmlite.widgets.base.publish_display_data", shown.append)
    dashboard._ipython_display_()
    assert "application/vnd.jupyter.widget-view+json" in shown[0] and plots.MIME in shown[1]


def test_it_opens_the_file_that_compare_wrote(tmp_path: Path) -> None:
    path = synthetic_comparison().save(tmp_path / "compare.jsonl")
    assert list(widgets.compare_dashboard(path).picture.x)


def test_a_comparison_without_measurements_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing"):
        widgets.compare_dashboard(Comparison(environment={}))


def test_a_widget_says_that_it_works_while_it_does_and_stops_after_an_error() -> None:
    class Slow(base.Explorer):
        def __init__(self) -> None:
            self.number, self.seen = ipywidgets.IntText(0), []
            super().__init__([self.number])
            self.redraw_on([self.number])

        def redraw(self) -> None:
            self.seen.append(base.BUSY in self._dom_classes)
            if self.number.value > 1:
                raise ValueError("too large")

    slow = Slow()
    slow.number.value = 1
    assert slow.seen == [False, True] and base.BUSY not in slow._dom_classes
    with pytest.raises(ValueError, match="too large"):
        slow.number.value = 2
    assert base.BUSY not in slow._dom_classes
