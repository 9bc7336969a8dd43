"""The shipped sweep belongs to the shipped model, its front is one, and its points can be measured again."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from llmlite import resources
from llmlite.errors import UnsupportedError
from llmlite.lessons import fewer_bits, type_sweep
from llmlite.lessons.type_sweep import Point
from llmlite.quantize.mixes import FILE_TYPES
from llmlite.quants import TYPES, by_name

AGAIN = "for a new type: python tools/sweep_types.py NAME, then python tools/checksums.py"


@pytest.fixture(scope="module")
def bench() -> type_sweep.Bench:
    return type_sweep.Bench()


def point(name: str, bits: float, kl: float, imatrix: bool = False) -> Point:
    return Point(
        name=name, family="K", scope="tensors", imatrix=imatrix, bits_per_weight=bits, n_bytes=1,
        rms=0.1, perplexity=3.0, kl=kl, top1=0.9,
    )  # fmt: skip


def test_the_shipped_sweep_was_made_from_the_shipped_model() -> None:
    made_from = type_sweep.shipped().model
    assert made_from == resources.sha256(resources.model_path("tales")), "run tools/sweep_types.py"


def test_every_type_that_weights_can_be_stored_in_is_there() -> None:
    names = {p.name for p in type_sweep.shipped().points if p.scope == "tensors"}
    assert names == set(type_sweep.sweep_types()), AGAIN
    assert names >= {t.name for t in TYPES.values() if t.storable and t.encode and t.block_size > 1}


def test_every_mix_is_there() -> None:
    assert {p.name for p in type_sweep.shipped().points if p.scope == "mix"} == set(FILE_TYPES), AGAIN


def test_bits_per_weight_of_a_type_are_its_layouts() -> None:
    for p in type_sweep.shipped().points:
        if p.scope == "tensors":
            assert p.bits_per_weight == pytest.approx(by_name(p.name).bits_per_weight, rel=1e-4)


def test_more_bits_of_one_family_cost_less() -> None:
    found = [
        type_sweep.shipped().find(name) for name in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "F16")
    ]
    assert all(a.kl > b.kl and a.rms > b.rms and a.n_bytes < b.n_bytes for a, b in pairwise(found))


@pytest.mark.parametrize(("name", "imatrix"), [("Q4_K", False), ("Q2_K", True), ("Q8_0", False)])
def test_a_point_measured_again_is_the_shipped_one(bench: type_sweep.Bench, name: str, imatrix: bool) -> None:
    again, stored = (
        bench.measure_type(name, imatrix=imatrix),
        type_sweep.shipped().find(name, imatrix=imatrix),
    )
    assert again.n_bytes == stored.n_bytes
    assert again.rms == pytest.approx(stored.rms, rel=1e-3)
    assert again.kl == pytest.approx(stored.kl, rel=0.02)
    assert again.perplexity == pytest.approx(stored.perplexity, rel=1e-3)


def test_a_mix_measured_again_is_the_shipped_one(bench: type_sweep.Bench) -> None:
    again, stored = bench.measure_mix("Q4_K_M"), type_sweep.shipped().find("Q4_K_M", scope="mix")
    assert (again.n_bytes, again.family) == (stored.n_bytes, "K")
    assert again.kl == pytest.approx(stored.kl, rel=0.02)


def test_f32_is_the_reference_itself(bench: type_sweep.Bench) -> None:
    exact = bench.measure_type("F32")
    assert exact.kl == 0 and exact.rms == 0 and exact.top1 == 1


def test_rms_agrees_with_the_formula(bench: type_sweep.Bench) -> None:
    tensor = bench.model.gguf.tensors["blk.0.attn_q.weight"]
    coarse = bench._quantized(tensor.name, "Q4_0", False)
    exact, got = tensor.dequantize(), coarse.dequantize()
    expected = np.sqrt(np.mean((got - exact) ** 2)) / np.sqrt(np.mean(exact**2))
    assert bench.rms([coarse]) == pytest.approx(expected, rel=1e-5)


def test_types_that_need_an_importance_matrix_say_so(bench: type_sweep.Bench) -> None:
    with pytest.raises(UnsupportedError, match="IQ1_S .* importance matrix"):
        bench.measure_type("IQ1_S")
    with pytest.raises(KeyError, match="IQ1_S"):
        type_sweep.shipped().find("IQ1_S")


def test_the_front_leaves_out_who_is_beaten() -> None:
    points = [point("a", 4, 0.1), point("b", 4, 0.2), point("c", 5, 0.3), point("d", 6, 0.05)]
    assert [p.name for p in type_sweep.front(points)] == ["a", "d"]
    assert type_sweep.front([]) == []


def test_what_is_written_can_be_read(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    text = type_sweep.write([point("a", 4.123456789, 0.1, imatrix=True)])
    (stored,) = json.loads(text)["points"]
    assert Point(**stored) == point("a", 4.1235, 0.1, imatrix=True)
    assert Point(**stored).label == "a with imatrix"


# --- half the bits ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ladder() -> fewer_bits.TypeLadder:
    return fewer_bits.TypeLadder(n_tokens=16)


def test_every_rung_holds_its_type_and_fewer_bytes_than_the_one_before(ladder: fewer_bits.TypeLadder) -> None:
    sizes = []
    for name in fewer_bits.LADDER:
        file = ladder.file(name)
        matrices = [t for t in file.tensors.values() if len(t.shape) == 2]
        assert {t.type.name for t in matrices} == {name}
        sizes.append(sum(t.n_bytes for t in file.tensors.values()))
    assert sizes == sorted(sizes, reverse=True)


def test_f32_and_f16_tell_the_same_tale(ladder: fewer_bits.TypeLadder) -> None:
    told = ladder.told("F16")
    assert told.ids == ladder.told("F32").ids and told.n_same == len(told.ids) == 16
    assert told.tokens_per_second > 0 and told.bits_per_weight == 16


def test_few_bits_tell_another(ladder: fewer_bits.TypeLadder) -> None:
    assert ladder.told("Q2_K").n_same < 16


def test_a_rung_is_told_once(ladder: fewer_bits.TypeLadder) -> None:
    assert ladder.told("Q8_0") is ladder.told("Q8_0")


def test_the_shipped_sample_has_every_rung_and_pytorch() -> None:
    sample = fewer_bits.sample()
    assert [row.type for row in sample.rows if row.backend == "llmlite"] == list(fewer_bits.LADDER)
    assert any("PyTorch" in row.backend for row in sample.others)
    assert all(row.tokens_per_second > 0 and row.private_bytes > 0 for row in sample.rows)
    assert sample.machine and all(sample.llmlite(name).tale for name in fewer_bits.LADDER)
    with pytest.raises(KeyError):
        sample.llmlite("nosuch")


# --- what lesson 03 says in words -------------------------------------------------------------


def test_the_tale_stays_down_to_8_bits_and_is_another_at_2() -> None:
    sample = fewer_bits.sample()
    exact = sample.llmlite("F32").tale
    assert sample.llmlite("F16").tale == sample.llmlite("Q8_0").tale == exact != sample.llmlite("Q2_K").tale


def test_some_types_have_a_lower_perplexity_than_float32() -> None:
    points = [p for p in type_sweep.shipped().points if p.scope == "tensors" and not p.imatrix]
    exact = type_sweep.shipped().find("F32").perplexity
    assert any(p.perplexity < exact - 1e-4 for p in points)


def test_an_iq_type_beats_the_k_type_at_three_and_a_half_bits() -> None:
    shipped = type_sweep.shipped()
    assert shipped.find("IQ3_S").bits_per_weight == shipped.find("Q3_K").bits_per_weight
    assert shipped.find("IQ3_S").kl < shipped.find("Q3_K").kl


def test_an_importance_matrix_helps_most_where_bits_are_few() -> None:
    def gain(name: str) -> float:
        shipped = type_sweep.shipped()
        return shipped.find(name).kl - shipped.find(name, imatrix=True).kl

    assert gain("Q2_K") > gain("Q4_K") > gain("Q6_K")
