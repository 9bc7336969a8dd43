"""Importance matrices that are damaged or of another model, and weights that no type can hold."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmlite import cli, gguf
from llmlite.errors import GGUFError, LlmliteError, ModelError, UnsupportedError
from llmlite.huggingface import convert_folder
from llmlite.quantize import plan, quantize_file, read_imatrix
from llmlite.quants import TYPES
from llmlite.quants.tensor import QuantTensor
from tests.support.huggingface_folders import write_folder
from tests.support.tiny_models import tiny_model

NAME = "blk.0.ffn_down.weight"
EXPERTS = "blk.0.ffn_down_exps.weight"
BLOCK_TYPES = [kind.name for kind in TYPES.values() if kind.encode and kind.block_size > 1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(n_embd=256, n_ff=512, n_layer=1).write(tmp_path_factory.mktemp("model") / "tiny.gguf")


@pytest.fixture(scope="module")
def mixture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tiny = tiny_model(n_embd=256, n_ff=256, n_layer=1, n_expert=4)
    return tiny.write(tmp_path_factory.mktemp("mixture") / "moe.gguf")


def whole(path: Path, **changes: np.ndarray) -> dict[str, np.ndarray]:
    """An importance of ones for every matrix of the layers; some changed."""
    with gguf.read(path) as file:
        found = {
            name: np.ones(tensor.n_columns, np.float32)
            for name, tensor in file.tensors.items()
            if name.startswith("blk.") and len(tensor.shape) > 1
        }
    return found | {name.replace("__", "."): value for name, value in changes.items()}


def blocks(path: Path, target: Path, kind: str, imatrix: Any, name: str = NAME) -> np.ndarray:
    quantize_file(path, target, kind, imatrix=imatrix, n_threads=1)
    with gguf.read(target) as file:
        return np.array(file.tensors[name].blocks)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, -1e-9])
@pytest.mark.parametrize("at", [0, 511])
def test_a_number_that_cannot_be_is_refused_by_tensor_and_column(
    model: Path, tmp_path: Path, value: float, at: int
) -> None:
    imatrix = whole(model)
    imatrix[NAME] = np.ones(512, np.float32)
    imatrix[NAME][at] = value
    for act in (
        lambda: plan(model, "Q4_K_M", imatrix=imatrix),
        lambda: quantize_file(model, tmp_path / "out.gguf", "Q4_K_M", imatrix=imatrix),
        lambda: QuantTensor.quantize(np.ones((2, 512)), "Q4_K", NAME, imatrix[NAME]),
    ):
        with pytest.raises(
            ModelError, match=f"importance of column {at} is .*, expected a finite number"
        ) as e:
            act()
        assert e.value.key == NAME
    assert not list(tmp_path.iterdir())


def test_importance_of_zeros_is_no_importance(model: Path, tmp_path: Path) -> None:
    none = whole(model)
    del none[NAME]
    zeros = none | {NAME: np.zeros(512, np.float32)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        without = blocks(model, tmp_path / "a.gguf", "Q4_K_M", none)
    np.testing.assert_array_equal(blocks(model, tmp_path / "b.gguf", "Q4_K_M", zeros), without)
    with pytest.raises(UnsupportedError, match=f"{NAME}: .* has too few bits .* importance matrix"):
        plan(model, "IQ2_XS", imatrix=zeros)


@pytest.mark.parametrize("type_name", BLOCK_TYPES)
@pytest.mark.parametrize("n_zeros", [16, 32, 256, 1023])
def test_columns_without_importance_keep_their_weights(type_name: str, n_zeros: int) -> None:
    weights = np.random.default_rng(0).standard_normal((4, 1024)).astype(np.float32)
    importance = np.ones(1024, np.float32)
    importance[:n_zeros] = 0

    def error(made: QuantTensor) -> float:
        return float(((made.dequantize() - weights)[:, :n_zeros] ** 2).mean())

    plain = error(QuantTensor.quantize(weights, type_name))
    assert error(QuantTensor.quantize(weights, type_name, "", importance)) < 2 * plain + 0.05


@pytest.mark.parametrize("type_name", BLOCK_TYPES)
@pytest.mark.parametrize("scale", [2.0**-130, 2.0**100, 2.0**126])
def test_only_the_proportions_of_an_importance_count(type_name: str, scale: float) -> None:
    chance = np.random.default_rng(0)
    weights = chance.standard_normal((2, 512)).astype(np.float32)
    importance = chance.uniform(0.5, 1.9, 512).astype(np.float32)
    one = QuantTensor.quantize(weights, type_name, "", importance).dequantize()
    with np.errstate(under="ignore"):
        scaled = importance * np.float32(scale)
    np.testing.assert_allclose(
        QuantTensor.quantize(weights, type_name, "", scaled).dequantize(), one, rtol=1e-2, atol=1e-2
    )


def test_each_expert_is_weighed_by_its_own_row_and_one_of_zeros_by_none(
    mixture: Path, tmp_path: Path
) -> None:
    chance = np.random.default_rng(0)
    rows = chance.uniform(0, 2, (4, 256)).astype(np.float32)
    rows[2] = 0
    imatrix = whole(mixture) | {EXPERTS: rows}
    found = blocks(mixture, tmp_path / "out.gguf", "Q3_K_S", imatrix, EXPERTS)
    with gguf.read(mixture) as file:
        experts = file.tensors[EXPERTS].dequantize()
    kind = gguf.read(tmp_path / "out.gguf").tensors[EXPERTS].type.name
    expected = [
        QuantTensor.quantize(expert, kind, "", None if i == 2 else rows[i]).blocks
        for i, expert in enumerate(experts)
    ]
    np.testing.assert_array_equal(found, np.concatenate(expected))


@pytest.mark.parametrize("shape", [(3, 256), (5, 256), (8, 256), (4, 255), (2, 2, 256), (0, 256), ()])
def test_other_experts_and_other_widths_are_refused(mixture: Path, shape: tuple[int, ...]) -> None:
    imatrix = whole(mixture) | {EXPERTS: np.ones(shape, np.float32)}
    with pytest.raises(ModelError, match=r"importance has shape .*, expected \(256,\), or 4 such rows"):
        plan(mixture, "Q4_K_M", imatrix=imatrix)
    with pytest.raises(ModelError, match="expected"):  # a plain matrix has no experts
        plan(mixture, "Q4_K_M", imatrix=whole(mixture) | {"blk.0.attn_q.weight": np.ones((4, 256))})


def test_a_foreign_matrix_is_refused_and_a_partly_foreign_one_warned_of(model: Path) -> None:
    foreign = {f"layers.{i}.weight": np.ones(512, np.float32) for i in range(3)}
    with pytest.raises(ModelError, match="none of its 3 tensors is in this one, 'layers.0.weight'"):
        plan(model, "Q4_K_M", imatrix=foreign)
    with pytest.raises(ModelError, match="none of its 0 tensors"):
        plan(model, "Q4_K_M", imatrix={})
    with pytest.warns(UserWarning, match="3 of the importance matrix's 10 tensors aren't in this model"):
        plan(model, "Q4_K_M", imatrix=whole(model) | foreign)
    with pytest.warns(UserWarning, match=r"6 of the \d+ tensors to be quantized aren't in the importance"):
        plan(model, "Q4_K_M", imatrix={NAME: np.ones(512)})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plan(model, "Q4_K_M", imatrix=whole(model))


def file_of(path: Path, tensors: dict[str, Any]) -> Path:
    gguf.write(path, {"general.type": "imatrix"}, {k: np.asarray(v, np.float32) for k, v in tensors.items()})
    return path


@pytest.mark.parametrize(
    ("tensors", "error", "text"),
    [
        ({"a.in_sum2": [1, 2]}, GGUFError, "a.counts: expected 1 numbers, .* got no such tensor"),
        (
            {"a.in_sum2": [[1, 2]] * 3, "a.counts": [1, 2]},
            GGUFError,
            "a.counts: expected 3 numbers, .* got 2",
        ),
        ({"a.in_sum2": [1, np.nan], "a.counts": [1]}, ModelError, "a.in_sum2: the sum of column 1 is nan"),
        ({"a.in_sum2": [-1, 2], "a.counts": [1]}, ModelError, "a.in_sum2: the sum of column 0 is -1"),
        (
            {"a.in_sum2": [[1], [np.inf]], "a.counts": [1, 1]},
            ModelError,
            "the sum of matrix 1, column 0 is inf",
        ),
        ({"a.in_sum2": [1, 2], "a.counts": [-4]}, ModelError, "a.counts: the count of column 0 is -4"),
        ({"a.in_sum2": [1, 2], "a.counts": [np.nan]}, ModelError, "a.counts: the count of column 0 is nan"),
        ({"a.counts": [4]}, GGUFError, "this is not an importance matrix"),
    ],
)
def test_a_damaged_file_is_refused_by_tensor(
    tmp_path: Path, tensors: dict[str, Any], error: type[LlmliteError], text: str
) -> None:
    path = file_of(tmp_path / "im.gguf", tensors)
    with pytest.raises(error, match=text) as caught:
        read_imatrix(path)
    assert str(caught.value).startswith(str(path))


def test_the_command_ends_in_one_sentence(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [
        {f"{NAME}.in_sum2": np.ones(512)},
        {f"{NAME}.in_sum2": np.ones(500), f"{NAME}.counts": [1]},
        {"layers.0.in_sum2": np.ones(512), "layers.0.counts": [1]},
        {f"{NAME}.in_sum2": np.full(512, np.nan), f"{NAME}.counts": [1]},
    ]
    for i, tensors in enumerate(cases):
        imatrix = file_of(tmp_path / f"im{i}.gguf", tensors)
        target = tmp_path / f"out{i}.gguf"
        assert cli.main(["quantize", str(model), str(target), "Q4_K_M", "--imatrix", str(imatrix)]) == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if "warning" not in line]
        assert len(lines) == 1 and lines[0].startswith("llmlite: ")
        assert not target.exists()


# Weights that no type can hold


def damaged(tmp_path: Path, value: float, row: int, column: int) -> Path:
    tiny = tiny_model(n_embd=256, n_ff=512, n_layer=1)
    tiny.arrays["blk.0.ffn_up.weight"][row, column] = value
    return tiny.write(tmp_path / "damaged.gguf")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize("file_type", ["Q8_0", "Q4_0", "Q6_K", "Q4_K_M", "IQ4_NL"])
def test_a_weight_that_is_no_number_is_refused_by_tensor_row_and_column(
    tmp_path: Path, value: float, file_type: str
) -> None:
    path, target = damaged(tmp_path, value, 500, 17), tmp_path / "out.gguf"
    with pytest.raises(ModelError, match="the weight in row 500, column 17 is .*--allow-nan") as caught:
        quantize_file(path, target, file_type)
    assert (caught.value.path, caught.value.field) == (str(path), "blk.0.ffn_up.weight")
    assert caught.value.offset == gguf.read(path)._head.tensors["blk.0.ffn_up.weight"].name_offset
    assert [file.name for file in tmp_path.iterdir()] == ["damaged.gguf"]
    quantize_file(path, target, file_type, allow_nan=True)
    assert target.exists()


@pytest.mark.parametrize("type_name", [*BLOCK_TYPES, "F16"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 1e5, 1e7, 1e12, 1e30, -1e38])
def test_what_a_type_takes_it_gives_back(type_name: str, value: float) -> None:
    weights = np.random.default_rng(0).standard_normal((2, 512)).astype(np.float32)
    weights[1, 300] = value
    try:
        made = QuantTensor.quantize(weights, type_name, "x").dequantize()
    except ModelError as error:
        assert "row 1, column 300" in str(error)
    else:
        if type_name == "F16":
            np.testing.assert_array_equal(made, weights.astype(np.float16).astype(np.float32))
        else:
            assert np.isfinite(value) and np.isfinite(made).all() and made[1, 300] != 0


def test_f16_keeps_nan_and_infinity_as_they_are() -> None:
    weights = np.array([[np.nan, np.inf, -np.inf, 65504.0]], np.float32)
    np.testing.assert_array_equal(QuantTensor.quantize(weights, "F16").dequantize(), weights)
    with pytest.raises(ModelError, match="column 1 is 65536, beyond what F16 can hold .BF16 can."):
        QuantTensor.quantize(np.array([[1.0, 65536.0]]), "F16")


def test_conversion_refuses_it_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = tiny_model(n_embd=64)
    tiny.arrays["blk.1.ffn_up.weight"][3, 40] = np.nan
    folder, target = write_folder(tmp_path / "folder", tiny), tmp_path / "out.gguf"
    with pytest.raises(
        ModelError, match="blk.1.ffn_up.weight: the weight in row 3, column 40 is nan"
    ) as caught:
        convert_folder(folder, target, file_type="Q8_0")
    assert caught.value.path == str(folder) and not target.exists()
    assert cli.main(["convert", str(folder), str(target), "--type", "Q8_0"]) == 2
    assert "row 3, column 40" in capsys.readouterr().err
    assert cli.main(["convert", str(folder), str(target), "--type", "Q8_0", "--allow-nan"]) == 0


def test_the_command_goes_on_where_it_is_told_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, target = damaged(tmp_path, np.nan, 0, 0), tmp_path / "out.gguf"
    assert cli.main(["quantize", str(path), str(target), "Q8_0"]) == 2
    assert "blk.0.ffn_up.weight: the weight in row 0, column 0 is nan" in capsys.readouterr().err
    assert cli.main(["quantize", str(path), str(target), "Q8_0", "--allow-nan"]) == 0
    assert cli.main(["show", "--check", str(target)]) == 2
