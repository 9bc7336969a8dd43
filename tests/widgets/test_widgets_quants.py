"""The widgets about quantized weights, without a browser: what their fields do to what is shown."""

from __future__ import annotations

import re

import numpy as np
import pytest

pytest.importorskip("ipywidgets")
pytest.importorskip("matplotlib")

import llmlite as ll
from llmlite import plots, widgets
from llmlite.lessons import fewer_bits, flip, type_sweep
from llmlite.plots import COLOURS
from llmlite.plots import blocks as block_plots
from llmlite.plots.type_sweep import scatter
from llmlite.quants import TYPES, QuantType
from llmlite.quants.tensor import QuantTensor
from llmlite.widgets.fewer_bits import HalfTheBits
from llmlite.widgets.flip import WhichBit
from llmlite.widgets.texts import common_words, marked

QUANTIZED = [
    t for t in TYPES.values() if (t.encode and not t.name.startswith("I")) or t.name.startswith("IQ")
]
EXACT = QuantTensor.quantize(
    np.random.default_rng(1).standard_normal((2, 256)).astype(np.float32), "F32", "w"
)


def made(type_name: str) -> QuantTensor:
    return QuantTensor.quantize(EXACT, type_name, "w", np.ones(256, np.float32))


# --- block_explorer ---------------------------------------------------------------------------


@pytest.mark.parametrize("type", QUANTIZED, ids=lambda t: t.name)
def test_the_explorer_reaches_every_bit_of_every_block_type(type: QuantType) -> None:
    w = widgets.block_explorer(made(type.name))
    reached = set()
    for name in w.stored.fields:
        w.field.value = name
        for part in range(w.place.max + 1):
            w.place.value = part
            reached |= set(w._shown())
            visible = [cell for cell in w.cells if cell.layout.display != "none"]
            assert len(visible) == len(w._shown()) in (8, 16)
    assert reached == set(range(8 * w.stored.type.type_size))


def test_a_press_flips_a_bit_and_the_weights_move() -> None:
    w = widgets.block_explorer(made("Q4_0"), original=EXACT)
    w.field.value = "qs"
    before = w.figure.value
    w.bits[7].click()  # the lowest bit of the first byte
    assert w.flipped == {16} and w.bits[7].button_style == "warning"
    assert np.flatnonzero(w.changed.weights != w.stored.weights).tolist() == [0]
    assert w.figure.value != before and "after the flip" in w.picture.y
    assert "nibble, bit 0" in w.words.value and "RMS error against the original" in w.words.value
    w.bits[7].click()
    assert not w.flipped and np.array_equal(w.changed.weights, w.stored.weights)


def test_the_error_shown_is_the_distance_from_the_original() -> None:
    tensor = made("Q4_K")
    w = widgets.block_explorer(tensor, block=1, original=EXACT)
    expected = np.sqrt(np.mean((tensor.block(1).weights - EXACT.dequantize()[1]) ** 2))
    assert f"{expected:.4g}" in w.facts.value
    w.flip(8 * 16)
    moved = np.sqrt(np.mean((w.changed.weights - EXACT.dequantize()[1]) ** 2))
    assert f"now {moved:.4g}" in w.facts.value


def test_another_block_and_undo_forget_the_flips() -> None:
    w = widgets.block_explorer(made("Q8_0"))
    w.flip(3)
    w.back.click()
    assert not w.flipped
    w.flip(3)
    w.block.value = 5
    assert not w.flipped and np.array_equal(w.stored.bytes, w.tensor.block(5).bytes)


def test_an_exploded_scale_is_drawn_on_a_stretched_axis_and_infinity_is_no_error() -> None:
    w = widgets.block_explorer(made("Q4_0"))
    w.flip(14)
    assert w.picture.labels["y"] == "weight (stretched scale)"
    w.undo()
    scale = int(w.stored.bytes[:2].view("<u2")[0])
    for bit in range(10, 15):
        if not scale >> bit & 1:
            w.flip(bit)
    assert "moved" in w.picture.alt


def test_wrong_originals_and_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match="shape"):
        widgets.block_explorer(made("Q4_0"), original=QuantTensor.quantize(np.ones((1, 32)), "F32", "w"))
    with pytest.raises(IndexError):
        widgets.block_explorer(made("Q4_0"), block=999)


# --- which_bit --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def which() -> WhichBit:
    return widgets.which_bit(ll.load("tales:Q4_0"))


def test_the_quiet_bit_and_the_loud_one(which: WhichBit) -> None:
    which.bit.value = 16
    assert which.result.kl < 1e-6 and "The tale is the same" in which.words.value
    assert "<mark" not in which.view.value
    which.bit.value = 14
    assert which.result.kl > 5 and "The tale is different" in which.words.value
    assert "<mark" in which.view.value


def test_its_table_says_so_without_a_kernel(which: WhichBit) -> None:
    table = dict(which.static_view().rows)
    assert table["a nibble's lowest bit"] == "below 1e-07"
    assert table["scale: highest exponent bit"] == "above 5"


def test_it_wants_a_q4_0_tensor() -> None:
    with pytest.raises(ValueError, match="expected Q4_0, got F16"):
        widgets.which_bit(ll.load("tales"))


# --- type_picker ------------------------------------------------------------------------------


def test_the_budget_decides_what_is_best() -> None:
    w = widgets.type_picker()
    w.budget.value = 4.5
    affordable = [p for p in w.points if p.bits_per_weight <= 4.5]
    assert w.best in affordable and w.best.kl == min(p.kl for p in affordable)
    assert w.best.label in w.words.value
    w.budget.value = 1.0
    assert w.best is None and "nothing to choose from" in w.words.value


def test_families_scope_cost_and_imatrix_filter() -> None:
    w = widgets.type_picker()
    w.families["IQ"].value = False
    assert not any(p.family == "IQ" for p in w.points)
    w.imatrix.value = (True,)
    assert all(p.imatrix or p.family == "plain" for p in w.points)
    w.scope.value = "mix"
    assert any(p.name == "Q4_K_M" for p in w.points)
    w.cost.value = "rms"
    assert "RMS" in w.picture.labels["y"]
    for box in w.families.values():
        box.value = False
    assert w.points == [] and "Nothing is chosen" in w.words.value


def test_its_static_view_has_every_type() -> None:
    view = widgets.type_picker().static_view()
    assert {"Q4_K", "IQ4_XS", "MXFP4", "F32"} <= set(view.x)
    with pytest.raises(ValueError, match="no points"):
        widgets.type_picker([])


# --- half_the_bits ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def slider() -> HalfTheBits:
    return HalfTheBits(fewer_bits.TypeLadder(n_tokens=16), fewer_bits.sample())


def test_the_slider_moves_bytes_speed_and_tale(slider: HalfTheBits) -> None:
    slider.type.value = "F16"
    assert "token for token" in slider.words.value and "<mark" not in slider.view.value
    before = slider.told.n_bytes
    slider.type.value = "Q2_K"
    assert slider.told.n_bytes < before / 4
    assert "<mark" in slider.view.value and "PyTorch float32" in slider.view.value
    assert "Measured now: tokens per second" in slider.view.value


def test_no_card_shows_bars_of_the_sample_beside_bars_of_here_and_now(slider: HalfTheBits) -> None:
    blue, orange = COLOURS["blue"], COLOURS["orange"]
    order = [
        colour for colour in re.findall(r"background:(#\w+)", slider.view.value) if colour in (blue, orange)
    ]
    assert order == sorted(order, key=[blue, orange].index) and {*order} == {blue, orange}
    here, _, elsewhere = slider.view.value.partition("Sample: weights in memory")
    assert blue in here and orange not in here and "PyTorch" not in here
    assert orange in elsewhere and blue not in elsewhere


def test_its_static_view_is_the_shipped_sample_with_its_machine(slider: HalfTheBits) -> None:
    table = slider.static_view()
    sample = fewer_bits.sample()
    assert len(table.rows) == len(sample.rows) and sample.machine in table.heading
    assert table.rows[0][6] == "all"


# --- texts and figures ------------------------------------------------------------------------


def test_the_first_word_that_differs_is_marked_and_everything_escaped() -> None:
    assert common_words("a b c", "a b d") == 2
    assert marked("a <b>", "a <b>") == "a &lt;b&gt;"
    assert marked("a x<y z", "a b z").count("<mark") == 1 and "x&lt;y</mark> z" in marked("a x<y z", "a b z")
    assert "(ends here)" in marked("a b", "a b c")


def test_the_figures_say_in_words_what_they_show() -> None:
    points = type_sweep.shipped().points
    assert "On the front: " in scatter(points).alt
    picture = block_plots.damage(["low", "high"], [0.0, 7.0])
    assert "Most: high, 7" in picture.alt and picture.y["log10 KL"][0] == -10
    block = made("Q4_0").block(0)
    assert "32 weights between" in block_plots.weights(block.weights).alt
    assert plots.bundle(picture)[plots.MIME]["rtol"] == 0.1


def test_the_moments_bits_are_the_ones_the_lesson_names() -> None:
    block = ll.load("tales:Q4_0").gguf.tensors[flip.TENSOR].block(0)
    assert flip.meaning(block, 14) == "the scale: exponent, bit 4"
    assert flip.meaning(block, 16) == "the levels, byte 0: low nibble, bit 0"
