"""Entries of encoders: every token sees all others, and the states of the last layer are the result.

Sources: transformers' modeling_bert.py, modeling_nomic_bert.py, modeling_modernbert.py, modeling_gemma3.py;
for jina-bert-v2, its authors' published code. Keys and tensors: llama.cpp's conversion/bert.py.
"""

from __future__ import annotations

from typing import Any

from llmlite.description.architectures.entry import (
    GEMMA_NAMES,
    GEMMA_NORMS,
    Architecture,
    Names,
    Windows,
    llama_names,
)
from llmlite.description.architectures.layouts import gains_plus_one, part_of

BERT_BIASES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_up", "ffn_down")
POST_NORMS = ("attn_output_norm", "layer_output_norm")
BERT_LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
BERT_OUTER = {
    "bert.embeddings.word_embeddings": "token_embd",
    "bert.embeddings.position_embeddings": "position_embd",
    "bert.embeddings.token_type_embeddings": "token_types",
    "bert.embeddings.LayerNorm": "token_embd_norm",
}
ROBERTA = ("RobertaModel", "RobertaForMaskedLM", "XLMRobertaModel", "XLMRobertaForMaskedLM")
BERT_HEAD = {"bert.pooler.dense": "cls", "bert.classifier": "cls.output"}
JINA_LAYER = {old: new for old, new in BERT_LAYER.items() if old.startswith("attention")} | {
    "mlp.gated_layers": "ffn_up",
    "mlp.wo": "ffn_down",
    "mlp.layernorm": "layer_output_norm",
}
MODERN_WINDOWS = Windows(pattern=3, dense_first=True)
HEAD_POOLING = {"mean": 1, "cls": 2}  # the numbers of config.POOLING
MODERN_LAYER = {
    "attn_norm": "attn_norm",
    "attn.Wqkv": "attn_qkv",
    "attn.Wo": "attn_output",
    "mlp_norm": "ffn_norm",
    "mlp.Wi": "ffn_up",
    "mlp.Wo": "ffn_down",
}
MODERN_OUTER = {
    "model.embeddings.tok_embeddings": "token_embd",
    "model.embeddings.norm": "token_embd_norm",
    "model.final_norm": "output_norm",
}
MODERN_HEAD = {"model.head.dense": "cls", "model.head.norm": "cls.norm", "model.classifier": "cls.output"}
UNREAD = r"position_ids$|^cls\."  # numbers that follow from the shape; the head that predicts masked words


def _token_types(config: Any) -> dict[str, Any]:
    return {"tokenizer.ggml.token_type_count": config.integer("type_vocab_size", 2)}


def _bert(config: Any) -> dict[str, Any]:
    kind = config.values.get("position_embedding_type", "absolute")
    if kind != "absolute":
        config.refuse(f"position_embedding_type: {kind!r:.40} is not supported, only 'absolute' is")
    if config.flag("is_decoder"):
        config.refuse("is_decoder: only false is supported")
    found = _token_types(config)
    unused = _unused_positions(config)
    if unused:
        found["context_length"] = config.integer("max_position_embeddings") - unused
    return found


def _unused_positions(config: Any) -> int:
    """Return the number of rows before the first position, pad_token_id + 1 in RoBERTa. GGUF omits them."""
    if config.class_name not in ROBERTA:
        return 0
    pad, n = config.values.get("pad_token_id", 1), config.integer("max_position_embeddings")
    if type(pad) is not int or not 0 <= pad < n - 1:
        config.fail("pad_token_id", f"a whole number below max_position_embeddings - 1, {n - 1}", pad)
    return pad + 1


def _used_positions(tensors: dict[str, Any], config: Any) -> dict[str, Any]:
    unused, name = _unused_positions(config), "position_embd.weight"
    if unused and name in tensors and len(tensors[name].shape) == 2:
        tensors = tensors | {name: part_of(tensors[name], name, lambda rows: rows[unused:])}
    return tensors


def _nomic(config: Any) -> dict[str, Any]:
    """Read config.json in both of its forms: transformers' own, and that of the model's first folders."""
    biases = ("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias")
    for key in ("prenorm", "causal", "rotary_emb_interleaved", *biases):
        if config.flag(key):
            config.refuse(f"{key}: only false is supported")
    for key in ("moe_every_n_layers", "rotary_emb_scale_base", "rotary_scaling_factor"):
        if config.values.get(key):
            config.refuse(f"{key} is not supported")
    if config.number(config.values, "rotary_emb_fraction", 1.0) != 1:
        config.refuse("rotary_emb_fraction: only 1 is supported")
    found = _token_types(config)
    if config.values.get("rotary_emb_base") is not None:
        found["rope.freq_base"] = config.number(config.values, "rotary_emb_base")
    if config.values.get("n_positions") is not None:  # 8192, but the published weights were trained for 2048
        trained = config.integer("max_trained_positions", 2048)
        found["context_length"] = min(config.integer("n_positions"), trained)
    return found


def _modern_bert(config: Any) -> dict[str, Any]:
    values = config.values
    found: dict[str, Any] = {
        "attention.sliding_window": config.integer("local_attention", 128),
        "rope.freq_base_swa": config.number(
            config.rope("sliding_attention"), "rope_theta", config.number(values, "local_rope_theta", 10000.0)
        ),
        "rope.freq_base": config.number(
            config.rope(), "rope_theta", config.number(values, "global_rope_theta", 160000.0)
        ),
    }
    period = config.integer("global_attn_every_n_layers", 3)
    n_layer = config.integer("num_hidden_layers")
    kinds = values.get("layer_types") or [
        "sliding_attention" if windowed else "full_attention"
        for windowed in MODERN_WINDOWS.layers(n_layer, period)
    ]
    windowed = [kind == "sliding_attention" for kind in kinds]
    if windowed != MODERN_WINDOWS.layers(n_layer):
        periods = (n for n in range(1, n_layer + 2) if windowed == MODERN_WINDOWS.layers(n_layer, n))
        found["attention.sliding_window_pattern"] = next(periods, None)
        if found["attention.sliding_window_pattern"] is None:
            config.refuse("layer_types: only a global layer at the start of every n layers is supported")
    if config.class_name.endswith("ForSequenceClassification"):
        kind = values.get("classifier_pooling", "cls")
        activation = values.get("classifier_activation", "gelu")
        if kind not in HEAD_POOLING or activation != "gelu":
            config.refuse(f"classifier_pooling, classifier_activation: {kind!r:.40}, {activation!r:.40}")
        found["classifier.pooling_type"] = HEAD_POOLING[kind]
    return found


def _gemma_embedding(config: Any) -> dict[str, Any]:
    if not config.flag("use_bidirectional_attention"):
        config.refuse("use_bidirectional_attention: only true is supported in a Gemma without its output")
    if config.number(config.values, "query_pre_attn_scalar", 256.0) != config.head_size():
        config.refuse("query_pre_attn_scalar: only head_dim is supported")
    return {}


def _jina_v2(config: Any) -> dict[str, Any]:
    for key, usual in (("position_embedding_type", "alibi"), ("feed_forward_type", "geglu")):
        if config.values.get(key, usual) != usual:
            config.refuse(f"{key}: {config.values[key]!r:.40} is not supported, only {usual!r} is")
    return _token_types(config)


def _old_norms(sources: dict[str, Any], config: Any) -> dict[str, Any]:
    """Rename a LayerNorm's gamma and beta, as the first BERT folders call its gain and bias."""
    renamed = {".gamma": ".weight", ".beta": ".bias"}
    found = {}
    for name, tensor in sources.items():
        for old, new in renamed.items():
            if name.endswith(f"LayerNorm{old}"):
                name = name.removesuffix(old) + new
        found[name] = tensor
    return found


ENCODERS = (
    Architecture(
        name="bert",
        rope_pairs="",
        learned_positions=True,
        token_types=True,
        causal=False,
        norm="layer",
        norms=POST_NORMS,
        norm_bias=True,
        outer=("token_embd_norm",),
        biases=BERT_BIASES,
        activation="gelu_erf",
        gated=False,
        head="tanh",
        classes=(
            *("BertModel", "BertForMaskedLM", "BertForPreTraining", "BertForSequenceClassification"),
            *ROBERTA,
        ),
        names=Names(
            layers="bert.encoder.layer.",
            optional="bert.",
            outer=BERT_OUTER,
            layer=BERT_LAYER,
            ignored=UNREAD + r"|^(bert\.)?pooler\.",
        ),
        class_names={
            "BertForSequenceClassification": Names(
                layers="bert.encoder.layer.",
                optional="bert.",
                outer=BERT_OUTER | BERT_HEAD,
                layer=BERT_LAYER,
                ignored=UNREAD,
            ),
            **{
                name: Names(
                    layers="roberta.encoder.layer.",
                    optional="roberta.",
                    outer={old.replace("bert.", "roberta."): new for old, new in BERT_OUTER.items()},
                    layer=BERT_LAYER,
                    ignored=r"position_ids$|^lm_head\.|^(roberta\.)?pooler\.",
                )
                for name in ROBERTA
            },
        },
        tensors=_used_positions,
        sources=_old_norms,
        hyperparameters=_bert,
    ),
    Architecture(
        name="nomic-bert",
        rope_pairs="neox",
        token_types=True,
        causal=False,
        norm="layer",
        norms=POST_NORMS,
        norm_bias=True,
        outer=("token_embd_norm",),
        fused=("attn_qkv",),
        classes=("NomicBertModel",),
        names=Names(
            layers="encoder.layers.",
            outer={
                "embeddings.word_embeddings": "token_embd",
                "embeddings.token_type_embeddings": "token_types",
                "emb_ln": "token_embd_norm",
            },
            layer={
                "attn.Wqkv": "attn_qkv",
                "attn.out_proj": "attn_output",
                "norm1": "attn_output_norm",
                "mlp.fc12": "ffn_gate",
                "mlp.fc11": "ffn_up",
                "mlp.fc2": "ffn_down",
                "norm2": "layer_output_norm",
            },
        ),
        hyperparameters=_nomic,
    ),
    Architecture(
        name="modern-bert",
        rope_pairs="neox",
        causal=False,
        norm="layer",
        norms=("ffn_norm",),
        from_second=("attn_norm",),
        outer=("token_embd_norm", "output_norm"),
        activation="gelu_erf",
        fused=("attn_qkv", "ffn_up"),
        windows=MODERN_WINDOWS,
        head="norm",
        classes=("ModernBertModel", "ModernBertForMaskedLM", "ModernBertForSequenceClassification"),
        names=Names(
            layers="model.layers.",
            optional="model.",
            outer=MODERN_OUTER,
            layer=MODERN_LAYER,
            ignored=r"^head\.|^decoder\.",
        ),
        class_names={
            "ModernBertForSequenceClassification": Names(
                layers="model.layers.",
                optional="model.",
                outer=MODERN_OUTER | MODERN_HEAD,
                layer=MODERN_LAYER,
            )
        },
        hyperparameters=_modern_bert,
    ),
    Architecture(
        name="gemma-embedding",
        rope_pairs="neox",
        causal=False,
        norms=GEMMA_NORMS,
        head_norms="head",
        activation="gelu",
        windows=Windows(pattern=6, rope_base=10000.0),
        embedding_scale=lambda n_embd: n_embd**0.5,
        dense=("dense_2", "dense_3"),
        classes=("Gemma3TextModel",),
        names=llama_names(GEMMA_NAMES, optional="model."),
        hyperparameters=_gemma_embedding,
        tensors=gains_plus_one,
    ),
    Architecture(
        name="jina-bert-v2",
        rope_pairs="",
        token_types=True,
        causal=False,
        alibi=8.0,
        norm="layer",
        norms=POST_NORMS,
        norm_bias=True,
        outer=("token_embd_norm",),
        biases=("attn_q", "attn_k", "attn_v", "attn_output", "ffn_down"),
        activation="gelu_erf",
        fused=("ffn_up",),
        classes=("JinaBertModel", "JinaBertForMaskedLM"),
        names=Names(
            layers="bert.encoder.layer.",
            optional="bert.",
            outer=BERT_OUTER,
            layer=JINA_LAYER,
            ignored=UNREAD + r"|^(bert\.)?pooler\.",
        ),
        hyperparameters=_jina_v2,
    ),
    Architecture(
        name="eurobert",
        rope_pairs="neox",
        causal=False,
        classes=("EuroBertModel", "EuroBertForMaskedLM"),
        names=Names(optional="model.", ignored=r"^lm_head\."),
    ),
)
