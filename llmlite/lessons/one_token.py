"""One token's way through the whole model, step by step, with the numbers of each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmlite.description.layers import Attention, FeedForward
from llmlite.engine.eager_routing import softmax
from llmlite.errors import UnsupportedError
from llmlite.lessons.tokens import visible
from llmlite.model import Model
from llmlite.tokenizers import as_ids


@dataclass(frozen=True, kw_only=True)
class Part:
    """One step of a token's way through the model.

    Attributes:
        key: the step's name in this module.
        title: the step's name in a diagram.
        trace: the name of its result in `Model.trace`, without the layer; "" if the trace doesn't have it.
        says: a sentence about what happens in the step.
        in_layer: whether the step is part of every layer.
    """

    key: str
    title: str
    trace: str
    says: str
    in_layer: bool = True


STEPS = (
    Part(key="tokens", title="tokens", trace="", in_layer=False, says="The text is cut into tokens."),
    Part(
        key="embedding", title="embed", trace="embd", in_layer=False,
        says="The token's row of the embedding matrix is looked up. It is the first state of the stream.",
    ),
    Part(key="attn_norm", title="norm", trace="attn_norm", says="A copy is brought to a standard size."),
    Part(key="qkv", title="Q K V", trace="", says="Three matrices make queries, keys and values."),
    Part(key="rope", title="RoPE", trace="Qcur", says="Queries and keys are turned by the token's position."),
    Part(
        key="attention", title="attention", trace="kq_soft_max",
        says="Each head shares its attention among this token and those before it.",
    ),
    Part(
        key="attn_out", title="output", trace="attn_out",
        says="The values that were fetched are brought back to the width of the stream.",
    ),
    Part(key="ffn_inp", title="+", trace="ffn_inp", says="The result is added to the stream."),
    Part(key="ffn_norm", title="norm", trace="ffn_norm", says="Again a copy gets a standard size."),
    Part(
        key="ffn_out", title="feed-\nforward", trace="ffn_out",
        says="The feed-forward network works on this token alone.",
    ),
    Part(key="l_out", title="+", trace="l_out", says="Its result is added. The next layer reads the stream."),
    Part(
        key="result_norm", title="norm", trace="result_norm", in_layer=False,
        says="After the last layer the stream itself is brought to a standard size.",
    ),
    Part(
        key="logits", title="logits", trace="result_output", in_layer=False,
        says="One matrix more, and every token of the vocabulary has a score.",
    ),
)  # fmt: skip
KEYS = tuple(step.key for step in STEPS)


@dataclass(frozen=True)
class Walk:
    """The results of all steps, for all T tokens of one text.

    Attributes:
        ids: the T token ids of the text.
        texts: the text of each token, with spaces and line ends made visible.
        values: (key, layer) -> float32 array whose first axis is the token. The layer is 0 for steps that
            aren't part of a layer.
        n_layer: number of layers.
    """

    ids: list[int]
    texts: list[str]
    values: dict[tuple[str, int], np.ndarray]
    n_layer: int

    def at(self, key: str, layer: int, token: int) -> np.ndarray:
        """Return the result of a step for one token: one row for each head, or a single row.

        Args:
            key: the step's key, one of KEYS.
            layer: the number of the layer; ignored for a step that isn't part of a layer.
            token: the position of the token.
        """
        step = STEPS[KEYS.index(key)]
        return np.atleast_2d(self.values[key, layer if step.in_layer else 0][token])

    def sizes(self, layer: int, token: int) -> list[float]:
        """Return the length (Euclidean norm) of the token's vector after each step; 0 for the first step."""
        return [float(np.linalg.norm(self.at(key, layer, token))) if key != "tokens" else 0.0 for key in KEYS]

    def top(self, token: int, n: int = 6) -> list[tuple[int, float]]:
        """Return the `n` likeliest next tokens as (token id, logit), the likeliest first."""
        scores = self.at("logits", 0, token)[0]
        return [(int(i), float(scores[i])) for i in np.argsort(-scores, kind="stable")[:n]]


def walk(model: Model, prompt: str | Sequence[int]) -> Walk:
    """Run the model over a prompt once, and keep the result of every step.

    Args:
        model: the model to run.
        prompt: text, or token ids.

    Raises:
        UnsupportedError: a layer of the model isn't attention followed by a feed-forward network.
        The errors of `Model.trace`.
    """
    config = model.config
    if not all(
        isinstance(x.mixer, Attention) and isinstance(x.feed_forward, FeedForward) for x in config.layers
    ):
        raise UnsupportedError(
            f"the diagram has attention and feed-forward networks; {config.architecture.name} has others"
        )
    ids = model.tokenizer.encode(prompt) if isinstance(prompt, str) else as_ids(prompt, "prompt")
    trace = model.trace(ids)
    values: dict[tuple[str, int], np.ndarray] = {("tokens", 0): np.array(ids, np.float32)[:, None]}
    for step in STEPS:
        for layer in range(config.n_layer) if step.in_layer else (0,):
            name = f"{step.trace}-{layer}" if step.in_layer else step.trace
            if step.key == "qkv":
                values[step.key, layer] = queries(model, layer, trace[f"attn_norm-{layer}"])
            elif step.key == "attention":
                values[step.key, layer] = trace[name].transpose(1, 0, 2)  # (T, H, T)
            elif step.trace:
                values[step.key, layer] = trace[name]
    return Walk(ids, [visible(model.tokenizer, token) for token in ids], values, config.n_layer)


def queries(model: Model, layer: int, x: np.ndarray) -> np.ndarray:
    """Compute a layer's queries before RoPE.

    Args:
        model: the model that has the layer.
        layer: the number of the layer.
        x: float32 (T, D): the input of the layer after its attention norm.

    Returns:
        float32 (T, H, Dh): the queries.
    """
    w = model.weights.layers[layer]
    q = x @ w["attn_q.weight"].dequantize().T + w.get("attn_q.bias", np.float32(0))
    return q.reshape(len(x), model.config.layers[layer].mixer.n_head, -1)


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Compute causal attention. The next lesson explains it.

    Args:
        q: float (T, H, Dh): the queries after RoPE.
        k: float (T, K, Dh): the keys after RoPE.
        v: float (T, K, Dh): the values.

    Returns:
        float (T, H * Dh): the results of all heads, one after the other.
    """
    T, H, size = q.shape
    k, v = (x.repeat(H // x.shape[1], axis=1) for x in (k, v))
    scores = np.einsum("thd,shd->hts", q, k) / np.sqrt(size)
    shares = softmax(np.where(np.triu(np.ones((T, T), bool), 1), -np.inf, scores))
    return np.einsum("hts,shd->thd", shares, v).reshape(T, -1)


def matrices(model: Model, layer: int) -> dict[str, np.ndarray]:
    """Return a layer's tensors: name without "blk.N." and ".weight" -> float32 array."""
    return {
        name.removesuffix(".weight"): w if isinstance(w, np.ndarray) else w.dequantize()
        for name, w in model.weights.layers[layer].items()
    }


def cuts(model: Model, texts: Sequence[str]) -> list[tuple[str, int, list[str]]]:
    """Cut texts into tokens, without special tokens.

    Args:
        model: the model whose tokenizer is used.
        texts: the texts to cut.

    Returns:
        For each text: the text, its number of bytes in UTF-8, and the texts of its tokens, with spaces and
        line ends made visible.
    """
    tokenizer = model.tokenizer
    found = []
    for text in texts:
        ids = tokenizer.encode(text, add_special=False)
        found.append((text, len(text.encode()), [visible(tokenizer, token) for token in ids]))
    return found


def merge_ranks(model: Model) -> dict[tuple[str, str], int]:
    """Return the merges of a byte-pair vocabulary: pair -> rank. The lowest rank is merged first.

    A space is shown as ␣. Other characters are those of GPT-2's byte alphabet, as in the model's file.

    Raises:
        UnsupportedError: the model has another kind of vocabulary.
    """
    merges = model.metadata.get("tokenizer.ggml.merges")
    if merges is None:
        raise UnsupportedError("this model's vocabulary isn't one of byte pairs: it has no merges")
    pairs = (merge.replace("Ġ", "␣").split(" ") for merge in merges)  # GPT-2 writes a space as Ġ
    return {(a, b): rank for rank, (a, b) in enumerate(pairs)}
