"""Files that are good GGUF but no good models: each refused with the file, the key and where it lies.

The second half of the list of malformed files; `test_gguf_malformed.py` has the first. Most of these end
llama.cpp's process with an assertion, and a notebook's kernel with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmlite as ll
from llmlite import gguf
from llmlite.errors import (
    ChatTemplateError,
    GGUFError,
    ModelError,
    TokenizerError,
    UnsupportedError,
)
from tests.support.tiny_models import TinyModel, tiny_model

MODEL = tiny_model()
TOKENS = MODEL.metadata["tokenizer.ggml.tokens"]
N = len(TOKENS)
T = "tokenizer.ggml."


def changed(metadata: dict[str, Any] | None = None, arrays: dict[str, Any] | None = None) -> TinyModel:
    """The model with keys and arrays replaced; None takes one away."""
    merged = MODEL.metadata | (metadata or {})
    tensors = MODEL.arrays | (arrays or {})
    return dataclasses.replace(
        MODEL,
        metadata={key: value for key, value in merged.items() if value is not None},
        arrays={key: value for key, value in tensors.items() if value is not None},
    )


def spm(**changes: Any) -> dict[str, Any]:
    """Metadata of a SentencePiece vocabulary over the same number of tokens."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *(f"w{i}" for i in range(N))][:N]
    types = np.array(([2, 3, 3] + [6] * 256 + [1] * N)[:N], np.int32)
    found = {"model": "llama", "tokens": tokens, "token_type": types, "scores": np.zeros(N, np.float32)}
    return {T + key: value for key, value in (found | {"merges": None, "bos_token_id": 1} | changes).items()}


def replaced(index: int, text: str) -> list[str]:
    return [*TOKENS[:index], text, *TOKENS[index + 1 :]]


IDS = [1, 2, 3]
# number, name, what is changed, the key or tensor that the error names, a part of its text
ARCH, HEADS, LENGTH = "general.architecture", "llama.attention.head_count", "llama.feed_forward_length"
LAYERS, EXPERTS, EXPERTS_USED = "llama.block_count", "llama.expert_count", "llama.expert_used_count"
TABLE: list[tuple[int, str, dict[str, Any], str, str]] = [
    (54, "no architecture", {ARCH: None}, ARCH, "missing"),
    (55, "unknown architecture", {ARCH: "quux"}, ARCH, "quux"),
    (55, "architecture that is no text", {ARCH: 7}, ARCH, "string"),
    (56, "no layers", {LAYERS: 0}, LAYERS, "got 0"),
    (56, "513 layers", {LAYERS: 513}, LAYERS, "1 to 512"),
    (56, "layers as text", {LAYERS: "2"}, LAYERS, "integer"),
    (57, "no heads", {HEADS: 0}, HEADS, "got 0"),
    (57, "3 heads", {HEADS: 3, f"{HEADS}_kv": 3}, "llama.embedding_length", "a multiple of head_count, 3"),
    (57, "3 key heads of 4", {f"{HEADS}_kv": 3}, f"{HEADS}_kv", "a divisor"),
    (58, "more experts used", {EXPERTS: 2, EXPERTS_USED: 4}, EXPERTS_USED, "1 to 2"),
    (58, "3 values for 2 layers", {LENGTH: [128, 128, 128]}, LENGTH, "one for each layer"),
    (59, "types short", {T + "token_type": np.ones(N - 1, np.int32)}, T + "token_type", f"expected {N}"),
    (59, "types as text", {T + "token_type": ["1"] * N}, T + "token_type[0]", "integers"),
    (59, "scores short", spm(scores=np.zeros(N - 1, np.float32)), T + "scores", f"expected {N} entries"),
    (59, "scores as text", spm(scores="high"), T + "scores", "an array"),
    (59, "tokens as numbers", {T + "tokens": np.arange(N)}, T + "tokens[0]", "string"),
    (
        59,
        "fewer tokens than rows",
        {T + "tokens": TOKENS[:-1]},
        "token_embd.weight",
        f"expected {N - 1} rows",
    ),
    (60, "special id as text", {T + "eos_token_id": "2"}, T + "eos_token_id", "a token id"),
    (60, "special id as a flag", {T + "bos_token_id": True}, T + "bos_token_id", "a token id"),
    (61, "merge without space", {T + "merges": ["he", "a b"]}, T + "merges[0]", "space"),
    (61, "merge with two spaces", {T + "merges": ["h e", "a  b"]}, T + "merges[1]", "space"),
    (61, "merges as a number", {T + "merges": 7}, T + "merges", "array"),
    (61, "no merges", {T + "merges": None}, T + "merges", "missing"),
    (
        62,
        "bad byte token",
        spm(tokens=["<unk>", "<s>", "</s>", "<0xZZ>", *TOKENS[4:]]),
        T + "tokens[3]",
        "<0x00>",
    ),
    (63, "duplicate token", {T + "tokens": replaced(9, TOKENS[3])}, T + "tokens[9]", "which is token 3"),
    (
        64,
        "shape against width",
        {"blk.1.attn_q.weight": (32, 64)},
        "blk.1.attn_q.weight",
        "shape (64, 64), got",
    ),
    (64, "shape against vocabulary", {"output.weight": (N + 1, 64)}, "output.weight", "expected shape"),
    (
        64,
        "norm that is a matrix",
        {"output_norm.weight": (1, 64)},
        "output_norm.weight",
        "expected shape (64,)",
    ),
    (65, "missing tensor", {"blk.1.ffn_up.weight": ()}, "blk.1.ffn_up.weight", "missing"),
    (65, "no embeddings", {"token_embd.weight": ()}, "token_embd.weight", "missing"),
]


@pytest.mark.parametrize(
    ("number", "name", "changes", "field", "text"), TABLE, ids=[f"{c[0]} {c[1]}" for c in TABLE]
)
def test_malformed_model_is_refused(
    tmp_path: Path, number: int, name: str, changes: dict[str, Any], field: str, text: str
) -> None:
    arrays = {
        key: np.zeros(n, np.float32) if n else None for key, n in changes.items() if key in MODEL.arrays
    }
    metadata = {key: value for key, value in changes.items() if key not in MODEL.arrays}
    error = TokenizerError if field.startswith(T) else ModelError
    if name == "unknown architecture":
        error = UnsupportedError
    path = changed(metadata, arrays).write(tmp_path / "bad.gguf")
    with pytest.raises(error) as caught:
        ll.load(path, executor="eager").generate("hello" if field.startswith(T) else IDS, max_tokens=1)
    assert text in str(caught.value)
    assert (caught.value.path, caught.value.field) == (str(path), field)
    assert str(caught.value).startswith(f"{path}: {field}")
    assert caught.value.offset == offset_of(path, field)
    assert caught.value.expected and caught.value.got != ""
    if "expected " in str(caught.value):
        assert f"expected {caught.value.expected}, got {caught.value.got}" in str(caught.value)


@pytest.mark.parametrize(("role", "wrong"), [("eos", N), ("eos", 2**32 - 1), ("bos", -1)])
def test_a_special_id_outside_the_vocabulary_is_passed_over_with_a_warning(
    tmp_path: Path, role: str, wrong: int
) -> None:
    path = changed({f"{T}{role}_token_id": wrong}, {}).write(tmp_path / "bad.gguf")
    with pytest.warns(
        UserWarning, match=rf"{role}_token_id: expected an id below .* {N} tokens, got {wrong};"
    ):
        tokenizer = ll.load(path, executor="eager").tokenizer
    assert getattr(tokenizer, f"{role}_id") is None
    assert wrong not in tokenizer.eog_ids and wrong not in tokenizer.encode("hello")


def offset_of(path: Path, name: str) -> int | None:
    """Where the value of a key, the text of an array's element or the name of a tensor begins."""
    file = gguf.read(path)
    at = {field.name: field.offset for field in file.fields()}
    key, _, index = name.partition("[")
    if key in file.tensors:
        return at[f"{key}: name"]
    if key not in file.metadata:
        return None
    if index:
        value, i = file.metadata[key], int(index.removesuffix("]"))
        return value.span(i)[0] if hasattr(value, "span") else at[key] + i * value.itemsize
    return at.get(f"{key}: length", at[key])


def test_table_covers_the_model_s_part_of_the_list() -> None:
    assert {case[0] for case in TABLE} == set(range(54, 66))


@pytest.mark.parametrize(
    ("name", "type_name", "value", "got"),
    [
        ("blk.0.attn_k.weight", "F32", np.nan, "nan"),
        ("blk.1.ffn_up.weight", "F16", np.inf, "inf"),
        ("output.weight", "Q8_0", -np.inf, ""),
        ("token_embd.weight", "Q4_0", np.nan, ""),
    ],
)
def test_66_damaged_weights_are_found_and_located(
    tmp_path: Path, name: str, type_name: str, value: float, got: str
) -> None:
    tensors = MODEL.tensors(type_name)
    bad = tensors[name]
    kind, blocks = bad.type, bad.blocks.copy()
    scale = np.array([value], kind.layout[0].base).view(np.uint8)
    blocks[7, : len(scale)] = scale  # the scale, or the weight itself, comes first in a block of these types
    tensors[name] = type(bad)(name, kind, bad.shape, blocks)
    path = tmp_path / "bad.gguf"
    gguf.write(path, MODEL.metadata, tensors)
    file = gguf.read(path)
    with pytest.raises(GGUFError) as caught:
        gguf.check_weights(file)
    start = {field.name: field.offset for field in file.fields()}[f"{name}: data"]
    assert caught.value.field == f"{name}: block 7"
    assert caught.value.offset == start + 7 * kind.type_size
    assert caught.value.expected == "finite weights" and got in str(caught.value.got)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0, 0.8])
def test_66_damaged_weights_never_crash_a_run(tmp_path: Path, value: float, temperature: float) -> None:
    path = changed(arrays={"output_norm.weight": np.full(64, value, np.float32)}).write(tmp_path / "bad.gguf")
    try:
        ll.load(path).generate(IDS, max_tokens=3, temperature=temperature, seed=0)
    except ll.LlmliteError as error:
        assert "\n" not in str(error)


def test_whole_weights_pass_the_check_with_progress(tmp_path: Path) -> None:
    path = MODEL.write(tmp_path / "good.gguf", "Q5_1")
    first = gguf.split(path, tmp_path / "part", max_tensors=5)[0]
    calls: list[tuple[int, int]] = []
    for name in (path, first):
        file = gguf.read(name)
        gguf.check_weights(file, progress=lambda *n: calls.append(n))
        total = sum(tensor.n_bytes for tensor in file.tensors.values())
        assert calls[-1] == (total, total)


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages.__class__.__init__.__globals__ }}",
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ self._TemplateReference__context }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ messages[0]['__globals__'].x.y }}",
    ],
)
def test_70_template_that_reaches_out_is_refused(tmp_path: Path, template: str) -> None:
    with pytest.raises(ChatTemplateError):
        chat(tmp_path, template)


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(90000) %}{% for j in range(90000) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 10**12 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_71_template_that_never_ends_is_stopped(tmp_path: Path, template: str) -> None:
    with pytest.raises(ChatTemplateError):
        chat(tmp_path, template)


def chat(folder: Path, template: str) -> object:
    path = changed({"tokenizer.chat_template": template}).write(folder / "bad.gguf")
    return ll.load(path, executor="eager").chat("Hello", max_tokens=1)


@pytest.mark.parametrize(
    "make",
    [lambda p: ll.load(p, executor="eager").tokenizer, lambda p: ll.load(p, executor="eager").chat("x")],
)
def test_file_without_a_vocabulary_says_so(tmp_path: Path, make: Callable[[Path], object]) -> None:
    bare = changed({key: None for key in MODEL.metadata if key.startswith("tokenizer.")})
    with pytest.raises((TokenizerError, ModelError)):
        make(bare.write(tmp_path / "bare.gguf"))


# ---- kinds of models that are refused, and parts of models that are left out, by name ----------------------

OTHER_KINDS = {"t5": "an encoder-decoder", "clip": "a vision tower", "llada": "a diffusion model"}


@pytest.mark.parametrize("name", OTHER_KINDS)
def test_another_kind_of_model_is_refused_with_what_it_is_and_the_list(name: str, tmp_path: Path) -> None:
    path = changed({ARCH: name}).write(tmp_path / "other.gguf")
    with pytest.raises(UnsupportedError, match=rf"'{name}' \({OTHER_KINDS[name]}") as caught:
        ll.load(path)
    assert all(known in str(caught.value) for known in ("llama", "gemma3", "gpt-oss"))


def test_layers_that_predict_ahead_are_refused_by_name(tmp_path: Path) -> None:
    path = changed({"llama.nextn_predict_layers": 1}).write(tmp_path / "key.gguf")
    with pytest.raises(UnsupportedError, match=r"llama\.nextn_predict_layers: 1 is not supported"):
        ll.load(path)
    name = "blk.1.nextn.eh_proj.weight"
    path = changed(arrays={name: np.zeros((64, 128), np.float32)}).write(tmp_path / "tensor.gguf")
    with pytest.raises(ModelError, match=rf"{name}: not a tensor of the llama architecture"):
        ll.load(path)


def test_a_vision_tower_in_a_text_model_s_file_changes_nothing(tmp_path: Path) -> None:
    tower = {
        "v.patch_embd.weight": np.ones((64, 3, 14, 14), np.float32),
        "v.blk.0.attn_q.weight": np.ones((64, 64), np.float32),
        "mm.0.weight": np.ones((64, 64), np.float32),
    }
    keys = {"llama.vision.block_count": 1, "llama.mm.tokens_per_image": 256}
    plain, seeing = (
        ll.load(model.write(tmp_path / name), executor="eager").logits(IDS)
        for name, model in (("plain.gguf", MODEL), ("seeing.gguf", changed(keys, tower)))
    )
    np.testing.assert_array_equal(seeing, plain)
