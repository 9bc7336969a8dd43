"""Quantizing whole files: the plan, the mixes, what is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from llmlite import gguf
from llmlite.errors import GGUFError, UnsupportedError
from llmlite.quantize import plan, quantize_file, read_imatrix
from llmlite.quantize.mixes import FILE_TYPES, fitted, is_quantized
from llmlite.quants.tensor import QuantTensor
from tests.support.skeleton import skeleton
from tests.support.tiny_models import tiny_model


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return skeleton(tmp_path_factory.mktemp("small"))


def types(path: Path, file_type: str, **options: object) -> dict[str, str]:
    return {row.name: row.target.name for row in plan(path, file_type, **options)}


def test_the_plan_is_what_is_written(small: Path, tmp_path: Path) -> None:
    rows = quantize_file(small, tmp_path / "out.gguf", "Q4_K_M")
    assert rows == plan(small, "Q4_K_M")
    with gguf.read(tmp_path / "out.gguf") as file:
        assert [(t.name, t.type, t.n_bytes) for t in file.tensors.values()] == [
            (row.name, row.target, row.n_bytes) for row in rows
        ]


def test_only_types_and_two_keys_change(small: Path, tmp_path: Path) -> None:
    quantize_file(small, tmp_path / "out.gguf", "Q5_0")
    with gguf.read(small) as before, gguf.read(tmp_path / "out.gguf") as after:
        changed = {"general.file_type", "general.quantization_version"}
        assert {k: v for k, v in before.metadata.typed().items() if k not in changed} == {
            k: v for k, v in after.metadata.typed().items() if k not in changed
        }
        assert after.metadata["general.file_type"] == 8
        assert after.metadata["general.quantization_version"] == 2
        assert [(n, t.shape) for n, t in before.tensors.items()] == [
            (n, t.shape) for n, t in after.tensors.items()
        ]
        norm = "blk.0.attn_norm.weight"
        assert np.array_equal(before.tensors[norm].dequantize(), after.tensors[norm].dequantize())


def test_the_file_holds_what_each_tensor_quantizes_to(small: Path, tmp_path: Path) -> None:
    quantize_file(small, tmp_path / "out.gguf", "Q3_K_M", n_threads=2)
    with gguf.read(small) as before, gguf.read(tmp_path / "out.gguf") as after:
        for name, tensor in after.tensors.items():
            if tensor.type.block_size > 1:
                expected = QuantTensor.quantize(before.tensors[name].dequantize(), tensor.type.name)
                assert np.array_equal(tensor.blocks, expected.blocks), name


def test_a_mix_gives_delicate_tensors_more_bits(small: Path) -> None:
    found = types(small, "Q4_K_M")
    assert found["token_embd.weight"] == "Q6_K"  # tied: it is the output too
    assert found["blk.0.attn_q.weight"] == "Q4_K"
    assert found["blk.3.attn_v.weight"] == found["blk.3.ffn_down.weight"] == "Q6_K"
    assert found["blk.0.attn_norm.weight"] == "F32"


def test_pure_gives_every_matrix_one_type(small: Path) -> None:
    assert set(types(small, "Q4_K_M", pure=True).values()) == {"Q4_K", "F32"}


def test_a_short_name_means_the_medium_mix(small: Path) -> None:
    assert types(small, "q4_k") == types(small, "Q4_K_M")


def test_the_first_override_that_matches_decides(small: Path) -> None:
    found = types(small, "Q4_0", overrides=[(r"blk\.[01]\.ffn_down", "Q8_0"), ("ffn_down", "Q5_1")])
    assert [found[f"blk.{i}.ffn_down.weight"] for i in range(4)] == ["Q8_0", "Q8_0", "Q5_1", "Q5_1"]
    assert found["blk.0.ffn_up.weight"] == "Q4_0"


@pytest.mark.parametrize(
    ("chosen", "n_columns", "expected"),
    [
        ("Q4_K", 512, "Q4_K"),
        ("Q4_K", 896, "Q5_0"),
        ("Q5_K", 896, "Q5_1"),
        ("Q6_K", 896, "Q8_0"),
        ("Q2_K", 896, "Q4_0"),
        ("IQ2_XS", 896, "IQ4_NL"),
        ("Q4_0", 100, "F16"),
        ("Q6_K", 100, "F16"),
    ],
)
def test_a_row_that_does_not_fit_falls_back(chosen: str, n_columns: int, expected: str) -> None:
    assert fitted(chosen, n_columns) == expected


@pytest.mark.parametrize(
    ("name", "n_dims", "expected"),
    [
        ("blk.0.attn_q.weight", 2, True),
        ("blk.0.ffn_up_exps.weight", 3, True),
        ("blk.0.attn_norm.weight", 1, False),
        ("blk.0.attn_q_norm.weight", 2, False),
        ("blk.0.ffn_gate_inp.weight", 2, False),
        ("blk.0.attn_q.bias", 2, False),
        ("position_embd.weight", 2, False),
    ],
)
def test_norms_gates_and_biases_are_left_alone(name: str, n_dims: int, expected: bool) -> None:
    assert is_quantized(name, n_dims) is expected


def test_the_result_does_not_depend_on_threads(small: Path, tmp_path: Path) -> None:
    for n in (1, 3):
        quantize_file(small, tmp_path / f"{n}.gguf", "Q4_K_S", n_threads=n)
    assert (tmp_path / "1.gguf").read_bytes() == (tmp_path / "3.gguf").read_bytes()


def test_progress_ends_with_everything_done(small: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    quantize_file(small, tmp_path / "out.gguf", "Q8_0", progress=lambda *step: seen.append(step))
    with gguf.read(small) as file:
        total = sum(tensor.n_bytes for tensor in file.tensors.values())
    assert seen[-1][:2] == (total, total)
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert [name for _, _, name in seen] == [row.name for row in plan(small, "Q8_0")]  # each tensor once


def test_a_quantized_source_is_refused_and_nothing_written(small: Path, tmp_path: Path) -> None:
    quantize_file(small, tmp_path / "q8.gguf", "Q8_0")
    with pytest.raises(UnsupportedError, match=r"token_embd.weight is Q8_0 already.*start from the F16"):
        quantize_file(tmp_path / "q8.gguf", tmp_path / "q4.gguf", "Q4_0")
    assert not (tmp_path / "q4.gguf").exists()


def test_an_unknown_file_type_is_refused_with_the_known_ones(small: Path) -> None:
    with pytest.raises(UnsupportedError, match="unknown file type 'Q4_X'; known are F32, F16"):
        plan(small, "Q4_X")


def test_very_few_bits_need_an_importance_matrix(small: Path, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match=r"blk.0.attn_q.weight: IQ2_XS .* importance matrix"):
        plan(small, "IQ2_XS")
    importances = {row.name: np.ones(_width(small, row.name), np.float32) for row in plan(small, "Q8_0")}
    rows = quantize_file(small, tmp_path / "out.gguf", "IQ2_XS", imatrix=importances)
    assert "IQ2_XS" in {row.target.name for row in rows}


def _width(path: Path, name: str) -> int:
    with gguf.read(path) as file:
        return file.tensors[name].n_columns


def test_an_importance_matrix_file_is_read_as_mean_squares(small: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    sums = random.random((1, 256)).astype(np.float32)
    experts = random.random((4, 256)).astype(np.float32)
    counts = np.array([[5], [0], [1], [2]], np.float32)
    gguf.write(
        tmp_path / "imatrix.gguf",
        {"general.type": "imatrix"},
        {
            "blk.0.attn_q.weight.in_sum2": sums,
            "blk.0.attn_q.weight.counts": np.array([[4]], np.float32),
            "blk.0.ffn_up_exps.weight.in_sum2": experts,
            "blk.0.ffn_up_exps.weight.counts": counts,
        },
    )
    found = read_imatrix(tmp_path / "imatrix.gguf")
    assert np.array_equal(found["blk.0.attn_q.weight"], sums[0] / 4)
    reached = [0, 2, 3]  # no token reached expert 1
    means = found["blk.0.ffn_up_exps.weight"]
    assert np.array_equal(means[reached], experts[reached] / counts[reached])
    assert np.array_equal(means[1], np.ones(256))
    quantize_file(small, tmp_path / "with.gguf", "Q3_K_S", imatrix=tmp_path / "imatrix.gguf")
    quantize_file(small, tmp_path / "without.gguf", "Q3_K_S")
    with gguf.read(tmp_path / "with.gguf") as one, gguf.read(tmp_path / "without.gguf") as other:
        same = {n: np.array_equal(one.tensors[n].blocks, other.tensors[n].blocks) for n in one.tensors}
    assert [name for name, equal in same.items() if not equal] == ["blk.0.attn_q.weight"]


def test_a_file_that_is_no_importance_matrix_is_refused(small: Path) -> None:
    with pytest.raises(GGUFError, match="importance matrix"):
        read_imatrix(small)


@pytest.mark.parametrize("file_type", FILE_TYPES)
def test_every_file_type_can_be_planned(small: Path, file_type: str) -> None:
    importances = {row.name: np.ones(_width(small, row.name), np.float32) for row in plan(small, "Q8_0")}
    assert len(plan(small, file_type, imatrix=importances)) == 4 * 9 + 2


def test_requantizing_gives_what_quantizing_the_dequantized_weights_gives(tmp_path: Path) -> None:
    once, twice = tmp_path / "once.gguf", tmp_path / "twice.gguf"
    tiny_model().write(once, "Q4_1")
    with pytest.raises(UnsupportedError, match="Q4_1 already.*requantize"):
        quantize_file(once, twice, "Q5_0")
    assert not twice.exists()
    rows = quantize_file(once, twice, "Q5_0", requantize=True)
    with gguf.read(once) as source, gguf.read(twice) as made:
        changed = [row for row in rows if row.source != row.target]
        assert changed
        for row in changed:
            expected = QuantTensor.quantize(source.tensors[row.name].dequantize(), row.target.name, row.name)
            assert np.array_equal(made.tensors[row.name].blocks, expected.blocks), row.name
