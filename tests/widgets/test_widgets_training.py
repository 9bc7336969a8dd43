"""The loss curve of lesson 09: it grows, ends with the last step, and says so if something ended it early."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("ipywidgets")

from llmlite import widgets
from llmlite.widgets import training


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is put under the cell beside the widget."""
    found: list[Any] = []
    monkeypatch.setattr(training, "display", lambda _widget: None)
    monkeypatch.setattr(training, "publish_display_data", found.append)
    return found


def drawn(curve: training.LossCurve) -> int:
    """Return how many steps the picture has."""
    assert curve.picture is not None
    (losses,) = curve.picture.y.values()
    return len(losses)


@pytest.mark.parametrize("steps", [1, 9, 10, 34])
def test_the_curve_ends_with_the_last_step(shown: list[Any], steps: int) -> None:
    with widgets.loss_curve(steps) as curve:
        for step in range(steps):
            curve.add(step, 7.6 / (step + 1))
    assert drawn(curve) == steps
    assert f"Step {steps} of {steps}" in curve.words.value
    assert [each["text/plain"] for each in shown] == [curve.static_view().alt]


@pytest.mark.parametrize("steps", [3, 15])
def test_after_an_error_the_curve_has_all_steps_and_says_where_it_stopped(
    shown: list[Any], steps: int
) -> None:
    with pytest.raises(FloatingPointError), widgets.loss_curve(80) as curve:
        for step in range(steps):
            curve.add(step, 7.6)
        raise FloatingPointError("the loss is nan")
    assert drawn(curve) == steps and len(shown) == 1
    assert f"Stopped by an error after step {steps} of 80." in curve.words.value


def test_a_training_that_ends_early_is_not_shown_as_complete(shown: list[Any]) -> None:
    with widgets.loss_curve(80) as curve:
        curve.add(0, 7.6)
    assert "Ended after step 1 of 80." in curve.words.value


def test_an_error_before_the_first_step_draws_nothing(shown: list[Any]) -> None:
    with pytest.raises(RuntimeError), widgets.loss_curve(80) as curve:
        raise RuntimeError("no memory")
    assert curve.picture is None and not shown
    assert "Stopped by an error after step 0 of 80." in curve.words.value


def test_a_curve_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        widgets.loss_curve(0)
