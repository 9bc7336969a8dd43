"""Files from before GGUF, written here byte by byte: converted to the same model, or refused with reason."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

import llmlite as ll
from llmlite import GGUFError, gguf
from tests.fuzz.fuzz_gguf import mutated
from tests.support.legacy_builder import MODEL, N_VOCAB, LegacyBuilder

FORMS = "lmgg 0 F32, lmgg 0 F16, fmgg 1 F32, fmgg 1 F16, tjgg 1 F16, tjgg 2 F32, tjgg 2 Q5_0, tjgg 2 Q5_1, "
FORMS += "tjgg 3 F16, tjgg 3 Q4_0, tjgg 3 Q4_1, tjgg 3 Q8_0"
VARIANTS = [
    (magic.encode(), int(version), name) for magic, version, name in map(str.split, FORMS.split(", "))
]


@pytest.mark.parametrize(("magic", "version", "type_name"), VARIANTS)
def test_converted_model_gives_the_same_logits(
    tmp_path: Path, magic: bytes, version: int, type_name: str
) -> None:
    old, new, expected = (tmp_path / name for name in ("old.bin", "new.gguf", "expected.gguf"))
    old.write_bytes(LegacyBuilder(magic, version, type_name).build())
    gguf.convert_legacy(old, new, n_ctx=128, rms_eps=1e-5)
    MODEL.write(expected, type_name)
    ids = [5, 17, 260, 42, 1]
    logits = ll.load(expected, executor="eager").logits(ids)
    np.testing.assert_array_equal(ll.load(new, executor="eager").logits(ids), logits)


def test_metadata_say_what_the_header_said(tmp_path: Path) -> None:
    (tmp_path / "My model.bin").write_bytes(LegacyBuilder(type_name="Q8_0", change={"ftype": 7}).build())
    gguf.convert_legacy(tmp_path / "My model.bin", tmp_path / "new.gguf")
    metadata = gguf.read(tmp_path / "new.gguf").metadata
    assert metadata["general.architecture"] == "llama" and metadata["general.name"] == "My model"
    assert metadata["general.description"] == "converted from GGJT v3"
    assert metadata["general.file_type"] == 7 and metadata["general.quantization_version"] == 2
    hyper = {key.removeprefix("llama."): value for key, value in metadata.items() if key.startswith("llama.")}
    assert hyper == {
        "context_length": 2048,
        "embedding_length": 64,
        "block_count": 2,
        "feed_forward_length": 128,
        "rope.dimension_count": 16,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.layer_norm_rms_epsilon": float(np.float32(5e-6)),
        "vocab_size": N_VOCAB,
    }


@pytest.mark.parametrize("magic", [b"lmgg", b"fmgg"])
def test_vocabulary_becomes_a_sentencepiece_one(tmp_path: Path, magic: bytes) -> None:
    (tmp_path / "old.bin").write_bytes(LegacyBuilder(magic, 1).build())
    gguf.convert_legacy(tmp_path / "old.bin", tmp_path / "new.gguf")
    model = ll.load(tmp_path / "new.gguf")
    tokens, types = list(model.metadata["tokenizer.ggml.tokens"]), model.metadata["tokenizer.ggml.token_type"]
    assert tokens[:5] == ["<unk>", "<s>", "</s>", "<0x00>", "<0x01>"]
    assert types[:5].tolist() == [2, 3, 3, 6, 6]
    assert tokens[258:265] == ["<0xFF>", "▁the", "he", "h", "e", "▁", "é"]
    assert tokens[266] == "[EMPTY_266]" and types[266] == 3
    assert model.metadata["tokenizer.ggml.scores"][[3, 259, 262]].tolist() == [0, 0, -3]
    tokenizer = model.tokenizer
    for text in ("the é", "héß the!", "a\n"):
        assert tokenizer.decode(tokenizer.encode(text), skip_special=True) == text
    assert tokenizer.encode("h")[0] == 1


W1 = "layers.0.feed_forward.w1.weight"
REFUSED: list[tuple[str, LegacyBuilder, str, str | int | None, str]] = [
    ("gguf", LegacyBuilder(b"GGUF"), "magic", 0, "no conversion"),
    ("other magic", LegacyBuilder(b"PK\3\4"), "magic", 0, "the file has another format"),
    ("ggmf 2", LegacyBuilder(b"fmgg", 2), "version", 4, "GGMF version 1"),
    ("ggjt 4", LegacyBuilder(b"tjgg", 4), "version", 4, "GGJT version 1 or 2 or 3"),
    ("no heads", LegacyBuilder(change={"n_head": 0}), "n_head", "n_head", "at least 1"),
    ("3 heads", LegacyBuilder(change={"n_head": 3}), "n_head", None, "a divisor of n_embd, 64"),
    ("vocabulary of 2^31", LegacyBuilder(change={"n_vocab": 1 << 31}), "n_vocab", None, "fit in the file"),
    ("long token", LegacyBuilder(change={"token 5": 5000}), "token 5: length", "token 5", "at most 4096"),
    ("n_dims 5", LegacyBuilder(change={f"{W1}: n_dims": 5}), "tensor 7: n_dims", W1, "1 to 4"),
    ("type 99", LegacyBuilder(change={f"{W1}: type": 99}), f"{W1}: type", None, "type 99"),
    ("rows of 33", LegacyBuilder(change={f"{W1}: dims": (33,), f"{W1}: type": 8}), f"{W1}: dims", None, "32"),
    ("no rows", LegacyBuilder(change={f"{W1}: dims": (64, 0)}), f"{W1}: dims", None, "rows of"),
    ("huge", LegacyBuilder(change={f"{W1}: dims": (1 << 31, 1 << 31)}), f"{W1}: data", None, "until the end"),
    ("not llama", LegacyBuilder(change={f"{W1}: name": "transformer.h.0.mlp"}), "tensor name", W1, "LLaMA"),
    ("twice", LegacyBuilder(change={f"{W1}: name": "norm.weight"}), "norm.weight", None, "once"),
    ("missing", LegacyBuilder(change={f"{W1}: name": "layers.7.feed_forward.w1.weight"}),
     "blk.0.ffn_gate.weight", None, "cut off"),
    ("a layer more", LegacyBuilder(change={"n_layer": 3}), "blk.2.attn_q.weight", None, "cut off"),
    ("one of two parts", LegacyBuilder(change={"n_embd": 128}), "token_embd.weight: shape", None, "joined"),
]  # fmt: skip
REFUSED += [
    (
        f"{type_name} of {name}",
        LegacyBuilder(magic, version, type_name),
        "tok_embeddings.weight: type",
        None,
        name,
    )
    for magic, version, type_name, name in (
        (b"lmgg", 0, "Q4_0", "GGML"),
        (b"fmgg", 1, "Q4_1", "GGMF v1"),
        (b"tjgg", 1, "Q4_0", "GGJT v1"),
        (b"tjgg", 2, "Q4_0", "GGJT v2"),
        (b"tjgg", 2, "Q4_1", "GGJT v2"),
        (b"tjgg", 2, "Q8_0", "GGJT v2"),
        (b"tjgg", 1, "Q5_0", "GGJT v1"),
    )
]


@pytest.mark.parametrize(
    ("builder", "name", "at", "text"), [r[1:] for r in REFUSED], ids=[r[0] for r in REFUSED]
)
def test_what_cannot_be_converted_is_refused(
    tmp_path: Path, builder: LegacyBuilder, name: str, at: str | int | None, text: str
) -> None:
    (tmp_path / "old.bin").write_bytes(builder.build())
    with pytest.raises(GGUFError) as caught:
        gguf.convert_legacy(tmp_path / "old.bin", tmp_path / "new.gguf")
    assert caught.value.field == name
    if at is not None:
        assert caught.value.offset == (builder.at[at] if isinstance(at, str) else at)
    assert text in str(caught.value)
    assert not (tmp_path / "new.gguf").exists()


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    builder = LegacyBuilder()
    data = builder.build()
    path = tmp_path / "old.bin"
    steps = {
        0,
        1,
        3,
        4,
        7,
        20,
        35,
        *range(36, len(data), len(data) // 60),
        len(data) - 1,
        *builder.at.values(),
    }
    for cut in sorted(steps):
        path.write_bytes(data[:cut])
        with pytest.raises(GGUFError):
            gguf.convert_legacy(path, tmp_path / "new.gguf")
    assert not (tmp_path / "new.gguf").exists()


def test_random_damage_is_read_or_refused(tmp_path: Path) -> None:
    dice = random.Random(0)
    good = [LegacyBuilder(magic, version, name).build() for magic, version, name in VARIANTS]
    path = tmp_path / "old.bin"
    for _ in range(300):
        path.write_bytes(mutated(dice.choice(good)[: 1 << 14], good, dice))
        try:
            gguf.read_legacy(path)
        except GGUFError as error:
            assert "\n" not in str(error)
