"""An attention map beside states of a fixed size, without a browser."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ipywidgets")

import llmlite as ll
from llmlite import plots, widgets
from llmlite.lessons import mixers

IDS = [(7 * i * i + 3 * i) % mixers.N_VOCAB for i in range(24)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ll.Model]:
    folder = tmp_path_factory.mktemp("mixers")
    kinds = ("attention", "convolution", "recurrent", "delta net", "hybrid")
    return {kind: mixers.make(kind, folder, executor="eager") for kind in kinds}


def test_a_delta_net_s_state_is_drawn_for_each_head(models: dict[str, ll.Model]) -> None:
    explorer = widgets.mixer_memory(models["attention"], models["delta net"], IDS)
    want = models["delta net"].trace(IDS)["new_state-0"]
    assert want.shape == (4, 32, 32) and explorer.picture.x == ["0", "1", "2", "3"]
    np.testing.assert_allclose(explorer.picture.y["size"], [np.linalg.norm(head) for head in want], rtol=1e-5)
    assert "4096 numbers in 4 heads" in explorer.words.value and "24 keys" in explorer.words.value


def test_the_tail_is_the_latest_inputs_of_the_convolution(models: dict[str, ll.Model]) -> None:
    for kind, name in (("delta net", "linear_attn_qkv_mixed-1"), ("hybrid", "linear_attn_qkv_mixed-0")):
        layer = int(name[-1])
        held = mixers.memory(models[kind], IDS, layer)
        np.testing.assert_allclose(held.tail, models[kind].trace(IDS)[name][-3:], atol=1e-6)


def test_one_model_with_both_kinds_of_layers_shows_both(models: dict[str, ll.Model]) -> None:
    explorer = widgets.mixer_memory(models["hybrid"], models["hybrid"], IDS)
    assert explorer.layers == [0]
    np.testing.assert_array_equal(explorer.weights, models["hybrid"].trace(IDS)["kq_soft_max-1"])


def test_every_control_changes_the_picture_and_the_sizes_stay(models: dict[str, ll.Model]) -> None:
    explorer = widgets.mixer_memory(models["attention"], models["delta net"], IDS)
    drawn, said = {explorer.figure.value}, {explorer.words.value}
    for control, value in ((explorer.step, 7), (explorer.layer, 1), (explorer.head, 2)):
        control.value = value
        drawn.add(explorer.figure.value)
        said.add(explorer.words.value)
    assert len(drawn) == 4 and len(said) == 3  # the words don't name the head
    assert all("4096 numbers in 4 heads, and a tail of 768 numbers" in words for words in said)


def test_a_convolution_without_a_state_says_so(models: dict[str, ll.Model]) -> None:
    explorer = widgets.mixer_memory(models["attention"], models["convolution"], IDS)
    assert "keeps a tail of 256 numbers" in explorer.words.value
    assert explorer.picture.y["size"] == []


def test_the_figure_is_low_enough_and_stays_without_a_kernel(models: dict[str, ll.Model]) -> None:
    explorer = widgets.mixer_memory(models["attention"], models["delta net"], IDS)
    width, height = explorer.picture.figure.get_size_inches() * 96
    assert height <= 400 and width <= 1200  # the controls and the words take less than 160 px
    data = explorer.static_bundle()
    assert plots.MIME in data and re.search(r"<img[^>]+alt=", data["text/html"])


def test_models_without_one_or_the_other_are_refused(models: dict[str, ll.Model], tmp_path: Path) -> None:
    with pytest.raises(ll.errors.UnsupportedError, match="keeps no state to show"):
        widgets.mixer_memory(models["attention"], models["attention"], IDS)
    with pytest.raises(ll.errors.UnsupportedError, match="has attention"):
        widgets.mixer_memory(models["delta net"], models["delta net"], IDS)
    with pytest.raises(ValueError, match="at least one token"):
        widgets.mixer_memory(models["attention"], models["recurrent"], [])
    with pytest.raises(ValueError, match="no kind 'other'; there are: attention, window"):
        mixers.make("other", tmp_path)
