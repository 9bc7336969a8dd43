"""The ladder and the roofline without a browser, on figures that a test made up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("ipywidgets")
pytest.importorskip("matplotlib")

import llmlite as ll
from llmlite import plots
from llmlite.bench.ladder import Ladder, RungStep, rungs
from llmlite.bench.roofline import Point, Roof, Roofline, roofline_points
from llmlite.errors import LlmliteError, UnsupportedError
from llmlite.lessons import kernels
from llmlite.widgets.kernels import KernelLadder, RooflineExplorer

ROOF = Roof(n_threads=2, bytes_per_second=20e9, f32_per_second=400e9, int8_per_second=1600e9)


def a_step(place: int, rung: str, type_name: str) -> RungStep:
    ns = 10 ** (9 - place)
    return RungStep(
        rung=rung,
        type=type_name,
        n_rows=1000,
        width=2048,
        n_threads=1,
        bytes=10**7,
        operations=2 * 1000 * 2048,
        samples_ns=(ns, ns, 2 * ns),
        max_error=1e-7,
    )


def a_ladder() -> Ladder:
    steps = [a_step(i, rung.name, name) for name in ("Q4_0", "Q8_0") for i, rung in enumerate(rungs())]
    return Ladder(environment={}, steps=steps, roof=ROOF)


def a_point(label: str, type_name: str, n_tokens: int, nanoseconds: float) -> Point:
    operations = 2_000_000 * n_tokens
    return Point(
        operation="matvec", label=label, type=type_name, nanoseconds=nanoseconds,
        bytes=562_500, operations=operations,
    )  # fmt: skip


def a_roofline(model: str = "made up", type_name: str = "Q4_0") -> Roofline:
    labels = [f"blk.{i}.{part}.weight" for i in range(3) for part in ("attn_q", "ffn_up")]
    labels.append("token_embd.weight")
    steps = {"decode": 1, "prefill 256": 256}
    points = {
        step: [a_point(label, type_name, n, 30_000.0 * n) for label in labels] for step, n in steps.items()
    }
    return Roofline(environment={}, model=model, roof=ROOF, points=points)


@pytest.fixture
def ladder() -> KernelLadder:
    return ll.widgets.kernel_ladder(a_ladder())


@pytest.fixture
def explorer() -> RooflineExplorer:
    return ll.widgets.roofline(a_roofline(), a_roofline("another", "F16"))


def test_climbing_shows_a_rung_more_and_says_what_it_gained(ladder: KernelLadder) -> None:
    assert len(ladder.picture.x) == 1 and rungs()[0].title in ladder.words.value
    before = ladder.figure.value
    ladder.climb.value = 2
    assert len(ladder.picture.x) == 2 and ladder.figure.value != before
    assert "10 times the rung below" in ladder.words.value and rungs()[1].about[:20] in ladder.words.value
    ladder.type.value = "Q8_0"
    assert "Q8_0" in ladder.picture.labels["title"]


def test_the_ladders_static_view_has_every_rung_and_the_wall(ladder: KernelLadder) -> None:
    picture = ladder.static_view()
    assert len(picture.x) == len(rungs()) and "Memory gives 20 GB/s" in picture.alt
    assert plots.MIME in ladder.static_bundle()


def test_a_type_that_was_not_climbed_is_refused() -> None:
    with pytest.raises(ValueError, match="no Q6_K"):
        plots.kernels.ladder(a_ladder(), "Q6_K")
    with pytest.raises(ValueError, match="no rungs"):
        ll.widgets.kernel_ladder(Ladder(environment={}, steps=[], roof=None))


def test_decoding_is_bound_by_memory_and_prefill_by_arithmetic(explorer: RooflineExplorer) -> None:
    assert "bound by memory" in explorer.words.value
    explorer.step.value = "prefill 256"
    assert "bound by arithmetic" in explorer.words.value and "prefill 256" in explorer.picture.labels["title"]


def test_kind_and_layer_choose_an_operation(explorer: RooflineExplorer) -> None:
    explorer.kind.value, explorer.layer.value = "ffn_up", 2
    assert explorer.point.label == "blk.2.ffn_up.weight" and "blk.2.ffn_up.weight" in explorer.words.value
    explorer.kind.value = "output"
    assert explorer.point.label == "token_embd.weight" and explorer.layer.disabled


def test_another_model_has_its_own_points_and_roof(explorer: RooflineExplorer) -> None:
    explorer.model.value = 1
    assert explorer.chosen.model == "another" and "(F16)" in explorer.words.value
    assert "20 operations per byte" in explorer.words.value  # 400e9 / 20e9: the ridge of float32


def test_a_model_without_the_chosen_step_or_operation_offers_its_own() -> None:
    other = a_roofline("another")
    other.points["prefill 64"] = other.points.pop("prefill 256")
    norm = Point(operation="quantize", label="q", type="", nanoseconds=1e3, bytes=8, operations=2)
    first = a_roofline()
    for points in first.points.values():
        points.append(norm)
    explorer = ll.widgets.roofline(first, other)
    explorer.step.value, explorer.kind.value = "prefill 256", "quantize"
    assert "moves 8" in explorer.words.value
    explorer.model.value = 1
    assert (explorer.step.value, explorer.kind.value) == ("decode", "attn_q")
    assert "another: decode" in explorer.picture.labels["title"]
    explorer.model.value = 0
    assert explorer.chosen.model == "made up"


def test_the_rooflines_static_view_describes_every_kind(explorer: RooflineExplorer) -> None:
    picture = explorer.static_view()
    assert all(name in picture.alt for name in ("attn_q", "ffn_up", "output", "bound by memory"))
    assert len(picture.x) == 7
    with pytest.raises(ValueError, match="no step 'sleep'"):
        plots.kernels.roofline(a_roofline(), "sleep")


def test_the_shipped_samples_can_be_drawn() -> None:
    assert ll.widgets.kernel_ladder().picture.x and ll.widgets.roofline().picture.x


def test_bound_and_reached_follow_from_the_roof() -> None:
    slow, fast = a_point("w.weight", "Q4_0", 1, 100_000.0), a_point("w.weight", "Q4_0", 256, 400_000.0)
    assert (kernels.bound(slow, ROOF), kernels.bound(fast, ROOF)) == ("memory", "arithmetic")
    assert kernels.reached(slow, ROOF) == pytest.approx(562_500 / 100e-6 / 20e9)
    assert kernels.reached(fast, ROOF) == pytest.approx(512e6 / 400e-6 / 1600e9)
    assert [kernels.arithmetic(name) for name in ("Q4_0", "Q6_K", "F16", "BF16")] == ["int8"] * 2 + [
        "f32"
    ] * 2


@pytest.mark.parametrize("n_tokens", [1, 32])
def test_every_operation_of_the_plan_has_a_point(tales: Path, n_tokens: int) -> None:
    model = ll.load(tales, executor="planned")
    points = roofline_points(model, n_tokens=n_tokens, repeat=1)
    assert len(points) == len(model.executor.profile(n_tokens=n_tokens, repeat=1))
    kinds = {kernels.kind(p) for p in points}
    assert {"rms_norm", "attention", "rope", "store", "add", "silu_mul", "ffn_up", "output"} <= kinds
    attention = next(p for p in points if kernels.kind(p) == "attention")
    config, pairs = model.config, n_tokens * (n_tokens + 1) // 2
    assert attention.type == "" and attention.operations == 4 * config.n_embd_q * pairs
    add = next(p for p in points if kernels.kind(p) == "add")
    assert (add.operations, add.bytes) == (n_tokens * config.n_embd, 3 * 4 * n_tokens * config.n_embd)


def test_a_model_without_a_plan_is_refused(tales: Path) -> None:
    with pytest.raises(LlmliteError, match="executor='planned'"):
        roofline_points(ll.load(tales, executor="eager"))


def test_weight_bytes_are_what_the_plan_reads_and_the_norms(tales: Path) -> None:
    model = ll.load(tales)
    read = sum(row["bytes"] for row in model.executor.profile(repeat=1))
    layers = [w for layer in model.weights.layers for w in layer.values()]
    norms = sum(w.nbytes for w in layers if isinstance(w, np.ndarray)) + model.weights.output_norm.nbytes
    assert kernels.weight_bytes(model) == read + norms
    assert kernels.weight_bytes(model) == sum(t.n_bytes for t in model.gguf.tensors.values())  # tied


def test_the_text_of_a_kernel_is_that_of_its_file() -> None:
    text = kernels.source("quantized", "make_matvec")
    assert text.startswith("def make_matvec(") and text in (kernels.KERNELS / "quantized.py").read_text()
    with pytest.raises(UnsupportedError, match="nosuch"):
        kernels.source("quantized", "nosuch")
    assert np.isfinite(kernels.reached(a_point("w.weight", "F16", 1, 1.0), ROOF))
