"""Pictures against size, token by token, and by operation: what they draw is what was measured."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("matplotlib")

from llmlite import plots
from llmlite.bench import sizes
from llmlite.bench.options import Options
from llmlite.bench.roofline import Roofline
from llmlite.bench.samples import Comparison
from llmlite.errors import LlmliteError
from tests.support.synthetic import synthetic_comparison


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_speed_is_drawn_over_size_and_too_few_blocks_are_said(theme: str) -> None:
    small, large = synthetic_comparison(), synthetic_comparison()
    for model in large.models:
        model["model_n_params"] = 10**9
    large.measurements = [m for m in large.measurements if m.block < 2]
    picture = plots.sweeps.sizes({"small": small, "large": large}, theme=theme)
    assert picture.x == [5.0, 1000.0] and len(picture.y["llmlite"]) == 2
    assert picture.y["llmlite"][0] == pytest.approx(1e9 / 2.05e6, rel=0.5)
    assert "can't tell which is faster: large" in picture.alt.replace("Fewer", "fewer")
    assert json.dumps(picture.series()) and picture.figure.axes[0].get_xscale() == "log"


def test_the_latency_of_a_token_is_the_median_of_the_blocks() -> None:
    picture = plots.sweeps.token_times(synthetic_comparison())
    assert picture.y["llmlite F16"] == pytest.approx([2.05] * 10)
    assert len(picture.x) == 10 and "after 64 tokens" in picture.alt
    with pytest.raises(ValueError, match="at depth 3"):
        plots.sweeps.token_times(synthetic_comparison(), depth=3)


def test_the_profile_shares_out_all_of_a_steps_time() -> None:
    found = Roofline.sample()
    picture = plots.kernels.profile(found, "decode")
    ms = picture.y["milliseconds"]
    assert sum(ms) == pytest.approx(sum(p.nanoseconds for p in found.points["decode"]) / 1e6)
    assert ms[:-1] == sorted(ms[:-1], reverse=True) and "others" in picture.x[-1]
    with pytest.raises(ValueError, match="no step"):
        plots.kernels.profile(found, "sleep")


def test_a_sweep_divides_its_time_and_says_which_size_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Options] = []
    said: list[str] = []

    def missing() -> str:
        raise LlmliteError("not pulled")

    steps = (
        sizes.Size(name="tales", model=lambda: "tales", share=0.4),
        sizes.Size(name="gone", model=missing, share=0.6),
    )
    monkeypatch.setattr(sizes, "SIZES", steps)

    def run(options: Options) -> Comparison:
        asked.append(options)
        return synthetic_comparison()

    found = sizes.sweep(Options(budget_seconds=100.0), run, say=said.append)
    assert list(found) == ["tales"] and asked[0].budget_seconds == 40 and asked[0].types == ("Q8_0",)
    assert "gone: left out: not pulled" in said
    rows = sizes.table(found)
    assert len(rows) == 4 and {len(row) for row in rows} == {6} and "the base" in rows[3][-1]


def test_the_largest_size_is_compared_as_its_file_is(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Options] = []
    monkeypatch.setattr(sizes, "SIZES", [sizes.Size(name=sizes.SHAPE, model=lambda: "tales", share=1.0)])
    sizes.sweep(Options(), lambda options: asked.append(options) or synthetic_comparison())  # type: ignore[func-returns-value]
    assert asked[0].types is None
    sizes.sweep(Options(types=("Q4_0",)), lambda options: asked.append(options) or synthetic_comparison())  # type: ignore[func-returns-value]
    assert asked[1].types == ("Q4_0",)


def test_a_size_that_fails_or_measures_nothing_loses_none_of_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    names = ("first", "broken", "empty", "last")
    monkeypatch.setattr(
        sizes, "SIZES", [sizes.Size(name=n, model=lambda: "tales", share=0.25) for n in names]
    )
    said: list[str] = []
    kept: list[str] = []
    answers = iter(names)

    def run(_options: Options) -> Comparison:
        name, found = next(answers), synthetic_comparison()
        if name == "broken":
            raise LlmliteError("no memory")
        if name == "empty":
            found.measurements, found.skipped = [], [{"backend": "llmlite", "reason": "too slow"}]
        return found

    found = sizes.sweep(Options(), run, say=said.append, keep=lambda name, _found: kept.append(name))
    assert list(found) == ["first", "last"] and kept == ["first", "empty", "last"]
    assert "broken: failed: no memory" in said
    assert "empty: nothing was measured: llmlite: too slow" in said


def test_a_size_without_measurements_takes_no_other_ones_place_on_the_axis() -> None:
    one, two = synthetic_comparison(), synthetic_comparison()
    for model in two.models:
        model["model_n_params"] = 10**9
    one.measurements = []
    (ax,) = plots.sweeps.sizes({"one": one, "two": two}).figure.axes
    assert [label.get_text() for label in ax.get_xticklabels()] == ["two\n1000 M"]
