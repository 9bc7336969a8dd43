"""Importance matrices and the commands that measure quality."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from llmlite import cli, gguf
from llmlite.bench.imatrix import collect
from llmlite.errors import ModelError, NumericsError
from llmlite.model import load
from llmlite.quantize import quantize_file, read_imatrix
from tests.support.tiny_models import tiny_model

IDS = [int(i) for i in np.random.default_rng(0).integers(5, 200, 70)]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = tiny_model(n_embd=256, n_ff=256, n_ctx=64)
    return model.write(tmp_path_factory.mktemp("tiny") / "tiny.gguf", "F16")


def test_it_holds_the_mean_squares_of_what_each_weight_meets(tiny: Path) -> None:
    model = load(tiny, kv_dtype="f32", executor="eager")
    found = collect(model, IDS[:16], n_ctx=16).means()
    ids = [model.tokenizer.bos_id, *IDS[1:16]] if model.tokenizer.add_bos else IDS[:16]
    trace = model.trace(ids)
    for weight, activation in {
        "blk.0.attn_q.weight": "attn_norm-0",
        "blk.1.attn_v.weight": "attn_norm-1",
        "blk.0.attn_output.weight": "kqv_out-0",
        "blk.1.ffn_up.weight": "ffn_norm-1",
        "blk.0.ffn_down.weight": "ffn_swiglu-0",
        "output.weight": "result_norm",
    }.items():
        squares = np.asarray(trace[activation], np.float64).reshape(16, -1) ** 2
        np.testing.assert_allclose(found[weight], squares.mean(axis=0), rtol=1e-5, err_msg=weight)


def test_chunks_add_up_and_the_rest_is_dropped(tiny: Path) -> None:
    model = load(tiny, kv_dtype="f32", executor="eager")
    steps: list[tuple[int, int]] = []
    whole = collect(model, IDS, n_ctx=32, progress=lambda *step: steps.append(step))
    first, second = collect(model, IDS[:32], n_ctx=32), collect(model, IDS[32:64], n_ctx=32)
    assert steps == [(1, 2), (2, 2)]
    assert (whole.n_chunks, set(whole.counts.values())) == (2, {64})
    for name, total in whole.squares.items():
        np.testing.assert_allclose(total, first.squares[name] + second.squares[name], rtol=1e-6)


def test_a_text_shorter_than_a_chunk_is_refused(tiny: Path) -> None:
    with pytest.raises(ValueError, match="the text has 70 tokens, fewer than one chunk of 512"):
        collect(load(tiny, executor="eager"), IDS)


def test_a_damaged_model_has_no_importance_matrix(tmp_path: Path) -> None:
    tiny_with_nan = tiny_model(n_embd=256, n_ff=256, n_ctx=64)
    tiny_with_nan.arrays["blk.1.ffn_up.weight"][3, 4] = np.nan
    path = tiny_with_nan.write(tmp_path / "nan.gguf")
    with pytest.raises(NumericsError, match=r"ffn_up of layer 1: holds a number that is not finite"):
        collect(load(path, executor="eager"), IDS, n_ctx=32)
    text = tmp_path / "text.txt"
    text.write_text("the fox and the hen in the inn on a hill " * 12, encoding="utf-8")
    target = tmp_path / "imatrix.gguf"
    assert cli.main(["imatrix", str(path), str(text), "-c", "32", "-o", str(target)]) == 2
    assert not target.exists()


def test_squares_that_overflow_are_no_importance(tmp_path: Path) -> None:
    model = tiny_model(n_embd=256, n_ff=256, n_ctx=64)
    model.arrays["blk.1.ffn_up.weight"] *= np.float32(1e24)
    path = model.write(tmp_path / "large.gguf")
    with pytest.raises(ModelError, match=r"blk.1.ffn_down.weight: its activations aren't finite.* is inf"):
        collect(load(path, executor="eager"), IDS, n_ctx=32)


def test_what_is_written_is_read_back(tiny: Path, tmp_path: Path) -> None:
    imatrix = collect(load(tiny, executor="eager"), IDS, n_ctx=32)
    imatrix.write(tmp_path / "imatrix.gguf", dataset="some text")
    means, found = imatrix.means(), read_imatrix(tmp_path / "imatrix.gguf")
    assert found.keys() == means.keys()
    for name, values in found.items():
        np.testing.assert_array_equal(values, means[name])
    with gguf.read(tmp_path / "imatrix.gguf") as file:
        assert file.metadata["general.type"] == "imatrix"
        assert list(file.metadata["imatrix.datasets"]) == ["some text"]
        assert (file.metadata["imatrix.chunk_count"], file.metadata["imatrix.chunk_size"]) == (2, 32)
        assert file.tensors["blk.0.attn_q.weight.in_sum2"].dims == (256,)
        assert file.tensors["blk.0.attn_q.weight.counts"].dims == (1,)


def test_it_lets_very_low_bit_types_be_made(tiny: Path, tmp_path: Path) -> None:
    imatrix = collect(load(tiny, executor="eager"), IDS, n_ctx=32)
    rows = quantize_file(tiny, tmp_path / "out.gguf", "IQ2_XS", imatrix=imatrix.means())
    assert "IQ2_XS" in {row.target.name for row in rows}
    assert load(tmp_path / "out.gguf", executor="eager").logits(IDS[:8]).shape[0] == 8


# The commands


def test_the_commands_measure_the_same_chain(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the fox and the hen in the inn on a hill " * 12, encoding="utf-8")
    chunks = [str(text), "-c", "32"]
    shared = [*chunks, "--executor", "eager"]
    imatrix, small = str(tmp_path / "imatrix.gguf"), str(tmp_path / "small.gguf")
    assert cli.main(["imatrix", str(tiny), *chunks, "-o", imatrix]) == 0
    assert cli.main(["quantize", str(tiny), small, "Q4_K_M", "--imatrix", imatrix]) == 0
    capsys.readouterr()
    assert cli.main(["kl", small, *shared, "--reference", str(tiny)]) == 0
    apart = re.match(r"KL divergence (\S+) ± \S+ nats", capsys.readouterr().out)
    assert apart
    assert 0 < float(apart.group(1)) < 0.5
    assert cli.main(["kl", str(tiny), *shared, "--reference", str(tiny)]) == 0
    assert capsys.readouterr().out.startswith("KL divergence 0.000000 ± 0.000000 nats")
    assert cli.main(["kl", small, *shared, "--reference", str(tiny), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert (record["model"], record["reference"], record["n_ctx"]) == (small, str(tiny), 32)
    assert record["kl"] == pytest.approx(float(apart.group(1)), abs=1e-6)
    assert 0 <= record["kl_50"] <= record["kl_90"] <= record["kl_99"] <= record["kl_max"]
    assert 0 < record["delta_p_rms"] < 1
    assert cli.main(["perplexity", str(tiny), *shared, "--chunks", "2"]) == 0
    out = capsys.readouterr().out
    assert cli.main(["perplexity", str(tiny), *shared, "--chunks", "2", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    assert out.startswith(f"perplexity {record['value']:.4f} ± {record['standard_error']:.4f}")
    assert re.match(r"perplexity \d+\.\d+ ± \d+\.\d+ \(30 tokens scored\)", out), out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-c", "2"], "--ctx-size: expected 4 to 64"),
        (["-c", "65"], "--ctx-size: expected 4 to 64"),
        (["-c", "32", "--chunks", "0"], "--chunks: must be at least 1"),
        (["-c", "64"], "fewer than one chunk of 64"),
    ],
)
def test_sizes_that_cannot_be_are_one_sentence(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the fox", encoding="utf-8")
    assert cli.main(["perplexity", str(tiny), str(text), "--executor", "eager", *arguments]) == 2
    assert message in capsys.readouterr().err
