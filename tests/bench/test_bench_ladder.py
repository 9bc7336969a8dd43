"""The ladder's rungs against float64, the roofline's arithmetic, and files that hold something else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from llmlite.bench import ladder, roofline
from llmlite.bench.ladder import Ladder, measure_ladder
from llmlite.bench.roofline import Point, Roof, Roofline
from llmlite.engine.matvec import MatVec, PeakArithmetic
from llmlite.errors import LlmliteError, UnsupportedError

ROOF = Roof(n_threads=2, bytes_per_second=20e9, f32_per_second=400e9, int8_per_second=1600e9)
POINT = Point(
    operation="matvec", label="w", type="Q4_0", nanoseconds=1000.0, bytes=36_000, operations=128_000
)


@pytest.mark.parametrize("type_name", ladder.TYPES)
@pytest.mark.parametrize("rung", [rung.name for rung in ladder.rungs()])
def test_every_rung_computes_the_float64_product(rung: str, type_name: str) -> None:
    w = ladder.random_matrix(type_name, 70, 512, seed=3)
    x = ladder.exact_activations(512, seed=4)
    expected = w.dequantize().astype(np.float64) @ x
    found = ladder.product(rung, w, n_threads=2)(x)
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_scalar_kernels_take_any_activations() -> None:
    x = np.random.default_rng(1).standard_normal(256).astype(np.float32)
    for type_name in ladder.TYPES:
        w = ladder.random_matrix(type_name, 33, 256)
        expected = w.dequantize().astype(np.float64) @ x
        found = MatVec(w, n_threads=2, scalar=True)(x)
        np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_a_rung_with_another_answer_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = ladder.product

    def one_percent_off(rung: str, w: object, n_threads: int | None = None) -> ladder.Product:
        run = honest(rung, w, n_threads)  # type: ignore[arg-type]
        return (lambda x: run(x) * np.float32(1.01)) if rung == "simd" else run

    monkeypatch.setattr(ladder, "product", one_percent_off)
    with pytest.raises(LlmliteError, match="nothing was timed: simd by 0.01"):
        measure_ladder(("Q4_0",), n_rows=64, width=256, repeats=1, roof=False)


def test_a_ladder_keeps_every_sample_and_comes_back_from_its_file(tmp_path: Path) -> None:
    found = measure_ladder(("Q8_0",), ("scalar", "simd"), n_rows=64, width=256, repeats=3, roof=False)
    assert [(step.rung, len(step.samples_ns)) for step in found.steps] == [("scalar", 3), ("simd", 3)]
    assert found.of("Q8_0") == found.steps and not found.of("Q4_0")
    found.roof = ROOF
    again = Ladder.load(found.save(tmp_path / "ladder.json"))
    assert again.steps == found.steps and again.roof == ROOF


@pytest.mark.parametrize(
    "options", [{"types": ("Q9",)}, {"rungs": ("magic",)}, {"n_rows": 0}, {"repeats": 0}], ids=str
)
def test_unknown_names_and_sizes_are_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="unknown|at least 1"):
        measure_ladder(**options)  # type: ignore[arg-type]


def test_a_type_without_a_scalar_kernel_is_named() -> None:
    with pytest.raises(UnsupportedError, match="no scalar kernel for Q6_K"):
        MatVec(ladder.random_matrix("Q6_K", 32, 256), scalar=True)


def test_the_roof_is_the_lower_of_two_lines() -> None:
    assert ROOF.limit(1.0) == 20e9 and ROOF.limit(1000.0) == 1600e9 and ROOF.limit(1000.0, "f32") == 400e9
    assert ROOF.ridge() == 80 and ROOF.limit(ROOF.ridge()) == pytest.approx(ROOF.peak())
    with pytest.raises(ValueError, match="int8 or f32"):
        ROOF.peak("f64")


def test_a_points_figures_follow_from_each_other() -> None:
    assert POINT.intensity == pytest.approx(128 / 36)
    assert POINT.ops_per_second == pytest.approx(POINT.intensity * POINT.bytes_per_second)
    assert POINT.as_record()["bytes_per_second"] == 36e9


def test_a_roofline_comes_back_from_its_file(tmp_path: Path) -> None:
    found = Roofline(environment={"a": 1}, model="m", roof=ROOF, points={"decode": [POINT]})
    assert Roofline.load(found.save(tmp_path / "r.json")) == found
    assert found.records()[0]["step"] == "decode"


@pytest.mark.parametrize(
    "text", ["", "[]", '{"kind": "ladder"}', '{"kind": "roofline"}', '{"kind": "roofline", "roof": 3}']
)
def test_a_file_that_holds_something_else_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "odd.json"
    path.write_text(text)
    with pytest.raises(LlmliteError, match="odd.json: not a saved roofline"):
        Roofline.load(path)


def test_an_impossible_figure_in_a_file_is_refused(tmp_path: Path) -> None:
    path = Roofline(environment={}, model="m", roof=ROOF, points={"decode": [POINT]}).save(
        tmp_path / "r.json"
    )
    content = json.loads(path.read_text())
    content["points"]["decode"][0]["bytes"] = -1
    path.write_text(json.dumps(content))
    with pytest.raises(LlmliteError, match="positive number, got -1"):
        Roofline.load(path)


def test_the_shipped_samples_hold_what_the_lesson_says() -> None:
    sample = Roofline.sample()
    assert {"decode", "prefill 256"} <= set(sample.points)
    assert {step.type for step in Ladder.sample().steps} == set(ladder.TYPES)
    matrices = [point for point in sample.points["decode"] if point.type]
    assert all(point.intensity < sample.roof.ridge() for point in matrices), "writing is bound by memory"


def test_the_peak_of_an_unknown_arithmetic_is_refused() -> None:
    with pytest.raises(ValueError, match="kind must be one of"):
        PeakArithmetic("f64")


def test_measuring_the_roof_gives_positive_limits() -> None:
    roof = roofline.measure_roof(1, repeat=1)
    assert min(roof.bytes_per_second, roof.f32_per_second, roof.int8_per_second) > 1e8
