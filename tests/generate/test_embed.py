"""Embeddings: executors against each other, pooling against its formulas, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmlite as ll
from llmlite.cli import main
from llmlite.embed import grouped, normalized, pooled
from llmlite.huggingface import sentences
from tests.support.encoders import MORE, D, encoder, ids_of
from tests.support.tiny_models import tiny_model


@pytest.mark.parametrize("architecture", MORE)
def test_the_planned_executor_gives_what_the_eager_one_gives(architecture: str, tmp_path: Path) -> None:
    path = encoder(tmp_path / "e.gguf", architecture)
    texts = [ids_of(n, n) for n in (1, 8, 9, 16, 17, 48, 100, 300)]
    want = ll.load(path, executor="eager").embed(texts, pooling="none", normalize=False)
    got = ll.load(path, executor="planned").embed(texts, pooling="none", normalize=False)
    for one, other in zip(got, want):
        assert np.abs(one - other).max() <= 1e-4 * np.abs(other).max()


def test_texts_read_together_give_the_bits_that_each_gives_alone(tmp_path: Path) -> None:
    model = ll.load(encoder(tmp_path / "e.gguf"), executor="planned")
    texts = [ids_of(n, n) for n in (3, 600, 1, 64, 65, 200, 200, 513, 512)]
    together = model.embed(texts)
    for text, row in zip(texts, together):
        np.testing.assert_array_equal(model.embed([text])[0], row)


@pytest.mark.parametrize("executor", ["eager", "planned"])
def test_each_way_of_pooling_follows_its_formula(executor: str, tmp_path: Path) -> None:
    model = ll.load(encoder(tmp_path / "e.gguf"), executor=executor)
    text = ids_of(20)
    (states,) = model.embed([text], pooling="none", normalize=False)
    assert states.shape == (20, D)
    for pooling, want in (("mean", states.mean(0)), ("cls", states[0]), ("last", states[-1])):
        (got,) = model.embed([text], pooling=pooling, normalize=False)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
        (unit,) = model.embed([text], pooling=pooling)
        np.testing.assert_allclose(unit, want / np.linalg.norm(want), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(model.embed([text]), model.embed([text], pooling="mean"))  # the file's


def test_zeros_have_no_direction_and_stay_zeros() -> None:
    np.testing.assert_array_equal(normalized(np.zeros(3, np.float32)), np.zeros(3))


def test_a_mean_is_summed_in_double_precision() -> None:
    states = np.full((1000, 1), 0.1, np.float32)
    assert pooled(states, "mean")[0] == np.float32(0.1)


def test_groups_hold_every_text_once_and_no_more_tokens_than_a_step_takes() -> None:
    lengths = np.random.default_rng(0).integers(1, 700, 200).tolist()
    groups = list(grouped(lengths, 512))
    assert sorted(i for group in groups for i in group) == list(range(200))
    assert all(len(group) == 1 or sum(lengths[i] for i in group) <= 512 for group in groups)
    assert list(grouped([], 512)) == []


def test_a_string_gets_the_tokens_that_belong_around_it(tmp_path: Path) -> None:
    model = ll.load(encoder(tmp_path / "e.gguf"), executor="eager")
    np.testing.assert_array_equal(model.embed("w1 w7"), model.embed([[2, 5, 11, 3]]))
    assert model.embed([]).shape == (0, D)


def test_a_long_text_is_refused_or_cut_before_its_last_special_token(tmp_path: Path) -> None:
    model = ll.load(encoder(tmp_path / "e.gguf"), executor="eager", n_ctx=8)
    text = " ".join(f"w{i}" for i in range(20))
    with pytest.raises(ll.ContextOverflowError, match="22 tokens doesn't fit the context of 8; use truncate"):
        model.embed(text)
    cut = [2, *range(4, 10), 3]
    np.testing.assert_array_equal(model.embed(text, truncate=True), model.embed([cut]))


def test_pooling_must_be_known(tmp_path: Path) -> None:
    silent = ll.load(encoder(tmp_path / "s.gguf", pooling=None), executor="eager")
    with pytest.raises(ValueError, match="has no kind of pooling; pass one of mean, cls, last, none"):
        silent.embed("w1")
    with pytest.raises(ValueError, match="must be one of mean, cls, last, none; got 'max'"):
        silent.embed("w1", pooling="max")
    rank = ll.load(encoder(tmp_path / "r.gguf", pooling=4), executor="eager")
    with pytest.raises(ValueError, match="score pairs of texts"):
        rank.embed("w1")
    with pytest.raises(ll.ModelError, match=r"bert.pooling_type: expected one of 0, 1, 2, 3, 4"):
        ll.load(encoder(tmp_path / "t.gguf", change=lambda m, a: m.update({"bert.pooling_type": 9})))


@pytest.mark.parametrize("pooling", [1, None])
def test_an_encoder_is_warmed_up_whether_its_file_names_a_pooling_or_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], pooling: int | None
) -> None:
    assert main(["warmup", str(encoder(tmp_path / "e.gguf", pooling=pooling))]) == 0
    assert "kernels are ready" in capsys.readouterr().out


def test_an_encoder_writes_no_text(tmp_path: Path) -> None:
    model = ll.load(encoder(tmp_path / "e.gguf"), executor="eager")
    for attempt in (lambda: model.logits([5]), lambda: model.generate([5]), lambda: model.chat("w1")):
        with pytest.raises(ll.ModelError, match="an encoder doesn't write text"):
            attempt()
    with pytest.raises(ll.ModelError, match="no head that scores pairs"):
        model.score("w1", ["w2"])


@pytest.mark.parametrize("executor", ["eager", "planned"])
def test_a_model_that_writes_text_gives_its_last_state_and_goes_on_writing(
    executor: str, tmp_path: Path
) -> None:
    model = ll.load(tiny_model("llama").write(tmp_path / "t.gguf"), executor=executor, kv_dtype="f32")
    before = model.logits([5, 6, 7])
    (got,) = model.embed([[5, 6, 7, 8]], pooling="last", normalize=False)
    want = model.trace([5, 6, 7, 8])["result_norm"]
    np.testing.assert_allclose(got, want[-1], rtol=0, atol=1e-5)
    (mean,) = model.embed([[5, 6, 7, 8]], pooling="mean", normalize=False)
    np.testing.assert_allclose(mean, want.mean(0), rtol=0, atol=1e-5)
    assert model.cache.ids == [5, 6, 7]
    np.testing.assert_array_equal(model.logits([5, 6, 7]), before)


# ---- pairs ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("architecture", ["bert", "modern-bert"])
def test_both_executors_score_pairs_alike(architecture: str, tmp_path: Path) -> None:
    path = encoder(tmp_path / "e.gguf", architecture, n_class=1)
    texts = ["w5 w6", "w7", "w8 " * 100]
    want = ll.load(path, executor="eager").score("w1 w2", texts)
    got = ll.load(path, executor="planned").score("w1 w2", texts)
    assert got.shape == (3,) and len(set(want.tolist())) == 3
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)


def test_the_second_text_of_a_pair_has_a_type_of_its_own(tmp_path: Path) -> None:
    def alike(metadata: dict, arrays: dict) -> None:
        arrays["token_types.weight"][1] = arrays["token_types.weight"][0]

    model = ll.load(encoder(tmp_path / "e.gguf", n_class=2), executor="eager")
    same = ll.load(encoder(tmp_path / "s.gguf", n_class=2, change=alike), executor="eager")
    assert model.score("w1", ["w2"]).shape == (1, 2)
    assert np.abs(model.score("w1", ["w2"]) - same.score("w1", ["w2"])).max() > 1e-3
    np.testing.assert_array_equal(model.embed("w1"), same.embed("w1"))


def test_a_pair_that_is_too_long_is_refused_or_its_text_is_cut(tmp_path: Path) -> None:
    model = ll.load(encoder(tmp_path / "e.gguf", n_class=1), executor="eager", n_ctx=8)
    with pytest.raises(ll.ContextOverflowError, match="a pair of 3 and 10 tokens"):
        model.score("w1", ["w2 " * 9])
    cut = model.score("w1", ["w2 " * 9], truncate=True)
    np.testing.assert_array_equal(cut, model.score("w1", ["w2 " * 4]))


# ---- files ---------------------------------------------------------------------------------------------


def test_what_a_file_gets_wrong_is_named(tmp_path: Path) -> None:
    def without(name: str) -> Callable[[dict, dict], None]:
        def change(metadata: dict, arrays: dict) -> None:
            metadata.pop(name, None)
            arrays.pop(name, None)

        return change

    cases = [
        ("bert", without("tokenizer.ggml.token_type_count"), "tokenizer.ggml.token_type_count: missing"),
        ("bert", without("token_types.weight"), "token_types.weight"),
        ("bert", without("blk.1.attn_q.bias"), "blk.1.attn_q.bias"),
        ("modern-bert", without("blk.1.attn_norm.weight"), "blk.1.attn_norm.weight"),
        ("bert", lambda m, a: m.update({"bert.attention.causal": True}), "bert.attention.causal: True"),
        (
            "gemma-embedding",
            lambda m, a: m.update(
                {"gemma-embedding.dense_2_feat_in": 32, "gemma-embedding.dense_2_feat_out": 32}
            ),
            "dense_2_feat_in: expected 64",
        ),
    ]
    for i, (architecture, change, message) in enumerate(cases):
        path = encoder(tmp_path / f"{i}.gguf", architecture, change=change)
        with pytest.raises(ll.LlmliteError, match=message):
            ll.load(path, executor="eager")


def test_matrices_after_pooling_are_applied(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    first, second = (random.standard_normal(s).astype(np.float32) for s in ((128, D), (32, 128)))

    def add(metadata: dict, arrays: dict) -> None:
        arrays |= {"dense_2.weight": first, "dense_3.weight": second}
        for name, (rows, columns) in (("dense_2", first.shape), ("dense_3", second.shape)):
            metadata[f"gemma-embedding.{name}_feat_out"] = rows
            metadata[f"gemma-embedding.{name}_feat_in"] = columns

    plain = ll.load(encoder(tmp_path / "p.gguf", "gemma-embedding"), executor="eager")
    model = ll.load(encoder(tmp_path / "e.gguf", "gemma-embedding", change=add), executor="eager")
    want = second @ (first @ plain.embed("w1 w2", normalize=False)[0])
    np.testing.assert_allclose(model.embed("w1 w2", normalize=False)[0], want, rtol=1e-5, atol=1e-4)
    assert model.embed([]).shape == (0, 32)


def test_jina_bert_v2_is_its_published_definition(tmp_path: Path) -> None:
    """BERT without learned positions: scores lose slope · distance, and half of a wide matrix gates."""
    kept: dict[str, np.ndarray] = {}
    path = encoder(tmp_path / "e.gguf", "jina-bert-v2", change=lambda m, a: kept.update(a))
    ids = ids_of(40)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        x = x - x.mean(-1, keepdims=True)
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5)
        return x * kept[f"{name}.weight"] + kept[f"{name}.bias"]

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ kept[f"{name}.weight"].T.astype(np.float64) + kept.get(f"{name}.bias", 0)

    x = kept["token_embd.weight"][ids] + kept["token_types.weight"][0].astype(np.float64)
    x = norm(x, "token_embd_norm")
    distance = np.abs(np.arange(40)[:, None] - np.arange(40))
    slopes = [2 ** (-8 * (h + 1) / 4) for h in range(4)]
    for i in range(2):
        q, k, v = (linear(x, f"blk.{i}.attn_{part}").reshape(40, 4, 16) for part in "qkv")
        mixed = np.empty((40, 4, 16))
        for h in range(4):
            scores = q[:, h] @ k[:, h].T / 4 - slopes[h] * distance
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            mixed[:, h] = weights / weights.sum(-1, keepdims=True) @ v[:, h]
        x = norm(x + linear(mixed.reshape(40, 64), f"blk.{i}.attn_output"), f"blk.{i}.attn_output_norm")
        gate, up = np.split(linear(x, f"blk.{i}.ffn_up"), 2, axis=-1)
        inner = np.vectorize(math.erf)(gate / math.sqrt(2))
        inner = 0.5 * gate * (1 + inner) * up
        x = norm(x + linear(inner, f"blk.{i}.ffn_down"), f"blk.{i}.layer_output_norm")
    for executor in ("eager", "planned"):
        (got,) = ll.load(path, executor=executor).embed([ids], pooling="none", normalize=False)
        assert np.abs(got - x).max() <= 1e-4 * np.abs(x).max()


def folder_with(tmp_path: Path, config: dict, path: str = "1_Pooling") -> str:
    (tmp_path / "1_Pooling").mkdir(exist_ok=True)
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps(config))
    pooling = {"type": "sentence_transformers.models.Pooling", "path": path}
    modules = [{"type": "sentence_transformers.models.Transformer", "path": ""}, pooling]
    (tmp_path / "modules.json").write_text(json.dumps(modules))
    return str(tmp_path)


def test_a_folders_way_of_pooling_becomes_a_number(tmp_path: Path) -> None:
    assert sentences.pooling(str(tmp_path)) == {}
    for config, number in (
        ({"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}, 1),
        ({"pooling_mode_cls_token": True}, 2),
        ({"pooling_mode_lasttoken": True}, 3),
        ({"pooling_mode": "cls"}, 2),
    ):
        assert sentences.pooling(folder_with(tmp_path, config)) == {"pooling_type": number}


def test_pooling_that_no_file_can_name_is_refused(tmp_path: Path) -> None:
    for config in ({"pooling_mode_max_tokens": True}, {}, {"pooling_mode_max_tokens": 1, "pooling_mode": "x"},
                   {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True}):  # fmt: skip
        with pytest.raises(ll.UnsupportedError, match="supported are mean, cls, lasttoken"):
            sentences.pooling(folder_with(tmp_path, config))
    for path in ("../elsewhere", "/etc"):
        with pytest.raises(ll.ModelError, match="a folder inside this one"):
            sentences.pooling(folder_with(tmp_path, {"pooling_mode_cls_token": True}, path))
    (tmp_path / "modules.json").write_text('{"type": "Pooling"}')
    with pytest.raises(ll.GGUFError, match="a list"):
        sentences.pooling(str(tmp_path))


# ---- command -------------------------------------------------------------------------------------------


def test_the_command_prints_and_writes_what_embed_gives(tmp_path: Path, capsys: Any) -> None:
    path = encoder(tmp_path / "e.gguf")
    want = ll.load(path).embed(["w1 w2", "w3"])
    assert main(["embed", "--json", str(path), "w1 w2", "w3"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["text"] for line in lines] == ["w1 w2", "w3"]
    np.testing.assert_allclose([line["embedding"] for line in lines], want, rtol=0, atol=1e-7)
    assert main(["embed", "--npy", str(tmp_path / "out.npy"), str(path), "w1 w2", "w3"]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), want)
    assert main(["embed", str(path), "w1 w2", "w3"]) == 0
    out = capsys.readouterr().out
    assert f"{float(want[0] @ want[1]):.3f}" in out and "1.000" in out
    assert main(["embed", str(path), "w1"]) == 0
    assert "64 numbers" in capsys.readouterr().out


def test_the_command_names_what_is_missing(tmp_path: Path, capsys: Any) -> None:
    path = encoder(tmp_path / "e.gguf", pooling=None)
    assert main(["embed", str(path), "w1"]) == 2
    assert "pass one of mean, cls, last" in capsys.readouterr().err
    assert main(["embed", "--pooling", "cls", str(path), *["w1"] * 21]) == 2
    assert "--json or --npy" in capsys.readouterr().err
