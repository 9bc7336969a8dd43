"""Tiny random encoders by transformers' own classes, one line for each form: see architecture_models.py."""

from __future__ import annotations

from tests.conformance.architecture_models import GELU_TABLE
from tests.support.transformers_models import WINDOW, TinyModel

HEADLESS = ("num_key_value_heads",)  # every query head of theirs has its own keys and values
GEMMA_ENCODER = {
    "head_dim": 32,
    "query_pre_attn_scalar": 32,
    "sliding_window": WINDOW,
    "num_hidden_layers": 7,
    "use_bidirectional_attention": True,
}
GELU_TANH = "llama.cpp takes the tanh form of GELU for the erf form"
ENCODERS = (  # their results are the states of the last layer, not logits
    TinyModel(name="bert", model_class="BertModel", without=HEADLESS),
    TinyModel(
        name="bert, positions of RoBERTa",
        model_class="XLMRobertaModel",
        options={"type_vocab_size": 1},
        without=HEADLESS,
    ),
    TinyModel(name="nomic-bert", model_class="NomicBertModel", without=HEADLESS),
    TinyModel(
        name="modern-bert",
        model_class="ModernBertModel",
        options={"local_attention": WINDOW, "num_hidden_layers": 7},
        without=HEADLESS,
        llama_cpp=GELU_TANH,
    ),
    TinyModel(
        name="gemma-embedding", model_class="Gemma3TextModel", options=GEMMA_ENCODER, llama_cpp=GELU_TABLE
    ),
    TinyModel(name="eurobert", model_class="EuroBertModel"),
)
