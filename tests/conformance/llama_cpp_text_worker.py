"""Runs a real model in llama.cpp, in a process of its own: tokens, greedy texts, losses along a text.

    python llama_cpp_text_worker.py MODEL.gguf REQUEST.json OUT.npz

REQUEST.json: "texts": strings to tokenize, without special tokens. "prompts": lists of ids, each continued by
"n_tokens" likeliest tokens. "chunks": lists of ids, each read from an empty cache.
OUT.npz: "ids-N" int32, the tokens of text N. "text-N" int32 (n_tokens,), the continuation of prompt N, and
"logits-N" float32 (n_tokens, V), what each of its tokens was chosen by. "losses-N" float64 (T - 1,), the
negative log-likelihoods of chunk N's tokens after the first. The cache is F16, without flash attention.
"""

import json
import sys

import llama_cpp_worker as worker
import numpy as np
from llama_cpp import llama_cpp as api

N_CTX = 1024


class Session:
    """A model and one context of it."""

    def __init__(self, path: str) -> None:
        model = worker.load(path)
        options = api.llama_context_default_params()
        options.n_ctx = options.n_batch = options.n_ubatch = N_CTX
        options.n_threads = options.n_threads_batch = worker.N_THREADS
        options.flash_attn_type = 0  # off
        self.context = api.llama_init_from_model(model, options)
        self.vocabulary = api.llama_model_get_vocab(model)
        self.n_vocab = api.llama_vocab_n_tokens(self.vocabulary)

    def tokens(self, text: str) -> np.ndarray:
        """The ids of a text."""
        data = text.encode()
        found = (api.llama_token * (len(data) + 8))()
        count = api.llama_tokenize(self.vocabulary, data, len(data), found, len(found), False, False)
        return np.array(found[:count], np.int32)

    def read(self, ids: list[int], position: int, *, all_rows: bool) -> np.ndarray:
        """Logits (T, V) of ids at `position` and after it, or (1, V) of the last."""
        batch = api.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = token, position + i, 1, 0
            batch.logits[i] = all_rows or i == len(ids) - 1
        if api.llama_decode(self.context, batch) != 0:
            sys.exit("llama_decode failed")
        api.llama_batch_free(batch)
        rows = len(ids) if all_rows else 1
        return np.ctypeslib.as_array(api.llama_get_logits(self.context), (rows, self.n_vocab)).copy()

    def clear(self) -> None:
        """Forget what was read."""
        api.llama_memory_clear(api.llama_get_memory(self.context), True)

    def greedy(self, prompt: list[int], n_tokens: int) -> tuple[np.ndarray, np.ndarray]:
        """The likeliest tokens (n_tokens,) after a prompt, and the logits (n_tokens, V) that say so."""
        self.clear()
        chosen, rows, ids, position = [], [], prompt, 0
        for _ in range(n_tokens):
            rows.append(self.read(ids, position, all_rows=False)[0])
            position += len(ids)
            ids = [int(rows[-1].argmax())]
            chosen += ids
        return np.array(chosen, np.int32), np.stack(rows)

    def losses(self, ids: list[int]) -> np.ndarray:
        """-log p of each token after the first."""
        self.clear()
        logits = self.read(ids, 0, all_rows=True)[:-1]
        top = logits.max(-1, keepdims=True)
        sums = np.exp(logits - top).sum(-1, dtype=np.float64)
        return np.log(sums) + top[:, 0] - logits[np.arange(len(ids) - 1), ids[1:]]


def main(model_path: str, request_path: str, out_path: str) -> None:
    with open(request_path, encoding="utf-8") as file:
        request = json.load(file)
    session = Session(model_path)
    found = {}
    for i, text in enumerate(request["texts"]):
        found[f"ids-{i}"] = session.tokens(text)
    for i, prompt in enumerate(request["prompts"]):
        found[f"text-{i}"], found[f"logits-{i}"] = session.greedy(prompt, request["n_tokens"])
    for i, ids in enumerate(request["chunks"]):
        found[f"losses-{i}"] = session.losses(ids)
    np.savez(out_path, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
