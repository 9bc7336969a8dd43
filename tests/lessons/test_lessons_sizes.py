"""Lesson 08's sweep over sizes: what it says in words, and whether it fits the other shipped samples."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmlite import plots
from llmlite.bench.samples import Comparison
from llmlite.lessons import fewer_bits, sizes

NEAR = 1.25
SAMPLES = {"tales": "tales", "SmolLM2 135M": "smollm2"}


@pytest.fixture
def sweep() -> sizes.Sizes:
    return sizes.shipped()


def test_the_sweep_goes_up_and_no_point_is_below_the_wall(sweep: sizes.Sizes) -> None:
    assert sweep.models == ["tales", "SmolLM2 135M", "1B shape"]
    own = [row for row in sweep.rows if row.title == "llmlite Q4_0"]
    assert [row.step_bytes for row in own] == sorted(row.step_bytes for row in own)
    assert all(times > 0.9 for *_, times in sizes.above_the_wall(sweep))


def test_the_largest_model_is_nearest_to_the_wall(sweep: sizes.Sizes) -> None:
    times = {name: each for name, *_, each in sizes.above_the_wall(sweep)}
    small, middle, large = (times[f"{model}, llmlite Q4_0"] for model in sweep.models)
    assert small > middle > large and small > 1.5 * large and large < 1.5


@pytest.mark.parametrize("model", SAMPLES)
def test_shipped_samples_of_one_machine_agree_within_a_quarter(model: str, sweep: sizes.Sizes) -> None:
    if sweep.machine.split(",")[0] != Comparison.sample(SAMPLES[model]).environment["cpu_info"]:
        pytest.skip("the samples are of different machines")
    for row in sizes.rows(Comparison.sample(SAMPLES[model]), model):
        if any(row.title == other.title for other in sweep.rows):
            found = sweep.find(model, row.title)
            assert 1 / NEAR < found.seconds / row.seconds < NEAR, row.title


def test_the_slider_of_bits_agrees_with_the_comparison_on_tales() -> None:
    compared = {row.title: row for row in sizes.rows(Comparison.sample("tales"), "tales")}
    other = {f"{row.backend} {row.type}".replace(" F32", ""): row for row in fewer_bits.sample().rows}
    both = compared.keys() & other.keys()
    assert {"llmlite Q8_0", "PyTorch float32"} <= both
    for name in both:
        assert 1 / NEAR < compared[name].seconds * other[name].tokens_per_second < NEAR, name


def test_points_of_this_machine_are_hollow_and_only_of_series_that_are_shipped(sweep: sizes.Sizes) -> None:
    mine = replace(sweep.rows[0], seconds=1.0)
    stranger = replace(mine, type="Q2_K")
    (ax,) = plots.sizes.sweep(sweep, here=[mine, stranger]).figure.axes
    here = [line for line in ax.lines if str(line.get_label()).endswith(", here")]
    assert [line.get_label() for line in here] == [f"{mine.title}, here"]
    assert here[0].get_fillstyle() == "none"
