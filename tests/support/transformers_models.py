"""Make tiny random models with transformers' own classes, and a tokenizer for them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.huggingface_folders import QWEN2_SPLIT, TEXTS

V = 400
CORPUS = [*TEXTS, "the quick brown fox jumps over the lazy dog, then it sleeps in the sun"] * 20
SIZES = {  # of every tiny model
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
WINDOW = 16  # prompts are longer than three windows


def byte_level_tokenizer(pre: str) -> Any:
    """Train a byte-level BPE on a few lines."""
    tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed")
    from tokenizers import Regex, decoders, models, pre_tokenizers, processors, trainers

    made = tokenizers.Tokenizer(models.BPE(ignore_merges=pre == "llama-bpe"))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre in ("gpt-2", "smollm"))
    llama3_split = QWEN2_SPLIT.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
    cut = {
        "gpt-2": [],
        "smollm": [pre_tokenizers.Digits(individual_digits=True)],
        "qwen2": [pre_tokenizers.Split(Regex(QWEN2_SPLIT), "isolated")],
        "llama-bpe": [pre_tokenizers.Split(Regex(llama3_split), "isolated")],
    }[pre]
    made.pre_tokenizer = pre_tokenizers.Sequence([*cut, byte_level]) if cut else byte_level
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|begin|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(CORPUS, trainer)
    if pre == "llama-bpe":
        made.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", made.token_to_id("<|begin|>"))]
        )
    return made


def off(got: np.ndarray, want: np.ndarray) -> float:
    """Return the largest difference as a share of the largest logit."""
    return float(np.abs(got - want).max() / np.abs(want).max())


@dataclass(frozen=True, kw_only=True)
class TinyModel:
    """Describe one form of an architecture.

    Attributes:
        name: the name in the table.
        model_class: the class of transformers.
        options: options of its config class, which replace those in SIZES.
        without: names in SIZES that the config class doesn't accept.
        llama_cpp: None if llama.cpp must agree within 1e-3; else the reason why it doesn't (it rounds, or
            leaves a part out). The model's own definition decides then.
        prepare: a function that changes the model before it is saved, for example to ternary weights.
        n_ids: number of tokens of the prompt.
    """

    name: str
    model_class: str
    options: dict[str, Any] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    llama_cpp: str | None = None
    prepare: Any = None
    n_ids: int = 100


def save(tiny: TinyModel, folder: Path, tokenizer: Any) -> Any:
    """Make the model with transformers, save it with a tokenizer, load it again and return it."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    import torch

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model_class = getattr(transformers, tiny.model_class)
    sizes = {key: value for key, value in (SIZES | {"pad_token_id": 1}).items() if key not in tiny.without}
    config = model_class.config_class(**{**sizes, "vocab_size": V, **tiny.options})
    config._attn_implementation = "eager"  # soft caps and sinks need it
    model = model_class(config).eval()
    with torch.no_grad():  # norms and biases begin as ones and zeros, which would hide a mix-up
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter += (0.3 if "norm" in name or "ln" in name else 0.5) * torch.randn_like(parameter)
        if tiny.prepare is not None:
            tiny.prepare(model)
    model.save_pretrained(folder)
    wrapped = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>")
    wrapped.save_pretrained(folder)
    loaded = model_class.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
    return loaded.eval()


def prompt(tiny: TinyModel) -> list[int]:
    """Return the token ids that all programs read."""
    return np.random.default_rng(0).integers(3, 300, tiny.n_ids).tolist()


def logits_of(model: Any, ids: list[int]) -> np.ndarray:
    """Return the logits of transformers, float32 (T, V)."""
    import torch

    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].numpy()


def states_of(model: Any, ids: list[int]) -> np.ndarray:
    """Return the last states of transformers, float32 (T, D)."""
    import torch

    with torch.no_grad():
        return model(torch.tensor([ids])).last_hidden_state[0].numpy()


def scatter_gains(model: Any) -> None:
    """Give the norms of queries and keys gains that differ by head and by number; they begin as ones."""
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("q_norm", "k_norm", "q_layernorm", "k_layernorm")):
            parameter.uniform_(0.5, 1.5)


def make_ternary(model: Any) -> None:
    """Give BitNet's matrices their three values: scale · -1, 0, 1."""
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2 and "embed" not in name:
            scale = parameter.abs().mean()
            parameter.copy_((parameter / scale).round().clamp(-1, 1) * scale)


def choose_unevenly(model: Any) -> None:
    """Give the biases that choose experts values that change the choice; they begin as zeros."""
    for name, buffer in model.named_buffers():
        if name.endswith(("expert_bias", "e_score_correction_bias")):
            buffer.copy_(0.2 * buffer.new_tensor(range(len(buffer))) - 0.5)


def scale_layers(model: Any) -> None:
    """Change the number by which Gemma 4 multiplies each layer's output; it begins as 1."""
    for i, layer in enumerate(model.model.layers):
        layer.layer_scalar.fill_(0.8 + 0.1 * i)
