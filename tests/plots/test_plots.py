"""Figures: words and data beside every one, colours that can be told apart, both themes."""

from __future__ import annotations

import itertools
import json
import warnings
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from llmlite import plots
from llmlite.bench.backends import BACKENDS
from llmlite.bench.summary import METRICS, summarize
from tests.support.synthetic import synthetic_comparison


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.1)."""
    channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(a: str, b: str) -> float:
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


# How protanopes and deuteranopes see linear RGB (Viénot, Brettel and Mollon 1999), up to scale.
CONE_LOSS = {
    "protan": np.array([[0.11238, 0.88762, 0.0], [0.11238, 0.88762, 0.0], [0.00401, -0.00401, 1.0]]),
    "deutan": np.array([[0.29275, 0.70725, 0.0], [0.29275, 0.70725, 0.0], [-0.02234, 0.02234, 1.0]]),
}


@pytest.mark.parametrize("kind", CONE_LOSS)
def test_colours_of_backends_stay_apart_for_the_colour_blind(kind: str) -> None:
    seen = []
    for name in set(plots.BACKEND_COLOURS.values()):
        colour = plots.COLOURS[name]
        rgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]) ** 2.2
        seen.append(np.clip(CONE_LOSS[kind] @ rgb, 0, 1) ** (1 / 2.2))
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 0.15


def test_the_usual_backends_have_colours_of_their_own() -> None:
    usual = [info.colour for info in BACKENDS.values() if info.default]
    assert len(usual) == len(set(usual))


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_has_the_contrast_for_small_print(theme: str) -> None:
    look = plots.THEMES[theme]
    assert contrast(look.text, look.background) >= 7  # WCAG AAA


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_comparison_is_drawn_in_both_themes(theme: str, tmp_path: Path) -> None:
    paths = plots.save(plots.comparison(synthetic_comparison(), theme=theme), tmp_path / f"{theme}.png")
    image, words = paths
    assert image.read_bytes().startswith(b"\x89PNG")
    assert "llmlite Q4_0" in words.read_text(encoding="utf-8")


def test_the_description_is_inside_the_png(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    picture = plots.metric_bars(synthetic_comparison())
    plots.save(picture, tmp_path / "p.png")
    assert image.open(tmp_path / "p.png").text["Description"] == picture.alt


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_is_drawn_with_words_and_data(metric: str) -> None:
    picture = plots.metric_bars(synthetic_comparison(), metric)
    assert "llmlite F16" in picture.alt
    assert "Best:" in picture.alt or "Can't tell which is best" in picture.alt  # equal values
    assert list(picture.x) == ["llmlite F16", "llmlite Q4_0", "PyTorch float32 F16"]
    assert picture.table()[0][1] == METRICS[metric].title and len(picture.table()) == 4


def test_less_is_better_where_less_is_better() -> None:
    assert "Best: llmlite F16." in plots.metric_bars(synthetic_comparison(), "private").alt
    assert "Best: llmlite Q4_0." in plots.metric_bars(synthetic_comparison(), "decode").alt


def test_a_choice_of_backends_and_types_is_kept() -> None:
    picture = plots.metric_bars(synthetic_comparison(), backends=["llmlite"], types=["Q4_0"])
    assert list(picture.x) == ["llmlite Q4_0"]


def test_nothing_measured_says_so() -> None:
    assert "nothing was measured" in plots.metric_bars(synthetic_comparison(), backends=[]).alt


def test_a_notebook_gets_picture_description_summary_and_data() -> None:
    picture = plots.lines(
        [1, 2, 3], {"loss": [3.0, 2.0, 1.0]}, heading="Learning", x_label="step", y_label="nats"
    )
    bundle = plots.bundle(picture)
    assert set(bundle) == {"text/html", "text/plain", plots.MIME}
    assert 'alt="Learning. nats over step: loss goes from 3 to 1."' in bundle["text/html"]
    assert "<table>" in bundle["text/html"]
    data = json.loads(json.dumps(bundle[plots.MIME]))
    assert data == {
        "labels": {"title": "Learning", "x": "step", "y": "nats"},
        "x": [1.0, 2.0, 3.0],
        "y": {"loss": [3.0, 2.0, 1.0]},
        "rtol": 1e-5,
    }


def test_show_outside_a_notebook_prints_the_description(capsys: pytest.CaptureFixture[str]) -> None:
    plots.show(plots.bars(["a"], {"bytes": [4.0]}, heading="Sizes", y_label="bytes"))
    assert capsys.readouterr().out == "Sizes. bytes. bytes: a 4.\n"


def test_the_svg_takes_its_text_colour_from_the_page_and_has_a_label() -> None:
    text = plots.svg(plots.metric_bars(synthetic_comparison(), theme="page"))
    assert text.startswith('<svg role="img" aria-label="decode') and "currentColor" in text
    assert plots.THEMES["page"].text not in text


def test_a_description_cannot_break_out_of_the_page() -> None:
    picture = plots.bars(['"><script>'], {"n": [1.0]}, heading="x", y_label="y")
    assert "<script>" not in plots.bundle(picture)["text/html"]


def test_an_unknown_theme_or_metric_is_named_with_those_there_are() -> None:
    with pytest.raises(ValueError, match="light, dark, page"):
        plots.figure(3, 3, theme="sepia")
    with pytest.raises(ValueError, match="decode"):
        plots.metric_bars(synthetic_comparison(), "speed")


def test_the_theme_in_use_is_drawn_unless_told_otherwise() -> None:
    plots.use_theme("dark")
    try:
        drawn, _ = plots.figure(2, 2)
        other, _ = plots.figure(2, 2, theme="light")
    finally:
        plots.use_theme("light")
    assert drawn.get_facecolor()[:3] < (0.2, 0.2, 0.2) and other.get_facecolor()[:3] == (1, 1, 1)


def test_bars_among_which_the_best_cannot_be_told_are_grey_and_the_title_says_so() -> None:
    from dataclasses import replace

    import matplotlib as mpl

    from llmlite.plots.benchmark import GREY

    def greys(picture: plots.Picture) -> int:
        bars = [patch for ax in picture.figure.axes for patch in ax.patches]
        return sum(mpl.colors.to_hex(bar.get_facecolor()) == GREY for bar in bars)

    whole = synthetic_comparison()
    assert greys(plots.metric_bars(whole, "decode")) == 0
    one = replace(whole, measurements=[m for m in whole.measurements if m.block in (-1, 0)])
    shown = plots.metric_bars(one, "decode")
    assert greys(shown) == len(shown.x) and "Can't tell which is best" in shown.alt
    assert "can't tell the best" in shown.figure.axes[0].get_title() + shown.figure.axes[0].get_title("left")


def test_letters_that_the_font_lacks_are_drawn_as_boxes_without_a_warning() -> None:
    picture = plots.bars(["件", "a"], {"n": [1.0, 2.0]}, heading="tokens", y_label="n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert plots.bundle(picture)["text/html"].count("<svg") == 1


def test_a_figure_takes_its_colours_from_the_page_and_keeps_an_image_for_pages_without_styles() -> None:
    text = plots.html(plots.bars(["a"], {"n": [1.0]}, heading="one", y_label="n"))
    drawing = text[text.index("<svg") : text.index("</svg>")]
    assert "currentColor" in drawing and plots.THEMES["light"].text not in drawing
    assert text.count("<img") == 1 and text.index("</svg>") < text.index("<img")


def test_a_bar_has_the_95_percent_interval_of_its_median_if_five_blocks_were_timed() -> None:
    found = synthetic_comparison()
    [summary, *_] = summarize(found, "decode")
    low, high = plots.benchmark.interval(summary)
    assert low < summary.value < high and low >= min(summary.values) and high <= max(summary.values)
    lines = plots.benchmark.metric_bars(found, "decode").figure.axes[0].lines
    assert next(tuple(line.get_xdata()) for line in lines if line.get_marker() == "|") == (low, high)
    found.measurements = [m for m in found.measurements if m.block < 4]
    assert plots.benchmark.interval(summarize(found, "decode")[0]) is None
    lines = plots.benchmark.metric_bars(found, "decode").figure.axes[0].lines
    assert not [line for line in lines if line.get_marker() == "|"]
