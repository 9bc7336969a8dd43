"""Converted folders against transformers and tokenizers: the same logits, the same token ids.

Models are random and tiny, written by save_pretrained; nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import llmlite as ll
from llmlite.huggingface import convert_folder
from tests.support.huggingface_folders import TEXTS, sentencepiece_merges
from tests.support.llama_cpp import run_llama_cpp
from tests.support.transformers_models import CORPUS, SIZES, byte_level_tokenizer

pytestmark = pytest.mark.conformance
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


MIXTURE = {"num_local_experts": 6, "num_experts_per_tok": 3}
QWEN_MIXTURE = {
    "num_experts": 6,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "norm_topk_prob": True,
    "head_dim": 16,
}
GPT2 = {"n_positions": 128}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def sentencepiece_tokenizer() -> Any:
    """A BPE with bytes for what has no token, as transformers makes them of SentencePiece models."""
    pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    from tokenizers import AddedToken, Tokenizer, models, normalizers, processors, trainers

    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained.train_from_iterator(
        [word for line in CORPUS for word in line.split()],
        trainers.BpeTrainer(vocab_size=200, show_progress=False),
    )
    learned = sorted(trained.get_vocab(), key=trained.token_to_id)
    texts = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *learned]
    vocabulary = {text: i for i, text in enumerate(texts)}
    model = models.BPE(
        vocab=vocabulary,
        merges=sentencepiece_merges(learned),
        unk_token="<unk>",
        byte_fallback=True,
        fuse_unk=True,
    )
    made = Tokenizer(model)
    made.normalizer = trained.normalizer
    made.add_special_tokens([AddedToken(text, normalized=False) for text in texts[:3]])
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return made


def save(folder: Path, model_class: str, tokenizer: Any, *, dtype: str = "float32", shards: bool = False,
         **options: Any) -> Any:  # fmt: skip
    """Make a random model with transformers and save it with its tokenizer."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    base = model_class.removesuffix("ForCausalLM").removesuffix("LMHeadModel")
    config = getattr(transformers, f"{base}Config")(
        **{**SIZES, "vocab_size": tokenizer.get_vocab_size() + 5, **options}
    )
    model = getattr(transformers, model_class)(config).eval().to(getattr(torch, dtype))
    with torch.no_grad():  # norms and biases begin as ones and zeros, which would hide a mix-up
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter += (0.3 if "norm" in name else 1) * torch.randn_like(parameter)
    model.save_pretrained(folder, **({"max_shard_size": "60KB"} if shards else {}))
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|im_end|>" if tokenizer.token_to_id("<|im_end|>") else "</s>"
    )
    wrapped.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
    wrapped.save_pretrained(folder)
    return getattr(transformers, model_class).from_pretrained(folder, dtype=torch.float32).eval()


def logits_of(model: Any, ids: list[int]) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


@pytest.mark.parametrize(
    ("model_class", "options"),
    [
        ("LlamaForCausalLM", {}),
        ("LlamaForCausalLM", {"tie_word_embeddings": True, "dtype": "bfloat16"}),
        ("LlamaForCausalLM", {"attention_bias": True, "mlp_bias": True, "head_dim": 32}),
        ("LlamaForCausalLM", {"rope_parameters": LLAMA3_ROPE}),
        ("LlamaForCausalLM", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e4}}),
        ("Qwen2ForCausalLM", {"shards": True}),
        ("Qwen2ForCausalLM", {"tie_word_embeddings": True, "dtype": "float16"}),
        ("MistralForCausalLM", {"sliding_window": 64}),
        ("Qwen3ForCausalLM", {"head_dim": 16}),
        ("Qwen3ForCausalLM", {"head_dim": 32, "tie_word_embeddings": True}),
        ("MixtralForCausalLM", MIXTURE),
        ("Qwen3MoeForCausalLM", QWEN_MIXTURE),
        ("Qwen3MoeForCausalLM", QWEN_MIXTURE | {"shards": True, "dtype": "bfloat16"}),
        ("GPT2LMHeadModel", GPT2),
        ("GPT2LMHeadModel", GPT2 | {"n_inner": 96, "dtype": "float16"}),
    ],
)
def test_logits_equal_those_of_transformers(model_class: str, options: dict, tmp_path: Path) -> None:
    reference = save(tmp_path / "model", model_class, byte_level_tokenizer("qwen2"), **options)
    if options.get("shards"):
        assert len(list((tmp_path / "model").glob("*.safetensors"))) > 2
    convert_folder(tmp_path / "model", tmp_path / "model.gguf")
    model = ll.load(tmp_path / "model.gguf", kv_dtype="f32", executor="eager")
    ids = np.random.default_rng(0).integers(0, 300, min(100, model.n_ctx)).tolist()
    want = logits_of(reference, ids)
    got = model.logits(ids)
    print(
        f"{model_class} {options}: logits to {np.abs(want).max():.1f}, off by {np.abs(got - want).max():.1e}"
    )
    np.testing.assert_allclose(got, want, atol=2e-5 * np.abs(want).max(), rtol=0)
    assert model.tokenizer.n_vocab == want.shape[-1]
    assert model.chat_template.render([{"role": "user", "content": "hello"}]) == "hello"


@pytest.mark.parametrize(
    ("model_class", "options"),
    [
        ("LlamaForCausalLM", {}),
        ("Qwen2ForCausalLM", {}),
        ("Qwen3ForCausalLM", {}),
        ("MixtralForCausalLM", MIXTURE),
        ("Qwen3MoeForCausalLM", QWEN_MIXTURE),
        ("GPT2LMHeadModel", GPT2),
    ],
)
def test_llama_cpp_reads_the_converted_file(model_class: str, options: dict, tmp_path: Path) -> None:
    reference = save(tmp_path / "model", model_class, byte_level_tokenizer("qwen2"), **options)
    convert_folder(tmp_path / "model", tmp_path / "model.gguf", file_type="F32")
    ids = np.random.default_rng(0).integers(0, 300, 60).tolist()
    want = logits_of(reference, ids)
    got = run_llama_cpp(tmp_path / "model.gguf", ids, tmp_path)["logits"]
    # GPT-2: llama.cpp looks GELU up by its argument in F16, as in test_logits_llama_cpp.py; measured 2.5e-4
    bound = 1e-3 if model_class == "GPT2LMHeadModel" else 1e-4
    np.testing.assert_allclose(got, want, atol=bound * np.abs(want).max(), rtol=0)


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "qwen2", "llama-bpe", "sentencepiece"])
def test_token_ids_equal_those_of_tokenizers(pre: str, tmp_path: Path) -> None:
    tokenizer = sentencepiece_tokenizer() if pre == "sentencepiece" else byte_level_tokenizer(pre)
    save(tmp_path / "model", "LlamaForCausalLM", tokenizer)
    convert_folder(tmp_path / "model", tmp_path / "model.gguf", file_type="Q8_0")
    ours = ll.load(tmp_path / "model.gguf", executor="eager").tokenizer
    assert getattr(ours, "pre", "sentencepiece") == pre
    for text in TEXTS:
        for special in (True, False):
            want = tokenizer.encode(text, add_special_tokens=special).ids
            assert ours.encode(text, add_special=special) == want, text
